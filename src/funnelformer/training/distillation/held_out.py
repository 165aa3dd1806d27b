"""What a student is worth so far: agreement with its teacher on held-out texts, and with people on pairs of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from ...base.errors import UserError
from ...data.formats import row_name
from ...data.tables import guess_columns, read_table
from ...data.values import BadValue, read_amount, read_text
from ...inference.embedder import Embedder

__all__ = ["Agreement", "Pairs", "Score", "neighbour_overlap", "quiet", "read_pairs", "unit"]

_NEIGHBOURS = 10


class Score(Protocol):
    """A measurement of an embedder."""

    def measure(self, embedder: Embedder) -> dict[str, float]: ...


@dataclass(frozen=True)
class Agreement:
    """With the teacher on held-out texts.

    cosine: of the two vectors of a text, on average; the student's behind `projection`, where there is one.
    overlap@10: share of a text's ten nearest among these texts that are its ten nearest by the teacher, too.
    """

    texts: Sequence[str]
    vectors: np.ndarray
    "The teacher's, [N, E]."
    projection: nn.Linear | None = None

    def measure(self, embedder: Embedder) -> dict[str, float]:
        ours, theirs = embedder.vectors(self.texts, advance=quiet), unit(self.vectors)
        compared = ours
        if self.projection is not None:
            with torch.no_grad():
                compared = self.projection(torch.from_numpy(ours).to(self.projection.weight)).cpu().numpy()
        found = {"cosine": float((unit(compared) * theirs).sum(1).mean())}
        if len(self.texts) > _NEIGHBOURS:
            found[f"overlap@{_NEIGHBOURS}"] = neighbour_overlap(unit(ours), theirs)
        return found


@dataclass(frozen=True)
class Pairs:
    """Texts in pairs, and how alike people say they are. name: of the file."""

    name: str
    first: list[str]
    second: list[str]
    amounts: np.ndarray

    def measure(self, embedder: Embedder) -> dict[str, float]:
        """The Spearman correlation of the vectors' cosines with the amounts."""
        vectors = unit(embedder.vectors([*self.first, *self.second], advance=quiet))
        number = len(self.first)
        cosines = (vectors[:number] * vectors[number:]).sum(1)
        return {f"spearman_{self.name}": float(spearmanr(cosines, self.amounts).statistic)}


def read_pairs(files: Sequence[str]) -> list[Pairs]:
    """Read tables of pairs. Raises UserError if a row of one lacks one of the two texts or the amount."""
    found = []
    for file in files:
        table = read_table(file)
        columns, _ = guess_columns(table)
        if columns.text_pair is None or columns.label is None:
            raise UserError(
                f"--pairs {file}: allowed: a table of two texts, sentence1 and sentence2, and a label"
            )
        values: dict[str, list] = {}
        readers = {columns.text: read_text, columns.text_pair: read_text, columns.label: read_amount}
        for column, reader in readers.items():
            values[column] = []
            for index, value in enumerate(table.columns[column]):
                try:
                    values[column].append(reader(value))
                except BadValue as problem:
                    where = row_name(file, index, table.lines[index])
                    raise UserError(f"{where}: column {column!r} {problem}") from None
        amounts = np.array(values[columns.label])
        if len(amounts) < 2 or amounts.std() == 0:
            raise UserError(f"--pairs {file}: needs at least two rows, with different amounts")
        name = Path(file).name.partition(".")[0]
        found.append(Pairs(name, values[columns.text], values[columns.text_pair], amounts))
    names = [pairs.name for pairs in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--pairs: two files are called {name}; the scores would have one name")
    return found


def neighbour_overlap(ours: np.ndarray, theirs: np.ndarray, number: int = _NEIGHBOURS) -> float:
    """The share of each vector's nearest neighbours that are its nearest in the other space too, on average.

    ours, theirs: [N, D] and [N, E], of length 1."""
    mine, other = _nearest(ours, number), _nearest(theirs, number)
    return float(np.mean([len(np.intersect1d(a, b)) / number for a, b in zip(mine, other, strict=True)]))


def _nearest(vectors: np.ndarray, number: int, rows_at_once: int = 1024) -> np.ndarray:
    found = []
    for start in range(0, len(vectors), rows_at_once):
        cosines = vectors[start : start + rows_at_once] @ vectors.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf  # not itself
        found.append(np.argpartition(-cosines, number, axis=1)[:, :number])
    return np.concatenate(found)


def unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors in float32, of length 1."""
    whole = vectors.astype(np.float32)
    return whole / np.maximum(np.linalg.norm(whole, axis=1, keepdims=True), 1e-12)


def quiet(number: int) -> None:
    """Show no progress bar, because the training shows its own line."""
