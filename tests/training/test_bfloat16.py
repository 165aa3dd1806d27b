"""bfloat16 on a machine without an accelerator."""

from __future__ import annotations

import pytest
import torch

from training.toy import FINETUNE, PRETRAIN, animal_rows, run, write_table

# Outputs are cast by accelerate, which builds them from a dictionary.
pytestmark = pytest.mark.usefixtures("no_shape_checks")


def test_bfloat16_without_an_accelerator(toy, tmp_path, monkeypatch):
    """With --device auto, as on a machine without one: torch computes it on the CPU."""
    data = write_table(tmp_path / "t.tsv", animal_rows(32))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda *args: False)
    flags = ("--precision", "bf16", "--device", "auto", "--steps", 2)
    tune = FINETUNE.replace("--device cpu ", "")
    assert (
        run(tune, "--model", toy.pretrained, "--train", data, "--dev", data, "--out", tmp_path / "a", *flags)
        == 0
    )
    pretrain = PRETRAIN.replace("--device cpu ", "").replace("--steps 20 ", "")
    options = ("--train", toy.corpus, "--tokenizer", toy.tokenizer, "--out", tmp_path / "b")
    assert run(pretrain, *options, *flags) == 0
