"""The teacher's outputs for the texts: computed once, in float16 on disk, in parts that survive being killed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...base.machine import give_back_memory
from ...base.processes import first, num_processes, rank
from ...base.progress import progress_bar
from ...config.model_config import FunnelformerConfig
from ...inference.batches import cut, most_padding
from ...inference.embedder import mean_of_windows
from .state_windows import StateTarget, pooled_states
from .stored_parts import StoredParts, open_parts
from .teacher import Teacher
from .token_rows import ROWS_PER_PART, TokenRows

__all__ = [
    "BATCH_SIZE",
    "BATCH_TOKENS",
    "TeacherStates",
    "TeacherVectors",
    "compute_states",
    "compute_vectors",
    "sorted_batches",
    "state_bytes",
    "vector_bytes",
]

_BYTES = 2
BATCH_SIZE, BATCH_TOKENS = 128, 8192
_STATE_ROWS_PER_PART = 1024
# Batches of many shapes after which freed memory goes back to the system.
_BATCHES_BETWEEN = 8
# Tokens of padding in a batch of a teacher that another library runs.
_FOREIGN_PADDING = 256


class TeacherVectors:
    """The teacher's vector of every text, mapped, in float16."""

    def __init__(self, parts: StoredParts) -> None:
        self._parts = parts

    def take(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """[B, D] in float32."""
        size = self._parts.rows_per_part
        found = [self._parts.read(int(row) // size, "vectors")[int(row) % size] for row in rows]
        return torch.from_numpy(np.stack(found).astype(np.float32))


class TeacherStates:
    """The teacher's states of some texts in the student's windows, mapped, in float16. order: those texts."""

    def __init__(self, parts: StoredParts, order: np.ndarray) -> None:
        self._parts = parts
        self._place = {int(row): place for place, row in enumerate(order)}
        counts = [np.asarray(parts.read(number, "counts")) for number in range(parts.num_parts)]
        self._counts = counts
        self._starts = [
            np.concatenate([[0], np.cumsum(part.sum(1), dtype=np.int64)])
            if len(part)
            else np.zeros(1, np.int64)
            for part in counts
        ]

    def take(self, rows: Sequence[int] | np.ndarray) -> list[tuple[Tensor, Tensor]]:
        """For each target its states [B, S, D] in float32, zero where there are none, and where there are [B, S]."""
        places = [divmod(self._place[int(row)], self._parts.rows_per_part) for row in rows]
        counts = np.stack([self._counts[part][index] for part, index in places])
        values = []
        for part, index in places:
            start, end = self._starts[part][index], self._starts[part][index + 1]
            values.append(self._parts.read(part, "states")[start:end])
        found = []
        begin = np.zeros(len(values), dtype=np.int64)
        for target in range(counts.shape[1]):
            number = counts[:, target]
            whole = np.zeros((len(values), int(number.max()), values[0].shape[1]), dtype=np.float32)
            for place, rows_of_text in enumerate(values):
                whole[place, : number[place]] = rows_of_text[begin[place] : begin[place] + number[place]]
            begin += number
            keep = np.arange(whole.shape[1])[None] < number[:, None]
            found.append((torch.from_numpy(whole), torch.from_numpy(keep)))
        return found


def vector_bytes(num_texts: int, teacher: Teacher) -> int:
    """Of disk, for the vectors of so many texts."""
    return num_texts * teacher.size * _BYTES


def state_bytes(lengths: np.ndarray, targets: Sequence[StateTarget], teacher: Teacher) -> int:
    """Of disk, for the states of texts of these lengths, within a row a text and target."""
    rows = sum(int(np.ceil(lengths / 2**target.level).sum()) for target in targets)
    return rows * teacher.size * _BYTES


def compute_vectors(tokens: TokenRows, teacher: Teacher, key: dict[str, Any], cache: Path) -> TeacherVectors:
    """The vectors of all texts, from the cache as far as they are there; of several processes each does some parts.

    Of a text in several windows it is the mean of theirs, each counted as often as it has tokens.
    tokens: of the teacher's own tokenizer. key: what they are of.
    """
    settings = {**key, **teacher.key}
    parts = open_parts(cache, "vectors", settings, ("vectors",), tokens.num_texts, ROWS_PER_PART)
    missing = parts.missing()[rank() :: num_processes()]
    first_row = tokens.first_row
    with progress_bar("teacher's vectors", sum(len(parts.rows(number)) for number in missing)) as advance:
        for number in missing:
            texts = parts.rows(number)
            begin, end = int(first_row[texts.start]), int(first_row[texts.stop])
            rows, lengths = np.arange(begin, end), tokens.lengths[begin:end]
            vectors = np.empty((len(rows), teacher.size), dtype=np.float32)
            for places in sorted_batches(lengths, _most_padding(teacher)):
                vectors[places] = teacher.vectors(tokens.batch(rows[places])).cpu().numpy()
                advance(round(len(places) * len(texts) / len(rows)))
            if len(rows) != len(texts):
                begins = first_row[texts.start : texts.stop] - begin
                vectors = mean_of_windows(vectors, lengths, begins, teacher.settings.normalize)
            parts.write(number, {"vectors": vectors.astype(np.float16)})
    first(lambda: None)  # all wait for the last part
    return TeacherVectors(parts)


def compute_states(
    tokens: TokenRows,
    teacher: Teacher,
    targets: list[StateTarget],
    config: FunnelformerConfig,
    order: np.ndarray,
    key: dict[str, Any],
    cache: Path,
) -> TeacherStates:
    """The states of the texts of `order`, as `compute_vectors`. config: of the student, see `pooled_states`."""
    settings = {
        **key,
        **teacher.key,
        "targets": [{"teacher": target.teacher, "level": target.level} for target in targets],
        "windows": {"separate_cls": config.separate_cls, "truncate_seq": config.truncate_seq},
        "order": _digest_of(order),
    }
    parts = open_parts(cache, "states", settings, ("states", "counts"), len(order), _STATE_ROWS_PER_PART)
    missing = parts.missing()[rank() :: num_processes()]
    with progress_bar("teacher's states", sum(len(parts.rows(number)) for number in missing)) as advance:
        for number in missing:
            rows = order[parts.rows(number)]
            counts = np.zeros((len(rows), len(targets)), dtype=np.int32)
            values: list[list[np.ndarray]] = [[] for _ in rows]
            for places in sorted_batches(tokens.lengths[rows], _most_padding(teacher)):
                batch = tokens.batch(rows[places])
                keep = batch["attention_mask"].bool() if "attention_mask" in batch else None
                found = pooled_states(teacher.states(batch), keep, targets, config)
                for column, (states, kept) in enumerate(found):
                    for index, place in enumerate(places):
                        of_text = states[index][kept[index]].half().cpu().numpy()
                        counts[place, column] = len(of_text)
                        values[place].append(of_text)
                advance(len(places))
            whole = np.concatenate([array for of_text in values for array in of_text])
            parts.write(number, {"states": whole, "counts": counts})
    first(lambda: None)
    return TeacherStates(parts, order)


def sorted_batches(
    lengths: np.ndarray,
    most_padding: int,
    batch_size: int = BATCH_SIZE,
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[np.ndarray]:
    """Places of rows of similar length, longest first; the memory that many batches have freed is given back."""
    order = np.argsort(-lengths, kind="stable")
    for number, part in enumerate(cut(lengths[order].tolist(), batch_size, most_padding, batch_tokens)):
        if number % _BATCHES_BETWEEN == 0:
            give_back_memory()
        yield order[part]


def _most_padding(teacher: Teacher) -> int:
    return _FOREIGN_PADDING if teacher.encoder is None else most_padding(teacher.encoder)


def _digest_of(order: np.ndarray) -> str:
    return hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()
