"""Pretraining: it learns, it repeats itself, and a resumed run ends where the uninterrupted one did."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from funnelformer import FunnelformerForMaskedLM
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.training.run import last_checkpoint
from training.toy import PRETRAIN, interrupted_at, make_toy, run, weights_equal

# In nats a token: every sentence is "the", one of 3, one of 5, one of 4, ".", so that the best guess without
# the neighbours has log 5 + (log 3 + log 5 + log 4) / 5 = 2.43, and with them (...) / 5 = 0.82.
UNIGRAM_LOSS = math.log(5) + (math.log(3) + math.log(5) + math.log(4)) / 5


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def pretrain(toy):
    def call(out, *flags):
        return run(PRETRAIN, "--train", toy.corpus, "--tokenizer", toy.tokenizer, "--out", out, *flags)

    return call


@pytest.fixture(scope="module")
def whole(pretrain, toy):
    """A run of 50 steps, more than one epoch, that nothing disturbs."""
    out = toy.folder / "whole"
    assert pretrain(out, *FIFTY) == 0
    return out


FIFTY = ("--steps", 50, "--save-every", 10, "--keep-checkpoints", 2)


def log_of(out):
    """The entries of log.jsonl without times."""
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    timing = ("runtime", "per_second")
    return [{k: v for k, v in entry.items() if not k.endswith(timing)} for entry in entries]


def test_it_learns(pretrain, tmp_path):
    """The validation loss falls, to 1 nat below what single words can tell (measured: 1.4 below)."""
    flags = ["--steps", 300, "--evaluate-every", 50, "--save-every", 300, "--model", "L2H32"]
    flags += ["--set.initializer_std=0.1", "--set.hidden_dropout=0.0", "--set.attention_dropout=0.0"]
    assert pretrain(tmp_path / "out", *flags) == 0
    losses = [entry["eval_loss"] for entry in log_of(tmp_path / "out") if "eval_loss" in entry]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert losses[-1] == metrics["validation_loss"]
    assert metrics["validation_perplexity"] == pytest.approx(math.exp(losses[-1]))
    assert losses[-1] < losses[0] - 0.5
    assert losses[-1] < UNIGRAM_LOSS - 1


def test_what_a_run_leaves(whole, toy):
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == [
        "checkpoint-40",
        "checkpoint-50",
    ]
    metrics = json.loads((whole / "metrics.json").read_text())
    assert list(metrics) == ["model", "steps", "validation_loss", "validation_perplexity"]
    assert (metrics["model"], metrics["steps"]) == ("L1H16", 50)
    facts = json.loads((whole / "run.json").read_text())
    assert (facts["command"], facts["torch"]) == ("pretrain", torch.__version__)
    steps = [entry["step"] for entry in log_of(whole) if "loss" in entry]
    assert steps == list(range(5, 51, 5))
    assert not (whole / ".saving").exists()
    assert weights_equal(whole, whole / "checkpoints" / "checkpoint-50")
    assert load_tokenizer(whole).get_vocab() == load_tokenizer(toy.tokenizer).get_vocab()
    model = FunnelformerForMaskedLM.from_pretrained(whole)
    assert model.config.vocab_size == len(load_tokenizer(toy.tokenizer))
    assert model.config.pad_token_id == load_tokenizer(toy.tokenizer).pad_token_id


def test_the_same_seed_repeats_the_run_bit_for_bit(whole, pretrain, tmp_path):
    assert pretrain(tmp_path / "again", *FIFTY) == 0
    assert weights_equal(whole, tmp_path / "again")
    assert log_of(whole)[:-1] == log_of(tmp_path / "again")[:-1]
    assert (whole / "metrics.json").read_text() == (tmp_path / "again" / "metrics.json").read_text()
    assert pretrain(tmp_path / "other", *FIFTY, "--seed", 1) == 0
    assert not weights_equal(whole, tmp_path / "other")


@pytest.mark.parametrize("stop", [15, 35, 41])
def test_resumed_is_uninterrupted_bit_for_bit(whole, pretrain, tmp_path, capsys, stop):
    """Weights, log and metrics, with dropout and masks; checkpoints before, at and after an epoch's end."""
    out = tmp_path / "out"
    with interrupted_at(stop):
        assert pretrain(out, *FIFTY) == 130
    last = out / "checkpoints" / f"checkpoint-{stop // 10 * 10}"
    assert capsys.readouterr().err.splitlines() == [
        f"interrupted; the last good checkpoint is {last}; go on from it with --resume"
    ]
    assert not (out / "model.safetensors").exists()
    assert pretrain(out, *FIFTY, "--resume") == 0
    assert weights_equal(whole, out)
    assert log_of(whole)[:-1] == log_of(out)[:-1]
    assert (whole / "metrics.json").read_text() == (out / "metrics.json").read_text()


