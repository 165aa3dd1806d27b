"""What a fine-tuned teacher says of encoded examples: asked once, kept on disk in parts that survive being killed."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...base.errors import UserError
from ...base.processes import first, say
from ...base.strict_json import json_text
from ...spread.engine_options import ClusterOptions
from ...tasks.kind import Kind
from .answering_teacher import Answerer, AnsweringTeacher
from .stored_parts import StoredParts, check_room, open_parts
from .teacher_outputs import BATCH_SIZE, BATCH_TOKENS, sorted_batches
from .teacher_pass import make_missing

__all__ = ["Answers", "DealtAnswers", "TeacherAnswers", "ask_teacher"]

ROWS_PER_PART = 1024
_NO_LABEL = -100
# What a model reads of a feature; its mask is all ones.
_READ = ("input_ids", "token_type_ids", "answer_mask")
_SPANS = ("start_logits", "end_logits")


class Answers:
    """What a teacher says of numbered features."""

    def take(self, rows: Sequence[int]) -> Tensor:
        """Float32 [P, W]: the rows of numbers of these features, one feature after another."""
        raise NotImplementedError


@dataclass(frozen=True)
class DealtAnswers(Answers):
    """One row of numbers a feature, [N, W] in memory."""

    values: np.ndarray

    def take(self, rows: Sequence[int]) -> Tensor:
        return torch.from_numpy(self.values[list(rows)])


class TeacherAnswers(Answers):
    """The numbers of all features, mapped. order: of the columns, see `AnsweringTeacher.order`; None: as they are."""

    def __init__(self, parts: StoredParts, counts: np.ndarray, order: Sequence[int] | None) -> None:
        self._parts, self._order = parts, None if order is None else list(order)
        size = parts.rows_per_part
        self._counts = counts
        self._starts = [
            np.concatenate([[0], np.cumsum(counts[start : start + size], dtype=np.int64)])
            for start in range(0, len(counts), size)
        ]

    def take(self, rows: Sequence[int]) -> Tensor:
        found = []
        for row in rows:
            part, place = divmod(int(row), self._parts.rows_per_part)
            starts = self._starts[part]
            found.append(self._parts.read(part, "answers")[starts[place] : starts[place + 1]])
        return torch.from_numpy(self._ordered(np.concatenate(found)))

    def whole(self) -> np.ndarray:
        """[all, W]."""
        parts = range(self._parts.num_parts)
        return self._ordered(np.concatenate([self._parts.read(number, "answers") for number in parts]))

    def _ordered(self, values: np.ndarray) -> np.ndarray:
        values = np.ascontiguousarray(values)
        return values if self._order is None else values[:, self._order]


@dataclass(frozen=True)
class _Read:
    """What there is to know of features before a teacher reads them.

    digest: of what it reads. lengths: [R] tokens, of choices the longest. counts: [R] rows of numbers that are kept.
    num_sequences: of a feature.
    """

    digest: str
    lengths: np.ndarray
    counts: np.ndarray
    num_sequences: int

    @cached_property
    def num_rows(self) -> int:
        return int(self.counts.sum())


def ask_teacher(
    teacher: AnsweringTeacher,
    kind: Kind,
    features: Any,
    *,
    max_length: int,
    cache: Path,
    device: str,
    precision: str,
    where: ClusterOptions | None = None,
) -> TeacherAnswers:
    """What a teacher says of the features that its tokenizer made, from the cache as far as it is there.

    See `make_missing`. The teacher is loaded only where a part is missing.
    max_length: at which the features were cut. where: who asks, by default this process.
    Raises UserError for answers that are not finite, or of another size.
    """
    read, where = _survey(kind, features), where or ClusterOptions()
    width = _width(teacher, kind)
    settings = {
        "features": read.digest,
        "teacher": teacher.digest,
        "kind_of_task": kind.task.kind,
        "max_length": max_length,
        "precision": precision,
    }
    num_bytes = 4 * width * read.num_rows
    first(lambda: check_room(cache, num_bytes))
    parts = open_parts(cache, "answers", settings, ("answers",), len(features), ROWS_PER_PART)
    order = None if teacher.labels is None or kind.task.labels is None else teacher.order(kind.task.labels)
    found = TeacherAnswers(parts, read.counts, order)
    what = f"{len(features):,} inputs"
    if not parts.missing():
        say(f"teacher: what {teacher.source} says of {what} is in {cache}")
        return found
    say(f"teacher: {teacher.source} reads {what}; its answers are {num_bytes / 1e6:,.1f} MB, in {cache}")
    own = _AnswerPass(parts, teacher, kind, features, read, width)
    make_missing(own, partial(teacher.load, device, precision), where)
    return found


@dataclass(frozen=True)
class _AnswerPass:
    """The answers of the features of a part, see `ask_teacher`."""

    parts: StoredParts
    teacher: AnsweringTeacher
    kind: Kind
    features: Any
    read: _Read
    width: int
    title: str = "teacher's answers"

    def make(self, number: int, answerer: Answerer, advance: Callable[[int], None]) -> None:
        rows, teacher, kind = self.parts.rows(number), self.teacher, self.kind
        collate = kind.collator(teacher.tokenizer)
        values: list[np.ndarray] = [np.empty(0)] * len(rows)
        for places in _batches(self.read, rows, answerer):
            batch = collate([self.features[rows[place]] for place in places])
            of_batch = _answers(teacher, answerer, kind, batch, self.width)
            for place, answer in zip(places, of_batch, strict=True):
                if not np.isfinite(answer).all():
                    raise UserError(
                        f"--teacher {teacher.source}: gives NaN or infinity for training row {rows[place] + 1}, so "
                        "nothing can be learned of it"
                    )
                values[place] = answer
            advance(len(places))
        self.parts.write(number, {"answers": np.concatenate(values)})


def _survey(kind: Kind, features: Any) -> _Read:
    total = hashlib.sha256()
    lengths, counts, num_sequences = list[int](), list[int](), 1
    for chunk in _chunks(features):
        read = {name: chunk[name] for name in _READ if name in chunk}
        ids = read["input_ids"]
        if kind.task.kind == "choice":
            num_sequences = len(ids[0])
            lengths += [max(map(len, sequences)) for sequences in ids]
        else:
            lengths += map(len, ids)
        if kind.task.kind == "tokens":
            read["places"] = [
                [place for place, label in enumerate(row) if label != _NO_LABEL] for row in chunk["labels"]
            ]
            counts += map(len, read["places"])
        else:
            counts += (
                map(sum, read["answer_mask"]) if kind.task.kind == "span" else itertools.repeat(1, len(ids))
            )
        total.update(json_text(read, sort_keys=True).encode())
    return _Read(total.hexdigest(), np.array(lengths), np.array(counts), num_sequences)


def _chunks(features: Any, size: int = 1000) -> Iterator[Mapping[str, Any]]:
    for start in range(0, len(features), size):
        yield features[start : start + size]


def _width(teacher: AnsweringTeacher, kind: Kind) -> int:
    if kind.task.kind == "span":
        return 2
    if kind.task.kind == "regression":
        return 1
    return len(kind.task.labels or teacher.labels or ())


def _batches(read: _Read, rows: range, answerer: Answerer) -> Iterator[np.ndarray]:
    """Places within a part of features of similar length, longest first."""
    lengths = read.lengths[rows.start : rows.stop]
    size, tokens = max(1, BATCH_SIZE // read.num_sequences), max(1, BATCH_TOKENS // read.num_sequences)
    return sorted_batches(lengths, answerer.most_padding, size, tokens)


def _answers(
    teacher: AnsweringTeacher, answerer: Answerer, kind: Kind, batch: Mapping[str, Any], width: int
) -> list[np.ndarray]:
    """Of each feature float32 [P, W]."""
    inputs = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    labels = inputs.pop("labels", None)
    if teacher.is_ours and bool(inputs["attention_mask"].all()):
        del inputs["attention_mask"]  # nothing to mask, so nothing to compute it with
    outputs = answerer.ask(inputs)
    is_span = kind.task.kind == "span"
    logits = torch.stack([outputs[name] for name in _SPANS], dim=-1) if is_span else outputs["logits"]
    array = logits.float().cpu().numpy()
    if array.shape[-1] != width:
        raise UserError(
            f"--teacher {teacher.source}: gives {array.shape[-1]} numbers, where the task needs {width}"
        )
    if is_span:
        return [row[keep] for row, keep in zip(array, inputs["answer_mask"].bool().numpy(), strict=True)]
    if kind.task.kind == "tokens":
        assert labels is not None
        return [row[keep] for row, keep in zip(array, (labels != _NO_LABEL).numpy(), strict=True)]
    return list(array[:, None])
