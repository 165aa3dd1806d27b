"""transformers' own Funnel from random weights, saved as it saves, loaded by us: the same outputs."""

import itertools

import pytest
import torch
from transformers import (
    FunnelBaseModel,
    FunnelConfig,
    FunnelForMaskedLM,
    FunnelForMultipleChoice,
    FunnelForQuestionAnswering,
    FunnelForSequenceClassification,
    FunnelForTokenClassification,
    FunnelModel,
)

from funnelformer import (
    FunnelformerConfig,
    FunnelformerForMaskedLM,
    FunnelformerForMultipleChoice,
    FunnelformerForQuestionAnswering,
    FunnelformerForSequenceClassification,
    FunnelformerForTokenClassification,
    FunnelformerModel,
    UserError,
)
from models import batch, spread

# float32, states up to 4: 4e-6 measured
TOLERANCE = 1e-5
OPTIONS = [
    {"pooling_type": pooling, "pool_q_only": q_only, "separate_cls": cls, "truncate_seq": truncate}
    for pooling, q_only, cls, truncate in itertools.product(
        ("mean", "max"), (True, False), (True, False), (True, False)
    )
]


def theirs(model_class, folder, **options):
    config = FunnelConfig(
        **{
            "vocab_size": 60,
            "block_sizes": [2, 1, 2],
            "block_repeats": [1, 2, 1],
            "num_decoder_layers": 2,
            "d_model": 32,
            "n_head": 4,
            "d_head": 8,
            "d_inner": 64,
            **options,
        }
    )
    model = model_class(config).eval()
    spread(model)
    with torch.no_grad():
        # Weights of deviation 0.3 saturate the softmax; halve them so that differences show as differences.
        for name, parameter in model.named_parameters():
            if "layer_norm" not in name:
                parameter.mul_(0.5)
    model.save_pretrained(folder)
    return model


