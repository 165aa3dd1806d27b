"""Options of fine-tuning: class weights, lengths, several labels, bad rows, early stopping, layer-wise decay, seeds."""

from __future__ import annotations

import csv
import json
import random
import statistics

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from funnelformer import (
    FunnelformerConfig,
    FunnelformerForSequenceClassification,
    FunnelformerForTokenClassification,
)
from funnelformer.base.errors import UserError
from funnelformer.data.tables import TaskColumns
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.inference.evaluate import evaluate
from funnelformer.inference.predict import predict
from funnelformer.tasks.kinds import kind_of
from funnelformer.tasks.task import Task
from funnelformer.training.finetuning.class_weights import class_weights, task_weights, weighted_loss
from funnelformer.training.finetuning.max_length import choose_max_length
from funnelformer.training.finetuning.series import summary
from funnelformer.training.finetuning.trainer import FinetuneTrainer
from funnelformer.training.run.optimizer import layer_rates
from training.children import finish, start
from training.toy import FINETUNE, animal_rows, fails, log_of, run, sentence, weights_equal, write_table

SOLVE = ("--epochs", 6, "--learning-rate", 0.02)


@pytest.fixture(scope="module")
def data(toy):
    train = write_table(toy.folder / "train.tsv", animal_rows(96))
    return train, write_table(toy.folder / "dev.tsv", animal_rows(32, seed=1))


def metrics_of(out):
    return json.loads((out / "metrics.json").read_text())


def task_of(kind, labels=None):
    return Task("", kind, TaskColumns("text", None, "label"), labels, ("accuracy",))


# ---- class weights


def test_class_weights_by_hand():
    """6 and 2 examples: balanced 2/3 and 2, so both classes weigh 4; the mean over the examples is 1."""
    counts = np.array([6, 2])
    assert class_weights("balanced", ("no", "yes"), counts) == pytest.approx([2 / 3, 2])
    # yes=3 gives 6 + 6 = 12 in all, which 8 examples share.
    assert class_weights("yes=3", ("no", "yes"), counts) == pytest.approx([8 / 12, 3 * 8 / 12])
    assert class_weights("no=0, yes=1", ("no", "yes"), counts) == pytest.approx([0, 4])
    assert class_weights("balanced", ("a", "b", "c"), np.array([2, 0, 2]))[[0, 2]] == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "yess=3",
            "'yess=3' is not LABEL=WEIGHT with a known label; did you mean 'yes'?; allowed: balanced, or ",
        ),
        ("equal", "'equal' is not LABEL=WEIGHT with a known label"),
        ("yes=much", "'yes=much' has no number after the ="),
        ("yes=-1", "--class-weights is yes=-1; allowed: weights of 0 or more, not all 0"),
        ("yes=nan", "--class-weights is yes=nan"),
        ("yes=0,no=0", "--class-weights is yes=0,no=0"),
    ],
)
def test_bad_class_weights(text, message):
    with pytest.raises(UserError) as caught:
        class_weights(text, ("no", "yes"), np.array([6, 2]))
    assert message in str(caught.value)


def test_the_weighted_loss():
    examples = datasets.Dataset.from_dict({"label": [0] * 6 + [1] * 2})
    loss = weighted_loss(task_weights("balanced", task_of("classification", ("no", "yes")), examples))
    logits, labels = torch.tensor([[0.3, -0.1], [0.2, 0.9]]), torch.tensor([0, 1])
    single = F.cross_entropy(logits, labels, reduction="none")
    expected = 2 / 3 * single[0] + 2 * single[1]
    assert torch.allclose(loss({"logits": logits}, labels), expected / 2)
    # The Trainer gives the number of examples of all batches of a step.
    assert torch.allclose(loss({"logits": logits}, labels, num_items_in_batch=torch.tensor(4)), expected / 4)
    assert task_weights(None, task_of("regression"), examples) is None
    assert weighted_loss(None) is None
    for kind in ("regression", "multi-label", "tokens", "choice", "span"):
        with pytest.raises(UserError, match=f"exclude each other; this is a task of {kind}"):
            task_weights("balanced", task_of(kind, ("no", "yes")), examples)


