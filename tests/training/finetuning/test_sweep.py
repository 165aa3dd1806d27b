"""Grids of fine-tuning runs: what --sweep says, the runs it makes, the best of them, and going on."""

from __future__ import annotations

import json
import statistics

import pytest

from funnelformer.base.errors import UserError
from funnelformer.cli import main
from funnelformer.training.finetuning import finetune as module
from funnelformer.training.finetuning.config import FinetuneConfig
from funnelformer.training.finetuning.series import run_all
from funnelformer.training.finetuning.sweep import grid
from training.toy import FINETUNE, animal_rows, fails, tokens, tree, write_table


def config_of(tmp_path, *sweep, **options):
    return FinetuneConfig(model="L1H16", out=tmp_path / "out", sweep=list(sweep), **options)


def test_the_grid_by_hand(tmp_path):
    """Short names, flags of any type, keys of the model; the last option changes fastest."""
    points = grid(config_of(tmp_path, "lr=1e-5,2e-5", "max-length=auto,64", "set.hidden_dropout=0.1"))
    assert [point.name for point in points] == [
        f"learning-rate={rate},max-length={length},set.hidden_dropout=0.1"
        for rate in ("1e-5", "2e-5")
        for length in ("auto", "64")
    ]
    assert points[1].options == {"learning-rate": 1e-5, "max-length": 64, "set.hidden_dropout": "0.1"}
    config = points[1].config
    assert (config.learning_rate, config.max_length, config.model_options) == (
        1e-5,
        64,
        {"hidden_dropout": "0.1"},
    )
    assert config.sweep == []
    modes = grid(
        config_of(tmp_path, "schedule=linear,cosine", "--group-by-length=true,false", "model=a/b,a_b")
    )
    assert [point.config.schedule for point in modes[::4]] == ["linear", "cosine"]
    assert [point.config.group_by_length for point in modes[::2]] == [True, False] * 2
    # What makes no folder's name is written otherwise; of two that would be one the second has its number.
    assert [point.name.rpartition("model=")[2] for point in modes[:2]] == ["a_b", "point-2"]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (["lr"], "--sweep lr: allowed: OPTION=VALUE,VALUE, such as lr=1e-5,2e-5"),
        (["lr=1e-5,"], "--sweep lr=1e-5,: allowed: OPTION=VALUE,VALUE"),
        (["lr=high"], "--sweep lr=high: 'high' is not a value of lr; allowed: a number"),
        (["lr=-1"], "--learning-rate is -1.0; allowed: more than 0"),
        (["batch=1.5"], "--sweep batch=1.5: '1.5' is not a value of batch; allowed: a whole number"),
        (["max-length=long"], "'long' is not a value of max-length; allowed: a whole number or auto"),
        (["schedule=step"], "'step' is not a value of schedule; allowed: linear, cosine, constant"),
        (["lr=1e-5,0.00001"], "--sweep lr=1e-5,0.00001: a value is given twice"),
        (["lr=1e-5", "learning-rate=2e-5"], "--sweep learning-rate=2e-5: learning-rate is swept twice"),
        (["epoch=1,2"], "--sweep epoch=1,2: epoch is not an option; did you mean 'epochs'?; known: lr, batch, "),
        (["seed=1,2"], "--sweep seed=1,2: seed cannot be swept; known: "),
        (["dev=a.tsv,b.tsv"], "dev cannot be swept"),
    ],
)  # fmt: skip
def test_what_cannot_be_swept(tmp_path, sweep, message):
    with pytest.raises(UserError) as caught:
        grid(config_of(tmp_path, *sweep))
    assert message in str(caught.value)
    many = ["epochs=" + ",".join(map(str, range(1, 41))), "batch=" + ",".join(map(str, range(1, 41)))]
    with pytest.raises(UserError, match="1,600 combinations"):
        grid(config_of(tmp_path, *many))


def test_a_value_that_only_the_data_refuse_ends_it_before_the_first_run(toy, tmp_path, capsys):
    table = write_table(tmp_path / "t.tsv", animal_rows(20))
    out = tmp_path / "out"
    flags = ["--model", str(toy.pretrained), "--train", str(table), "--out", str(out)]
    with pytest.raises(SystemExit):
        main([*tokens(FINETUNE), *flags, "--sweep", "class-weights=yes=2,none=1"])
    assert "'none=1' is not LABEL=WEIGHT" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("flags", [("--seeds", 2), ("--sweep", "lr=1,2"), ("--sweep", "max-length=8,16")])
