"""Runs that are killed with SIGKILL, in the teacher's pass and in the training; runs of two processes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from funnelformer.training.run.folder import last_checkpoint
from training import harm
from training.children import finish, kill_when, start
from training.toy import log_of, metrics_of, run, weights_equal


@pytest.mark.slow
def test_a_run_that_is_killed_in_both_phases_comes_to_the_same(lesson, tmp_path):
    """In the pass over the vectors, in that over the states, and twice in the training."""
    flags = ("--steps", 40, "--evaluate-every", 5, "--log-every", 1, "--auto-resume")

    def begin(name):
        own = ("--cache", tmp_path / f"cache-{name}", "--out", tmp_path / name)
        return start(
            *lesson.command, *flags, *own, output=tmp_path / f"{name}.txt", harm=harm.teacher_in_small_parts
        )

    assert finish(begin("whole")) == [0]
    out, cache = tmp_path / "out", tmp_path / "cache-out"

    def parts(kind):
        return sorted(cache.glob(f"{kind}-*/*.npy"))

    assert kill_when(begin("out"), lambda: len(parts("vectors")) >= 2) == [-9]
    written = {file: file.stat().st_mtime_ns for file in parts("vectors")}
    assert 2 <= len(written) < 10
    assert not out.exists()
    assert kill_when(begin("out"), lambda: len(parts("states")) >= 4) == [-9]
    assert {file: file.stat().st_mtime_ns for file in written} == written
    assert not out.exists()

    def step():
        found = last_checkpoint(out)
        return 0 if found is None else int(found.name.rpartition("-")[2])

    assert kill_when(begin("out"), lambda: step() >= 5) == [-9]
    assert kill_when(begin("out"), lambda: step() >= 20) == [-9]
    assert 20 <= step() < 40
    assert finish(begin("out")) == [0]
    assert weights_equal(tmp_path / "whole", out)
    logs = [
        [entry for entry in log_of(folder) if "train_loss" not in entry]
        for folder in (out.with_name("whole"), out)
    ]
    assert [entry["step"] for entry in logs[0] if "loss" in entry] == list(range(1, 41))
    assert logs[0] == logs[1]
    assert metrics_of(tmp_path / "whole") == metrics_of(out)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_does(lesson, tmp_path, parallel):
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
    halves = ("--batch-size", 4, "--parallel", parallel, "--cache", tmp_path / "cache", "--out", two)
    children = start(*lesson.command, *flags, *halves, output=tmp_path / "two.txt", num_processes=2)
    assert finish(children) == [0, 0]
    losses = [[entry["loss"] for entry in log_of(out) if "loss" in entry] for out in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    ours, theirs = (load_file(out / "model.safetensors") for out in (two, one))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=2e-3, rtol=0)
    metrics = json.loads((two / "metrics.json").read_text())
    assert metrics["cost"]["num_processes"] == 2