def test_a_rare_class_is_found_with_weights(toy, tmp_path):
    """No word tells the classes apart, and one in eight is "yes": weighed 20 times it is what is said."""
    generator = random.Random(0)
    rows = [(sentence(generator), "yes" if i % 8 == 0 else "no") for i in range(64)]
    table = write_table(tmp_path / "t.tsv", rows)
    said = {}
    for name, flags in (("plain", ()), ("weighted", ("--class-weights", "yes=20"))):
        out = tmp_path / name
        arguments = ["--train", table, "--dev", table, "--model", toy.pretrained, "--out", out, "--epochs", 3]
        assert run(FINETUNE, *arguments, "--learning-rate", 0.005, *flags) == 0
        predict(str(out), str(table), out=tmp_path / f"{name}.jsonl", device="cpu")
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        said[name] = statistics.fmean(json.loads(line)["probabilities"]["yes"] for line in lines)
    assert said["plain"] < 0.3
    assert said["weighted"] > 0.5


# ---- lengths


def test_max_length_auto(toy, capsys):
    """100 texts of 5 + 2 tokens but for one of 30 + 2 and one of 200 + 2: 99% fit in 32."""
    tokenizer = load_tokenizer(toy.tokenizer)
    kind = kind_of(task_of("classification", ("a", "b")))
    texts = ["the " * 5] * 98 + ["the " * 30, "the " * 200]
    examples = datasets.Dataset.from_dict({"text": texts, "label": [0] * 100})
    config = FunnelformerConfig.from_name("L1H16", vocab_size=120)
    assert choose_max_length("auto", kind, examples, tokenizer, config) == 32
    assert capsys.readouterr().out == (
        "--max-length auto: 32 tokens hold 99.0% of the 100 training texts (median 7, longest 202)\n"
    )
    assert choose_max_length(77, kind, examples, tokenizer, config) == 77
    absolute = FunnelformerConfig.from_name(
        "L1H16", vocab_size=120, position="absolute", max_position_embeddings=20
    )
    assert choose_max_length("auto", kind, examples, tokenizer, absolute) == 20
    long = datasets.Dataset.from_dict({"text": ["the " * 3000] * 2, "label": [0, 1]})
    assert choose_max_length("auto", kind, long, tokenizer, config) == 2048


