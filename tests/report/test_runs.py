"""Runs as rows: seeds and sweeps, the commands, what differs, what cannot be read."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from funnelformer.base.errors import UserError
from funnelformer.report.runs import read_rows
from report.folders import finetuned, write_run


def test_a_run_is_a_row(tmp_path):
    (row,) = read_rows([write_run(tmp_path / "run")])
    assert (row.name, row.command, row.task, row.model) == ("run", "finetune", "animals.tsv", "L1H16")
    assert (row.score_name, row.score, row.spread, row.num_runs) == ("dev_accuracy", 0.75, None, 1)
    assert (row.num_parameters, row.seconds, row.flops, row.memory_bytes) == (5186, 2.5, 1.5e9, 3 * 2**20)
    assert (row.start, row.settings) == ("random", "")
    assert row.loss == [(10, 1.0), (20, 0.5)]
    assert row.scores == [(20, 0.75)]


def test_runs_that_differ_in_the_seed_share_a_row(tmp_path):
    """Means of scores and costs, the deviation of a sample; other data, or another option, is another row."""
    folders = [
        write_run(tmp_path / "one", metrics=finetuned(0.5, train_seconds=1.0), config={"seed": 1}),
        write_run(tmp_path / "two", metrics=finetuned(0.75, train_seconds=4.0), config={"seed": 2}),
        write_run(tmp_path / "three", config={"learning-rate": 0.002, "set": {"hidden_dropout": "0.2"}}),
        write_run(
            tmp_path / "four",
            metrics={"data": {"train": {"source": "other/animals.tsv", "rows_sha256": "cd"}}},
            config={"seed": 3},
        ),
    ]
    rows = read_rows(folders)
    assert [row.num_runs for row in rows] == [2, 1, 1]
    assert (rows[0].score, rows[0].spread, rows[0].seconds) == (
        0.625,
        pytest.approx(0.125 * math.sqrt(2)),
        2.5,
    )
    assert rows[1].settings == "learning-rate=0.002, set.hidden_dropout=0.2"
    assert rows[0].settings == "learning-rate=0.001"
    assert read_rows([folders[0], folders[0]])[0].num_runs == 1


def test_seeds_and_sweeps_are_opened(tmp_path):
    """A sweep of two points, each of two seeds: two rows."""
    sweep = tmp_path / "sweep"
    for point, score in (("a", 0.5), ("b", 0.25)):
        for seed in (1, 2):
            settings = {"seed": seed, "epochs": 3.0 if point == "a" else 4.0, "split-seed": 1}
            write_run(sweep / point / f"seed-{seed}", metrics=finetuned(score), config=settings)
        whole = {"seeds": [1, 2], "runs": [{"seed": 1}, {"seed": 2}]}
        (sweep / point / "metrics.json").write_text(json.dumps(whole))
    (sweep / "sweep.json").write_text(json.dumps({"points": [{"name": "a"}, {"name": "b"}]}))
    rows = read_rows([sweep])
    assert [(row.name, row.score, row.num_runs, row.settings) for row in rows] == [
        ("a", 0.5, 2, "epochs=3.0"),
        ("b", 0.25, 2, "epochs=4.0"),
    ]
    assert read_rows([sweep / "b"])[0].score == 0.25


def test_the_other_commands(tmp_path):
    """Time and memory come from the log where the metrics have none; parameters from the weights, tied ones once."""
    log = [
        {"step": 1, "loss": 4.0, "peak_memory_bytes": 100},
        {"step": 2, "loss": float("nan"), "peak_memory_bytes": 300},
        {"step": 2, "eval_loss": 3.0},
        {"step": 2, "train_runtime": 60.0, "train_loss": 3.5},
    ]
    metrics = {"model": "L1H16", "steps": 2, "validation_loss": 3.0}
    first = write_run(tmp_path / "pre", "pretrain", metrics, {"objective": "electra"}, log)
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, first / "model.safetensors")
    second = write_run(tmp_path / "short", "pretrain", {"model": "L1H16", "steps": 2}, log=log)
    third = write_run(
        tmp_path / "lra",
        "lra",
        {
            "task": "listops",
            "model": "ponet",
            "accuracy": 0.375,
            "num_parameters": 7,
            "peak_memory_bytes": 2 * 2**20,
        },
    )
    rows = read_rows([first, second, third])
    assert [(row.task, row.score_name, row.score) for row in rows] == [
        ("pretraining, electra", "validation_loss", 3.0),
        ("pretraining, mlm", "train_loss", 3.5),
        ("lra, listops", "accuracy", 0.375),
    ]
    assert [row.num_parameters for row in rows] == [17, None, 7]
    assert [row.seconds for row in rows] == [60.0, 60.0, 12.5]
    assert [row.memory_bytes for row in rows] == [300, 300, 2 * 2**20]
    assert rows[0].loss == [(1, 4.0)]
    assert rows[0].scores == [(2, 3.0)]


def test_names_tell_folders_apart(tmp_path):
    folders = [
        write_run(tmp_path / name / "run", config={"epochs": index}) for index, name in enumerate("ab")
    ]
    assert [row.name for row in read_rows(folders)] == ["a/run", "b/run"]


def test_what_cannot_be_read(tmp_path):
    def line(*folders):
        with pytest.raises(UserError) as caught:
            read_rows(folders)
        return str(caught.value)

    assert line() == "no run was given; name the folders of the runs"
    assert line(tmp_path) == f"{tmp_path}: no metrics.json in it, so it is not a finished run"
    assert line("mini") == "mini: is the model that comes with the package, not the folder of a run"
    run = write_run(tmp_path / "run", metrics={"dev_accuracy": "high"})
    assert line(run) == f"{run / 'metrics.json'}: dev_accuracy is 'high'; allowed: a number"
    run = write_run(tmp_path / "none", metrics={"metric": "dev_f1"})
    assert line(run) == f"{run / 'metrics.json'}: has no 'dev_f1'"
    (run / "run.json").write_text('{"command": "bench"}')
    assert line(run) == f"{run / 'run.json'}: command is 'bench'; known: distill, finetune, pretrain, lra"
    (run / "run.json").unlink()
    assert line(run) == f"{run}: no run.json in it, so it is not a finished run"
    (run / "sweep.json").write_text('{"points": [3]}')
    assert line(run) == f"{run / 'sweep.json'}: 'name' is missing or cannot be read"


def test_a_head_that_is_fitted_has_no_log(tmp_path):
    run = write_run(tmp_path / "fitted")
    (run / "log.jsonl").write_text("")
    (row,) = read_rows([run])
    assert row.score == 0.75
    assert not row.loss


def test_a_distillation_too_short_to_be_measured(tmp_path):
    run = write_run(
        tmp_path / "short", "distill", {"teacher": "big", "loss": None, "cost": {}}, log=[{"step": 1}]
    )
    with pytest.raises(UserError) as caught:
        read_rows([run])
    assert str(caught.value) == (
        f"{run / 'metrics.json'}: has neither agreement nor loss: the run ended before either was measured"
    )
