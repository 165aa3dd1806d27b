"""`predict` and `evaluate`: order, columns, formats, and probabilities that padding does not change."""

from __future__ import annotations

import csv
import io
import json
import random
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from funnelformer import FunnelformerConfig, FunnelformerForSequenceClassification
from funnelformer.base.version import stamped
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.inference.batches import cut
from funnelformer.inference.evaluate import evaluate
from funnelformer.inference.load import ready
from funnelformer.inference.predict import predict
from funnelformer.inference.predictor import load_predictor
from funnelformer.modeling import PrepackedLinear
from training.toy import ANIMALS, run, sentence, tree, write_table

LABELS = ("no", "perhaps", "yes")
# Largest difference of a probability between a text alone and in a padded batch; measured 3.6e-7.
TOLERANCE = 1e-6


def classifier(folder, toy, **settings):
    torch.manual_seed(6)
    tokenizer = load_tokenizer(toy.tokenizer)
    config = FunnelformerConfig.from_name(
        "B1-1H16", vocab_size=len(tokenizer), initializer_std=0.4, **settings
    )
    FunnelformerForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(toy):
    names = dict(enumerate(LABELS))
    return classifier(toy.folder / "model", toy, id2label=names, label2id={n: i for i, n in names.items()})


@pytest.fixture(scope="module")
def texts():
    """Texts of 5 to 35 tokens, the lengths mixed."""
    generator = random.Random(1)
    return [" ".join(sentence(generator) for _ in range(generator.randint(1, 7))) for _ in range(21)]


@pytest.fixture(scope="module")
def table(toy, texts):
    """Columns before, between and after the text; the labels cycle."""
    rows = [(f"id{i}", text, LABELS[i % 3], f"note {i}") for i, text in enumerate(texts)]
    return write_table(toy.folder / "table.tsv", rows, ("id", "text", "label", "note"))


def alone(folder, text, pair=None):
    """Probabilities of one text by a direct call of the model."""
    model = FunnelformerForSequenceClassification.from_pretrained(folder).eval()
    batch = load_tokenizer(folder)(text, pair, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits[0].softmax(-1).tolist()


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_jsonl_keeps_rows_and_columns(model, table, texts, tmp_path):
    assert predict(str(model), str(table), out=tmp_path / "out.jsonl", batch_size=4, text="text") == len(
        texts
    )
    rows = rows_of(tmp_path / "out.jsonl")
    for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
        assert list(row) == ["id", "text", "label", "note", "prediction", "probability", "probabilities"]
        assert (row["id"], row["text"], row["label"], row["note"]) == (
            f"id{i}",
            text,
            LABELS[i % 3],
            f"note {i}",
        )
        probabilities = row["probabilities"]
        assert list(probabilities) == list(LABELS)
        assert sum(probabilities.values()) == pytest.approx(1, abs=2e-6)  # rounded to 6 digits
        assert row["prediction"] == max(probabilities, key=probabilities.get)
        assert row["probability"] == probabilities[row["prediction"]]
    assert {row["prediction"] for row in rows} == set(LABELS)


def test_probabilities_are_those_of_each_text_alone(model, texts):
    predictor = load_predictor(str(model), device="cpu")
    probabilities = predictor.probabilities(predictor.logits(texts, batch_size=8))
    assert probabilities.sum(-1) == pytest.approx(1, abs=1e-6)
    for row, text in zip(probabilities.tolist(), texts, strict=True):
        assert row == pytest.approx(alone(model, text), abs=TOLERANCE)


def test_a_model_that_only_runs_is_prepacked(model):
    """What all commands load through; a model that may be saved is not."""
    packed = {type(module) for module in load_predictor(str(model), device="cpu").model.modules()}
    assert PrepackedLinear in packed
    plain = ready(FunnelformerForSequenceClassification.from_pretrained(model), "cpu", only_runs=False)
    assert not plain.training
    assert not any(isinstance(module, PrepackedLinear) for module in plain.modules())


def test_csv_holds_the_same_as_jsonl(model, table, tmp_path):
    predict(str(model), str(table), out=tmp_path / "out.jsonl")
    predict(str(model), str(table), out=tmp_path / "out.csv")
    predict(str(model), str(table), out=tmp_path / "named.jsonl", format="csv")
    assert (tmp_path / "named.jsonl").read_bytes() == (tmp_path / "out.csv").read_bytes()
    with open(tmp_path / "out.csv", newline="") as file:
        for row, other in zip(csv.DictReader(file), rows_of(tmp_path / "out.jsonl"), strict=True):
            probabilities = other.pop("probabilities")
            other |= {f"probability_{name}": value for name, value in probabilities.items()}
            assert row == {name: str(value) for name, value in other.items()}


def test_csv_quotes_what_needs_it(model, tmp_path):
    text = 'the "red" cat, and\tthe cow'
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n")
    predict(str(model), str(tmp_path / "a.jsonl"), out=tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="") as file:
        assert [row["text"] for row in csv.DictReader(file)] == [text]


class Stdin:
    def __init__(self, text):
        self.buffer = io.BytesIO(text.encode())


def test_stdin_and_stdout(model, texts, monkeypatch, capsys):
    """Plain lines in, JSON lines out, and nothing else on stdout."""
    monkeypatch.setattr(sys, "stdin", Stdin("".join(f"{text}\n" for text in texts[:3])))
    assert run("predict", model, "-") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == texts[:3]
    for row in rows:
        assert list(row["probabilities"].values()) == pytest.approx(alone(model, row["text"]), abs=2e-6)


def test_stdin_of_json_lines(model, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "stdin", Stdin('{"id": 7, "text": "the cat"}\n{"id": null, "text": "the cow"}\n')
    )
    assert run("predict", model) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["id"], row["text"]) for row in rows] == [(7, "the cat"), (None, "the cow")]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_batch_size_changes_nothing(model, texts, batch_size):
    predictor = load_predictor(str(model), device="cpu")
    expected = predictor.probabilities(predictor.logits(texts, batch_size=32))
    given = predictor.probabilities(predictor.logits(texts, batch_size=batch_size))
    assert given == pytest.approx(expected, abs=TOLERANCE)