def test_the_chosen_length_is_what_predict_uses(toy, data, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--train", data[0], "--dev", data[1], "--model", toy.pretrained, "--out", out]
    assert run(FINETUNE, *flags, "--max-length", "auto") == 0
    assert json.loads((out / "task.json").read_text())["max_length"] == 8
    assert 'max-length = "auto"' in (out / "run_config.toml").read_text()
    (tmp_path / "run.toml").write_text("max-length = 12.5\n")
    line = fails(capsys, FINETUNE.replace(" --max-length 16", ""), *flags, "--config", tmp_path / "run.toml")
    assert line == f"{tmp_path / 'run.toml'}: max-length is 12.5; allowed: a whole number"


# ---- several labels


def test_several_labels(toy, tmp_path):
    """The animal decides one label, the colour another; some rows have none."""
    generator = random.Random(0)

    def rows(num_rows):
        found = []
        for _ in range(num_rows):
            text = sentence(generator, generator.choice(("cat", "dog")))
            names = [label for label, word in (("feline", "cat"), ("warm", "red")) if word in text.split()]
            found.append((text, "; ".join(names)))
        return found

    train, dev = write_table(tmp_path / "t.tsv", rows(120)), write_table(tmp_path / "d.tsv", rows(40))
    out = tmp_path / "out"
    flags = ["--multi-label", "--label-separator", ";", "--train", train, "--dev", dev, "--out", out]
    flags += ["--epochs", 10, "--learning-rate", 0.006]
    assert run(FINETUNE, "--model", toy.pretrained, *flags) == 0
    metrics = metrics_of(out)
    assert metrics["kind"] == "multi-label"
    assert metrics["dev_micro_f1"] > 0.85  # 0.59 where every text is called the same
    config = FunnelformerForSequenceClassification.from_pretrained(out).config
    assert (config.problem_type, config.id2label) == ("multi_label_classification", {0: "feline", 1: "warm"})
    scores = evaluate(str(out), str(dev), device="cpu")
    for name in ("micro_f1", "macro_f1", "exact_match"):
        assert scores[name] == metrics[f"dev_{name}"]
    texts = tmp_path / "texts.txt"
    texts.write_text("the red cat eats .\nthe red dog eats .\nthe blue dog eats .\n")
    predict(str(out), str(texts), out=tmp_path / "p.jsonl", device="cpu")
    answers = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    said = [[name for name, share in answer["probabilities"].items() if share > 0.5] for answer in answers]
    assert [answer["prediction"] for answer in answers] == said
    assert said[0] != said[2]
    predict(str(out), str(texts), out=tmp_path / "p.csv", device="cpu")
    with (tmp_path / "p.csv").open() as file:
        assert [row["prediction"] for row in csv.DictReader(file)] == ["|".join(names) for names in said]


# ---- bad rows


def test_bad_rows_are_refused_or_counted(toy, data, tmp_path, capsys):
    good = data[0].read_text()
    table = tmp_path / "t.tsv"
    table.write_text(good + "the cat\n" + " \tyes\n" + "the dog\t\n" + "the dog\tno\n")
    flags = ["--train", table, "--dev", data[1], "--model", toy.pretrained, "--out", tmp_path / "out"]
    first = f"{table}: line 98: 1 fields, but the header has 2"
    assert fails(capsys, FINETUNE, *flags) == first
    assert not (tmp_path / "out").exists()
    assert run(FINETUNE, *flags, "--skip-bad-rows") == 0
    printed = capsys.readouterr().out
    assert f"3 bad rows left out; the first: {first}\n" in printed
    assert "data: 97 to train on" in printed
    assert metrics_of(tmp_path / "out")["skipped_rows"] == 3
    card = (tmp_path / "out" / "README.md").read_text()
    assert "\n- 3 rows of the data could not be used, and were left out.\n" in card
    assert fails(capsys, "evaluate", tmp_path / "out", table) == first
    scores = evaluate(str(tmp_path / "out"), str(table), skip_bad_rows=True, device="cpu")
    assert (scores["examples"], scores["skipped_rows"]) == (97, 3)


# ---- early stopping


def test_early_stopping_and_resuming_a_run_that_it_ended(toy, data, tmp_path):
    """The rate is so low that no score gets better: the second and third epoch make two in a row."""
    out = tmp_path / "out"
    flags = ["--train", data[0], "--dev", data[1], "--model", toy.pretrained, "--out", out, "--epochs", 8]
    flags += ["--early-stopping", 2, "--learning-rate", 1e-12, "--keep-checkpoints", 9]
    assert run(FINETUNE, *flags) == 0
    assert metrics_of(out)["steps"] == 3 * 96 // 8
    before = metrics_of(out)
    assert run(FINETUNE, *flags, "--resume") == 0
    assert metrics_of(out) == before


def test_steps_and_their_evaluations(toy, data, tmp_path):
    out = tmp_path / "out"
    flags = ["--train", data[0], "--dev", data[1], "--model", toy.pretrained, "--out", out]
    assert run(FINETUNE, *flags, "--steps", 10, "--evaluate-every", 4) == 0
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "eval_accuracy" in entry][:3] == [4, 8, 10]
    assert metrics_of(out)["steps"] == 10


# ---- layer-wise decay