def test_resumed_with_accumulation(pretrain, tmp_path):
    flags = (*FIFTY, "--gradient-accumulation", 2, "--steps", 20)
    assert pretrain(tmp_path / "whole", *flags) == 0
    with interrupted_at(15):
        assert pretrain(tmp_path / "out", *flags) == 130
    assert pretrain(tmp_path / "out", *flags, "--resume") == 0
    assert weights_equal(tmp_path / "whole", tmp_path / "out")


def test_interrupted_before_a_checkpoint(pretrain, tmp_path, capsys):
    with interrupted_at(5):
        assert pretrain(tmp_path / "out", *FIFTY) == 130
    assert capsys.readouterr().err.splitlines() == [
        "interrupted; no checkpoint had been written yet; begin again with --overwrite"
    ]
    assert pretrain(tmp_path / "out", *FIFTY, "--steps", 1, "--overwrite") == 0


def test_resuming_a_finished_run_changes_nothing(whole, pretrain, tmp_path):
    before = load_file(whole / "model.safetensors")
    assert last_checkpoint(whole).name == "checkpoint-50"
    assert pretrain(whole, *FIFTY, "--resume") == 0
    after = load_file(whole / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_going_on_from_a_folder(pretrain, toy, tmp_path):
    """No learning rate to speak of: the weights are those of the folder, not new ones."""
    flags = ["--model", toy.pretrained, "--steps", 1, "--learning-rate", 1e-12, "--set.hidden_dropout=0.0"]
    assert pretrain(tmp_path / "out", *flags) == 0
    before = load_file(toy.pretrained / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    for name in before:
        assert torch.allclose(before[name], after[name], atol=1e-9), name
    assert FunnelformerForMaskedLM.from_pretrained(tmp_path / "out").config.hidden_dropout == 0.0


def test_toml_with_flags_that_win(toy, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        f'train = ["{toy.corpus}"]\ntokenizer = "{toy.tokenizer}"\nmodel = "B1-1H16"\nsteps = 7\n'
        'block_size = 16\nbatch-size = 4\ndevice = "cpu"\nvalidation-fraction = 0\n[set]\npooling = "max"\n'
    )
    assert run("pretrain --config", file, "--steps", 2, "--out", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == {"model": "B1-1H16", "steps": 2}
    config = FunnelformerForMaskedLM.from_pretrained(tmp_path / "out").config
    assert (config.pooling, config.decoder_layers) == ("max", 2)

    again = tmp_path / "again"
    assert run("pretrain --config", tmp_path / "out" / "run_config.toml", "--out", again) == 0
    assert weights_equal(tmp_path / "out", again)


def test_batches_without_much_to_predict(pretrain, tmp_path):
    """One block of 8 tokens a step: a chance of 4 in 10 to draw none would make the loss 0 / 0."""
    assert pretrain(tmp_path / "out", "--block-size", 8, "--batch-size", 1, "--log-every", 1) == 0
    log = log_of(tmp_path / "out")
    assert all(math.isfinite(entry["loss"]) and entry["loss"] > 0 for entry in log if "loss" in entry)
    assert math.isfinite(json.loads((tmp_path / "out" / "metrics.json").read_text())["validation_loss"])
