"""Fifty steps of a tiny pretraining: the losses are those that were written down.

What is not meant to change a training shows here: the data's order, masking, initial values, attention, optimizer,
schedule. To write them down anew: FUNNELFORMER_WRITE_LOSSES=1 python -m pytest
tests/training/pretraining/test_golden_loss.py
"""

import json
import os
from pathlib import Path

from training.toy import log_of

LOSSES = Path(__file__).parents[2] / "golden" / "pretraining_losses.json"
# Largest relative difference. Measured between torch's AVX-512 kernels and its plain ones: 2.8e-7, where the losses are
# written down with six digits. MKL's products differ between processors too, and have more room.
TOLERANCE = 1e-4


def test_fifty_losses(pretrain, tmp_path):
    dropouts = ("--set.hidden_dropout", 0.0, "--set.attention_dropout", 0.0)
    flags = ("--model", "B1-1x2-1H32", "--steps", 50, "--log-every", 1, *dropouts)
    assert pretrain(tmp_path / "out", *flags, "--evaluate-every", 50, "--save-every", 50) == 0
    found = [entry["loss"] for entry in log_of(tmp_path / "out") if "loss" in entry]
    if os.environ.get("FUNNELFORMER_WRITE_LOSSES"):
        LOSSES.write_text(json.dumps([round(loss, 6) for loss in found]) + "\n")
    expected = json.loads(LOSSES.read_text())
    assert len(expected) == 50
    assert sum(expected[-5:]) / 5 < 0.6 * expected[0]  # it learns
    differences = [abs(a / b - 1) for a, b in zip(found, expected, strict=True)]
    print(
        f"\nlargest relative difference {max(differences):.1e} at step {1 + differences.index(max(differences))}"
    )
    assert max(differences) < TOLERANCE