def test_a_mistyped_table_deletes_no_run_and_leaves_none(toy, tmp_path, capsys, flags):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "run_config.toml").write_text("")
    (old / "metrics.json").write_text("of the old run")
    command = (FINETUNE, "--model", toy.pretrained, "--train", tmp_path / "t.tsv", *flags)
    message = f"{tmp_path / 't.tsv'}: no such file"
    assert fails(capsys, *command, "--out", old, "--overwrite").startswith(message)
    assert fails(capsys, *command, "--out", new).startswith(message)
    assert tree(tmp_path) == {
        "old": b"", "old/run_config.toml": b"", "old/metrics.json": b"of the old run"
    }  # fmt: skip


def fake_run(scores, calls):
    """A run that writes what the score of its options says, as `_finetune` ends."""

    def run(config):
        calls.append(config.out.name)
        config.out.mkdir(parents=True, exist_ok=True)
        score = scores[config.learning_rate] + (config.seed - 42) * 0.01
        metrics = {
            "model": "m", "kind": "classification", "steps": 1, "dev_loss": 1 - score, "dev_accuracy": score,
            "test_accuracy": 1 - score, "metric": "dev_accuracy", "num_parameters": 5, "cost": {"train_seconds": 2.0},
        }  # fmt: skip
        (config.out / "metrics.json").write_text(json.dumps(metrics))
        return metrics

    return run


def test_the_best_is_that_of_the_dev_part_over_the_seeds(tmp_path, capsys):
    """Means over the seeds decide, not a single seed, a loss or the test part; NaN is worst. Two runs a point."""
    calls = []
    config = config_of(tmp_path, "lr=1e-5,2e-5,3e-5", seeds=2)
    scores = {1e-5: 0.5, 2e-5: 0.75, 3e-5: float("nan")}
    metrics = run_all(config, fake_run(scores, calls), lambda own: None)
    assert calls == ["seed-42", "seed-43"] * 3
    assert (metrics["best"], metrics["best_run"]) == ("learning-rate=2e-5", "learning-rate=2e-5/seed-43")
    assert metrics["dev_accuracy"] == pytest.approx(0.755)
    found = json.loads((config.out / "sweep.json").read_text())
    assert (found["metric"], found["best"]) == ("dev_accuracy", "learning-rate=2e-5")
    assert [point["options"] for point in found["points"]] == [{"learning-rate": rate} for rate in scores]
    assert found["points"][0]["metrics"]["dev_accuracy_sd"] == pytest.approx(statistics.stdev([0.5, 0.51]))
    printed = capsys.readouterr().out
    assert "sweep: 3 points, 6 runs" in printed
    assert "0.7550 ± 0.0071" in printed
    assert printed.count("mean ± sd") == 0  # one table, at the end


def test_a_sweep_that_was_interrupted_goes_on(toy, tmp_path, monkeypatch, capsys):
    """Cut off before its second point: the first is not run again, and the rest is what it would have been."""
    table = write_table(tmp_path / "t.tsv", animal_rows(32))
    out = tmp_path / "out"
    command = [*tokens(FINETUNE), "--model", str(toy.pretrained), "--train", str(table), "--out", str(out)]
    command += ["--sweep", "lr=0.001,0.02", "--sweep", "batch=16"]
    original, calls = module.run_trainer, []

    def run_trainer(trainer, tokenizer, folder, checkpoint):
        calls.append(folder.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(trainer, tokenizer, folder, checkpoint)

    monkeypatch.setattr(module, "run_trainer", run_trainer)
    with pytest.raises(SystemExit):
        main(command)
    names = ["learning-rate=0.001,batch-size=16", "learning-rate=0.02,batch-size=16"]
    assert calls == names
    first = (out / names[0] / "metrics.json").read_bytes()
    assert not (out / "sweep.json").exists()
    main([*command, "--resume"])
    assert calls == [*names, names[1]]
    assert (out / names[0] / "metrics.json").read_bytes() == first
    assert f"{out / names[0]} is finished" in capsys.readouterr().out
    found = json.loads((out / "sweep.json").read_text())
    scores = [point["metrics"]["dev_accuracy"] for point in found["points"]]
    assert found["best"] == names[scores.index(max(scores))] == found["best_run"]
    # One dev part for all, which a run alone finds by --split-seed.
    data = [json.loads((out / name / "metrics.json").read_text())["data"] for name in names]
    assert data[0] == data[1]
    main([*command, "--resume"])
    assert len(calls) == 3
