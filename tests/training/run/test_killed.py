"""Runs that are killed with SIGKILL at any moment, on one and on two processes, go on as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time

import psutil
import pytest
from safetensors.torch import load_file

from funnelformer.training.run.folder import last_checkpoint
from training import harm
from training.children import finish, kill_when, start
from training.toy import PRETRAIN, log_of, metrics_of, tokens, weights_equal

STEPS = ("--steps", 40, "--save-every", 5, "--log-every", 1)
OBJECTIVES = {"mlm": (), "electra": ("--objective", "electra", "--set.generator_size=0.5")}
# The losses of two processes and of one differ by the order of float32 sums alone. Measured: 3e-7 of the loss.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def begin(toy):
    """Start a run of 40 steps in a folder; `--auto-resume` makes the same command begin and go on."""

    def call(out, *flags, **kwargs):
        command = (PRETRAIN, "--train", toy.corpus, "--tokenizer", toy.tokenizer, *STEPS, "--out", out)
        return start(*command, *flags, "--auto-resume", output=out.with_suffix(".txt"), **kwargs)

    return call


@pytest.fixture(scope="module")
def whole(begin, toy):
    """For each objective and number of processes a run that nothing disturbs."""
    folders = {}

    def get(objective, num_processes=1, *more):
        key = (objective, num_processes, *more)
        if key not in folders:
            out = folders[key] = toy.folder / "-".join(map(str, key))
            flags = (*OBJECTIVES[objective], "--batch-size", 8 // num_processes, *more)
            assert finish(begin(out, *flags, num_processes=num_processes)) == [0] * num_processes
        return folders[key]

    return get


def same(one, two):
    """The same sequence of losses, and what else is logged, and the same weights, bit for bit."""
    # The summary at the end is of the last process alone.
    logs = [[entry for entry in log_of(out) if "train_loss" not in entry] for out in (one, two)]
    assert [entry["step"] for entry in logs[0] if "loss" in entry] == list(range(1, 41))
    assert logs[0] == logs[1]
    assert weights_equal(one, two)
    if (one / "generator").exists():
        assert weights_equal(one / "generator", two / "generator")
    assert metrics_of(one) == metrics_of(two)


def num_lines(out):
    """Lines of the log so far."""
    file = out / "log.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


@pytest.mark.slow  # fast: killed while it writes, below
@pytest.mark.parametrize("objective", ["mlm", "electra"])
def test_killed_three_times_at_random(begin, whole, tmp_path, objective):
    """Between, in, and right after steps and checkpoints, before the first one too."""
    expected = whole(objective)
    generator = random.Random(objective)
    out = tmp_path / "out"
    lines = 0
    for _ in range(3):
        lines = generator.randint(lines + 1, lines + 14)
        children = begin(out, *OBJECTIVES[objective])
        wanted, delay_s = lines, generator.uniform(0, 0.05)
        assert kill_when(children, lambda wanted=wanted: num_lines(out) >= wanted, delay_s) == [-9]
        assert not (out / "metrics.json").exists()
    assert finish(begin(out, *OBJECTIVES[objective])) == [0]
    same(expected, out)


# The fast ones: a checkpoint that has no weights yet, and one that has all but the mark.
FAST = (harm.in_the_weights, harm.before_the_mark)


@pytest.mark.parametrize(
    "moment", [pytest.param(m, marks=() if m in FAST else pytest.mark.slow) for m in harm.MOMENTS]
)
def test_killed_while_it_writes(begin, whole, tmp_path, moment):
    out = tmp_path / "out"
    assert finish(begin(out, harm=moment)) == [-9]
    checkpoint = last_checkpoint(out)
    is_late = moment in (harm.in_the_deletion, harm.in_the_final_save)
    assert checkpoint is not None
    assert checkpoint.name == {
        harm.in_the_deletion: "checkpoint-15",
        harm.in_the_final_save: "checkpoint-40",
    }.get(moment, "checkpoint-10")
    assert is_late or (out / "checkpoints" / "checkpoint-15").exists()
    assert finish(begin(out)) == [0]
    same(whole("mlm"), out)


@pytest.mark.slow
def test_electra_killed_while_it_writes_the_weights(begin, whole, tmp_path):
    """One of the two folders is there, with those of the checkpoint before."""
    out = tmp_path / "out"
    assert finish(begin(out, *OBJECTIVES["electra"], harm=harm.in_the_weights)) == [-9]
    assert last_checkpoint(out).name == "checkpoint-5"
    assert finish(begin(out, *OBJECTIVES["electra"])) == [0]
    same(whole("electra"), out)


# ---- two processes


def test_two_processes_equal_one_with_twice_the_accumulation(begin, toy, tmp_path):
    """The losses of 20 steps, without dropout, whose masks no two processes share."""
    flags = ("--steps", 20, "--set.hidden_dropout=0.0", "--set.attention_dropout=0.0", "--batch-size", 4)
    assert finish(begin(tmp_path / "one", *flags, "--gradient-accumulation", 2)) == [0]
    assert finish(begin(tmp_path / "two", *flags, num_processes=2)) == [0, 0]
    one, two = ([entry for entry in log_of(tmp_path / name) if "loss" in entry] for name in ("one", "two"))
    assert len(one) == 20
    assert one[-1]["loss"] < one[0]["loss"] - 0.5
    for name in ("loss", "grad_norm", "learning_rate"):
        assert [entry[name] for entry in two] == pytest.approx([entry[name] for entry in one], rel=TOLERANCE)
    measured = [
        [entry["eval_loss"] for entry in log_of(tmp_path / name) if "eval_loss" in entry]
        for name in ("one", "two")
    ]
    assert len(measured[0]) == 2
    # Process 0 alone writes and prints.
    assert not (tmp_path / "two.txt.1").read_text()
    assert "the model is in" in (tmp_path / "two.txt").read_text()


def test_nan_on_one_process_is_nan_on_both(begin, tmp_path):
    """Both stop, with the batch of both kept; or both leave the update out, and stay equal."""
    flags = ("--steps", 8, "--batch-size", 4, "--validation-fraction", 0)
    out = tmp_path / "stop"
    assert finish(begin(out, *flags, num_processes=2, harm=harm.loss_of_process_1_is_nan)) == [2, 2]
    assert load_file(out / "nan_batch_4.safetensors")["input_ids"].shape == (8, 16)
    assert "step 4: the loss is nan" in (tmp_path / "stop.txt").read_text()
    assert "error (process 1): step 4: the loss is nan" in (tmp_path / "stop.txt.1").read_text()
    out = tmp_path / "skip"
    flags = (*flags, "--on-nan", "skip")
    assert finish(begin(out, *flags, num_processes=2, harm=harm.loss_of_process_1_is_nan)) == [0, 0]
    assert json.loads((out / "metrics.json").read_text())["skipped_updates"] == 1
    losses = [entry.get("loss") for entry in log_of(out) if "skipped_updates" in entry]
    assert [loss is None for loss in losses] == [False] * 3 + [True] + [False] * 4


@pytest.mark.slow  # a fast form on two processes: test_sharding.py, killed at a checkpoint
@pytest.mark.parametrize("objective", ["mlm", "electra"])
def test_two_processes_killed_go_on(begin, whole, tmp_path, objective):
    expected = whole(objective, 2)
    flags = (*OBJECTIVES[objective], "--batch-size", 4)
    out = tmp_path / "out"
    generator = random.Random(objective)
    for _ in range(2):
        wanted, delay_s = num_lines(out) + generator.randint(6, 16), generator.uniform(0, 0.05)
        children = begin(out, *flags, num_processes=2)
        assert -9 in kill_when(children, lambda wanted=wanted: num_lines(out) >= wanted, delay_s)
    assert finish(begin(out, *flags, num_processes=2)) == [0, 0]
    same(expected, out)


@pytest.mark.slow  # a fast form in one direction: test_sharding.py, killed between two checkpoints
@pytest.mark.parametrize("objective", ["mlm", "electra"])
def test_two_processes_with_shards_killed_go_on(begin, whole, tmp_path, objective):
    """While process 1 writes its shard, then at random."""
    sharded = ("--parallel", "fsdp")
    expected = whole(objective, 2, *sharded)
    flags = (*OBJECTIVES[objective], "--batch-size", 4, *sharded)
    out = tmp_path / "out"
    children = begin(out, *flags, num_processes=2, harm=harm.of_process_1_in_its_shard)
    assert -9 in kill_when(children, lambda: False)
    assert last_checkpoint(out).name == "checkpoint-10"
    assert (out / "checkpoints" / "checkpoint-15").exists()
    generator = random.Random(objective)
    wanted, delay_s = 16 + generator.randint(1, 12), generator.uniform(0, 0.05)
    children = begin(out, *flags, num_processes=2)
    assert -9 in kill_when(children, lambda: num_lines(out) >= wanted, delay_s)
    assert finish(begin(out, *flags, num_processes=2)) == [0, 0]
    same(expected, out)


@pytest.mark.slow
def test_process_1_killed_while_process_0_has_written_all(begin, whole, tmp_path):
    """The Trainer of process 0 does not wait for the others: its own state is no sign that the checkpoint is whole."""
    out, flags = tmp_path / "out", ("--batch-size", 4)
    children = begin(out, *flags, num_processes=2, harm=harm.of_process_1_in_its_random_state)
    kill_when(children[:1], lambda: not children[1].is_alive(), 1.0)
    finish(children[1:])
    assert (out / "checkpoints" / "checkpoint-15" / "trainer_state.json").exists()
    assert last_checkpoint(out).name == "checkpoint-10"
    assert finish(begin(out, *flags, num_processes=2)) == [0, 0]
    same(whole("mlm", 2), out)


@pytest.mark.slow
def test_torchrun_restarts_a_run_whose_worker_was_killed(whole, toy, tmp_path):
    """The very command line of the documentation."""
    out = tmp_path / "out"
    launch = "-m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 1 -m funnelformer"
    options = tokens(PRETRAIN, "--train", toy.corpus, "--tokenizer", toy.tokenizer, *STEPS, "--batch-size", 4)
    command = [sys.executable, *launch.split(), *options, "--out", str(out), "--auto-resume"]
    with (tmp_path / "output.txt").open("w") as file:
        # With torchrun's own store the new processes may read the addresses of the old ones (PyTorch's issue 135712).
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        run = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        deadline = time.monotonic() + 240
        while num_lines(out) < 12 and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        workers = [
            child
            for child in psutil.Process(run.pid).children(recursive=True)
            if child.environ().get("RANK") == "1"
        ]
        workers[-1].kill()
        try:
            code = run.wait(240)
        finally:
            run.terminate()
            run.wait()
        assert code == 0, (tmp_path / "output.txt").read_text()
    assert (tmp_path / "output.txt").read_text().count("\ncorpus: ") == 2
    same(whole("mlm", 2), out)
