"""What must hold for every model: independence of the batch, precision, gradients, saving."""

import itertools

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from funnelformer import FunnelformerForMaskedLM, FunnelformerForSequenceClassification, FunnelformerModel
from models import batch, build, enable_checkpointing, small_config

OPTIONS = [
    {"pooling": pooling, "pool_q_only": q_only, "separate_cls": cls, "truncate_seq": truncate}
    for pooling, q_only, cls, truncate in itertools.product(
        ("mean", "max", "top"), (True, False), (True, False), (True, False)
    )
]


def identify(options):
    return "-".join(str(value) for value in options.values())


@pytest.mark.parametrize("options", OPTIONS, ids=identify)
def test_exact_padding_makes_a_sequence_independent_of_its_batch(options):
    """Alone, padded to any length, on either side: the same states (float64, 1e-6 allowed; 1e-12 measured)."""
    model = build(FunnelformerModel, small_config(**options), dtype=torch.float64)
    for length in (1, 2, 3, 4, 6, 11):
        ids, mask, segments = batch(length, [length])
        alone = model(ids, mask, segments)
        unmasked = model(ids, token_type_ids=segments)
        torch.testing.assert_close(alone.last_hidden_state, unmasked.last_hidden_state, rtol=0, atol=1e-6)
        num_pooled = alone.encoder_last_hidden_state.size(1)
        for pads in (((0, 1), (1, 0)), ((0, 9), (9, 0), (5, 4), (3, 6))):
            padded = [
                torch.cat([torch.nn.functional.pad(x, pad) for pad in pads]) for x in (ids, mask, segments)
            ]
            padded[0][padded[1] == 0] = 7
            # A longer neighbour in the batch, so that the padding is not the batch's own.
            longest = padded[0].size(1)
            other = batch(longest, [longest], seed=5)
            together = model(*(torch.cat([p, o]) for o, p in zip(other, padded, strict=True)))
            for number, (left, _) in enumerate(pads):
                row = together.last_hidden_state[number, left : left + length]
                torch.testing.assert_close(row, alone.last_hidden_state[0], rtol=0, atol=1e-6)
                assert together.encoder_attention_mask[number].sum() == num_pooled
                row = together.encoder_last_hidden_state[number, :num_pooled]
                torch.testing.assert_close(row, alone.encoder_last_hidden_state[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["L3H32", "B2-2-1H32"])
@pytest.mark.parametrize("reads", ["cls", "mean"])
def test_classification_reads_the_real_tokens_alone(name, reads):
    config = small_config(name, num_labels=3, classifier_pooling=reads)
    model = build(FunnelformerForSequenceClassification, config, dtype=torch.float64)
    ids, mask, segments = batch(9, [9])
    alone = model(ids, mask, segments).logits
    encoded = model.funnelformer(ids, token_type_ids=segments).encoder_last_hidden_state
    vector = encoded[:, 0] if reads == "cls" else encoded.mean(1)
    torch.testing.assert_close(model.classifier(vector), alone)
    for pad in ((0, 6), (6, 0), (2, 4)):
        padded = [torch.nn.functional.pad(x, pad) for x in (ids, mask, segments)]
        torch.testing.assert_close(model(*padded).logits, alone, rtol=0, atol=1e-6)


def test_absolute_positions_count_from_the_first_real_token():
    config = small_config(position="absolute", max_position_embeddings=20)
    model = build(FunnelformerModel, config, dtype=torch.float64)
    ids, mask, segments = batch(9, [9])
    alone = model(ids, mask, segments).last_hidden_state
    padded = [torch.nn.functional.pad(x, (5, 3)) for x in (ids, mask, segments)]
    torch.testing.assert_close(model(*padded).last_hidden_state[:, 5:14], alone, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="has 21 tokens, but max_position_embeddings is 20"):
        model(torch.zeros(1, 21, dtype=torch.long))
    moved = model(ids.roll(1, 1), mask, segments).last_hidden_state.roll(-1, 1)
    assert (moved - alone).abs().max() > 1e-3


@pytest.mark.parametrize("padding", ["exact", "original", "transformers"])
@pytest.mark.parametrize("pooling", ["mean", "max", "top"])
def test_permuting_the_batch_permutes_the_outputs(padding, pooling):
    model = build(FunnelformerModel, small_config(padding=padding, pooling=pooling), dtype=torch.float64)
    inputs = batch(19, [19, 8, 13, 1])
    order = torch.tensor([2, 0, 3, 1])
    straight = model(*inputs).last_hidden_state
    permuted = model(*(x[order] for x in inputs)).last_hidden_state
    torch.testing.assert_close(permuted, straight[order], rtol=0, atol=1e-12)


def test_the_three_paddings_differ_where_a_window_straddles_the_end():
    """One real and one padded token in a window: the three definitions must not give the same states."""
    inputs = batch(12, [12, 6])
    states = {
        padding: build(FunnelformerModel, small_config(padding=padding))(*inputs).encoder_last_hidden_state[
            1, :2
        ]
        for padding in ("exact", "original", "transformers")
    }
    for first, second in itertools.combinations(states.values(), 2):
        assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("options", OPTIONS[::3], ids=identify)
def test_float32_and_float64_agree(options):
    """1e-4 allowed; 2e-5 measured (states reach 4)."""
    config = small_config(**options)
    inputs = batch(23, [23, 11, 2])
    low = build(FunnelformerModel, config)(*inputs).last_hidden_state
    high = build(FunnelformerModel, config, dtype=torch.float64)(*inputs).last_hidden_state
    torch.testing.assert_close(low.double(), high, rtol=0, atol=1e-4)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_bfloat16_runs_and_is_near(implementation):
    config = small_config("B1-1H32")
    inputs = batch(16, [16, 9])
    low = build(FunnelformerModel, config, implementation, torch.bfloat16)(*inputs).last_hidden_state
    high = build(FunnelformerModel, config, implementation)(*inputs).last_hidden_state
    assert low.dtype == torch.bfloat16
    error = (low.float() - high).norm() / high.norm()
    assert error < 0.05, error


@pytest.mark.parametrize("options", OPTIONS, ids=identify)
def test_sdpa_equals_the_reference_in_values_and_gradients(options):
    config = small_config(**options)
    inputs = batch(21, [21, 10, 3])
    results = {}
    for implementation in ("eager", "sdpa"):
        model = build(FunnelformerModel, config, implementation, torch.float64)
        output = model(*inputs, output_hidden_states=True)
        output.last_hidden_state.pow(2).sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results[implementation] = (output.hidden_states, gradients)
    for eager, fast in zip(results["eager"][0], results["sdpa"][0], strict=True):
        torch.testing.assert_close(fast, eager, rtol=0, atol=1e-10)
    assert results["eager"][1].keys() == results["sdpa"][1].keys()
    for name, gradient in results["eager"][1].items():
        torch.testing.assert_close(results["sdpa"][1][name], gradient, rtol=1e-8, atol=1e-8, msg=name)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"position": "absolute"},
        {"embedding_size": 16},
        {"pooling": "top"},
        {"pooling": "max", "pool_q_only": False},
        {"decoder_layers": 1, "decoder_repeats": 2},
    ],
    ids=str,
)
def test_gradients_reach_every_parameter(overrides):
    config = small_config(**overrides)
    model = build(FunnelformerForMaskedLM, config).train()
    inputs = batch(16, [16, 9])
    labels = inputs[0].masked_fill(inputs[1] == 0, -100)
    model(*inputs, labels=labels).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_gradients_reach_every_parameter_of_the_classifier():
    """But the last layer's position and segment scores: of it only the first token is read, which has none."""
    model = build(FunnelformerForSequenceClassification, small_config(num_labels=3)).train()
    model(*batch(16, [16, 9]), labels=torch.tensor([0, 2])).loss.backward()
    without = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    unread = ("relative.weight", "position_bias", "segment_bias", "segment_embedding")
    assert without == {f"funnelformer.encoder.blocks.2.1.mixer.{name}" for name in unread}


