"""Whole runs from the command line, their recipes, and the report made of them."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from funnelformer.base.errors import UserError
from funnelformer.cost.peak import peak_memory_bytes
from funnelformer.lra import run as run_module
from funnelformer.lra.arena_tasks import TASKS, find_task
from funnelformer.lra.config import LraConfig
from funnelformer.lra.run import Clock, run_lra
from training.children import finish, start
from training.toy import fails, interrupted_at, log_of, run, tree, weights_equal

LISTOPS = "lra listops --model ponet --generate 40 --length 32 --steps 4 --batch-size 8 --device cpu"


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("listops", (2000, 32, 5000, 1000)),
        ("text", (4000, 32, 20_000, 8000)),
        ("retrieval", (4000, 32, 30_000, 800)),
        ("image", (1024, 256, 35_000, 175)),
        ("pathfinder", (1024, 256, 62_400, 312)),
        ("path-x", (16_384, 256, 62_400, 312)),
    ],
)
def test_recipes(tmp_path, name, recipe):
    config = LraConfig(task=name, model="ponet", data=tmp_path, out=tmp_path / "out")
    # As training_arguments does it: rounding must not add a step.
    num_warmup = math.ceil(config.warmup * config.steps)
    assert (config.length, config.batch_size, config.steps, num_warmup) == recipe
    assert (config.learning_rate, config.schedule, config.weight_decay) == (1e-4, "linear", 0.0)
    assert config.evaluate_every == config.steps // 10


def test_a_run(tmp_path, capsys):
    out = tmp_path / "out"
    assert run(LISTOPS, "--out", out, "--set.hidden_dropout", 0.2) == 0
    text = capsys.readouterr().out
    assert "data: 40 to train on, 4 to validate, 4 to test" in text
    metrics = metrics_of(out)
    assert (metrics["task"], metrics["model"], metrics["layout"]) == ("listops", "ponet", "L2H64 (ponet)")
    assert metrics["accuracy"] in (0, 0.25, 0.5, 0.75, 1)
    assert metrics["steps"] == 4
    assert metrics["examples_per_s"] == pytest.approx(8 * metrics["steps_per_s"])
    assert metrics["peak_memory_bytes"] > 50 * 2**20
    assert metrics["settings"]["set"] == {"hidden_dropout": "0.2"}
    saved = json.loads((out / "lra_task.json").read_text())
    assert saved["ids"][11] == "[MIN"
    assert json.loads((out / "config.json").read_text())["hidden_dropout"] == 0.2
    assert fails(capsys, LISTOPS, "--out", out).startswith(f"{out} is not empty; choose another --out")
    assert run(LISTOPS, "--out", tmp_path / "again", "--set.hidden_dropout", 0.2) == 0
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "again" / "model.safetensors").read_bytes()


def test_an_interrupted_run_goes_on(tmp_path, capsys):
    """With the same weights in the end as one that was not."""
    command = f"{LISTOPS} --steps 6 --evaluate-every 2"
    with interrupted_at(3):
        assert run(command, "--out", tmp_path / "out") == 130
    assert "checkpoint-2; go on from it with --resume" in capsys.readouterr().err
    assert run(command, "--out", tmp_path / "out", "--resume") == 0
    assert run(command, "--out", tmp_path / "whole") == 0
    assert weights_equal(tmp_path / "out", tmp_path / "whole")
    changed = fails(capsys, command, "--out", tmp_path / "out", "--resume", "--data-seed", 1)
    assert changed.endswith("the run began with data-seed = 0, now it is 1")


def test_a_finished_run_is_not_run_again(tmp_path, capsys):
    out = tmp_path / "out"
    assert run(LISTOPS, "--out", out) == 0
    finished, before = tree(out), metrics_of(out)
    assert run(LISTOPS, "--out", out, "--resume") == 0
    assert f"{out} is finished" in capsys.readouterr().out
    assert tree(out) == finished
    (out / "metrics.json").unlink()  # as if killed between the last step and the test
    assert run(LISTOPS, "--out", out, "--resume") == 0
    unmeasured = dict.fromkeys(("steps_per_s", "examples_per_s", "peak_memory_bytes"))
    again = metrics_of(out)
    costs = before.pop("cost"), again.pop("cost")
    assert again == {**before, **unmeasured}
    # What the checkpoint's log had: all steps, but not what followed the last of them.
    assert 0 < costs[1]["train_seconds"] <= costs[0]["train_seconds"]
    capsys.readouterr()
    assert run("lra report", out) == 0
    assert capsys.readouterr().out.endswith(f" | 4 |  |  |  | {before['num_parameters']:,} |\n")


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """On the same batches to the same scores; the first one writes and prints."""
    command = f"{LISTOPS} --batch-size 4 --log-every 1 --evaluate-every 4 --set.hidden_dropout=0.0"
    outs, output = [tmp_path / "1", tmp_path / "2"], tmp_path / "2.txt"
    children = start(command, "--out", outs[1], output=output, num_processes=2)
    assert run(command, "--out", outs[0], "--gradient-accumulation", 2) == 0
    assert finish(children) == [0, 0], output.read_text()
    assert (tmp_path / "2.txt.1").read_text() == ""
    one, two = ([entry["loss"] for entry in log_of(out) if "loss" in entry] for out in outs)
    assert len(one) == 4
    assert one == pytest.approx(two, rel=1e-5)
    one, two = map(metrics_of, outs)
    assert all(one[key] == two[key] for key in ("accuracy", "best_step", "settings"))


def test_memory_before_a_run_does_not_count(tmp_path):
    np.ones(2**25)  # 256 MiB
    before = peak_memory_bytes(torch.device("cpu"))
    assert run(LISTOPS, "--out", tmp_path / "out") == 0
    assert metrics_of(tmp_path / "out")["peak_memory_bytes"] < before - 100 * 2**20


def write_reviews(folder, num_files):
    for part in ("train", "test"):
        for name, word in (("neg", b"bad "), ("pos", b"good ")):
            (folder / part / name).mkdir(parents=True)
            for number in range(num_files):
                (folder / part / name / f"{number}.txt").write_bytes(b"a film " + word * (number % 5 + 1))


@pytest.mark.parametrize("model", ["ponet", "hybrid", "fnet"])
def test_a_model_learns_two_words(tmp_path, model):
    write_reviews(tmp_path / "data", 20)
    config = LraConfig(
        task="text",
        model=model,
        data=tmp_path / "data",
        out=tmp_path / "out",
        length=32,
        steps=60,
        batch_size=16,
        learning_rate=0.01,
        warmup=0.1,
        device="cpu",
        model_options={"initializer_std": "0.1"},
    )
    metrics = run_lra(config)
    assert metrics["accuracy"] == 1.0
    # The arena validates on the test part: nothing may be chosen by it.
    assert (metrics["best_step"], metrics["best_validation_accuracy"]) == (None, None)
    assert metrics["settings"]["num_test"] == 40
    assert not metrics["settings"]["generated"]


def test_a_pair_model_learns_which_texts_are_equal(tmp_path):
    lines = [f"{int(a == b)}\tx\ty\t{a * 6}\t{b * 6}\n" for a in "pqrs" for b in "pqrs" for _ in (0, 1, 2)]
    lines += [line for line in lines if line[0] == "1"] * 2
    for part in ("train", "eval", "test"):
        (tmp_path / f"new_aan_pairs.{part}.tsv").write_text("".join(lines))
    out = tmp_path / "out"
    flags = "--steps 80 --evaluate-every 40 --batch-size 16 --learning-rate 0.01 --device cpu --length 8"
    command = f"lra retrieval --model transformer {flags} --set.initializer_std=0.1 --warmup 0.1"
    assert run(command, "--data", tmp_path, "--out", out) == 0
    assert metrics_of(out)["accuracy"] == 1.0


def test_images_train(tmp_path):
    out = tmp_path / "out"
    command = "lra pathfinder --model funnel --generate 8 --length 256 --steps 2 --batch-size 4 --device cpu"
    assert run(command, "--out", out) == 0
    assert metrics_of(out)["mean_length"] == 256
    assert json.loads((out / "lra_task.json").read_text())["ids"] == "grey value 0 to 255, row by row"


def test_options_from_a_file(tmp_path, capsys):
    """`generate` is a command of lra as well as an option; flags win."""
    file = tmp_path / "options.toml"
    file.write_text(
        'model = "fnet"\ngenerate = 30\nlength = 32\nsteps = 2\nbatch-size = 4\ndevice = "cpu"\n'
        "[set]\nhidden_dropout = 0.0\n"
    )
    out = tmp_path / "out"
    assert run("lra listops", "--config", file, "--out", out, "--steps", 3) == 0
    metrics = metrics_of(out)
    assert (metrics["model"], metrics["steps"], metrics["settings"]["num_train"]) == ("fnet", 3, 30)
    assert metrics["settings"]["set"] == {"hidden_dropout": "0.0"}
    assert run("lra listops", "--config", file, "--out", tmp_path / "two", "--generate", 20) == 0
    assert metrics_of(tmp_path / "two")["settings"]["num_train"] == 20
    file.write_text('task = "listops"\ncount = [20, 3, 4]\nlength = 40\n')
    assert run("lra generate", "--config", file, "--out", tmp_path / "data", "--length", 30) == 0
    written = (tmp_path / "data" / "basic_train.tsv").read_bytes()
    assert run("lra generate listops --count 20 3 4 --length 30 --out", tmp_path / "flags") == 0
    assert (tmp_path / "flags" / "basic_train.tsv").read_bytes() == written
    file.write_text(f'runs = ["{out}"]\n')
    assert run("lra report", "--config", file) == 0
    file.write_text('modle = "fnet"\n')
    assert fails(capsys, "lra listops", "--config", file) == (
        f"{file}: unknown key 'modle'; did you mean 'model'?"
    )


def test_bad_input_before_long_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_module, "generate_data", lambda *arguments: pytest.fail("data were generated"))
    out = ("--out", tmp_path / "out")
    assert fails(capsys, LISTOPS.replace("lra listops", "lra listop"), *out).startswith(
        "no task 'listop'; known: "
    )
    assert fails(capsys, LISTOPS, *out, "--model", "pnet").endswith("did you mean 'ponet'?")
    assert fails(capsys, LISTOPS, *out, "--set.hidden_dropot", 0.1) == (
        "model config: unknown key 'hidden_dropot'; did you mean 'hidden_dropout'?"
    )
    assert fails(capsys, LISTOPS, *out, "--set.ponet_segments=separators") == (
        'model config: ponet_segments="separators" needs cls_token_id or sep_token_id'
    )
    assert fails(capsys, LISTOPS, *out, "--set.max_position_embeddings=31") == (
        "--length 32 is beyond the model's max_position_embeddings 31"
    )
    assert fails(capsys, LISTOPS, *out, "--steps", 0) == "--steps is 0; allowed: 1 or more"
    assert fails(capsys, LISTOPS, *out, "--batch-size", 0) == "--batch-size is 0; allowed: 1 or more"
    both = "give either --data, a folder, or --generate, a number of examples"
    assert fails(capsys, LISTOPS, *out, "--data", tmp_path) == both
    assert fails(capsys, "lra listops --model ponet", *out) == both
    missing = fails(capsys, "lra image --model ponet --data", tmp_path / "x", *out)
    assert missing.startswith(f"{tmp_path / 'x'}: no such folder; needed: cifar-10-binary.tar.gz")
    assert not (tmp_path / "out").exists()


def test_generate_writes_what_a_run_reads(tmp_path, capsys):
    folder = tmp_path / "data"
    assert run("lra generate listops --count 20 4 4 --length 32 --seed 3 --out", folder) == 0
    assert capsys.readouterr().out == f"the data are in {folder}\n"
    command = LISTOPS.replace("--generate 40", f"--data {folder}")
    assert run(command, "--out", tmp_path / "out") == 0
    assert metrics_of(tmp_path / "out")["settings"]["num_test"] == 4
    assert fails(capsys, "lra generate listops --count 20 --out", folder) == (
        f"{folder} is not empty; choose another --out"
    )


def test_the_clock_leaves_out_first_steps_and_evaluations(monkeypatch):
    """Steps of 1 s, 2 s of loading between them, 100 s of evaluation after step 5: (6 + 1 + 9) / 6 s a step."""
    now = [0.0]
    monkeypatch.setattr("funnelformer.lra.run.now", lambda device: now[0])
    args = SimpleNamespace(device=None)
    clock = Clock()
    for step in range(1, 10):
        evaluates = step == 5
        control = SimpleNamespace(should_evaluate=evaluates, should_save=False)
        state = SimpleNamespace(global_step=step, max_steps=9)
        now[0] += 2
        clock.on_step_begin(args, state, control)
        now[0] += 50 if step == 1 else 1
        clock.on_step_end(args, state, control)
        now[0] += 100 if evaluates else 0
    # Steps 4 and 5 with their loading, 6 without, 7 to 9 with it.
    assert (clock.num_steps, clock.seconds) == (6, 6 + 1 + 9)


def test_tasks():
    assert [task.num_segments for task in TASKS.values()] == [64, 2048, 64, 32, 1, 1]
    with pytest.raises(UserError, match=r"no task 'lisops'; known: .*; did you mean 'listops'"):
        find_task("lisops")
