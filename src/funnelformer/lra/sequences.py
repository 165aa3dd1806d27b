"""Labelled sequences in memory, and the batches made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..base.errors import UserError

__all__ = ["INPUT_NAMES", "Examples", "LraData", "Sequences", "collate"]

# The model's arguments for the first and the second sequence of an example.
INPUT_NAMES = (("input_ids", "attention_mask"), ("other_ids", "other_mask"))


@dataclass(frozen=True)
class Sequences:
    """Token sequences end to end in one array; the i-th is tokens[starts[i]:starts[i + 1]]."""

    tokens: np.ndarray
    starts: np.ndarray

    @classmethod
    def pack(cls, sequences: Iterable[np.ndarray]) -> Sequences:
        """Pack arrays of one dtype. Raises ValueError when there are none."""
        arrays = list(sequences)
        lengths = [len(array) for array in arrays]
        return cls(np.concatenate(arrays), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    @classmethod
    def of_rows(cls, rows: np.ndarray) -> Sequences:
        """The rows of a matrix [N, T]."""
        return cls(rows.reshape(-1), np.arange(len(rows) + 1, dtype=np.int64) * rows.shape[1])

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.tokens[self.starts[index] : self.starts[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)


class Examples(Dataset[dict[str, Any]]):
    """One part of a task: examples of one sequence each, or of two (Retrieval), and their classes.

    Raises UserError when there are none, or other than one label for each.
    """

    def __init__(self, sequences: Sequence[Sequences], labels: Sequence[int] | np.ndarray) -> None:
        self.sequences = tuple(sequences)
        self.labels = np.asarray(labels, dtype=np.int64)
        if not len(self.labels):
            raise UserError("a part of the data has no examples")
        assert all(len(each) == len(self.labels) for each in self.sequences)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"sequences": [each[index] for each in self.sequences], "label": int(self.labels[index])}


@dataclass(frozen=True)
class LraData:
    """The parts of a task's data; notes: what the user should know of them (cut or skipped examples)."""

    train: Examples
    validation: Examples
    test: Examples
    notes: tuple[str, ...] = ()


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad with 0 on the right to the longest of the batch; no mask where nothing is padded.

    Returns ids [B, T] and masks [B, T] under `INPUT_NAMES`, and labels [B].
    """
    batch = {"labels": torch.tensor([row["label"] for row in rows])}
    for number in range(len(rows[0]["sequences"])):
        ids_name, mask_name = INPUT_NAMES[number]
        sequences = [row["sequences"][number] for row in rows]
        lengths = np.array([len(sequence) for sequence in sequences])
        ids = np.zeros((len(rows), lengths.max()), dtype=np.int64)
        for row, sequence in zip(ids, sequences, strict=True):
            row[: len(sequence)] = sequence
        batch[ids_name] = torch.from_numpy(ids)
        if lengths.min() < lengths.max():
            batch[mask_name] = torch.from_numpy(
                (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
            )
    return batch