def test_gradient_checkpointing_changes_nothing():
    inputs = batch(16, [16, 9])
    gradients = []
    for checkpointing in (False, True):
        model = build(FunnelformerForMaskedLM, small_config()).train()
        if checkpointing:
            enable_checkpointing(model)
        model(*inputs, labels=inputs[0]).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("model_class", "auto_class"),
    [
        (FunnelformerModel, AutoModel),
        (FunnelformerForMaskedLM, AutoModelForMaskedLM),
        (FunnelformerForSequenceClassification, AutoModelForSequenceClassification),
    ],
)
def test_save_and_load_are_bit_exact(tmp_path, model_class, auto_class):
    model = build(model_class, small_config(embedding_size=16, num_labels=3))
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    inputs = batch(13, [13, 4])
    expected = model(*inputs)[0]
    for loader in (model_class, auto_class):
        loaded = loader.from_pretrained(tmp_path).eval()
        assert type(loaded) is model_class
        stored, kept = loaded.config.to_dict(), model.config.to_dict()
        changed = {key for key in stored if stored[key] != kept[key]}
        assert changed <= {"_name_or_path", "dtype", "architectures"}
        assert torch.equal(loaded(*inputs)[0], expected)
    assert AutoConfig.from_pretrained(tmp_path).name == "B2-1x2-2H32"


