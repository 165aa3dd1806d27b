"""What a classifier on a student's vectors is worth: logistic regression on labelled texts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...base.errors import UserError
from ...corpus.documents import in_validation
from ...data.tables import guess_columns, read_table
from ...data.values import BadValue, read_text
from ...inference.embedder import Embedder
from .held_out import quiet, unit
from .retrieval import name_of

__all__ = ["LinearHead", "read_heads", "read_labelled"]

_TEST_SHARE = 0.2
_MOST_ITERATIONS = 1000


@dataclass(frozen=True)
class LinearHead:
    """Labelled texts to fit on, and others to test on. name: of the file."""

    name: str
    train: tuple[Sequence[str], Sequence[str]]
    test: tuple[Sequence[str], Sequence[str]]

    def measure(self, embedder: Embedder) -> dict[str, float]:
        """Accuracy on the test texts of scikit-learn's logistic regression with its defaults; vectors have length 1."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        vectors = unit(embedder.vectors([*self.train[0], *self.test[0]], advance=quiet))
        number = len(self.train[0])
        head = LogisticRegression(max_iter=_MOST_ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            head.fit(vectors[:number], list(self.train[1]))
        return {
            f"accuracy_{self.name}": float(np.mean(head.predict(vectors[number:]) == np.array(self.test[1])))
        }


def read_labelled(file: str) -> tuple[list[str], list[str]]:
    """Read the texts and labels of a table. Raises UserError for a row without a text or a label."""
    table = read_table(file)
    columns, _ = guess_columns(table)
    if columns.text_pair is not None or columns.label is None:
        raise UserError(f"--labelled {file}: allowed is a table of one text and a label")
    texts, labels = [], []
    rows = zip(table.columns[columns.text], table.columns[columns.label], strict=True)
    for index, (text, label) in enumerate(rows):
        try:
            texts.append(read_text(text))
        except BadValue as problem:
            raise UserError(f"--labelled {table.where(index)}: column {columns.text!r} {problem}") from None
        if label is None or str(label) == "":
            raise UserError(f"--labelled {table.where(index)}: column {columns.label!r} is empty")
        labels.append(str(label))
    return texts, labels


def read_heads(files: Sequence[str]) -> list[LinearHead]:
    """Read tables; a hash of the text chooses a fifth of each for the test. Raises UserError for too few rows."""
    found = []
    for file in files:
        texts, labels = read_labelled(file)
        parts: dict[bool, tuple[list[str], list[str]]] = {False: ([], []), True: ([], [])}
        for text, label in zip(texts, labels, strict=True):
            part = parts[in_validation(text, _TEST_SHARE)]
            part[0].append(text)
            part[1].append(label)
        if len(set(parts[False][1])) < 2 or not parts[True][0]:
            raise UserError(
                f"--labelled {file}: needs at least two labels, and enough texts to hold out a fifth"
            )
        found.append(LinearHead(name_of(file), parts[False], parts[True]))
    return found
