"""The report: published figures as printed, runs beside them, and what makes a run incomparable."""

from __future__ import annotations

import json
import statistics

import pytest

from funnelformer.lra.arena_table import PUBLISHED, report
from funnelformer.lra.arena_tasks import TASKS
from training.toy import fails, run


def write_run(folder, task="listops", model="ponet", accuracy=0.5, seed=1, **settings):
    folder.mkdir()
    entry = TASKS[task]
    metrics = {
        "task": task,
        "model": model,
        "accuracy": accuracy,
        "steps": entry.num_steps,
        "steps_per_s": 2.5,
        "examples_per_s": 80.0,
        "peak_memory_bytes": 1234.5 * 2**20,
        "peak_memory_of": "gpu",
        "num_parameters": 93834,
        "settings": {
            "length": entry.length,
            "steps": entry.num_steps,
            "examples_a_step": entry.batch_size,
            "num_train": entry.num_examples[0],
            "num_test": entry.num_examples[2],
            "generated": False,
            "learning_rate": 1e-4,
            "warmup": entry.warmup,
            "schedule": "linear",
            "weight_decay": 0.0,
            "set": {},
            **settings,
        },
        "seed": seed,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_published_averages_are_those_of_their_scores():
    """A typing error in a figure would show here; FNet's average leaves out the task it failed."""
    checked = 0
    for row in PUBLISHED:
        if len(row.scores) == 5:
            scores = [float(score) for score in row.scores.values() if score != "fail"]
            assert float(row.average) == pytest.approx(statistics.fmean(scores), abs=0.011), row
            checked += 1
    assert checked == 5


def test_a_run_by_the_recipe(tmp_path):
    lines = report([write_run(tmp_path / "a", accuracy=0.378)]).splitlines()
    assert "| ponet | 37.80 |  |  |  |  |  | this run |" in lines
    assert "| ListOps | ponet | 2000 | 1 | 37.80 | 5,000 | 2.50 | 80.0 | 1,234 (gpu) | 93,834 |" in lines
    ponet = "| PoNet | 37.80 | 69.82 | 80.35 | 46.88 | 70.39 | 61.05 | Tan et al. 2022 (arXiv:2110.02442) |"
    assert ponet in lines
    assert not any("not comparable" in line for line in lines)


def test_seeds_share_a_cell_and_other_settings_do_not(tmp_path):
    runs = [write_run(tmp_path / f"{seed}", accuracy=0.3 + seed / 10, seed=seed) for seed in (0, 1, 2)]
    runs.append(write_run(tmp_path / "short", accuracy=0.2, length=512, set={"hidden_dropout": "0.2"}))
    lines = report(runs).splitlines()
    assert "| ponet | 40.00 ± 10.00 (3) |  |  |  |  |  | this run |" in lines
    assert "| ponet | 20.00 \\* |  |  |  |  |  | this run |" in lines
    assert "- ponet, ListOps: length 512 (recipe: 2,000), hidden_dropout = 0.2" in lines


def test_an_average_needs_five_tasks(tmp_path):
    runs = [write_run(tmp_path / name, name, accuracy=0.6) for name in TASKS if name != "path-x"]
    assert "| ponet | 60.00 | 60.00 | 60.00 | 60.00 | 60.00 | 60.00 | this run |" in report(runs).splitlines()
    runs.append(write_run(tmp_path / "path-x", "path-x", accuracy=0.5))
    lines = report(runs[1:]).splitlines()
    assert "| ponet |  | 60.00 | 60.00 | 60.00 | 60.00 | 50.00 |  | this run |" in lines
    assert (
        lines[2] == "| model | ListOps | Text | Retrieval | Image | Pathfinder | Path-X | average | source |"
    )


def test_from_the_command_line(tmp_path, capsys):
    folder = write_run(tmp_path / "a")
    assert run("lra report", folder) == 0
    assert capsys.readouterr().out == report([folder])
    (tmp_path / "empty").mkdir()
    file = tmp_path / "empty" / "metrics.json"
    assert fails(capsys, "lra report", folder, tmp_path / "empty") == f"{file}: no such file"
    file.write_text('{"task": "listops"}')
    assert fails(capsys, "lra report", tmp_path / "empty") == (
        f"{file}: has no 'model'; is it the folder of a `funnelformer lra` run?"
    )
    values = json.loads((folder / "metrics.json").read_text())
    file.write_text(json.dumps({**values, "accuracy": "high"}))
    assert fails(capsys, "lra report", tmp_path / "empty") == f"{file}: accuracy is 'high'; allowed: a number"
