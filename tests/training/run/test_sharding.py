"""FSDP on two processes gives the run of one process, and its checkpoints load on another number of them."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader

from funnelformer.training.run import sharding
from funnelformer.training.run.folder import last_checkpoint
from training import harm
from training.children import finish, kill_when, start
from training.toy import FINETUNE, PRETRAIN, animal_rows, log_of, run, weights_equal, write_table

ELECTRA = ("--objective", "electra", "--set.generator_size=0.5")
# Losses and norms differ by the order of float32 sums alone, with bfloat16 too. Measured: 5e-7 of the value. (The last
# step of an epoch would differ more, where the sequences do not fill it: 14 steps end before that.)
TOLERANCE = 1e-5
# One process, and two: the same step of 16 sequences.
ONE, TWO = (
    ("--batch-size", 4, "--gradient-accumulation", 4),
    ("--batch-size", 4, "--gradient-accumulation", 2),
)


@pytest.fixture(scope="module")
def begin(toy):
    """Start a run of 14 steps without dropout on one or two processes; the same command goes on with it."""

    def call(out, num_processes, *flags, parallel="fsdp", **kwargs):
        command = (PRETRAIN, "--train", toy.corpus, "--tokenizer", toy.tokenizer, "--steps", 14, "--out", out)
        fixed = (
            "--save-every",
            4,
            "--log-every",
            1,
            "--set.hidden_dropout=0.0",
            "--set.attention_dropout=0.0",
        )
        parts = {1: ONE, 2: TWO}[num_processes]
        output = out.with_suffix(f".{num_processes}.txt")
        return start(
            *command,
            *fixed,
            *parts,
            "--parallel",
            parallel,
            "--auto-resume",
            *flags,
            output=output,
            num_processes=num_processes,
            **kwargs,
        )

    return call


def figures(out):
    """Of every step: loss, norm of the gradient before clipping, learning rate; and what was measured."""
    log = log_of(out)
    steps = [(entry["loss"], entry["grad_norm"], entry["learning_rate"]) for entry in log if "loss" in entry]
    assert len(steps) == 14
    names = ("eval_loss", "eval_masked_accuracy", "eval_perplexity")
    return [*sum(steps, ()), *(entry[name] for entry in log if "eval_loss" in entry for name in names)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        # Blocks of both kinds, a layer that is applied twice, the optimizer of its own, the norm clipped.
        ("--model", "B1-1x2H16", '--set.mixer=["ponet","attention"]', "--optimizer", "paper"),
        ("--model", "L2H16", "--set.mixer=fourier", "--clip", 0.5),
        ("--precision", "bf16", "--gradient-checkpointing"),
    ],
)
def test_two_processes_equal_one(begin, tmp_path, flags):
    one, two = tmp_path / "one", tmp_path / "two"
    assert finish(begin(one, 1, *flags, parallel="ddp")) == [0]
    assert finish(begin(two, 2, *flags)) == [0, 0]
    assert figures(two) == pytest.approx(figures(one), rel=TOLERANCE)
    losses = [entry["loss"] for entry in log_of(one) if "loss" in entry]
    assert losses[-1] < losses[0] - 0.3
    # Each process has its half of every weight and of the optimizer's means.
    reader = FileSystemReader(last_checkpoint(two) / sharding.SHARDS_FOLDER)
    entries = reader.read_metadata().state_dict_metadata
    sharded = [entry for name, entry in entries.items() if name.endswith(("weight", "exp_avg"))]
    assert len(sharded) > 20
    for entry in sharded:
        rows = [chunk.sizes[0] for chunk in entry.chunks]
        assert rows == [-(-entry.size[0] // 2), entry.size[0] // 2]
    # The model at the end is a whole one, with the tensors of any other.
    first, second = (load_file(out / "model.safetensors") for out in (one, two))
    assert {name: value.shape for name, value in first.items()} == {
        name: value.shape for name, value in second.items()
    }
    assert (one / "config.json").read_text() == (two / "config.json").read_text()
    assert not (tmp_path / "two.2.txt.1").read_text()


@pytest.mark.slow
def test_electra_is_that_of_ddp(begin, toy, tmp_path):
    """Same samples of the generator, process by process; both models at the end are whole, and can be fine-tuned."""
    for parallel in ("ddp", "fsdp"):
        assert finish(begin(tmp_path / parallel, 2, *ELECTRA, parallel=parallel)) == [0, 0]
    ddp, fsdp = tmp_path / "ddp", tmp_path / "fsdp"
    assert figures(fsdp) == pytest.approx(figures(ddp), rel=TOLERANCE)
    for folder in (".", "generator"):
        one, two = (load_file(out / folder / "model.safetensors") for out in (ddp, fsdp))
        assert one.keys() == two.keys()
        assert all(torch.allclose(one[name], two[name], atol=1e-3) for name in one), folder
    table = write_table(tmp_path / "t.tsv", animal_rows(20))
    assert run(FINETUNE, "--model", fsdp, "--train", table, "--out", tmp_path / "tuned") == 0

    # The checkpoint of two processes at the last step, loaded by one, is that model again, bit for bit.
    before = {folder: load_file(fsdp / folder / "model.safetensors") for folder in (".", "generator")}
    (fsdp / "generator" / "model.safetensors").unlink()
    assert finish(begin(fsdp, 1, *ELECTRA)) == [0]
    for folder, tensors in before.items():
        again = load_file(fsdp / folder / "model.safetensors")
        assert all(torch.equal(tensors[name], again[name]) for name in tensors), folder


@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_with_another_number_of_processes(begin, tmp_path, before, after):
    """The same losses to the end; killed at its third checkpoint, it goes on from the second."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert finish(begin(whole, before)) == [0] * before
    children = begin(out, before, harm=harm.before_the_mark)
    assert -9 in kill_when(children, lambda: False)
    assert last_checkpoint(out).name == "checkpoint-8"
    assert finish(begin(out, after)) == [0] * after
    assert figures(out) == pytest.approx(figures(whole), rel=TOLERANCE)
    facts = json.loads((out / "run.json").read_text())
    assert (facts["num_processes"], facts["sequences_per_step"]) == (after, 16)


