"""Pretraining with every objective and option: what is logged, losses that are no numbers, trackers."""

from __future__ import annotations

import functools
import json
import math
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from funnelformer import FunnelformerConfig, FunnelformerForMaskedLM, __version__
from funnelformer.cost.flops import forward_flops
from funnelformer.cost.peak import Peak, device_peak
from funnelformer.modeling.electra import FunnelformerForElectra
from funnelformer.training.run import tracking
from funnelformer.training.run.throughput import Throughput, step_flops
from training.children import finish, start
from training.toy import (
    FINETUNE,
    animal_rows,
    fails,
    interrupted_at,
    log_of,
    metrics_of,
    run,
    weights_equal,
    write_table,
)

ELECTRA = ("--objective", "electra", "--set.generator_size=0.5")


# ---- ELECTRA


def test_electra_is_logged_goes_on_and_is_finetuned(pretrain, toy, tmp_path):
    out = tmp_path / "out"
    assert pretrain(out, *ELECTRA, "--gradient-accumulation", 2) == 0
    log = [entry for entry in log_of(out) if "loss" in entry]
    assert [entry["step"] for entry in log] == [5, 10, 15, 20]
    for entry in log:
        assert entry["loss"] == pytest.approx(entry["generator_loss"] + entry["discriminator_loss"], rel=1e-4)
        for name in ("replaced_fraction", "generator_accuracy", "discriminator_accuracy"):
            assert 0 <= entry[name] <= 1
    # Half of the discriminator's weight of 50 times log 2 at first, then less.
    assert log[-1]["discriminator_loss"] < log[0]["discriminator_loss"] < 50 * math.log(2) * 1.2
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["validation_perplexity"] == pytest.approx(math.exp(metrics["validation_generator_loss"]))
    parts = metrics["validation_generator_loss"] + metrics["validation_discriminator_loss"]
    assert metrics["validation_loss"] == pytest.approx(parts, rel=1e-3)

    # Both models go on from the folder.
    again = tmp_path / "again"
    assert pretrain(again, *ELECTRA, "--model", out, "--steps", 1, "--learning-rate", 1e-12) == 0
    for folder in (".", "generator"):
        before, after = (load_file(path / folder / "model.safetensors") for path in (out, again))
        assert before.keys() == after.keys()
        assert all(torch.allclose(before[name], after[name], atol=1e-9) for name in before)

    table = write_table(tmp_path / "t.tsv", animal_rows(20))
    tuned = ["--model", out, "--train", table, "--learning-rate", 1e-12]
    assert run(FINETUNE, *tuned, "--out", tmp_path / "tuned") == 0
    before, after = (load_file(path / "model.safetensors") for path in (out, tmp_path / "tuned"))
    body = [name for name in after if name.startswith("funnelformer.")]
    assert len(body) > 10
    assert all(torch.allclose(before[name], after[name], atol=1e-9) for name in body)


def test_electra_resumes_bit_for_bit(pretrain, tmp_path):
    flags = (*ELECTRA, "--optimizer", "paper", "--save-every", 7)
    assert pretrain(tmp_path / "whole", *flags) == 0
    with interrupted_at(16):
        assert pretrain(tmp_path / "out", *flags) == 130
    assert pretrain(tmp_path / "out", *flags, "--resume") == 0
    for folder in (".", "generator"):
        assert weights_equal(tmp_path / "whole" / folder, tmp_path / "out" / folder)
    # Entries at 14 and 20 too, where the checkpoints are: windows of the log begin there in both runs.
    assert log_of(tmp_path / "whole")[:-1] == log_of(tmp_path / "out")[:-1]


def test_the_original_hides_mask_tokens(pretrain, tmp_path):
    assert pretrain(tmp_path / "out", "--set.hide_mask_tokens=true", "--steps", 1) == 0
    assert FunnelformerForMaskedLM.from_pretrained(tmp_path / "out").config.hide_mask_tokens


# ---- options


def test_optimizers_differ_and_checkpointing_does_not(pretrain, tmp_path):
    assert pretrain(tmp_path / "modern") == 0
    assert pretrain(tmp_path / "paper", "--optimizer", "paper") == 0
    assert pretrain(tmp_path / "again", "--gradient-checkpointing") == 0
    assert not weights_equal(tmp_path / "modern", tmp_path / "paper")
    assert weights_equal(tmp_path / "modern", tmp_path / "again")
    state = torch.load(tmp_path / "paper" / "checkpoints" / "checkpoint-20" / "optimizer.pt")
    (group,) = state["param_groups"]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.99), 1e-6, 0.01)
    state = torch.load(tmp_path / "modern" / "checkpoints" / "checkpoint-20" / "optimizer.pt")
    assert sorted(group["weight_decay"] for group in state["param_groups"]) == [0.0, 0.01]
    assert {group["betas"] for group in state["param_groups"]} == {(0.9, 0.98)}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_it_gives_the_same_losses(command, tmp_path):
    flags = ("--steps", 4, "--log-every", 1, "--set.hidden_dropout=0.0", "--set.attention_dropout=0.0")
    for name, more in (("plain", ()), ("compiled", ("--compile",))):
        children = start(*command(tmp_path / name, *flags, *more), output=tmp_path / "output.txt")
        assert finish(children) == [0], (tmp_path / "output.txt").read_text()
    plain, compiled = (
        [entry["loss"] for entry in log_of(tmp_path / name) if "loss" in entry]
        for name in ("plain", "compiled")
    )
    assert compiled == pytest.approx(plain, rel=1e-4)


