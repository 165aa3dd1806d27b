"""Fine-tuning a copy of the model while it is pretrained: the figures of `finetune`, and no trace in the training."""

from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace

import pytest

from funnelformer.training.pretraining import probe
from training.children import finish, start, warm_run
from training.toy import animal_rows, fails, log_of, run, tree, weights_equal, write_table


@pytest.fixture(scope="module")
def tables(toy):
    train, dev = (toy.folder / name for name in ("train.tsv", "dev.tsv"))
    return (
        "--probe-train",
        write_table(train, animal_rows(40)),
        "--probe-dev",
        write_table(dev, animal_rows(20, seed=1)),
    )


def probes(out):
    return {entry["step"]: entry for entry in log_of(out) if "probe_accuracy" in entry}


@pytest.mark.parametrize("process", ["warm", pytest.param("the program", marks=pytest.mark.slow)])
def test_it_is_finetune_and_changes_nothing(command, toy, tables, tmp_path, monkeypatch, process):
    """The figures are those of `finetune` on the checkpoint; losses and weights those of a run without."""
    if process == "warm":
        monkeypatch.setattr(probe, "subprocess", SimpleNamespace(run=warm_run))
    out, plain, tuned = (tmp_path / name for name in ("out", "plain", "tuned"))
    assert run(*command(out, *tables, "--probe-every", 10)) == 0
    assert run(*command(plain)) == 0
    assert weights_equal(out, plain)
    log = [entry for entry in log_of(out) if "probe_accuracy" not in entry]
    assert log[:-1] == log_of(plain)[:-1]
    assert not list(out.glob(".probe-*"))
    found = probes(out)
    assert list(found) == [10, 20]
    flags = [
        "--model",
        out / "checkpoints" / "checkpoint-10",
        "--tokenizer",
        toy.tokenizer,
        "--device",
        "cpu",
    ]
    data = ["--train", tables[1], "--dev", tables[3], "--max-length", 16]
    assert run("finetune", *flags, *data, "--out", tuned) == 0
    metrics = json.loads((tuned / "metrics.json").read_text())
    for name in ("accuracy", "macro_f1", "loss"):
        assert found[10][f"probe_{name}"] == pytest.approx(metrics[f"dev_{name}"], rel=1e-6)
    assert found[10]["probe_loss"] != found[20]["probe_loss"]


@pytest.mark.slow
def test_two_processes_wait_for_it(command, tables, tmp_path):
    """With the model in shards, of which the probe needs the whole; every step of --evaluate-every by default."""
    flags = (*tables, "--batch-size", 4, "--parallel", "fsdp", "--objective", "electra", "--steps", 10)
    started = start(*command(tmp_path / "out", *flags), output=tmp_path / "o.txt", num_processes=2)
    assert finish(started) == [0, 0]
    assert list(probes(tmp_path / "out")) == [10]
    assert not (tmp_path / "o.txt.1").read_text()


def test_one_that_fails_is_a_warning(command, tables, tmp_path, capsys, monkeypatch):
    failed = subprocess.CompletedProcess([], 2, "", "error: no memory\n")
    monkeypatch.setattr(probe, "subprocess", SimpleNamespace(run=lambda *args, **kwargs: failed))
    assert run(*command(tmp_path / "out", *tables, "--steps", 10)) == 0
    assert not probes(tmp_path / "out")
    line = "warning: no probe, its fine-tuning failed: error: no memory"
    assert line in capsys.readouterr().err.splitlines()
    assert not list((tmp_path / "out").glob(".probe-*"))


def test_the_process_of_its_own_is_told_of_no_others(monkeypatch):
    for name in (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "MASTER_ADDR",
        "TORCHELASTIC_RUN_ID",
        "ACCELERATE_USE_CPU",
    ):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setattr(probe.torch.cuda, "is_available", lambda: True)
    environment = probe._environment()
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"} & environment.keys()
    assert (environment["OMP_NUM_THREADS"], environment["CUDA_VISIBLE_DEVICES"]) == ("1", "3")


def test_bad_tables_are_refused_before_the_training(command, toy, tables, tmp_path, capsys):
    """One line, and no run is begun."""
    one_class = write_table(tmp_path / "one.tsv", [("the cat", "yes"), ("the dog", "yes")])
    unseen = write_table(tmp_path / "unseen.tsv", [("the cat", "yes"), ("the dog", "yess")])
    no_label = write_table(tmp_path / "none.tsv", [("a", "b", "c")], ("one", "two", "three"))
    before = tree(tmp_path)

    def refused(*flags):
        line = fails(capsys, *command(tmp_path / "out", *flags))
        assert tree(tmp_path) == before
        return line

    missing = toy.folder / "trian.tsv"
    assert refused("--probe-train", missing) == f"{missing}: no such file; did you mean 'train.tsv'?"
    assert refused("--probe-train", one_class) == f"only one class, 'yes', in {one_class}: nothing to learn"
    line = refused("--probe-train", tables[1], "--probe-dev", unseen)
    assert line.startswith(f"{unseen}: row 2 (line 3): column 'label' has 'yess', which is not one of")
    assert str(no_label) in refused("--probe-train", no_label)
    assert refused("--probe-dev", tables[3]) == "--probe-dev needs --probe-train"
    assert refused("--probe-every", 5) == "--probe-every needs --probe-train"
    assert refused(*tables, "--probe-every", 0) == "--probe-every is 0; allowed: 1 or more"


def test_the_probe_is_told_all_that_is_not_left_out(tmp_path):
    """0 is a value, though it equals False."""
    settings = {"train": "a.tsv", "seed": 0, "weight_decay": 0.0}
    flags = probe._flags(probe.Probe(settings, None, tmp_path)._config(tmp_path))
    assert flags[flags.index("--seed") + 1] == "0"
    assert flags[flags.index("--weight-decay") + 1] == "0.0"
    assert "--set" not in flags
    assert "False" not in flags
