"""A model's outputs as answers a person reads, and beside the right ones: what `predict` and a run's report write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .kind import Encoded, Kind
from .scores import sigmoid, softmax
from .spans import Questions, Windows
from .squad_scores import is_exact
from .tokens import Tokens
from .windows import first_of_owner

__all__ = ["Judged", "answers", "judge", "say_of"]

_NO_LABEL = -100


def answers(
    kind: Kind, outputs: Sequence[np.ndarray], gold: Any, encoded: Encoded
) -> Iterator[dict[str, Any]]:
    """The `prediction` for each example and, for classes, `probability` and `probabilities`.

    outputs: logits of each example, or of each window of one.
    gold: the labels of the features, of which tags of tokens need the places alone.
    """
    if isinstance(kind, Tokens):
        for tags in kind.tags(outputs, gold, encoded):
            yield {"prediction": tags}
        return
    logits = kind.combine(np.stack(list(outputs)), encoded.owners)
    yield from say_of(kind.task.kind, kind.task.labels or (), logits)


def say_of(kind: str, labels: Sequence[str], logits: np.ndarray) -> Iterator[dict[str, Any]]:
    """The answer that logits [N, L] give to each of N texts: `prediction` and, for classes, their probabilities."""
    if kind == "regression":
        for score in logits[:, 0]:
            yield {"prediction": float(score)}
        return
    for row in sigmoid(logits) if kind == "multi-label" else softmax(logits):
        probabilities = {name: round(float(p), 6) for name, p in zip(labels, row, strict=True)}
        if kind == "multi-label":
            chosen = [name for name, probability in zip(labels, row, strict=True) if probability > 0.5]
            yield {"prediction": chosen, "probabilities": probabilities}
        else:
            best = labels[int(row.argmax())]
            yield {"prediction": best, "probability": probabilities[best], "probabilities": probabilities}


@dataclass(frozen=True)
class Judged:
    """Every example with its right answer and the model's, N of them, in their order.

    rows: what `answers` says, the example's own fields before it, and `gold`, its label in words.
    losses: [N], of the right answer: -log of its probability (of tags their mean), the squared error of an amount, and
        of several labels the mean cross-entropy of all decisions. Of a span, whose right answer may be no candidate:
        -log of the probability that what was said is right, or wrong, as it is.
    sureness: [N], the probability of what was said, of tags and of several labels that of the least sure one; None for
        amounts.
    is_wrong: [N]; an amount is never quite right.
    gold, predicted: [N], ids of classes or amounts; None where an answer is no single one.
    """

    rows: list[dict[str, Any]]
    losses: np.ndarray
    is_wrong: np.ndarray
    sureness: np.ndarray | None
    gold: np.ndarray | None
    predicted: np.ndarray | None


def judge(kind: Kind, outputs: Any, gold: Any, encoded: Encoded) -> Judged:
    """Put the answers beside the right ones; outputs, gold: of every example, as `Kind.score` takes them."""
    if isinstance(kind, Questions):
        assert isinstance(encoded, Windows)
        return _of_questions(kind, outputs, encoded)
    said = list(answers(kind, outputs, gold, encoded))
    examples = encoded.examples
    fields = [name for name in examples.column_names if name not in ("label", "tags")]
    inputs = [
        dict(zip(fields, row, strict=True)) for row in zip(*(examples[name] for name in fields), strict=True)
    ]

    def rows(right: Sequence[Any]) -> list[dict[str, Any]]:
        return [{**own, "gold": g, **a} for own, g, a in zip(inputs, right, said, strict=True)]

    if isinstance(kind, Tokens):
        tags = list(examples["tags"])
        wrong = [answer["prediction"] != right for answer, right in zip(said, tags, strict=True)]
        measured = [_of_tags(*pair) for pair in kind.of_sentences(outputs, gold, encoded)]
        losses, sureness = (np.array(column) for column in zip(*measured, strict=True))
        return Judged(rows(tags), losses, np.array(wrong), sureness, None, None)
    logits = kind.combine(np.stack(list(outputs)).astype(np.float64), encoded.owners)
    right_ids = first_of_owner(np.asarray(gold), encoded.owners)
    if kind.task.kind == "regression":
        amounts, predicted = right_ids.reshape(-1).astype(np.float64), logits.reshape(-1)
        losses = (predicted - amounts) ** 2
        return Judged(rows(amounts.tolist()), losses, losses > 0, None, amounts, predicted)
    names = kind.task.labels
    assert names is not None
    if kind.task.kind == "multi-label":
        # -log of the probability of each decision that should have been made.
        losses = np.logaddexp(0, np.where(right_ids > 0, -logits, logits)).mean(-1)
        shares = sigmoid(logits)
        wrong = ((shares > 0.5) != (right_ids > 0)).any(-1)
        several = [[name for name, is_in in zip(names, row, strict=True) if is_in > 0] for row in right_ids]
        return Judged(rows(several), losses, wrong, np.maximum(shares, 1 - shares).min(-1), None, None)
    predicted = logits.argmax(-1)
    losses = _negative_log(logits, right_ids)
    sure = softmax(logits).max(-1)
    return Judged(
        rows([names[i] for i in right_ids]), losses, predicted != right_ids, sure, right_ids, predicted
    )


def _of_questions(kind: Questions, spans: Any, encoded: Windows) -> Judged:
    rows, is_wrong = [], []
    for answer, example in zip(kind.answers(spans, encoded), encoded.examples, strict=True):
        fields = {name: example[name] for name in ("id", "question", "context")}
        probability = round(answer.probability, 6)
        rows.append(
            {**fields, "gold": example["texts"], "prediction": answer.text, "probability": probability}
        )
        is_wrong.append(not is_exact(answer.text, example["texts"]))
    wrong, sureness = np.array(is_wrong), np.array([row["probability"] for row in rows])
    losses = -np.log(np.clip(np.where(wrong, 1 - sureness, sureness), 1e-6, None))
    return Judged(rows, losses, wrong, sureness, None, None)


def _negative_log(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """-log of the probability that logits [N, L] give the ids [N]."""
    right = np.take_along_axis(logits, ids[:, None], 1)[:, 0]
    loss: np.ndarray = np.logaddexp.reduce(logits, axis=-1) - right
    return loss


def _of_tags(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mean loss of the tags of a sentence, and the probability of the least sure one; 0 and 1 where it has none."""
    places = np.flatnonzero(np.asarray(labels) != _NO_LABEL)
    if not len(places):
        return 0.0, 1.0
    own = np.asarray(logits, dtype=np.float64)[places]
    return float(_negative_log(own, np.asarray(labels)[places]).mean()), float(softmax(own).max(-1).min())