def test_the_classifier_takes_the_body_of_a_pretrained_model_and_leaves_its_decoder(tmp_path):
    pretrained = build(FunnelformerForMaskedLM, small_config())
    pretrained.save_pretrained(tmp_path)
    model, report = FunnelformerForSequenceClassification.from_pretrained(
        tmp_path, num_labels=4, output_loading_info=True
    )
    assert sorted(report["missing_keys"]) == [
        "classifier.dense.bias",
        "classifier.dense.weight",
        "classifier.output.bias",
        "classifier.output.weight",
    ]
    assert model.config.num_labels == 4
    assert model.config.decoder_layers == 0
    body = pretrained.funnelformer.state_dict()
    for name, tensor in model.funnelformer.state_dict().items():
        assert torch.equal(tensor, body[name]), name


def test_resizing_the_vocabulary_keeps_old_rows_and_the_tie():
    model = build(FunnelformerForMaskedLM, small_config())
    ids, mask, segments = batch(10, [10, 6])
    before = model(ids, mask, segments).logits
    model.resize_token_embeddings(70, mean_resizing=False)
    after = model(ids, mask, segments).logits
    assert after.shape[-1] == 70
    assert model.config.vocab_size == 70
    assert model.lm_head.decoder.weight is model.funnelformer.embeddings.word_embeddings.weight
    torch.testing.assert_close(after[..., :60], before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mlm_head", ["dense", "linear"])
def test_sparse_prediction_has_the_loss_of_the_full_logits(mlm_head):
    config = small_config(mlm_head=mlm_head)
    model = build(FunnelformerForMaskedLM, config).train()
    ids, mask, segments = batch(15, [15, 9])
    labels = torch.where((torch.arange(15)[None] % 4 == 1) & mask.bool(), ids, -100)
    full = model(ids, mask, segments, labels=labels)
    model.config.sparse_prediction = True
    sparse = model(ids, mask, segments, labels=labels)
    assert sparse.logits.shape == (int((labels != -100).sum()), 60)
    torch.testing.assert_close(sparse.logits, full.logits[labels != -100])
    torch.testing.assert_close(sparse.loss, full.loss)
    torch.testing.assert_close(
        full.loss, torch.nn.functional.cross_entropy(full.logits.flatten(0, 1), labels.flatten())
    )
    per_item = model(ids, mask, segments, labels=labels, num_items_in_batch=10).loss
    torch.testing.assert_close(per_item, full.loss * (labels != -100).sum() / 10)


def test_losses_of_regression_and_many_labels():
    inputs = batch(9, [9, 5])
    regression = build(FunnelformerForSequenceClassification, small_config(num_labels=1))
    output = regression(*inputs, labels=torch.tensor([1.5, -2.0]))
    expected = ((output.logits[:, 0] - torch.tensor([1.5, -2.0])) ** 2).mean()
    torch.testing.assert_close(output.loss, expected)
    config = small_config(num_labels=3, problem_type="multi_label_classification")
    several = build(FunnelformerForSequenceClassification, config)
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    output = several(*inputs, labels=targets)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, targets)
    torch.testing.assert_close(output.loss, expected)