def inputs_of(length):
    ids, mask, segments = batch(length, [length, max(1, length // 2), max(1, length - 3)])
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}


def close(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_model_with_decoder(tmp_path, options, implementation):
    reference = theirs(FunnelModel, tmp_path, **options)
    model = FunnelformerModel.from_pretrained(tmp_path, attn_implementation=implementation)
    assert model.config.padding == "transformers"
    with torch.no_grad():
        for length in (17, 32):
            inputs = inputs_of(length)
            expected = reference(**inputs, output_hidden_states=True)
            output = model(**inputs, output_hidden_states=True)
            close(output.last_hidden_state, expected.last_hidden_state)
            # Theirs has the decoder's input between encoder and decoder.
            num_encoder = 1 + 2 + 2 + 2
            states = expected.hidden_states[:num_encoder] + expected.hidden_states[num_encoder + 1 :]
            assert len(output.hidden_states) == len(states)
            for ours, state in zip(output.hidden_states, states, strict=True):
                close(ours, state)


def test_without_mask_and_segments(tmp_path):
    """Theirs assumes one segment where none is given, which is not the same as no segment score."""
    reference = theirs(FunnelModel, tmp_path)
    model = FunnelformerModel.from_pretrained(tmp_path)
    ids = inputs_of(19)["input_ids"]
    close(model(ids).last_hidden_state, reference(ids).last_hidden_state)


def test_factorized_attention_of_theirs(tmp_path):
    reference = theirs(FunnelModel, tmp_path, attention_type="factorized")
    inputs = inputs_of(32)
    close(FunnelformerModel.from_pretrained(tmp_path)(**inputs).last_hidden_state, reference(**inputs)[0])


def test_first_block_with_repeats(tmp_path):
    """Their decoder adds the state after as many applications as block 1 has layers."""
    reference = theirs(FunnelModel, tmp_path, block_repeats=[2, 1, 1])
    model = FunnelformerModel.from_pretrained(tmp_path)
    inputs = inputs_of(16)
    close(model(**inputs).last_hidden_state, reference(**inputs)[0])


def test_attention_weights(tmp_path):
    reference = theirs(FunnelModel, tmp_path)
    reference.config._attn_implementation = "eager"
    model = FunnelformerModel.from_pretrained(tmp_path, attn_implementation="eager")
    inputs = inputs_of(16)
    expected = reference(**inputs, output_attentions=True).attentions
    for ours, weights in zip(model(**inputs, output_attentions=True).attentions, expected, strict=True):
        close(ours, weights)


def test_base_model(tmp_path):
    reference = theirs(FunnelBaseModel, tmp_path)
    model = FunnelformerModel.from_pretrained(tmp_path)
    assert model.decoder is None
    inputs = inputs_of(17)
    close(model(**inputs).last_hidden_state, reference(**inputs)[0])


def test_masked_language_model(tmp_path):
    reference = theirs(FunnelForMaskedLM, tmp_path)
    model, report = FunnelformerForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    inputs = inputs_of(16)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    output, expected = model(**inputs, labels=labels), reference(**inputs, labels=labels)
    torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=5e-5)  # logits up to 30
    close(output.loss, expected.loss)


def test_sequence_classification(tmp_path):
    reference = theirs(FunnelForSequenceClassification, tmp_path, num_labels=3)
    model, report = FunnelformerForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    inputs = inputs_of(17)
    labels = torch.tensor([0, 2, 1])
    output, expected = model(**inputs, labels=labels), reference(**inputs, labels=labels)
    close(output.logits, expected.logits)
    close(output.loss, expected.loss)


def test_a_head_on_a_loaded_body_and_changed_options(tmp_path):
    theirs(FunnelModel, tmp_path)
    model, report = FunnelformerForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, padding="exact", hidden_dropout=0.3, output_loading_info=True
    )
    assert {key.split(".")[0] for key in report["missing_keys"]} == {"classifier"}
    assert (model.config.num_labels, model.config.padding, model.config.hidden_dropout) == (5, "exact", 0.3)
    with pytest.raises((UserError, TypeError), match="poolng"):
        FunnelformerModel.from_pretrained(tmp_path, poolng="max")


def test_the_config_alone(tmp_path):
    theirs(FunnelModel, tmp_path)
    config = FunnelformerConfig.from_pretrained(tmp_path)
    assert config.name == "B2-1x2-2H32"
    assert config.padding == "transformers"


def test_token_classification(tmp_path):
    reference = theirs(FunnelForTokenClassification, tmp_path, num_labels=3)
    model, report = FunnelformerForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    inputs = inputs_of(16)
    labels = (inputs["input_ids"] % 3).masked_fill(inputs["attention_mask"] == 0, -100)
    output, expected = model(**inputs, labels=labels), reference(**inputs, labels=labels)
    close(output.logits, expected.logits)
    close(output.loss, expected.loss)


def test_question_answering(tmp_path):
    """A position behind the end has no part in the loss."""
    reference = theirs(FunnelForQuestionAnswering, tmp_path)
    model, report = FunnelformerForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    positions = {"start_positions": torch.tensor([1, 3, 40]), "end_positions": torch.tensor([4, 3, 9])}
    inputs = inputs_of(17)
    output, expected = model(**inputs, **positions), reference(**inputs, **positions)
    close(output.start_logits, expected.start_logits)
    close(output.end_logits, expected.end_logits)
    close(output.loss, expected.loss)


def test_multiple_choice(tmp_path):
    reference = theirs(FunnelForMultipleChoice, tmp_path)
    model, report = FunnelformerForMultipleChoice.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    inputs = {name: tensor[None].repeat(2, 1, 1) for name, tensor in inputs_of(17).items()}
    inputs["input_ids"][1] = inputs["input_ids"][1].flip(0)
    labels = torch.tensor([2, 0])
    output, expected = model(**inputs, labels=labels), reference(**inputs, labels=labels)
    close(output.logits, expected.logits)
    close(output.loss, expected.loss)
    single = model(**{name: tensor[:1, 1:2] for name, tensor in inputs.items()}).logits
    close(single, output.logits[:1, 1:2])
