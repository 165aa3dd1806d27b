"""Classes, several labels or an amount of a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from ..base.errors import UserError
from ..config.head_table import HEADS
from ..data.bad_rows import OnBadRow, refuse
from ..data.example_rows import Examples, Rows
from ..data.tables import Table
from ..data.values import Labels, TextKind, load_task
from .kind import Encoded, Kind
from .scores import classification_metrics, multi_label_metrics, regression_metrics
from .task import Task
from .windowing import Windowing
from .windows import by_owner, describe_windows, encode_windows, first_of_owner

__all__ = ["Texts", "score_texts"]

_PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
}


def score_texts(
    kind: str, logits: np.ndarray, gold: np.ndarray, names: Sequence[str], positive: int = 1
) -> dict[str, float]:
    """Scores of logits [N, L]: the best class, each label whose probability is above one half, or the amount.

    positive: the class that the score "f1" is of.
    """
    if kind == "regression":
        return regression_metrics(logits.reshape(-1).tolist(), gold.reshape(-1).tolist(), names)
    if kind == "multi-label":
        return multi_label_metrics((logits > 0).astype(int), gold.astype(int), names)
    return classification_metrics(logits.argmax(-1).tolist(), gold.tolist(), names, positive)


class Texts(Kind, names=("classification", "multi-label", "regression")):
    """`FunnelformerForSequenceClassification`, in its three kinds of problem.

    windowing: a text longer than `max_length` is read in such windows, each a feature; theirs make the text's logits.
        None: it is cut.
    """

    has_class_names = True
    head = HEADS["sequence_classification"]

    def __init__(self, task: Task, windowing: Windowing | None = None) -> None:
        super().__init__(task)
        self.windowing = windowing

    def in_windows(self, windowing: Windowing) -> Texts:
        if self.task.columns.text_pair is not None:
            raise UserError(
                f"{windowing.option} makes windows of single texts; this is a task of pairs of texts"
            )
        return Texts(self.task, windowing)

    def examples(self, table: Table, bad: OnBadRow = refuse) -> Rows:
        labels = None if self.task.labels is None else Labels(self.task.labels)
        return load_task(
            table, self.task.columns, kind=cast(TextKind, self.task.kind), labels=labels, bad=bad
        )

    def settings(self) -> dict[str, Any]:
        problem = {"problem_type": _PROBLEM_TYPES[self.task.kind]}
        if self.task.labels is None:
            return {"num_labels": 1, **problem}
        return {**Labels(self.task.labels).settings(), **problem}

    def lengths(self, examples: Examples, tokenizer: Any) -> np.ndarray:
        def measure(rows: dict[str, list[Any]]) -> dict[str, list[int]]:
            encoded = tokenizer(rows["text"], rows.get("text_pair"), truncation=False)
            return {"length": [len(ids) for ids in encoded["input_ids"]]}

        measured = examples.map(measure, batched=True, remove_columns=examples.column_names, desc="measure")
        return np.asarray(measured["length"])

    def encode(self, examples: Examples, tokenizer: Any, max_length: int) -> Encoded:
        if self.windowing is not None:
            return _encode_windows(examples, tokenizer, max_length, self.windowing)

        def tokenise(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
            pairs = rows.get("text_pair")
            encoded = tokenizer(
                rows["text"],
                pairs,
                truncation="longest_first" if pairs is not None else True,
                max_length=max_length,
            )
            cut = [bool(text.overflowing) for text in encoded.encodings]
            labels = {"labels": rows["label"]} if "label" in rows else {}
            return {**encoded, **labels, "cut": cut}

        encoded = examples.map(tokenise, batched=True, remove_columns=examples.column_names, desc="tokenise")
        return Encoded(encoded.remove_columns("cut"), examples, sum(encoded["cut"]))

    def remark(self, encoded: Encoded, max_length: int) -> str | None:
        if encoded.owners is None:
            return super().remark(encoded, max_length)
        return describe_windows(encoded.owners, max_length)

    def saved(self) -> dict[str, Any]:
        return {} if self.windowing is None else self.windowing.saved()

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], Any]:
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    def combine(self, logits: np.ndarray, owners: np.ndarray | None) -> np.ndarray:
        return by_owner(logits, owners, self.windowing, self.task.kind)

    def score(self, predictions: Any, gold: Any, encoded: Encoded) -> dict[str, float]:
        logits = self.combine(np.asarray(predictions), encoded.owners)
        labels = first_of_owner(np.asarray(gold), encoded.owners)
        return score_texts(self.task.kind, logits, labels, self.task.scores, self.task.positive_id)


def _encode_windows(examples: Examples, tokenizer: Any, max_length: int, windowing: Windowing) -> Encoded:
    def tokenise(rows: dict[str, list[Any]], indices: list[int]) -> dict[str, Any]:
        encoded, owners = encode_windows(
            tokenizer, rows["text"], max_length, windowing.stride, windowing.most
        )
        labels = {"labels": [rows["label"][owner] for owner in owners]} if "label" in rows else {}
        return {**encoded, **labels, "owner": [indices[owner] for owner in owners]}

    features = examples.map(
        tokenise, batched=True, with_indices=True, remove_columns=examples.column_names, desc="tokenise"
    )
    owners = np.asarray(features["owner"][:])
    return Encoded(features.remove_columns("owner"), examples, num_cut=0, owners=owners)
