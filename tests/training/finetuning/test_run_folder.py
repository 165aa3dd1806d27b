"""What a fine-tuning run leaves behind: metrics with cost and hashes, predictions, mistakes, figures, a model card."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import shlex

import numpy as np
import pytest
from huggingface_hub import ModelCard
from matplotlib.image import imread

from funnelformer import FunnelformerForSequenceClassification, __version__
from funnelformer.cost.flops import forward_flops
from funnelformer.inference.predict import predict
from funnelformer.tasks.scores import calibration
from funnelformer.training.finetuning.plots import draw_confusion
from training.toy import FINETUNE, animal_rows, run, sentence, write_table


def tune(toy, out, *flags):
    assert run(FINETUNE, "--model", toy.pretrained, "--out", out, *flags) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    return out, metrics


@pytest.fixture(scope="module")
def noisy(toy):
    """A run whose dev part of 31 rows has three labels that are wrong, and a label that Markdown could mistake."""
    labels = {"cat": "a|<b>", "dog": "no"}
    rows = animal_rows(31, seed=1, labels=labels)
    for index in (4, 9, 20):
        text, label = rows[index]
        rows[index] = (text, "no" if label != "no" else "a|<b>")
    train = write_table(toy.folder / "train.tsv", animal_rows(96, labels=labels))
    dev = write_table(toy.folder / "dev.tsv", rows)
    out, metrics = tune(
        toy, toy.folder / "noisy", "--train", train, "--dev", dev, "--epochs", 4, "--learning-rate", 0.02
    )
    return out, metrics, train, dev


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_predictions_are_every_dev_row_in_order(noisy, tmp_path):
    out, metrics, _, dev = noisy
    found = lines_of(out / "predictions.jsonl")
    with dev.open() as file:
        given = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["text"], row["gold"]) for row in found] == [(row["text"], row["label"]) for row in given]
    predict(str(out), str(dev), out=tmp_path / "p.jsonl", device="cpu")
    for row, other in zip(found, lines_of(tmp_path / "p.jsonl"), strict=True):
        assert row["prediction"] == other["prediction"]
        assert row["probabilities"] == pytest.approx(other["probabilities"], abs=2e-6)
        assert row["loss"] == pytest.approx(-np.log(row["probabilities"][row["gold"]]), rel=1e-3, abs=1e-5)
    right = [row["gold"] == row["prediction"] for row in found]
    assert np.mean(right) == metrics["dev_accuracy"] == pytest.approx(28 / 31)
    assert np.mean([row["loss"] for row in found]) == pytest.approx(metrics["dev_loss"], rel=1e-4)
    ece = calibration(np.array([row["probability"] for row in found]), np.array(right)).ece
    assert metrics["ece"]["dev"] == pytest.approx(ece, abs=1e-5)


def test_the_hardest_mistakes_are_the_wrong_labels(noisy):
    out, _, _, _ = noisy
    lines = [line.split("\t") for line in (out / "mistakes.tsv").read_text().splitlines()]
    assert lines[0] == ["row", "loss", "gold", "predicted", "probability", "text"]
    assert sorted(int(line[0]) for line in lines[1:]) == [5, 10, 21]
    losses = [float(line[1]) for line in lines[1:]]
    assert losses == sorted(losses, reverse=True)
    found = lines_of(out / "predictions.jsonl")
    for row, _, gold, predicted, probability, text in lines[1:]:
        entry = found[int(row) - 1]
        assert (gold, predicted, text) == (entry["gold"], entry["prediction"], entry["text"])
        assert float(probability) == pytest.approx(entry["probability"], abs=1e-4)


def test_metrics_have_cost_data_and_versions(noisy):
    out, metrics, train, dev = noisy
    assert metrics["versions"]["funnelformer_version"] == __version__
    model = FunnelformerForSequenceClassification.from_pretrained(out)
    assert metrics["num_parameters"] == sum(p.numel() for p in model.parameters())
    for part, file, rows in (("train", train, 96), ("dev", dev, 31)):
        entry = metrics["data"][part]
        assert (entry["source"], entry["rows"]) == (str(file), rows)
        assert entry["file_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    rows = [line.split("\t") for line in dev.read_text().splitlines()[1:]]
    ids = {"a|<b>": 0, "no": 1}
    text = "".join(f'{{"label": {ids[label]}, "text": "{text}"}}\n' for text, label in rows)
    assert metrics["data"]["dev"]["rows_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    cost = metrics["cost"]
    assert 0 < cost["train_seconds"] < cost["total_seconds"]
    assert 50e6 < cost["peak_memory_bytes"] < 100e9
    assert (cost["device"], cost["num_processes"]) == ("cpu", 1)
    # Every sentence is of five words and two special tokens: 48 steps of 8 rows of 7 tokens.
    forward = forward_flops(model.config, 7, batch_size=8, head="classification", decoder=False).total
    assert cost["train_flops"] == 3 * 48 * forward


def test_the_card_is_what_the_hub_reads(noisy, toy):
    out, metrics, train, _ = noisy
    card = ModelCard.load(out / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("funnelformer", "text-classification")
    results = {
        (entry.dataset_split, entry.metric_type): entry.metric_value for entry in card.data.eval_results
    }
    assert results == {
        ("dev", "accuracy"): metrics["dev_accuracy"],
        ("dev", "macro_f1"): metrics["dev_macro_f1"],
    }
    assert card.data.eval_results[0].dataset_name == toy.folder.name
    text = card.text
    digest = metrics["data"]["train"]["file_sha256"]
    assert f"| train | {train} | 96 | {metrics['data']['train']['rows_sha256']} | {digest} |" in text
    assert "| learning rate | 0.02 |" in text
    assert "| max length | 16 |" in text
    # A label can neither end a cell nor begin an element.
    (row,) = [line for line in text.splitlines() if line.startswith("| a\\|&lt;b&gt; |")]
    gold = [entry["gold"] for entry in lines_of(out / "predictions.jsonl")]
    assert row.endswith(f" {gold.count('a|<b>')} |")
    assert "<b>" not in text
    assert "no test part was scored" in text


def test_the_command_of_the_card_repeats_the_run(noisy, toy, tmp_path):
    out, _, _, _ = noisy
    text = (out / "README.md").read_text()
    (line,) = [line.strip() for line in text.splitlines() if line.startswith("    funnelformer finetune ")]
    words = shlex.split(line)
    words[words.index("--out") + 1] = str(tmp_path / "again")
    assert run(" ".join(words[1:])) == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_the_figures(noisy):
    """They are pictures, and every one is in the card."""
    out, _, _, _ = noisy
    assert sorted(path.name for path in out.glob("*.png")) == [
        "calibration.png",
        "confusion.png",
        "curve.png",
    ]
    for path in out.glob("*.png"):
        pixels = imread(path)
        assert min(pixels.shape[:2]) > 200
        assert pixels[..., :3].std() > 0.02
        assert f"![{path.stem}]({path.name})" in (out / "README.md").read_text()
    assert not list(out.glob(".*.tmp"))


def test_a_matrix_of_many_classes_shows_those_with_mistakes():
    matrix = np.diag(np.full(40, 5))
    matrix[3, 35] = 2
    axis = draw_confusion(matrix, [f"$c{number}" for number in range(40)]).axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert len(labels) == 30
    assert {r"\$c3", r"\$c35"} <= set(labels)
    assert axis.get_title() == "the 30 of 40 classes with the most mistakes"
    assert "2" in {text.get_text() for text in axis.texts}


def test_amounts(toy, tmp_path):
    amounts = {"cat": "-1.0", "dog": "1.0"}
    table = write_table(tmp_path / "t.tsv", animal_rows(41, labels=amounts))
    out, metrics = tune(toy, tmp_path / "out", "--train", table, "--regression", "--dev-fraction", 0.3)
    assert sorted(path.name for path in out.glob("*.png")) == ["amounts.png", "curve.png"]
    found = lines_of(out / "predictions.jsonl")
    assert len(found) == metrics["data"]["dev"]["rows"] == 13
    assert metrics["data"]["dev"]["source"] == metrics["data"]["train"]["source"] == str(table)
    errors = [(row["prediction"] - row["gold"]) ** 2 for row in found]
    assert np.mean(errors) == pytest.approx(metrics["dev_mse"], rel=1e-5)
    first = (out / "mistakes.tsv").read_text().splitlines()[1].split("\t")
    assert int(first[0]) == 1 + int(np.argmax(errors))
    assert (metrics["metric"], metrics["ece"]) == ("dev_pearson", {})


def test_several_labels_and_their_table(toy, tmp_path):
    generator = random.Random(0)
    rows = [sentence(generator) for _ in range(40)]
    table = write_table(
        tmp_path / "t.tsv",
        [(text, ";".join(name for name in ("red", "cat") if name in text.split())) for text in rows],
    )
    flags = ["--multi-label", "--label-separator", ";", "--dev", table]
    out, metrics = tune(toy, tmp_path / "out", "--train", table, *flags)
    found = lines_of(out / "predictions.jsonl")
    is_right = [set(row["gold"]) == set(row["prediction"]) for row in found]
    assert np.mean(is_right) == pytest.approx(metrics["dev_exact_match"])
    assert [path.name for path in out.glob("*.png")] == ["curve.png"]
    number = sum("red" in text.split() for text in rows)
    (line,) = [line for line in (out / "README.md").read_text().splitlines() if line.startswith("| red |")]
    assert line.endswith(f" {number} |")


def test_entities_have_a_table(toy, tmp_path):
    """Both dev and test are of one sentence, so that the table can be counted."""
    for name, number in (("train", 40), ("dev", 7)):
        generator = random.Random(number)
        lines = []
        for _ in range(number):
            the, colour, animal, verb, stop = sentence(generator).split()
            lines += [f"{the} O", f"{colour} B-thing", f"{animal} I-thing", f"{verb} O", f"{stop} O", ""]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    flags = ["--task", "ner", "--data", tmp_path, "--epochs", 4, "--learning-rate", 0.02]
    out, metrics = tune(toy, tmp_path / "out", *flags)
    assert metrics["metric"] == "dev_f1"
    card = (out / "README.md").read_text()
    assert "| entity | precision | recall | F1 | entities |" in card
    (line,) = [line for line in card.splitlines() if line.startswith("| thing |")]
    assert (
        line
        == f"| thing | {metrics['dev_precision']:.4f} | {metrics['dev_recall']:.4f} | {metrics['dev_f1']:.4f} | 7 |"
    )
    found = lines_of(out / "predictions.jsonl")
    assert found[0]["gold"] == ["O", "B-thing", "I-thing", "O", "O"]
    assert not (out / "confusion.png").exists()
    assert metrics["data"]["dev"]["source"] == str(tmp_path / "dev.txt")


def test_grouped_by_length_the_answers_stay_with_their_rows(toy, tmp_path):
    """The Trainer would sort what is scored by length too, and score tags against those of other sentences."""
    generator = random.Random(1)
    lines = []
    for number in range(24):
        words = sentence(generator).split() * (1 + number % 3)
        lines += [f"{word} {'B-thing' if word in ('cat', 'dog', 'cow') else 'O'}" for word in words] + [""]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    flags = ["--task", "ner", "--data", tmp_path, "--epochs", 6, "--learning-rate", 0.02, "--group-by-length"]
    out, metrics = tune(toy, tmp_path / "out", *flags, "--max-length", 32)
    assert metrics["dev_f1"] == 1.0
    assert all(row["gold"] == row["prediction"] for row in lines_of(out / "predictions.jsonl"))