def test_rates_of_layers():
    """B2-1x3-1 and a decoder of 1: layers 1 and 2, 3 (applied three times), 4, and 5; the embedding is 0."""
    config = FunnelformerConfig.from_name(
        "B2-1x3-1H16", vocab_size=20, decoder_layers=1, embedding_size=8, id2label={0: "a", 1: "b"}
    )
    model = FunnelformerForTokenClassification(config)
    rates = layer_rates((name for name, _ in model.named_parameters()), config, 0.5)
    found = {}
    for name, _ in model.named_parameters():
        found.setdefault(".".join(name.split(".")[1:5]), set()).add(rates.get(name, 1.0))
    by_place = {
        "embeddings.": 0.5**5,
        "encoder.blocks.0.0": 0.5**4,
        "encoder.blocks.0.1": 0.5**3,
        "encoder.blocks.1.0": 0.5**2,
        "encoder.blocks.2.0": 0.5,
        "decoder.layers.0": 1.0,
        "weight": 1.0,
        "bias": 1.0,
    }
    for place, values in found.items():
        (expected,) = {rate for start, rate in by_place.items() if place.startswith(start)}
        assert values == {expected}, place
    assert any("embeddings.projection" in name for name in rates)


def test_a_classifier_has_no_decoder_to_count():
    config = FunnelformerConfig.from_name("B1-1H16", vocab_size=20, decoder_layers=2)
    model = FunnelformerForSequenceClassification(config)
    rates = layer_rates((name for name, _ in model.named_parameters()), model.config, 0.5)
    assert {rate for name, rate in rates.items() if ".blocks.1.0." in name} == {1.0}
    assert not any(name.startswith("classifier") for name in rates)


def test_one_step_moves_a_layer_as_much_as_its_rate_says(toy, data, tmp_path):
    """The first step of AdamW is the rate times the gradient's sign, so the largest change is the rate itself."""
    out = tmp_path / "out"
    torch.manual_seed(0)
    config = FunnelformerConfig.from_name(
        "B1-1H16",
        vocab_size=len(load_tokenizer(toy.tokenizer)),
        decoder_layers=1,
        id2label={0: "no", 1: "yes"},
    )
    FunnelformerForSequenceClassification(config).save_pretrained(tmp_path / "start")
    load_tokenizer(toy.tokenizer).save_pretrained(tmp_path / "start")
    flags = ["--train", data[0], "--dev", data[1], "--model", tmp_path / "start", "--out", out, "--steps", 1]
    flags += ["--layer-decay", 0.5, "--warmup", 0, "--weight-decay", 0, "--learning-rate", 0.01]
    assert run(FINETUNE, *flags) == 0
    before = dict(
        FunnelformerForSequenceClassification.from_pretrained(tmp_path / "start").named_parameters()
    )
    after = dict(FunnelformerForSequenceClassification.from_pretrained(out).named_parameters())
    moved = {name: float((after[name] - before[name]).detach().abs().max()) for name in before}
    for place, rate in (
        ("embeddings.", 0.0025),
        ("blocks.0.", 0.005),
        ("blocks.1.", 0.01),
        ("classifier.", 0.01),
    ):
        assert max(value for name, value in moved.items() if place in name) == pytest.approx(rate, rel=1e-3)


def test_without_decay_the_groups_are_the_trainers(toy, data, tmp_path, monkeypatch):
    groups = []
    original = FinetuneTrainer.create_optimizer

    def create(self, model=None):
        optimizer = original(self, model)
        groups.append([(group["lr"], len(group["params"])) for group in optimizer.param_groups])
        return optimizer

    monkeypatch.setattr(FinetuneTrainer, "create_optimizer", create)
    out = tmp_path / "out"
    flags = ["--train", data[0], "--dev", data[1], "--model", toy.pretrained, "--out", out, "--steps", 1]
    assert run(FINETUNE, *flags) == 0
    assert [rate for rate, _ in groups[0]] == [0.01, 0.01]


# ---- precision


