"""Fine-tuning: toy tasks are solved, the best epoch is the saved one, other programs load the folder."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
import torch
import transformers
from transformers import DataCollatorWithPadding

from funnelformer import FunnelformerForSequenceClassification
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.inference.evaluate import evaluate
from funnelformer.inference.predict import predict
from funnelformer.training.finetuning.config import FinetuneConfig
from funnelformer.training.finetuning.task_data import load_task_data
from training.toy import (
    ANIMALS,
    FINETUNE,
    animal_rows,
    interrupted_at,
    run,
    save_model,
    sentence,
    weights_equal,
    write_table,
)

# The label's word is one of three that vary: a few epochs of a model this small tell it.
SOLVE = ("--epochs", 6, "--learning-rate", 0.02)


@pytest.fixture(scope="module")
def data(toy):
    return write_table(toy.folder / "train.tsv", animal_rows(96)), write_table(
        toy.folder / "dev.tsv", animal_rows(32, seed=1)
    )


@pytest.fixture(scope="module")
def solved(toy, data):
    """A classifier that tells cats ("yes") from dogs ("no")."""
    out = toy.folder / "solved"
    train, dev = data
    assert run(FINETUNE, "--model", toy.pretrained, "--train", train, "--dev", dev, "--out", out, *SOLVE) == 0
    return out


def metrics_of(out):
    return json.loads((out / "metrics.json").read_text())


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_separable_task_is_solved(solved, data):
    metrics = metrics_of(solved)
    assert metrics["dev_accuracy"] == metrics["dev_macro_f1"] == 1.0
    assert (metrics["kind"], metrics["steps"]) == ("classification", 6 * 96 // 8)
    assert evaluate(str(solved), str(data[1]), device="cpu")["accuracy"] == 1.0


def test_labels_and_columns_are_in_the_folder(solved):
    config = FunnelformerForSequenceClassification.from_pretrained(solved).config
    assert config.id2label == {0: "no", 1: "yes"}
    assert config.label2id == {"no": 0, "yes": 1}
    assert config.problem_type == "single_label_classification"
    assert json.loads((solved / "task.json").read_text()) == {
        "task": None,
        "text": "text",
        "text_pair": None,
        "label": "label",
        "label_separator": None,
        "max_length": 16,
    }


def test_the_best_epoch_is_the_saved_one(solved, data, tmp_path):
    """A model that is right learns swapped labels: the dev accuracy falls, and its first epoch is best."""
    swapped = write_table(tmp_path / "t.tsv", animal_rows(96, labels={"cat": "no", "dog": "yes"}))
    out = tmp_path / "out"
    flags = ["--epochs", 4, "--learning-rate", 0.003, "--keep-checkpoints", 1]
    assert run(FINETUNE, "--model", solved, "--train", swapped, "--dev", data[1], "--out", out, *flags) == 0
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    accuracies = [entry["eval_accuracy"] for entry in entries if "eval_accuracy" in entry]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > accuracies[-1]
    metrics = metrics_of(out)
    assert metrics["dev_accuracy"] == accuracies[0]
    assert metrics["best_step"] == 12
    assert evaluate(str(out), str(data[1]), device="cpu")["accuracy"] == accuracies[0]
    assert weights_equal(out, out / "checkpoints" / "checkpoint-12")


def test_regression(toy, tmp_path):
    """The amount is decided by the animal."""
    generator = random.Random(2)
    rows = [(sentence(generator, a), i / 2 - 1) for i, a in enumerate(ANIMALS) for _ in range(30)]
    generator.shuffle(rows)
    train = write_table(tmp_path / "train.tsv", rows[:110])
    dev = write_table(tmp_path / "dev.tsv", rows[110:])
    out = tmp_path / "out"
    flags = ["--regression", "--epochs", 8, "--learning-rate", 0.02]
    assert run(FINETUNE, "--model", toy.pretrained, "--train", train, "--dev", dev, "--out", out, *flags) == 0
    metrics = metrics_of(out)
    assert metrics["kind"] == "regression"
    assert metrics["dev_pearson"] > 0.9
    assert metrics["dev_loss"] == pytest.approx(metrics["dev_mse"], rel=1e-5)
    scores = evaluate(str(out), str(dev), device="cpu")
    for name in ("pearson", "mse"):
        assert scores[name] == pytest.approx(metrics[f"dev_{name}"], abs=1e-5)
    # Answers that differ by rounding alone change their ranks with the batch they are in (measured: 0.001).
    assert scores["spearman"] == pytest.approx(metrics["dev_spearman"], abs=5e-3)


def test_pairs(toy, tmp_path):
    """The animal of the second text decides the label; the first text has other animals."""
    generator = random.Random(3)
    rows = [
        (sentence(generator, generator.choice(("cow", "fish"))), text, label)
        for text, label in animal_rows(128)
    ]
    header = ("premise", "hypothesis", "label")
    train = write_table(tmp_path / "train.tsv", rows[:96], header)
    dev = write_table(tmp_path / "dev.tsv", rows[96:], header)
    out = tmp_path / "out"
    assert run(FINETUNE, "--model", toy.pretrained, "--train", train, "--dev", dev, "--out", out, *SOLVE) == 0
    assert metrics_of(out)["dev_accuracy"] == 1.0
    assert json.loads((out / "task.json").read_text())["text_pair"] == "hypothesis"
    assert evaluate(str(out), str(dev), device="cpu")["accuracy"] == 1.0


def test_the_dev_part_is_drawn_from_every_class(toy, tmp_path):
    """60 : 30 : 10 rows give a dev part of 12 : 6 : 2; every row is in one part, once."""
    names = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    rows = [(f"text {i}", name) for i, name in enumerate(names)]
    table = write_table(tmp_path / "t.tsv", rows)
    config = FinetuneConfig(out=tmp_path / "out", model="m", train=str(table), dev_fraction=0.2)
    data = load_task_data(config)
    train, dev = data.train, data.dev[""]
    assert data.kind.task.labels == ("a", "b", "c")
    assert Counter(dev["label"]) == {0: 12, 1: 6, 2: 2}
    assert Counter(train["label"]) == {0: 48, 1: 24, 2: 8}
    both = [*train, *dev]
    assert sorted((row["text"], "abc"[row["label"]]) for row in both) == sorted(rows)
    assert load_task_data(config).dev[""]["text"] == dev["text"]
    other = FinetuneConfig(out=tmp_path, model="m", train=str(table), dev_fraction=0.2, seed=1)
    assert load_task_data(other).dev[""]["text"] != dev["text"]


def test_a_run_without_dev_data(toy, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(FINETUNE, "--model", toy.pretrained, "--train", data[0], "--out", out) == 0
    assert "data: 86 to train on, 10 to select the best epoch" in capsys.readouterr().out


def test_resumed_is_uninterrupted_bit_for_bit(solved, toy, data, tmp_path):
    out = tmp_path / "out"
    command = [
        FINETUNE,
        "--model",
        toy.pretrained,
        "--train",
        data[0],
        "--dev",
        data[1],
        "--out",
        out,
        *SOLVE,
    ]
    with interrupted_at(30):
        assert run(*command) == 130
    assert run(*command, "--resume") == 0
    assert weights_equal(solved, out)
    one, two = metrics_of(solved), metrics_of(out)
    costs = one.pop("cost"), two.pop("cost")
    assert one == two
    assert costs[0]["train_flops"] == costs[1]["train_flops"] > 0
    # The seconds before the interruption count: the log goes on from those of the checkpoint.
    logged = [entry["train_seconds"] for entry in rows_of(out / "log.jsonl") if "train_seconds" in entry]
    assert logged == sorted(logged)
    assert costs[1]["train_seconds"] >= logged[-1]


def test_texts_that_were_cut_are_counted(toy, tmp_path, capsys):
    """A text of exactly --max-length tokens, with the two special ones, is not cut."""
    words = {8: 5, 6: 5, 9: 5}
    rows = [("the " * n, f"c{n % 2}") for n, times in words.items() for _ in range(times)]
    table = write_table(tmp_path / "t.tsv", rows)
    flags = ["--dev", table, "--max-length", 10, "--out", tmp_path / "out"]
    assert run(FINETUNE, "--model", toy.pretrained, "--train", table, *flags) == 0
    assert "5 of 15 training texts exceed 10 tokens and were cut" in capsys.readouterr().out


# ---- other programs


def test_transformers_loads_the_folder(solved, data):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(solved)
    assert type(model) is FunnelformerForSequenceClassification
    assert model.config.id2label == {0: "no", 1: "yes"}


def test_the_pipeline_says_the_same(solved, data, tmp_path):
    predict(str(solved), str(data[1]), out=tmp_path / "out.jsonl", device="cpu")
    rows = rows_of(tmp_path / "out.jsonl")
    pipe = transformers.pipeline("text-classification", model=str(solved), device="cpu")
    answers = pipe([row["text"] for row in rows], batch_size=8)
    for row, answer in zip(rows, answers, strict=True):
        assert answer["label"] == row["prediction"]
        assert answer["score"] == pytest.approx(row["probability"], abs=2e-6)


def test_from_a_folder_of_transformers_funnel(toy, data, tmp_path):
    torch.manual_seed(0)
    tokenizer = load_tokenizer(toy.tokenizer)
    config = transformers.FunnelConfig(
        vocab_size=len(tokenizer), block_sizes=[1, 1], d_model=16, n_head=2, d_head=8, d_inner=32
    )
    funnel = transformers.FunnelModel(config)
    funnel.save_pretrained(tmp_path / "funnel")
    tokenizer.save_pretrained(tmp_path / "funnel")
    out = tmp_path / "out"
    flags = ["--train", data[0], "--dev", data[1], "--out", out, "--learning-rate", 1e-12]
    assert run(FINETUNE, "--model", tmp_path / "funnel", *flags) == 0
    model = FunnelformerForSequenceClassification.from_pretrained(out).eval()
    assert model.config.padding == "transformers"
    batch = tokenizer("the red cat eats .", return_tensors="pt")
    with torch.no_grad():
        theirs = funnel.eval()(**batch, output_hidden_states=True)
        ours = model.funnelformer(**batch)
    # Theirs, encoder states: embeddings, block 1, block 2, then the decoder's.
    assert torch.allclose(ours.encoder_last_hidden_state, theirs.hidden_states[2], atol=1e-5)


def test_another_task_after_the_first(solved, toy, tmp_path):
    """Three classes instead of two: the body stays, the output layer is new."""
    labels = {"cat": "c", "dog": "d", "cow": "w"}
    table = write_table(tmp_path / "t.tsv", animal_rows(60, labels=labels))
    out = tmp_path / "out"
    flags = ["--train", table, "--dev", table, "--out", out, "--learning-rate", 1e-12]
    assert run(FINETUNE, "--model", solved, *flags) == 0
    before = FunnelformerForSequenceClassification.from_pretrained(solved)
    after = FunnelformerForSequenceClassification.from_pretrained(out)
    assert after.config.id2label == {0: "c", 1: "d", 2: "w"}
    assert after.classifier.output.weight.shape == (3, 16)
    for (name, old), (_, new) in zip(
        before.funnelformer.named_parameters(), after.funnelformer.named_parameters(), strict=True
    ):
        assert torch.allclose(old, new, atol=1e-9), name


def test_a_layout_without_a_model(toy, data, tmp_path):
    flags = [
        "--model",
        "B1-1H16",
        "--tokenizer",
        toy.tokenizer,
        "--train",
        data[0],
        "--out",
        tmp_path / "out",
    ]
    assert run(FINETUNE, *flags, "--set.pooling=max") == 0
    config = FunnelformerForSequenceClassification.from_pretrained(tmp_path / "out").config
    assert (config.name, config.pooling, config.decoder_layers) == ("B1-1H16", "max", 0)


def test_an_encoder_with_a_decoder_loses_it(toy, data, tmp_path):
    """A pretrained model of two blocks has a decoder, which a classifier does not read."""
    save_model(tmp_path / "model", len(load_tokenizer(toy.tokenizer)), "B1-1H16")
    flags = ["--tokenizer", toy.tokenizer, "--train", data[0], "--out", tmp_path / "out"]
    assert run(FINETUNE, "--model", tmp_path / "model", *flags) == 0
    model = FunnelformerForSequenceClassification.from_pretrained(tmp_path / "out")
    assert not [name for name, _ in model.named_parameters() if "decoder" in name]


def test_grouping_by_length_leaves_less_padding(toy, tmp_path, monkeypatch):
    """Rows of one and of three sentences: mixed batches pad the short ones, grouped ones hardly do."""
    generator = random.Random(4)
    rows = [(" ".join([sentence(generator)] * (1 + 2 * (i % 2))), ("no", "yes")[i % 2]) for i in range(160)]
    train = write_table(tmp_path / "train.tsv", rows)
    dev = write_table(tmp_path / "dev.tsv", animal_rows(16))  # of one length, for those are not sorted
    padding = []

    class Counting(DataCollatorWithPadding):
        def __call__(self, features):
            batch = super().__call__(features)
            padding[-1] += int((batch["attention_mask"] == 0).sum())
            return batch

    monkeypatch.setattr("transformers.DataCollatorWithPadding", Counting)
    for flags in ((), ("--group-by-length",)):
        padding.append(0)
        out = tmp_path / f"out{len(padding)}"
        arguments = ["--model", toy.pretrained, "--train", train, "--dev", dev, "--out", out, "--epochs", 1]
        assert run(FINETUNE, *arguments, *flags) == 0
    assert 0 <= padding[1] < padding[0] / 2
