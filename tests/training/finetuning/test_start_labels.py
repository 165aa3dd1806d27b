"""Fine-tuning from a model that has classes: the same names keep their rows of the head, others get a new head."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from funnelformer import (
    FunnelformerConfig,
    FunnelformerForSequenceClassification,
    FunnelformerForTokenClassification,
)
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.tasks.texts import score_texts
from funnelformer.training.finetuning.start_labels import in_order_of, start_labels
from training.toy import FINETUNE, animal_rows, run, write_table

HEAD = "classifier.output.weight"
# So low that nothing is learned in one step.
STILL = ("--steps", 1, "--evaluate-every", 1, "--learning-rate", 1e-12)


def save(folder, toy, names, model_class=FunnelformerForSequenceClassification, **settings):
    torch.manual_seed(3)
    tokenizer = load_tokenizer(toy.tokenizer)
    config = FunnelformerConfig.from_name(
        "L1H16",
        vocab_size=len(tokenizer),
        initializer_std=0.4,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        **settings,
    )
    model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def head_of(folder, name=HEAD):
    return load_file(folder / "model.safetensors")[name]


def finetuned(capsys, toy, tmp_path, start, rows, *flags):
    """The folder of a run that learns nothing, and what it said of the head."""
    train = write_table(tmp_path / "train.tsv", rows)
    out = tmp_path / "out"
    capsys.readouterr()
    assert (
        run(FINETUNE, "--model", start, "--train", train, "--dev", train, "--out", out, *STILL, *flags) == 0
    )
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("the head is new")]
    return out, said


@pytest.fixture
def rows():
    return animal_rows(24)


def names_of(folder):
    return list(json.loads((folder / "config.json").read_text())["id2label"].values())


def test_the_order_of_the_start_model_stays(capsys, toy, tmp_path, rows):
    """Sorted they would be no, yes: each row of the head would be dealt the other name."""
    start = save(tmp_path / "start", toy, ["yes", "no"])
    out, said = finetuned(capsys, toy, tmp_path, start, rows)
    assert (names_of(out), said) == (["yes", "no"], [])
    torch.testing.assert_close(head_of(out), head_of(start), rtol=0, atol=1e-9)


def test_what_the_start_model_says_stays(capsys, toy, tmp_path, rows):
    """Data labelled by the start model itself: accuracy 1 after a step that learns nothing."""
    start = save(tmp_path / "start", toy, ["yes", "no"])
    table = write_table(tmp_path / "texts.tsv", rows)
    assert run("predict", start, table, "--out", tmp_path / "said.jsonl", "--device", "cpu") == 0
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    labelled = [(row["text"], row["prediction"]) for row in said]
    assert {label for _, label in labelled} == {"yes", "no"}
    out, _ = finetuned(capsys, toy, tmp_path, start, labelled)
    assert json.loads((out / "metrics.json").read_text())["dev_accuracy"] == 1.0


@pytest.mark.parametrize("names", [["good", "bad"], ["yes", "no", "maybe"], ["LABEL_0", "LABEL_1"]])
def test_other_classes_have_a_new_head(capsys, toy, tmp_path, rows, names):
    """Also as many of them, whose shapes would fit."""
    start = save(tmp_path / "start", toy, names)
    out, said = finetuned(capsys, toy, tmp_path, start, rows)
    known = ", ".join(names)
    assert said == [f"the head is new: {start} has the classes {known}, the data have no, yes"]
    assert names_of(out) == ["no", "yes"]
    if len(names) == 2:
        assert not torch.allclose(head_of(out), head_of(start), atol=1e-3)
    # The layer below the classes is kept.
    dense = "classifier.dense.weight"
    torch.testing.assert_close(head_of(out, dense), head_of(start, dense), rtol=0, atol=1e-9)


def test_several_labels(capsys, toy, tmp_path, rows):
    start = save(tmp_path / "start", toy, ["yes", "no"], problem_type="multi_label_classification")
    out, said = finetuned(capsys, toy, tmp_path, start, rows, "--multi-label")
    assert (names_of(out), said) == (["yes", "no"], [])
    torch.testing.assert_close(head_of(out), head_of(start), rtol=0, atol=1e-9)


def test_amounts(capsys, toy, tmp_path, rows):
    """From classes the head is new, from amounts it is kept."""
    amounts = [(text, float(number)) for number, (text, _) in enumerate(rows)]
    start = save(tmp_path / "classes", toy, ["yes", "no"])
    _, said = finetuned(capsys, toy, tmp_path, start, amounts, "--regression")
    assert said == [f"the head is new: {start} has the classes yes, no, the data have amounts"]
    start = save(tmp_path / "amounts", toy, ["LABEL_0"], problem_type="regression")
    out, said = finetuned(capsys, toy, tmp_path, start, amounts, "--regression", "--overwrite")
    assert said == []
    torch.testing.assert_close(head_of(out), head_of(start), rtol=0, atol=1e-9)


def test_tags(capsys, toy, tmp_path):
    names = ["I-animal", "O", "B-animal"]
    start = save(tmp_path / "start", toy, names, FunnelformerForTokenClassification)
    data = tmp_path / "ner"
    data.mkdir()
    for part in ("train", "dev", "test"):
        (data / f"{part}.txt").write_text("the O\ncat B-animal\nsings O\n\nthe O\ndog B-animal\n\n" * 6)
    out = tmp_path / "out"
    flags = ("--task", "ner", "--data", data, "--out", out, *STILL)
    assert run(FINETUNE, "--model", start, *flags) == 0
    assert names_of(out) == names
    assert "the head is new" not in capsys.readouterr().out
    torch.testing.assert_close(
        head_of(out, "classifier.weight"), head_of(start, "classifier.weight"), rtol=0, atol=1e-9
    )


def test_a_pretrained_model_has_no_classes(toy):
    assert start_labels(str(toy.pretrained)) is None
    assert in_order_of(None, ["b", "a"]) == ("b", "a")
    assert in_order_of(["b", "a"], ["a", "b"]) == ("b", "a")
    assert in_order_of(["b", "a", "c"], ["a", "b"]) == ("a", "b")
    assert in_order_of(["b"], None) is None


def test_f1_is_of_the_positive_class_in_any_order():
    """Of 4 rows 3 are positive; one of them is missed. F1 of the positive class 0.8, of the other 2/3."""
    gold, said = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    logits = np.eye(2)[said]
    assert score_texts("classification", logits, gold, ["f1"], positive=0) == {"f1": pytest.approx(0.8)}
    assert score_texts("classification", logits, gold, ["f1"]) == {"f1": pytest.approx(2 / 3)}
