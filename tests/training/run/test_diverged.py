"""A loss, gradient, weight or answer that is NaN or infinite ends in one line, and nothing of it is saved."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from funnelformer.lra.run import LraConfig
from funnelformer.serve.config import ServeConfig
from funnelformer.training.finetuning.finetune import FinetuneConfig
from funnelformer.training.finetuning.trainer import FinetuneTrainer
from funnelformer.training.pretraining.pretrain import PretrainConfig
from training.toy import FINETUNE, PRETRAIN, animal_rows, fails, run, write_table


@pytest.fixture(scope="module")
def data(toy):
    return write_table(toy.folder / "nan.tsv", animal_rows(32))


@pytest.fixture(scope="module")
def classifier(toy, data):
    out = toy.folder / "nan-start"
    assert run(FINETUNE, "--model", toy.pretrained, "--train", data, "--dev", data, "--out", out) == 0
    return out


@pytest.fixture
def damaged(classifier, tmp_path):
    """A classifier one of whose weights is NaN."""
    folder = tmp_path / "damaged"
    shutil.copytree(classifier, folder)
    state = load_file(folder / "model.safetensors")
    state["classifier.dense.weight"][0, 0] = torch.nan
    state["funnelformer.embeddings.word_embeddings.weight"][:, 0] = torch.nan
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def nan_at(steps):
    """A Trainer whose loss is NaN at these calls."""
    count = iter(range(1, 1000))
    original = FinetuneTrainer.compute_loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        found = original(self, model, inputs, return_outputs, num_items_in_batch)
        if model.training and next(count) in steps:
            return (found[0] * torch.nan, found[1]) if return_outputs else found * torch.nan
        return found

    return compute_loss


def strict(path):
    """The values of a file of JSON, or of JSON lines, which may have no NaN."""

    def refuse(name):
        raise AssertionError(f"{path}: {name} is no JSON")

    text = path.read_text()
    try:
        return [json.loads(text, parse_constant=refuse)]
    except json.JSONDecodeError:
        return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_a_loss_that_is_nan_stops_the_run(toy, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(FinetuneTrainer, "compute_loss", nan_at({3}))
    out = tmp_path / "out"
    message = fails(capsys, FINETUNE, "--model", toy.pretrained, "--train", data, "--dev", data, "--out", out)
    assert message == (
        "step 3: the loss is nan and the norm of the gradient nan; nothing more is saved; try a lower --learning-rate, "
        "or --on-nan skip leaves such updates out"
    )
    names = {path.name for path in out.iterdir()}
    assert not names & {"model.safetensors", "metrics.json", "task.json", "predictions.jsonl"}


def test_updates_that_are_nan_can_be_left_out(toy, data, tmp_path, monkeypatch):
    """Every weight but those of the skipped update is as finite as before, and the count is in the metrics."""
    monkeypatch.setattr(FinetuneTrainer, "compute_loss", nan_at({1, 3}))
    out = tmp_path / "out"
    flags = ("--on-nan", "skip", "--log-every", 1)
    assert run(FINETUNE, "--model", toy.pretrained, "--train", data, "--dev", data, "--out", out, *flags) == 0
    assert json.loads((out / "metrics.json").read_text())["skipped_updates"] == 2
    assert all(tensor.isfinite().all() for tensor in load_file(out / "model.safetensors").values())
    for name in ("metrics.json", "log.jsonl", "task.json", "run.json"):
        strict(out / name)


def test_skipping_the_only_update_changes_nothing(toy, data, tmp_path, monkeypatch):
    outs = []
    for name, steps in (("skipped", {1}), ("still", set())):
        monkeypatch.setattr(FinetuneTrainer, "compute_loss", nan_at(steps))
        outs.append(tmp_path / name)
        flags = ("--on-nan", "skip", "--steps", 1, "--evaluate-every", 1)
        rate = ("--learning-rate", 1e-30) if name == "still" else ()
        assert (
            run(
                FINETUNE,
                "--model",
                toy.pretrained,
                "--train",
                data,
                "--dev",
                data,
                "--out",
                outs[-1],
                *flags,
                *rate,
            )
            == 0
        )
    skipped, still = (load_file(out / "model.safetensors") for out in outs)
    for name, tensor in skipped.items():
        assert torch.equal(tensor, still[name]), name


def test_a_diverged_run_saves_no_model(toy, data, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ("--learning-rate", 1e38, "--warmup", 0, "--clip", 1e30)
    message = fails(
        capsys, FINETUNE, "--model", toy.pretrained, "--train", data, "--dev", data, "--out", out, *flags
    )
    assert "NaN" in message or "nan" in message
    assert not (out / "model.safetensors").exists()
    assert not (out / "metrics.json").exists()


@pytest.mark.parametrize("command", ["predict", "evaluate", "embed"])
def test_a_damaged_model_answers_nothing(damaged, data, tmp_path, capsys, command):
    out = tmp_path / ("o.npy" if command == "embed" else "o.json")
    message = fails(capsys, command, damaged, data, "--out", out, "--device", "cpu")
    assert message == "the model gives NaN or infinity: its weights are damaged, or its training has diverged"
    assert not out.exists()


def test_values_that_are_nan_pass_through_as_null(classifier, tmp_path):
    """JSON has no NaN; Python's reader takes it from a foreign file."""
    texts, out = tmp_path / "texts.jsonl", tmp_path / "out.jsonl"
    texts.write_text('{"text": "the red cat sings .", "x": NaN, "deep": [{"y": -Infinity}]}\n')
    assert run("predict", classifier, texts, "--out", out, "--device", "cpu") == 0
    (row,) = strict(out)
    assert (row["x"], row["deep"]) == (None, [{"y": None}])


@pytest.mark.parametrize("value", ["inf", "nan", "-inf"])
@pytest.mark.parametrize(
    "option", ["learning-rate", "clip", "weight-decay", "warmup", "epochs", "layer-decay", "dev-fraction"]
)
def test_options_are_finite(toy, data, tmp_path, capsys, option, value):
    message = fails(
        capsys,
        "finetune",
        "--model",
        toy.pretrained,
        "--train",
        data,
        "--out",
        tmp_path / "out",
        f"--{option}={value}",
    )
    assert option in message
    assert "finite number" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda **o: FinetuneConfig(out="o", model="L1H16", **o), "learning_rate"),
        (lambda **o: PretrainConfig(out="o", train=["t"], tokenizer="t", **o), "spike_factor"),
        (lambda **o: LraConfig(out="o", model="ponet", task="text", generate=1, **o), "clip"),
        (lambda **o: ServeConfig(**o), "shutdown_timeout_s"),
        (lambda **o: ServeConfig(**o), "client_timeout_s"),
        (lambda **o: ServeConfig(**o), "max_delay_ms"),
    ],
)
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_options_of_the_library_are_finite(make, name, value):
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} is {value}; allowed: "):
        make(**{name: value})


def test_finite_options_elsewhere(toy, capsys):
    message = fails(capsys, "serve", toy.pretrained, "--shutdown-timeout-s", "inf")
    assert (
        message == "--shutdown-timeout-s is inf; allowed: a finite number, more than 0, up to 86,400 (a day)"
    )
    assert "finite number" in fails(capsys, PRETRAIN, "--train", toy.corpus, "--tokenizer", toy.tokenizer, "--out",
                                    toy.folder / "never", "--set.hidden_dropout=nan")  # fmt: skip
