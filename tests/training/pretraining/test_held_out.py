"""Accuracy and perplexity of the held-out rows: means over all of their targets, on any number of processes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from funnelformer import FunnelformerForMaskedLM
from funnelformer.corpus.build import rows_from_text
from funnelformer.corpus.masking import MaskedBlocks, Masking
from funnelformer.corpus.row_settings import RowSettings
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.modeling.electra import FunnelformerForElectra
from funnelformer.modeling.structure import FunnelformerForSentenceStructure
from funnelformer.training.pretraining.objectives import OBJECTIVES
from training.children import finish, start
from training.toy import PRETRAIN, log_of

MODELS = {
    "mlm": FunnelformerForMaskedLM,
    "mlm+sso": FunnelformerForSentenceStructure,
    "electra": FunnelformerForElectra,
}
# Pairs, whose rows have 1 to 3 targets each, so that a mean of batches' means is another number. The held-out rows
# do not fill the last batch of 7, nor that of the second of two processes: its rows are repeated ones.
FLAGS = ("--block-size", 24, "--steps", 3, "--evaluate-every", 3, "--batch-size", 7, "--masking", "word_span")


def held_out(toy, pairs):
    """All rows as one batch, with the masks of epoch 0."""
    tokenizer = load_tokenizer(toy.tokenizer)
    form = "structure" if pairs else "single"
    settings = RowSettings(24, form=form, validation_fraction=0.1, seed=42)
    rows = rows_from_text([str(toy.corpus)], tokenizer, settings, None)["validation"]
    blocks = MaskedBlocks(rows, tokenizer, Masking("word_span", 0.15, None), 42, 2, pairs)
    return blocks.collate([blocks[i] for i in range(len(blocks))])


def by_hand(model, batch, objective):
    """Mean cross-entropy and accuracy over the targets, one after another in float64."""
    model.eval()
    with torch.no_grad():
        output = model(**batch, return_dict=True)
    logits = output.generator_logits if objective == "electra" else output.logits
    targets = batch["labels"][batch["labels"] != -100].numpy()
    losses, hits = [], []
    for row, target in zip(logits.double().numpy(), targets, strict=True):
        shifted = row - row.max()
        losses.append(math.log(np.exp(shifted).sum()) - shifted[target])
        hits.append(int(row.argmax()) == target)
    return float(np.mean(losses)), float(np.mean(hits)), output


@pytest.mark.parametrize(("objective", "num_processes"), [("mlm", 1), ("mlm+sso", 2), ("electra", 2)])
def test_every_target_counts_once(toy, tmp_path, objective, num_processes):
    out = tmp_path / "out"
    flags = ("--objective", objective, "--set.generator_size=0.5", *FLAGS, "--out", out)
    source = ("--train", toy.corpus, "--tokenizer", toy.tokenizer)
    codes = finish(start(PRETRAIN, *source, *flags, output=tmp_path / "o.txt", num_processes=num_processes))
    assert codes == [0] * num_processes
    batch = held_out(toy, OBJECTIVES[objective].pairs)
    num_rows = len(batch["labels"])
    assert num_rows % 14 > 0
    counts = (batch["labels"] != -100).sum(1)
    assert len(counts.unique()) > 1 or objective != "mlm+sso"
    model = MODELS[objective].from_pretrained(out, sparse_prediction=True)
    loss, accuracy, output = by_hand(model, batch, objective)
    (logged,) = [entry for entry in log_of(out) if "eval_loss" in entry]
    metrics = json.loads((out / "metrics.json").read_text())
    for found in (
        {name.removeprefix("eval_"): value for name, value in logged.items()},
        {name.removeprefix("validation_"): value for name, value in metrics.items()},
    ):
        assert found["masked_accuracy"] == pytest.approx(accuracy, abs=1e-9)
        assert found["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
        if objective == "mlm":
            assert found["loss"] == pytest.approx(loss, rel=1e-5)
        elif objective == "mlm+sso":
            # The mean over the rows of a batch counts by their number.
            assert found["mlm_loss"] == pytest.approx(loss, rel=1e-5)
            assert found["structure_loss"] == pytest.approx(output.structure_loss.item(), rel=1e-5)
            assert found["structure_accuracy"] == pytest.approx(output.structure_accuracy.item(), abs=1e-6)
            assert found["loss"] == pytest.approx(found["mlm_loss"] + found["structure_loss"], rel=1e-9)
        else:
            # The discriminator's are of samples, which differ from one measurement to another.
            assert found["generator_loss"] == pytest.approx(loss, rel=1e-5)
            assert found["generator_accuracy"] == pytest.approx(accuracy, abs=1e-6)
            both = found["generator_loss"] + found["discriminator_loss"]
            assert found["loss"] == pytest.approx(both, rel=1e-9)
