"""Options that the run decides, and what a pretrained folder says of itself."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from transformers import AutoModelForMaskedLM, PreTrainedConfig

from funnelformer import FunnelformerConfig
from funnelformer.base.options import DECIDED, model_options
from funnelformer.config.model_options import FOREIGN_KEYS
from funnelformer.training.run.learning_rate import auto_rate
from training.toy import FINETUNE, PRETRAIN, animal_rows, fails, interrupted_at, run, write_table


@pytest.fixture(scope="module")
def data(toy):
    return write_table(toy.folder / "options.tsv", animal_rows(32))


@pytest.mark.parametrize(
    "option",
    [
        "num_labels=5",
        "num_labels=0",
        "id2label={}",
        "label2id={}",
        "return_dict=false",
        "problem_type=regression",
        "vocab_size=9",
        "pad_token_id=3",
        "sparse_prediction=true",
        "output_hidden_states=true",
        "architectures=[]",
    ],
)
def test_keys_that_are_not_the_users(toy, data, tmp_path, capsys, option):
    out = tmp_path / "out"
    message = fails(
        capsys, FINETUNE, "--model", toy.pretrained, "--train", data, "--out", out, f"--set.{option}"
    )
    key = option.partition("=")[0]
    assert message.startswith(f"--set.{key} cannot be set: ")
    assert message.endswith(" decides it")
    assert not out.exists()


def test_every_inherited_key_has_somebody_who_decides_it():
    """Those of transformers that a config takes beside our own; `attn_implementation` is the user's."""
    own = set(FunnelformerConfig.__annotations__)
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)} | set(FOREIGN_KEYS)
    assert inherited - own - DECIDED.keys() == {"attn_implementation"}
    assert model_options({"hidden_dropout": "0.2"}) == {"hidden_dropout": 0.2}
    assert model_options({"vocab_size": "99"}, ("vocab_size",)) == {"vocab_size": 99}


@pytest.mark.parametrize("objective", ["mlm", "electra"])
def test_a_pretrained_folder_gives_logits_of_every_token(toy, tmp_path, objective):
    """`sparse_prediction` is on while training, and in no folder that is saved, checkpoints included."""
    out = tmp_path / "out"
    options = ("--train", toy.corpus, "--tokenizer", toy.tokenizer, "--out", out, "--objective", objective)
    with interrupted_at(11):
        assert run(PRETRAIN, *options) == 130
    assert run(PRETRAIN, *options, "--resume") == 0
    configs = sorted(out.rglob("config.json"))
    assert len(configs) >= (3 if objective == "mlm" else 6)
    for file in configs:
        assert not json.loads(file.read_text()).get("sparse_prediction", False), file
    folder = out if objective == "mlm" else out / "generator"
    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=False)
    ids = torch.arange(8)[None] + 5
    labels = torch.full_like(ids, -100)
    labels[0, 2] = 7
    assert model(input_ids=ids, labels=labels).logits.shape == (1, 8, model.config.vocab_size)


@pytest.mark.parametrize(
    ("width", "from_nothing", "rate"),
    [(64, True, 2e-3), (128, True, 2e-3), (256, True, 1e-3), (768, True, 3.3e-4), (1024, True, 2.5e-4),
     (64, False, 5e-4), (128, False, 5e-4), (256, False, 1e-4), (384, False, 5e-5), (768, False, 5e-5),
     (1024, False, 5e-5)],
)  # fmt: skip
def test_the_rate_by_start_and_width(width, from_nothing, rate):
    assert auto_rate(width, from_nothing=from_nothing) == rate


def test_the_rate_is_printed_and_used(toy, data, tmp_path, capsys):
    """By default, and by its name; the log begins at the printed rate, for there is no warm-up."""
    command = FINETUNE.replace("--learning-rate 0.01 ", "")
    flags = ("--train", data, "--dev", data, "--warmup", 0, "--steps", 2, "--log-every", 1)
    for name, model, said, rate in (
        ("nothing", ("L1H16", "--tokenizer", toy.tokenizer), "0.002 (from nothing, width 16)", 2e-3),
        ("pretrained", (toy.pretrained, "--learning-rate", "auto"), "0.0005 (pretrained, width 16)", 5e-4),
    ):
        out = tmp_path / name
        assert run(command, "--model", *model, *flags, "--out", out) == 0
        assert f"--learning-rate auto: {said}" in capsys.readouterr().out.splitlines()
        first = next(json.loads(line) for line in (out / "log.jsonl").read_text().splitlines())
        assert first["learning_rate"] == pytest.approx(rate)
        assert json.loads((out / "metrics.json").read_text())["chosen"] == {"learning_rate": rate}
        assert f"| learning rate | {rate:g} (auto) |" in (out / "README.md").read_text()
