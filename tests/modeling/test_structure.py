"""Masked language modelling with the sentence-structure objective: its loss, for every mixer, saved and loaded."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.functional import cross_entropy

from funnelformer import FunnelformerForMaskedLM, FunnelformerForSequenceClassification
from funnelformer.inference.load import load_model
from funnelformer.modeling.structure import FunnelformerForSentenceStructure
from models import batch, build, small_config

IDS = {"cls_token_id": 1, "sep_token_id": 2}
MODELS = {
    "transformer": ("L2H32", {}),
    "funnel": ("B1-1x2-1H32", {}),
    "ponet": ("L2H32", {"mixer": "ponet", "position": "absolute", **IDS}),
    "fourier": ("B1-1H32", {"mixer": "fourier", "position": "absolute"}),
    "hybrid": ("B1-1-1H32", {"mixer": ["ponet", "attention", "attention"], **IDS}),
}


def inputs():
    ids, mask, types = batch(16, [16, 13, 9, 16])
    labels = torch.full_like(ids, -100)
    labels[:, 3:8:2] = ids[:, 3:8:2]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": types,
        "labels": labels,
        "structure_labels": torch.tensor([0, 1, 2, 1]),
    }


def model_of(name, **settings):
    layout, options = MODELS[name]
    return build(FunnelformerForSentenceStructure, small_config(layout, **options, **settings))


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_the_sum_of_both(name):
    """Against cross-entropies of the logits, written out; sparse logits give the same."""
    model, given = model_of(name), inputs()
    output = model(**given)
    words = cross_entropy(output.logits.flatten(0, 1), given["labels"].flatten())
    pairs = cross_entropy(output.structure_logits, given["structure_labels"])
    assert output.structure_logits.shape == (4, 3)
    assert output.mlm_loss.item() == pytest.approx(words.item(), rel=1e-6)
    assert output.structure_loss.item() == pytest.approx(pairs.item(), rel=1e-6)
    assert output.loss.item() == pytest.approx((words + pairs).item(), rel=1e-6)
    right = (output.structure_logits.argmax(1) == given["structure_labels"]).float().mean()
    assert output.structure_accuracy == right
    model.config.sparse_prediction = True
    sparse = model(**given)
    assert sparse.logits.shape == (12, 60)
    assert sparse.loss.item() == pytest.approx(output.loss.item(), rel=1e-5)


def test_mask_tokens_hidden_from_attention():
    """`hide_mask_tokens` equals an attention mask that leaves `<mask>` out."""
    seen, hidden = (model_of("funnel", mask_token_id=4, hide_mask_tokens=hide) for hide in (False, True))
    given = inputs()
    given["input_ids"][:, 3:8:2] = 4
    output, default = hidden(**given), seen(**given)
    given["attention_mask"] = given["attention_mask"] * (given["input_ids"] != 4)
    expected = seen(**given)
    for name in ("logits", "structure_logits", "loss"):
        torch.testing.assert_close(output[name], expected[name], rtol=0, atol=0)
        assert (output[name] - default[name]).abs().max() > 1e-4


def test_batches_of_a_step_count_by_their_targets():
    """The shares of two micro-batches sum to the loss of both together, where each has as many targets a row."""
    model, given = model_of("funnel"), inputs()
    whole = model(**given, num_items_in_batch=torch.tensor(12)).loss
    parts = [
        model(
            **{name: value[rows] for name, value in given.items()}, num_items_in_batch=torch.tensor(12)
        ).loss
        for rows in (slice(0, 1), slice(1, 4))
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-5)
    assert whole.item() == pytest.approx(model(**given).loss.item(), rel=1e-6)


def test_rows_without_a_second_part_are_left_out():
    model, given = model_of("funnel"), inputs()
    expected = model(**given).structure_logits
    given["structure_labels"] = torch.tensor([-100, 1, -100, 2])
    loss = model(**given).structure_loss
    assert loss.item() == pytest.approx(
        cross_entropy(expected[[1, 3]], torch.tensor([1, 2])).item(), rel=1e-6
    )
    given["structure_labels"] = torch.full((4,), -100)
    output = model(**given)
    assert output.structure_loss == 0
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize("name", MODELS)
def test_it_reads_what_a_fine_tuned_head_reads_and_trains_everything(name):
    model, given = model_of(name), inputs()
    model(**given).loss.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert without == []


@pytest.mark.parametrize("name", MODELS)
def test_the_folder_is_a_masked_lm_that_finetune_takes(name, tmp_path):
    model, given = model_of(name), inputs()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["FunnelformerForMaskedLM"]
    del given["structure_labels"]
    expected = model(**given).logits
    masked, random = load_model(FunnelformerForMaskedLM, str(tmp_path))
    assert random == []
    assert torch.equal(masked.eval()(**given).logits, expected)
    again, random = load_model(FunnelformerForSentenceStructure, str(tmp_path))
    assert random == []
    assert torch.equal(again.structure_head.dense.weight, model.structure_head.dense.weight)
    classes, random = load_model(
        FunnelformerForSequenceClassification, str(tmp_path), may_miss=("classifier.",), num_labels=4
    )
    assert {n.split(".")[0] for n in random} == {"classifier"}
    assert torch.equal(
        classes.funnelformer.embeddings.word_embeddings.weight, model.get_input_embeddings().weight
    )


def test_several_blocks_without_a_decoder():
    with pytest.raises(ValueError, match="needs a decoder"):
        FunnelformerForSentenceStructure(small_config("B1-1H32", decoder_layers=0))