def test_a_full_disk_is_one_line_of_both(begin, tmp_path):
    out = tmp_path / "out"
    assert finish(begin(out, 2, harm=harm.the_disk_of_process_1_is_full)) == [2, 2]
    last = out / "checkpoints" / "checkpoint-8"
    for name, process in (("out.2.txt", ""), ("out.2.txt.1", " (process 1)")):
        assert (tmp_path / name).read_text().splitlines()[-1] == (
            f"error{process}: {out}: no space left to write to; make room; the last good checkpoint is {last}; "
            "go on from it with --resume"
        )


@pytest.mark.slow
def test_one_process_is_any_other_run(begin, tmp_path):
    """Bit for bit, and it says so; a step of other sequences is refused when it goes on."""
    assert finish(begin(tmp_path / "ddp", 1, parallel="ddp")) == [0]
    assert finish(begin(tmp_path / "fsdp", 1)) == [0]
    assert weights_equal(tmp_path / "ddp", tmp_path / "fsdp")
    assert log_of(tmp_path / "ddp")[:-1] == log_of(tmp_path / "fsdp")[:-1]
    assert "one process: nothing is sharded" in (tmp_path / "fsdp.1.txt").read_text()
    shards = tmp_path / "fsdp" / "checkpoints" / "checkpoint-14" / sharding.SHARDS_FOLDER
    assert sorted(path.name for path in shards.iterdir()) == [".metadata", "__0_0.distcp"]
    assert finish(begin(tmp_path / "fsdp", 2, "--gradient-accumulation", 4)) == [2, 2]
    assert (tmp_path / "fsdp.2.txt").read_text().splitlines()[-1] == (
        f"error: {tmp_path / 'fsdp' / 'run_config.toml'}: the run began with 16 sequences a step, now they are 32 on 2 "
        "processes; set --batch-size x --gradient-accumulation so that they are the same"
    )


def test_a_whole_model_has_no_other_state():
    assert sharding.whole_state(torch.nn.Linear(2, 2)) is None
