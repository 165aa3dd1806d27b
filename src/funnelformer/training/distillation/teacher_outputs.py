"""The teacher's outputs for the texts: computed once, in float16 on disk, in parts that survive being killed."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...base.errors import UserError
from ...base.kept_memory import give_back_memory
from ...config.model_config import FunnelformerConfig
from ...inference.batches import cut, most_padding
from ...inference.embedder import mean_of_windows
from ...spread.engine_options import ClusterOptions
from .state_windows import StateTarget, pooled_states
from .stored_parts import StoredParts, open_parts
from .teacher import Teacher, load_teacher
from .teacher_pass import make_missing
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


@dataclass(frozen=True)
class _VectorPass:
    """The vectors of the texts of a part, see `compute_vectors`."""

    parts: StoredParts
    tokens: TokenRows
    title: str = "teacher's vectors"

    def make(self, number: int, teacher: Teacher, advance: Callable[[int], None]) -> None:
        texts, first_row = self.parts.rows(number), self.tokens.first_row
        begin, end = int(first_row[texts.start]), int(first_row[texts.stop])
        rows, lengths = np.arange(begin, end), self.tokens.lengths[begin:end]
        vectors = np.empty((len(rows), teacher.size), dtype=np.float32)
        for places in sorted_batches(lengths, _most_padding(teacher)):
            vectors[places] = teacher.vectors(self.tokens.batch(rows[places])).cpu().numpy()
            advance(round(len(places) * len(texts) / len(rows)))
        if len(rows) != len(texts):
            begins = first_row[texts.start : texts.stop] - begin
            vectors = mean_of_windows(vectors, lengths, begins, teacher.settings.normalize)
        self.parts.write(number, {"vectors": vectors.astype(np.float16)})


def compute_vectors(
    tokens: TokenRows, teacher: Teacher, key: dict[str, Any], cache: Path, where: ClusterOptions, device: str
) -> TeacherVectors:
    """The vectors of all texts, from the cache as far as they are there; see `make_missing`.

    Of a text in several windows it is the mean of theirs, each counted as often as it has tokens.
    tokens: of the teacher's own tokenizer. key: what they are of. where, device: who makes them, and on what.
    """
    settings = {**key, **teacher.key}
    parts = open_parts(cache, "vectors", settings, ("vectors",), tokens.num_texts, ROWS_PER_PART)
    make_missing(_VectorPass(parts, tokens), _loader(teacher, where, device), where)
    return TeacherVectors(parts)


@dataclass(frozen=True)
class _StatePass:
    """The states of the texts of a part, see `compute_states`."""

    parts: StoredParts
    tokens: TokenRows
    targets: list[StateTarget]
    config: FunnelformerConfig
    order: np.ndarray
    title: str = "teacher's states"

    def make(self, number: int, teacher: Teacher, advance: Callable[[int], None]) -> None:
        rows = self.order[self.parts.rows(number)]
        counts = np.zeros((len(rows), len(self.targets)), dtype=np.int32)
        values: list[list[np.ndarray]] = [[] for _ in rows]
        for places in sorted_batches(self.tokens.lengths[rows], _most_padding(teacher)):
            batch = self.tokens.batch(rows[places])
            keep = batch["attention_mask"].bool() if "attention_mask" in batch else None
            found = pooled_states(teacher.states(batch), keep, self.targets, self.config)
            for column, (states, kept) in enumerate(found):
                for index, place in enumerate(places):
                    of_text = states[index][kept[index]].half().cpu().numpy()
                    counts[place, column] = len(of_text)
                    values[place].append(of_text)
            advance(len(places))
        whole = np.concatenate([array for of_text in values for array in of_text])
        self.parts.write(number, {"states": whole, "counts": counts})


def compute_states(
    tokens: TokenRows,
    teacher: Teacher,
    targets: list[StateTarget],
    config: FunnelformerConfig,
    order: np.ndarray,
    key: dict[str, Any],
    cache: Path,
    where: ClusterOptions,
    device: str,
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
    own = _StatePass(parts, tokens, targets, config, order)
    make_missing(own, _loader(teacher, where, device), where)
    return TeacherStates(parts, order)


def _loader(teacher: Teacher, where: ClusterOptions, device: str) -> Callable[[], Teacher]:
    """What gives the teacher where its pass runs: here it is loaded, on the workers of a cluster not yet."""
    if where.engine == "ray":
        return partial(_load_again, teacher.source, teacher.precision, device, teacher.reach, teacher.digest)
    return lambda: teacher


def _load_again(source: str, precision: str, device: str, reach: int, digest: str) -> Teacher:
    teacher = load_teacher(source, precision, device, reach)
    if teacher.digest != digest:
        raise UserError(f"--teacher {source}: has other files on {platform.node()} than here")
    return teacher


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
