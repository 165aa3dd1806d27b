"""Answers beside the right ones, and how sure they are, by hand."""

from __future__ import annotations

import datasets
import numpy as np
import pytest

from funnelformer.data.tables import TaskColumns
from funnelformer.tasks.judge import judge
from funnelformer.tasks.kind import Encoded
from funnelformer.tasks.kinds import kind_of
from funnelformer.tasks.scores import calibration
from funnelformer.tasks.spans import Answer, Candidate, Questions, Windows
from funnelformer.tasks.task import Task


def judged(kind, labels, examples, logits, gold, words=None):
    """What `judge` makes of logits for examples."""
    features = {"labels": gold} if words is None else {"labels": gold, "words": words}
    encoded = Encoded(datasets.Dataset.from_dict(features), datasets.Dataset.from_dict(examples), 0)
    task = Task("", kind, TaskColumns("text", None, "label"), labels, ("accuracy",))
    return judge(kind_of(task), logits, gold, encoded)


def test_spans():
    """One right, one wrong and sure, one rightly empty; a gold answer of an article alone is none."""

    class Said(Questions):
        def answers(self, spans, encoded):
            return iter(spans)

    def answer(name, text, probability):
        others = (Candidate("x", 0.05, 0.0, 0, 1), Candidate(text, probability, 1.0, 2, 3))
        return Answer(name, others, 0.0, text)

    said = [answer("a", "The cat", 0.75), answer("b", "dog", 0.9), answer("c", "", 0.6)]
    examples = {
        "id": ["a", "b", "c"],
        "question": ["who?"] * 3,
        "context": ["cat and dog"] * 3,
        "texts": [["bird", "cat."], ["cat"], ["the"]],
        "starts": [[0, 0], [0], [0]],
    }
    task = Task("", "span", TaskColumns("question", None, None), None, ("f1",))
    nothing = datasets.Dataset.from_dict({})
    windows = Windows(nothing, datasets.Dataset.from_dict(examples), 0, tokenizer=None)
    found = judge(Said(task), said, None, windows)
    assert found.is_wrong.tolist() == [False, True, False]
    assert found.sureness == pytest.approx([0.75, 0.9, 0.6])
    assert found.losses == pytest.approx([-np.log(0.75), -np.log(0.1), -np.log(0.6)])
    assert found.rows[1] == {
        "id": "b",
        "question": "who?",
        "context": "cat and dog",
        "gold": ["cat"],
        "prediction": "dog",
        "probability": 0.9,
    }


def logit(probability):
    return float(np.log(probability / (1 - probability)))


def test_classes():
    """Two classes with probabilities 3/4 and 1/4, then 1/10 and 9/10; the second is wrong."""
    logits = np.log([[3.0, 1.0], [1.0, 9.0]])
    found = judged("classification", ("no", "yes"), {"text": ["a", "b"], "label": [0, 0]}, logits, [0, 0])
    assert found.losses == pytest.approx([-np.log(0.75), -np.log(0.1)])
    assert found.is_wrong.tolist() == [False, True]
    assert found.sureness == pytest.approx([0.75, 0.9])
    assert found.rows[1] == {
        "text": "b",
        "gold": "no",
        "prediction": "yes",
        "probability": 0.9,
        "probabilities": {"no": 0.1, "yes": 0.9},
    }
    assert (found.gold.tolist(), found.predicted.tolist()) == ([0, 0], [0, 1])


def test_amounts():
    found = judged(
        "regression", None, {"text": ["a", "b"], "label": [1.0, 2.0]}, np.array([[1.5], [2.0]]), [1.0, 2.0]
    )
    assert found.losses.tolist() == [0.25, 0.0]
    assert found.is_wrong.tolist() == [True, False]
    assert found.sureness is None
    assert found.rows[0] == {"text": "a", "gold": 1.0, "prediction": 1.5}


def test_several_labels():
    """Decisions with probabilities 0.8 and 0.6 where both are in, and 0.4 where the second is not."""
    logits = np.array([[logit(0.8), logit(0.6)], [logit(0.8), logit(0.6)]])
    gold = [[1.0, 1.0], [1.0, 0.0]]
    found = judged("multi-label", ("x", "y"), {"text": ["a", "b"], "label": gold}, logits, gold)
    assert found.losses == pytest.approx([-np.log(0.8 * 0.6) / 2, -np.log(0.8 * 0.4) / 2])
    assert found.is_wrong.tolist() == [False, True]
    assert found.sureness == pytest.approx([0.6, 0.6])
    assert [row["gold"] for row in found.rows] == [["x", "y"], ["x"]]
    assert found.rows[1]["prediction"] == ["x", "y"]


def test_tags():
    """Two scored places of a sentence; the third word was cut off and is called O. Padding is no place."""
    labels = ("O", "B-x")
    logits = np.array([[[0, 0], [0, np.log(3)], [np.log(9), 0], [0, 0]]])
    gold = [[-100, 1, 1, -100]]
    examples = {"tokens": [["a", "b", "c"]], "tags": [["B-x", "B-x", "O"]]}
    found = judged("tokens", labels, examples, logits, np.array(gold), words=[[0, 1]])
    assert found.losses == pytest.approx([-(np.log(0.75) + np.log(0.1)) / 2])
    assert found.sureness == pytest.approx([0.75])
    assert found.rows == [
        {"tokens": ["a", "b", "c"], "gold": ["B-x", "B-x", "O"], "prediction": ["B-x", "O", "O"]}
    ]
    assert found.is_wrong.tolist() == [True]


def test_choices():
    examples = {
        "article": ["p"],
        "question": ["q"],
        "options": [["x", "y", "z"]],
        "label": [2],
        "level": [""],
    }
    found = judged("choice", ("A", "B", "C"), examples, np.log([[2.0, 1.0, 1.0]]), [2])
    assert found.rows[0]["gold"] == "C"
    assert found.rows[0]["prediction"] == "A"
    assert found.losses == pytest.approx([np.log(4)])


def test_calibration_by_hand():
    """Four bins: one answer at 0.3 that is right, three at 0.8 of which one is wrong, one at 0.75 sharp below them."""
    sure, right = np.array([0.3, 0.8, 0.8, 0.8, 0.75]), np.array([True, True, True, False, True])
    found = calibration(sure, right, num_bins=4)
    assert found.counts.tolist() == [1, 1, 3]  # ]0.25, 0.5], ]0.5, 0.75] and ]0.75, 1]
    assert found.accuracy == pytest.approx([1, 1, 2 / 3])
    assert found.confidence == pytest.approx([0.3, 0.75, 0.8])
    assert found.edges.tolist() == [[0.25, 0.5], [0.5, 0.75], [0.75, 1.0]]
    assert found.ece == pytest.approx((0.7 + 0.25 + 3 * (0.8 - 2 / 3)) / 5)
    perfect = calibration(np.array([1.0, 1.0]), np.array([True, True]))
    assert (perfect.ece, perfect.counts.tolist()) == (0.0, [2])