def test_batches_end_where_padding_grows():
    """By hand: at most 3 rows, at most 4 tokens of padding."""
    found = [(part.start, part.stop) for part in cut([9, 9, 9, 9, 7, 5, 5, 3, 1], 3, 4)]
    # 9 9 9 | 9 7 (2; with 5 it were 6) | 5 5 3 (2) | 1
    assert found == [(0, 3), (3, 5), (5, 8), (8, 9)]
    assert cut([], 3, 4) == []
    assert cut([5, 1], 3, 4) == [slice(0, 2)]
    assert cut([5, 1], 3, 3) == [slice(0, 1), slice(1, 2)]
    # At most 10 tokens: 12 alone, 5 5 (a third were 15), 4 4, 1.
    assert cut([12, 5, 5, 4, 4, 1], 9, 9, 10) == [slice(0, 1), slice(1, 3), slice(3, 5), slice(5, 6)]


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=60),
    st.integers(1, 9),
    st.integers(0, 40),
)
def test_batches_hold_every_row_once(lengths, batch_size, most_padding):
    lengths = sorted(lengths, reverse=True)
    parts = cut(lengths, batch_size, most_padding)
    assert [index for part in parts for index in range(len(lengths))[part]] == list(range(len(lengths)))
    for part in parts:
        rows = lengths[part]
        assert len(rows) <= batch_size
        assert len(rows) * rows[0] - sum(rows) <= most_padding


def test_a_batch_without_padding_has_no_mask(model, monkeypatch):
    """Two texts of one length, and one by itself: nothing to mask, and the logits of each alone."""
    predictor = load_predictor(str(model), device="cpu")
    texts = ["the red cat", "the cow runs", "the dog eats the blue bird ."]
    expected = [alone(model, text) for text in texts]
    seen = []
    forward = predictor.model.forward
    monkeypatch.setattr(
        predictor.model,
        "forward",
        lambda **batch: (seen.append(batch.get("attention_mask")), forward(**batch))[1],
    )
    found = predictor.probabilities(predictor.logits(texts))
    for row, values in zip(found.tolist(), expected, strict=True):
        assert row == pytest.approx(values, abs=TOLERANCE)
    assert len(seen) == 1
    assert seen[0] is not None
    predictor.logits(texts[:2])
    predictor.logits(texts, batch_size=1)
    assert seen[1:] == [None] * 4


