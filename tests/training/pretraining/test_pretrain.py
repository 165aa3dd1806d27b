"""Pretraining: it learns, it repeats itself, and a resumed run ends where the uninterrupted one did."""

from __future__ import annotations

import json
import math
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from funnelformer import FunnelformerForMaskedLM, __version__
from funnelformer.base.version import VERSION_KEY, stamped
from funnelformer.corpus.vocabulary import train_tokenizer
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.training.run.folder import last_checkpoint
from training.toy import (
    FINETUNE,
    PRETRAIN,
    animal_rows,
    fails,
    interrupted_at,
    log_of,
    metrics_of,
    run,
    weights_equal,
    write_table,
)

# In nats a token: every sentence is "the", one of 3, one of 5, one of 4, ".", so that the best guess without
# the neighbours has log 5 + (log 3 + log 5 + log 4) / 5 = 2.43, and with them (...) / 5 = 0.82.
UNIGRAM_LOSS = math.log(5) + (math.log(3) + math.log(5) + math.log(4)) / 5


@pytest.fixture(scope="module")
def whole(pretrain, toy):
    """A run of 50 steps, more than one epoch, that nothing disturbs."""
    out = toy.folder / "whole"
    assert pretrain(out, *FIFTY) == 0
    return out


MEASURED = ("loss", "masked_accuracy", "perplexity")
FIFTY = ("--steps", 50, "--save-every", 10, "--keep-checkpoints", 2)


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
    measured = [f"validation_{name}" for name in MEASURED]
    expected = ["model", "steps", "chosen", "num_parameters", "cost", *measured, VERSION_KEY, "versions"]
    assert sorted(metrics) == sorted(expected)
    assert (metrics["model"], metrics["steps"]) == ("L1H16", 50)
    facts = json.loads((whole / "run.json").read_text())
    assert (facts["command"], facts["torch"]) == ("pretrain", torch.__version__)
    config = json.loads((whole / "config.json").read_text())
    assert facts[VERSION_KEY] == metrics[VERSION_KEY] == config[VERSION_KEY] == __version__
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
    assert metrics_of(whole) == metrics_of(tmp_path / "again")
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
    assert metrics_of(whole) == metrics_of(out)


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
    metrics = metrics_of(tmp_path / "out")
    number = FunnelformerForMaskedLM.from_pretrained(tmp_path / "out").num_parameters()
    chosen = {"learning_rate": 2e-3}
    assert metrics == stamped({"model": "B1-1H16", "steps": 2, "chosen": chosen, "num_parameters": number})
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


# ---- prepared data, and the objective on pairs


@pytest.fixture(scope="module")
def prepared(toy):
    """The toy corpus as pairs of 24 ids."""
    out = toy.folder / "prepared"
    flags = ["--block-size", 24, "--form", "structure", "--validation-fraction", 0.1, "--workers", 1]
    assert run("prepare --train", toy.corpus, "--tokenizer", toy.tokenizer, "--out", out, *flags) == 0
    return out


def test_prepared_data_give_the_run_of_their_text(pretrain, toy, tmp_path):
    """The same blocks, hence the same weights bit for bit; also with the default block size, that of the data."""
    data = tmp_path / "data"
    flags = ["--block-size", 16, "--validation-fraction", 0.1, "--workers", 1]
    assert run("prepare --train", toy.corpus, "--tokenizer", toy.tokenizer, "--out", data, *flags) == 0
    assert pretrain(tmp_path / "text") == 0
    assert pretrain(tmp_path / "data-run", "--train", data) == 0
    assert weights_equal(tmp_path / "text", tmp_path / "data-run")
    assert metrics_of(tmp_path / "text") == metrics_of(tmp_path / "data-run")


def test_both_losses_are_logged_and_the_folder_goes_on(pretrain, toy, prepared, tmp_path):
    out = tmp_path / "out"
    flags = ["--objective", "mlm+sso", "--train", prepared, "--block-size", 24, "--masking", "whole_word"]
    assert pretrain(out, *flags) == 0
    log = [entry for entry in log_of(out) if "loss" in entry]
    assert len(log) == 4
    for entry in log:
        assert entry["loss"] == pytest.approx(entry["mlm_loss"] + entry["structure_loss"], abs=0.02)
        assert 0 <= entry["structure_accuracy"] <= 1
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["validation_perplexity"] == pytest.approx(math.exp(metrics["validation_mlm_loss"]))
    total = metrics["validation_mlm_loss"] + metrics["validation_structure_loss"]
    assert metrics["validation_loss"] == pytest.approx(total, rel=1e-4)
    head = {name for name in load_file(out / "model.safetensors") if name.startswith("structure_head.")}
    assert len(head) == 4
    # Going on keeps the head; the other objective leaves it out.
    again = ["--model", out, "--steps", 1, "--learning-rate", 1e-12]
    assert pretrain(tmp_path / "again", *flags, *again) == 0
    before, after = load_file(out / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.allclose(before[name], after[name], atol=1e-9) for name in before)
    assert pretrain(tmp_path / "mlm", *again) == 0
    table = write_table(tmp_path / "t.tsv", animal_rows(20))
    tune = [FINETUNE, "--model", out, "--train", table, "--out", tmp_path / "tuned"]
    assert run(*tune) == 0


def test_sso_from_text_resumes_bit_for_bit(pretrain, tmp_path):
    flags = ("--objective", "mlm+sso", "--block-size", 24, "--masking", "word_span")
    assert pretrain(tmp_path / "whole", *flags) == 0
    with interrupted_at(15):
        assert pretrain(tmp_path / "out", *flags) == 130
    assert pretrain(tmp_path / "out", *flags, "--resume") == 0
    assert weights_equal(tmp_path / "whole", tmp_path / "out")
    assert log_of(tmp_path / "whole")[:-1] == log_of(tmp_path / "out")[:-1]


def test_prepared_data_that_will_not_do(toy, prepared, tmp_path, capsys):
    """Each is one line, and no run is begun."""
    out = tmp_path / "out"

    def refused(*flags):
        line = fails(
            capsys, PRETRAIN, "--train", prepared, "--tokenizer", toy.tokenizer, "--out", out, *flags
        )
        assert not out.exists()
        return line

    assert "was prepared in blocks of 24 tokens" in refused("--block-size", 32)
    other = tmp_path / "tok"
    train_tokenizer([toy.corpus], other, vocab_size=60)
    assert "was prepared with another tokenizer" in refused("--block-size", 24, "--tokenizer", other)
    broken = tmp_path / "broken"
    shutil.copytree(prepared, broken)
    shard = next(broken.glob("train-*.arrow"))
    whole = shard.stat().st_size
    os.truncate(shard, whole - 7)
    line = refused("--train", broken, "--block-size", 24)
    assert (
        line
        == f"{shard}: this shard is broken, it has {whole - 7:,} of {whole:,} bytes; run funnelformer prepare again"
    )
    shard.unlink()
    line = refused("--train", broken, "--block-size", 24)
    assert line == f"{shard}: this shard is missing; run funnelformer prepare again"
    line = refused("--block-size", 24, "--batch-size", 100_000)
    assert "too few for a step of 100000; give more text, or a smaller --batch-size" in line