def test_resumed_from_its_last_step_it_makes_no_other(pretrain, tmp_path):
    """With a learning rate that is not 0 at the end."""
    flags = ("--schedule", "constant", "--steps", 10)
    assert pretrain(tmp_path / "out", *flags) == 0
    assert pretrain(tmp_path / "out", *flags, "--resume") == 0
    assert weights_equal(tmp_path / "out", tmp_path / "out" / "checkpoints" / "checkpoint-10")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["steps"] == 10


# ---- trackers


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_gets_the_log(pretrain, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert pretrain(tmp_path / "out", "--report-to", "tensorboard") == 0
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    log = [entry for entry in log_of(tmp_path / "out") if "loss" in entry]
    found = {event.step: event.value for event in events.Scalars("train/loss")}
    assert found == pytest.approx({entry["step"]: entry["loss"] for entry in log}, rel=1e-6)


def test_a_tracker_that_is_missing_is_one_line(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    line = fails(capsys, *command(tmp_path / "out", "--report-to", "wandb"))
    assert line == "--report-to wandb: wandb is not installed; pip install wandb"
    assert not (tmp_path / "out").exists()
    assert tracking.choose_tracker(None) == "none"
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    assert tracking.choose_tracker(None) == "tensorboard"
    assert tracking.choose_tracker("none") == "none"


# ---- NaN


def spoil(monkeypatch, steps, value=math.nan, where="loss"):
    """Make the loss, or a gradient, of some training steps (from 1) `value`."""
    original = FunnelformerForMaskedLM.forward
    calls = [0]

    @functools.wraps(original)  # the Trainer reads its signature
    def forward(self, *args, **kwargs):
        output = original(self, *args, **kwargs)
        if self.training:
            calls[0] += 1
            if calls[0] in steps and where == "loss":
                output.loss = output.loss * value
            elif calls[0] in steps:
                output.loss.register_hook(lambda gradient: gradient * value)
        return output

    monkeypatch.setattr(FunnelformerForMaskedLM, "forward", forward)


@pytest.mark.parametrize(("value", "where"), [(math.nan, "loss"), (math.inf, "loss"), (math.nan, "gradient")])
def test_nan_stops_the_run_and_keeps_the_batch(command, toy, tmp_path, capsys, monkeypatch, value, where):
    out = tmp_path / "out"
    flags = ("--gradient-accumulation", 2, "--validation-fraction", 0)
    with monkeypatch.context() as patch:
        spoil(patch, {25}, value, where)  # the first micro-batch of step 13
        line = fails(capsys, *command(out, *flags))
    path = out / "nan_batch_13.safetensors"
    assert line.startswith("step 13: the loss is ")
    assert line.endswith(f"; the batch is in {path}; --on-nan skip leaves such updates out")
    assert ("nan" in line) == (where == "gradient" or math.isnan(value)) or "inf" in line
    batch = load_file(path)
    assert set(batch) == {"input_ids", "labels", "attention_mask", "token_type_ids"}
    assert batch["input_ids"].shape == (16, 16)
    with safe_open(path, "pt") as file:
        assert file.metadata()["step"] == "13"
    # It goes on from the last checkpoint, and may be told to skip now.
    assert run(*command(out, *flags, "--resume", "--on-nan", "skip")) == 0
    assert metrics_of(out) == {
        "model": "L1H16",
        "steps": 20,
        "chosen": {"learning_rate": 0.01},
        "num_parameters": 5262,
        "skipped_updates": 0,
        "funnelformer_version": __version__,
    }


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", ["modern", "paper"])
def test_nan_is_skipped_and_counted(pretrain, tmp_path, monkeypatch, where, optimizer):
    out = tmp_path / "out"
    flags = ("--on-nan", "skip", "--log-every", 1, "--save-every", 1, "--keep-checkpoints", 9, "--steps", 6)
    with monkeypatch.context() as patch:
        spoil(patch, {3, 5}, where=where)
        assert pretrain(out, *flags, "--optimizer", optimizer) == 0
    log = [entry for entry in log_of(out) if "skipped_updates" in entry]
    assert [entry["skipped_updates"] for entry in log] == [0, 0, 1, 1, 2, 2]
    assert ["loss" in entry for entry in log] == [True, True, False, True, False, True]
    assert all(math.isfinite(value) for entry in log_of(out) for value in entry.values())
    assert json.loads((out / "metrics.json").read_text())["skipped_updates"] == 2
    saved = [out / "checkpoints" / f"checkpoint-{step}" for step in range(1, 7)]
    equal = [weights_equal(saved[i], saved[i + 1]) for i in range(5)]
    assert equal == [False, True, False, True, False]
    # Neither do the moments see anything of it.
    moments = [torch.load(folder / "optimizer.pt")["state"] for folder in saved]
    assert all(torch.equal(moments[1][i]["exp_avg"], moments[2][i]["exp_avg"]) for i in moments[1])


def test_the_count_of_skipped_updates_survives_a_resume(pretrain, tmp_path, monkeypatch):
    out, flags = tmp_path / "out", ("--on-nan", "skip")
    with monkeypatch.context() as patch:
        spoil(patch, {3})
        with interrupted_at(15):
            assert pretrain(out, *flags) == 130
    assert pretrain(out, *flags, "--resume") == 0
    assert json.loads((out / "metrics.json").read_text())["skipped_updates"] == 1


def test_a_spike_is_a_warning_and_an_entry(pretrain, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        spoil(patch, {30, 31}, 4.0)
        assert pretrain(tmp_path / "out", "--steps", 40) == 0
    log = log_of(tmp_path / "out")
    spikes = [entry for entry in log if "loss_spike" in entry]
    assert [entry["step"] for entry in spikes] == [30, 31]
    for entry in spikes:
        assert entry["loss_spike"] > 1.5 * entry["mean_before"]
    first = spikes[0]
    assert capsys.readouterr().err.splitlines()[0] == (
        f"warning: step 30: the loss {first['loss_spike']:.4g} is more than 1.5 times its running mean "
        f"{first['mean_before']:.4g}"
    )


# ---- speed


def test_flops_of_a_step_by_hand():
    """Three times the forward pass; of ELECTRA that of the generator at the targets and of the discriminator."""
    config = FunnelformerConfig.from_name("B1-1H32", vocab_size=50, sparse_prediction=True)
    fixed, by_target = step_flops(FunnelformerForMaskedLM(config), 4, 16)
    for count in (0, 7):
        forward = forward_flops(config, 16, batch_size=4, head="masked_lm", num_targets=count)
        assert fixed + count * by_target == 3 * forward.total
    model = FunnelformerForElectra(config)
    fixed, by_target = step_flops(model, 4, 16)
    generator = forward_flops(model.generator.config, 16, batch_size=4, head="masked_lm", num_targets=7)
    judged = forward_flops(config, 16, batch_size=4, head="token_detection")
    assert fixed + 7 * by_target == 3 * (generator.total + judged.total)
    config.sparse_prediction = False
    fixed, by_target = step_flops(FunnelformerForMaskedLM(config), 4, 16)
    assert (fixed, by_target) == (3 * forward_flops(config, 16, batch_size=4, head="masked_lm").total, 0)


def test_throughput_counts_real_tokens_and_leaves_pauses_out(monkeypatch):
    """A clock that is set by hand: 2 seconds of training, 5 of something else; two devices."""
    config = FunnelformerConfig.from_name("L1H16", vocab_size=50, sparse_prediction=True)
    model = FunnelformerForMaskedLM(config)
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    meter = Throughput(model, torch.device("cpu"), Peak(1e6, "measured"))
    assert meter.read(lambda value, how: value, 2) == {}
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, 5:] = 0
    labels = torch.full((2, 8), -100)
    labels[0, 1] = labels[1, 2] = labels[1, 3] = 7
    for _ in range(2):
        meter.add(
            {"input_ids": torch.zeros(2, 8, dtype=torch.long), "attention_mask": mask, "labels": labels}
        )
        now[0] += 1
    with meter.pause():
        now[0] += 5
    figures = meter.read(lambda value, how: value * 2, 2)
    assert figures["tokens_per_second"] == 2 * 2 * 13 / 2
    fixed, by_target = step_flops(model, 2, 8)
    assert figures["mfu"] == pytest.approx(2 * 2 * (fixed + 3 * by_target) / (2 * 2 * 1e6))
    assert figures["peak_memory_bytes"] > 1e7


def test_the_peak_is_measured_without_the_generators():
    state = torch.get_rng_state()
    peak = device_peak(torch.device("cpu"), torch.float32)
    assert peak.source == "measured"
    assert 1e8 < peak.flops_per_second < 1e14
    assert torch.equal(state, torch.get_rng_state())


def test_speed_and_memory_are_in_the_log(pretrain, tmp_path):
    assert pretrain(tmp_path / "out") == 0
    for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "loss" in entry:
            assert entry["tokens_per_second"] > 0
            assert 0 < entry["mfu"] < 1
            assert entry["peak_memory_bytes"] > 1e7