def test_evaluate_is_scikit_learn_on_the_predictions(model, table, texts, tmp_path):
    predict(str(model), str(table), out=tmp_path / "out.jsonl")
    predicted = [row["prediction"] for row in rows_of(tmp_path / "out.jsonl")]
    gold = [LABELS[i % 3] for i in range(len(texts))]
    metrics = evaluate(str(model), str(table), out=tmp_path / "metrics.json")
    assert metrics == {
        "data": str(table),
        "examples": len(texts),
        "accuracy": accuracy_score(gold, predicted),
        "macro_f1": pytest.approx(f1_score(gold, predicted, average="macro")),
    }
    assert json.loads((tmp_path / "metrics.json").read_text()) == stamped(metrics)


def test_the_cli_says_what_was_guessed_and_what_came_out(model, table, texts, tmp_path, capsys):
    assert run("evaluate", model, table) == 0
    done = capsys.readouterr()
    assert done.err.splitlines() == [
        "using column 'text' as the text (guessed; set it with --text)",
        "using column 'label' as the label (guessed; set it with --label)",
    ]
    accuracy = evaluate(str(model), str(table))["accuracy"]
    assert f"accuracy: {accuracy:.4f}" in done.out.splitlines()
    capsys.readouterr()
    assert run("predict", model, table, "--text", "text", "--out", tmp_path / "out.csv") == 0
    assert capsys.readouterr() == (f"21 predictions are in {tmp_path / 'out.csv'}\n", "")


def test_pairs(model, tmp_path, toy):
    rows = [("the red cat eats .", "the cow runs ."), ("the dog", "the blue bird sings . the cow sleeps .")]
    table = write_table(tmp_path / "pairs.tsv", rows, ("premise", "hypothesis"))
    predict(str(model), str(table), out=tmp_path / "out.jsonl")
    for row, pair in zip(rows_of(tmp_path / "out.jsonl"), rows, strict=True):
        assert list(row["probabilities"].values()) == pytest.approx(alone(model, *pair), abs=2e-6)
        swapped = alone(model, *reversed(pair))
        assert list(row["probabilities"].values()) != pytest.approx(swapped, abs=1e-4)


def test_regression(toy, tmp_path):
    folder = classifier(tmp_path / "model", toy, num_labels=1, problem_type="regression")
    table = write_table(tmp_path / "a.tsv", [(f"the {a}", i / 2) for i, a in enumerate(ANIMALS)])
    predict(str(folder), str(table), out=tmp_path / "out.jsonl")
    rows = rows_of(tmp_path / "out.jsonl")
    assert [list(row) for row in rows] == [["text", "label", "prediction"]] * len(ANIMALS)
    direct = FunnelformerForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = load_tokenizer(folder)
    with torch.no_grad():
        expected = [direct(**tokenizer(row["text"], return_tensors="pt")).logits.item() for row in rows]
    assert [row["prediction"] for row in rows] == pytest.approx(expected, abs=TOLERANCE)
    squares = [(row["prediction"] - float(row["label"])) ** 2 for row in rows]
    metrics = evaluate(str(folder), str(table))
    assert metrics["mse"] == pytest.approx(sum(squares) / len(squares))
    assert set(metrics) == {"data", "examples", "pearson", "spearman", "mse"}


def test_long_texts_are_cut(model, toy):
    """At --max-length tokens, of which two are special; by default at what task.json says, or 512."""
    words = ["red"] * 40
    predictor = load_predictor(str(model), max_length=12, device="cpu")
    cut = predictor.probabilities(predictor.logits([" ".join(words)]))[0].tolist()
    assert cut == pytest.approx(alone(model, " ".join(words[:10])), abs=TOLERANCE)
    assert load_predictor(str(model)).task["max_length"] == 512


def test_absolute_positions_limit_the_length(toy, tmp_path):
    folder = classifier(tmp_path / "model", toy, position="absolute", max_position_embeddings=16)
    predictor = load_predictor(str(folder), device="cpu")
    assert predictor.task["max_length"] == 16
    assert predictor.logits(["red " * 100]).shape == (1, 2)


def test_a_failure_half_way_leaves_the_old_output(model, table, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    predict(str(model), str(table), out=out)
    before = tree(tmp_path)
    monkeypatch.setattr(
        "funnelformer.inference.predict.say_all", lambda *_: iter([{"prediction": 1}, object()])
    )
    with pytest.raises(TypeError):
        predict(str(model), str(table), out=out)
    assert tree(tmp_path) == before
