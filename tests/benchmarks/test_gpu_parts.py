"""The command for a GPU, at toy size on a CPU: each part's figures, and that a failure stays where it is."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import gpu
import pytest

OPTIONS = argparse.Namespace(toy=True, rounds=1, minute=0.05, implementation="sdpa")
# What the device machine lacks of what we depend on.
MISSING = ("cyclopts", "datasets", "pyarrow", "pandas", "sklearn", "seqeval", "beartype", "rich", "zstandard")


def test_figures_by_hand():
    samples = {gpu.BERT: [0.2, 0.4, 0.8], "ours": [0.1, 0.4, 0.2]}
    found = gpu.figures("ours", {"flops": 1000}, samples, num_tokens=64, peak=20_000.0)
    assert found["ms"] == 200
    assert found["tokens_per_s"] == 320
    assert found["mfu"] == 0.25
    assert found["of_bert"] == [0.375, 0.5, 0.75]
    assert gpu.figures("absent", {}, samples, 64, 1.0) == {}


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter would run it")
def test_a_model_that_fails_is_a_row_beside_the_others(monkeypatch):
    monkeypatch.setitem(gpu.SHAPES, "toy", ((2, 16),))
    found = gpu.speed(OPTIONS, "inference")
    rows = {row["model"]: row for row in found["rows"]}
    assert len(rows) == 6
    assert "needs" in rows.pop("B1-1-1H64 triton")["error"]
    for row in rows.values():
        assert row["tokens_per_s"] == pytest.approx(32 / (row["ms"] / 1e3))
    assert rows[gpu.BERT]["of_bert"] == [1, 1, 1]
    expected = rows[gpu.BERT]["flops"] / (rows[gpu.BERT]["ms"] / 1e3) / found["peak_flops_per_s"]
    assert rows[gpu.BERT]["mfu"] == pytest.approx(expected)
    table = gpu.tables({"inference": found})
    assert "UserError: attn_implementation='triton' needs" in table


def test_a_step_of_pretraining_learns():
    found = gpu.pretraining(OPTIONS)
    assert found["steps"] >= 1
    assert found["last_loss"] < found["first_loss"]


def test_a_part_that_hangs_is_ended(tmp_path):
    options = argparse.Namespace(**vars(OPTIONS), out=tmp_path / "gpu.json")
    assert gpu.run_part("values", options, 0.01) == {"error": "not done after 0 s"}


@pytest.mark.slow
def test_the_whole_command_on_a_bare_machine(tmp_path):
    """Without the packages that such a machine lacks; the kernels in Triton's interpreter."""
    pytest.importorskip("triton")
    hiding = f"""
from importlib.machinery import PathFinder
found = PathFinder.find_spec
def visible(name, path=None, target=None):
    return None if name.partition(".")[0] in {MISSING!r} else found(name, path, target)
PathFinder.find_spec = staticmethod(visible)
"""
    (tmp_path / "sitecustomize.py").write_text(hiding)
    script = Path(gpu.__file__)
    paths = [str(tmp_path), str(script.parents[1] / "src")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "TRITON_INTERPRET": "1",
        "FUNNELFORMER_NO_SHAPE_CHECKS": "1",
    }
    command = [sys.executable, str(script), "--out", str(tmp_path / "gpu.json"), "--toy"]
    command += ["--rounds", "1", "--minute", "0.5", "--seconds", "1500"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert list(parts) == list(gpu.PARTS)
    assert {name: part.get("error") for name, part in parts.items()} == dict.fromkeys(parts)
    assert parts["values"]["num_right"] == len(parts["values"]["rows"])
    assert parts["nccl"]["is_right"]
    rows = parts["inference"]["rows"] + parts["training"]["rows"]
    assert not [row for row in rows if "error" in row]