def test_bfloat16_learns_what_float32_does(toy, data, tmp_path):
    """Autocast rounds the arithmetic to 8 bits, so losses differ a little; the weights stay float32."""
    losses = {}
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        flags = ["--train", data[0], "--dev", data[1], "--model", toy.pretrained, "--out", out, *SOLVE]
        flags += ["--set.hidden_dropout=0.0", "--set.attention_dropout=0.0", "--log-every", 12]
        # Apart from pytest's hook for shapes: accelerate makes the outputs anew, from a dict in place of fields.
        children = start(FINETUNE, *flags, "--precision", precision, output=tmp_path / "said.txt")
        assert finish(children) == [0], (tmp_path / "said.txt").read_text()
        losses[precision] = [entry["loss"] for entry in log_of(out) if "loss" in entry]
        weights = load_file(out / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
        assert metrics_of(out)["dev_accuracy"] == 1.0
        assert losses[precision][-1] < losses[precision][0] / 2
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)  # 1.4%


# ---- several seeds


def test_the_summary_by_hand():
    runs = [
        {"seed": 1, "model": "m", "kind": "classification", "steps": 3, "dev_accuracy": 0.5, "dev_loss": 1.0},
        {
            "seed": 2,
            "model": "m",
            "kind": "classification",
            "steps": 3,
            "dev_accuracy": 0.75,
            "dev_loss": 2.0,
        },
    ]
    assert summary(runs) == {
        "model": "m",
        "kind": "classification",
        "seeds": [1, 2],
        "dev_accuracy": 0.625,
        "dev_accuracy_sd": pytest.approx(0.125 * 2**0.5),
        "dev_loss": 1.5,
        "dev_loss_sd": pytest.approx(0.5**0.5),
    }


def test_seeds_make_runs_and_a_table(toy, tmp_path, capsys):
    """Each is what --seed makes, on the dev part of the first; a second call with --resume changes nothing."""
    table = write_table(tmp_path / "t.tsv", animal_rows(64))
    out = tmp_path / "out"
    flags = ["--train", table, "--model", toy.pretrained, "--learning-rate", 0.003]
    assert run(FINETUNE, *flags, "--seeds", 2, "--seed", 5, "--out", out) == 0
    assert "mean ± sd" in capsys.readouterr().out
    metrics = metrics_of(out)
    assert metrics["seeds"] == [5, 6]
    assert [entry["seed"] for entry in metrics["runs"]] == [5, 6]
    losses = [metrics_of(out / f"seed-{seed}")["dev_loss"] for seed in (5, 6)]
    assert losses[0] != losses[1]
    assert metrics["dev_loss"] == pytest.approx(statistics.fmean(losses))
    alone = tmp_path / "alone"
    assert run(FINETUNE, *flags, "--seed", 6, "--split-seed", 5, "--out", alone) == 0
    assert weights_equal(alone, out / "seed-6")
    assert run(FINETUNE, *flags, "--seeds", 2, "--seed", 5, "--out", out, "--resume") == 0
    assert metrics_of(out) == metrics
    line = fails(capsys, FINETUNE, *flags, "--seeds", 3, "--seed", 5, "--out", out, "--resume")
    assert line.endswith("the run began with seeds = 2, now it is 3")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--epochs", "inf"), "--epochs is inf; allowed: a finite number, more than 0"),
        (("--seeds", 0), "--seeds is 0; allowed: 1 or more"),
        (("--steps", 0), "--steps is 0; allowed: 1 or more"),
        (("--early-stopping", 0), "--early-stopping is 0; allowed: 1 or more"),
        (("--layer-decay", 0), "--layer-decay is 0.0; allowed: 0 < factor <= 1"),
        (("--max-length", 2), "--max-length is 2; allowed: 3 or more, or auto"),
        (("--regression", "--multi-label"), "--regression and --multi-label exclude each other"),
        (
            ("--label-separator", ";"),
            "--label-separator needs --multi-label, and must be the text between the labels of a row",
        ),
    ],
)
def test_options_out_of_range(toy, data, tmp_path, capsys, flags, message):
    arguments = ["--train", data[0], "--model", toy.pretrained, "--out", tmp_path / "out"]
    assert fails(capsys, FINETUNE, *arguments, *flags).startswith(message)