def test_hidden_states_and_attentions_follow_the_layers():
    config = small_config("B2-1x2H32", decoder_layers=1, decoder_repeats=2)
    output = build(FunnelformerModel, config, "eager")(
        *batch(16, [16, 9]), output_hidden_states=True, output_attentions=True
    )
    assert [h.shape[1] for h in output.hidden_states] == [16, 16, 16, 8, 8, 16, 16]
    assert [tuple(a.shape[1:]) for a in output.attentions] == [
        (1, 16, 16),
        (1, 16, 16),
        (1, 8, 16),
        (1, 8, 8),
        (1, 16, 16),
        (1, 16, 16),
    ]
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert torch.equal(output.hidden_states[4], output.encoder_last_hidden_state)
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert output.attentions[0][1, :, :, 9:].abs().max() == 0


def test_input_embeddings_in_place_of_ids_and_tuples_in_place_of_outputs():
    model = build(FunnelformerModel, small_config())
    ids, mask, segments = batch(11, [11, 6])
    expected = model(ids, mask, segments)
    vectors = model.get_input_embeddings()(ids)
    given = model(inputs_embeds=vectors, attention_mask=mask, token_type_ids=segments, return_dict=False)
    assert torch.equal(given[0], expected.last_hidden_state)
    assert torch.equal(given[1], expected.encoder_last_hidden_state)
    with pytest.raises(ValueError, match="only one of them"):
        model(ids, inputs_embeds=vectors)
    with pytest.raises(ValueError, match="at least one"):
        model(ids[:, :0])


def test_without_a_decoder_the_last_state_is_the_encoders():
    output = build(FunnelformerModel, small_config(decoder_layers=0))(*batch(11, [11, 6]))
    assert output.last_hidden_state is output.encoder_last_hidden_state
    assert output.last_hidden_state.shape == (2, 3, 32)


def test_top_pooling_keeps_the_most_attended_tokens():
    """Written out by hand from the attention weights of the layer before."""
    model = build(FunnelformerModel, small_config("B1-1H32", pooling="top", truncate_seq=False), "eager")
    output = model(*batch(6, [6]), output_attentions=True, output_hidden_states=True)
    received = output.attentions[0][0].sum((0, 1))
    best = sorted((1 + received[1:].topk(3).indices).tolist())
    queries = output.hidden_states[1][0, [0, *best]]
    mixer, layer = model.encoder.blocks[1][0].mixer, model.encoder.blocks[1][0]
    values = mixer.value(output.hidden_states[1][0])
    mixed = mixer.output(output.attentions[1][0, 0] @ values)
    hidden = layer.mixer_norm(queries + mixed)
    hidden = layer.feed_forward_norm(hidden + layer.feed_forward(hidden))
    torch.testing.assert_close(output.encoder_last_hidden_state[0], hidden, rtol=0, atol=1e-5)


def test_initial_values_follow_the_table():
    for initializer, check in {
        "truncated_normal": lambda w: w.abs().max() <= 0.04 and 0.015 < w.std() < 0.02,
        "normal": lambda w: w.abs().max() > 0.05 and 0.018 < w.std() < 0.022,
        "uniform": lambda w: 0.09 < w.abs().max() <= 0.1 and 0.055 < w.std() < 0.06,
    }.items():
        model = FunnelformerForMaskedLM(small_config("B1-1H64", vocab_size=300, initializer=initializer))
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                assert (parameter == 1).all(), name
            elif name.endswith(".bias"):
                assert (parameter == 0).all(), name
            elif parameter.numel() > 2000:
                assert check(parameter), (initializer, name)
            else:
                assert parameter.std() > 0, name
