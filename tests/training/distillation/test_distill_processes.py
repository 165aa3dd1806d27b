"""Runs of two processes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from training.children import finish, start
from training.toy import log_of, run


@pytest.mark.slow
def test_two_processes_learn_what_one_does(lesson, tmp_path):
    """The loss of the vectors is a mean over texts; the similarities are those of the texts of one process."""
    flags = (
        "--similarity-weight",
        0,
        "--learn",
        "vectors",
        "--log-every",
        1,
        "--steps",
        10,
        "--evaluate-every",
        5,
    )
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(*lesson.command, *flags, "--batch-size", 4, "--gradient-accumulation", 2, "--out", one) == 0
    halves = ("--batch-size", 4, "--out", two)
    children = start(*lesson.command, *flags, *halves, output=tmp_path / "two.txt", num_processes=2)
    assert finish(children) == [0, 0]
    losses = [[entry["loss"] for entry in log_of(out) if "loss" in entry] for out in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    ours, theirs = (load_file(out / "model.safetensors") for out in (two, one))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=2e-3, rtol=0)
    metrics = json.loads((two / "metrics.json").read_text())
    assert metrics["cost"]["num_processes"] == 2
