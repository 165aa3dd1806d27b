"""Fine-tuning with a teacher: its answers to the training examples, how batches get them, their share of the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...base.errors import UserError
from ...base.processes import say
from ...checkpoints.provenance import source_name
from ...data.tokenizer import tokenizer_digest
from ...tasks.kind import Encoded, Kind
from ..distillation.answer_losses import answer_losses
from ..distillation.answering_teacher import AnsweringTeacher, find_teacher
from ..distillation.teacher_answers import Answers, DealtAnswers, ask_teacher
from .config import FinetuneConfig

__all__ = [
    "ROW",
    "TAUGHT",
    "TaughtCollator",
    "Teaching",
    "check_teacher",
    "learn_from",
    "taught_by",
    "with_rows",
]

# The features' column of row numbers; a batch's entry for the teacher's answers.
ROW, TAUGHT = "teacher_row", "teacher_answers"


@dataclass(frozen=True)
class Teaching:
    """What a run learns from a teacher. answers: the teacher's answers to the training features.

    The loss is (1 - weight) × the labels' loss + weight × the distance to the teacher's answers (see `answer_losses`).
    temperature: divides both models' logits first. class_weights: [L], weights of the rows in both terms, for classes
    that exclude each other.
    """

    answers: Answers
    kind: str
    temperature: float
    weight: float
    class_weights: np.ndarray | None = None

    def losses(
        self, outputs: Mapping[str, Tensor], theirs: Tensor, inputs: Mapping[str, Any], weights: Tensor | None
    ) -> Float[Tensor, " N"]:
        """The distance of outputs to `theirs`, for each row, window or tag, see `answer_losses`.

        weights: of the rows, if they have some.
        """
        found = answer_losses(self.kind, outputs, theirs, inputs, self.temperature)
        if weights is None and self.class_weights is not None:
            weights = torch.tensor(self.class_weights, dtype=torch.float32, device=found.device)[
                inputs["labels"]
            ]
        return found if weights is None else weights * found


@dataclass(frozen=True)
class TaughtCollator:
    """Collates features as the kind of task does, and adds the teacher's answers to features that have a number."""

    collate: Callable[[list[dict[str, Any]]], Any]
    answers: Answers

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        rows = [feature[ROW] for feature in features if ROW in feature]
        plain = [{name: value for name, value in feature.items() if name != ROW} for feature in features]
        batch = self.collate(plain)
        if rows:
            batch[TAUGHT] = self.answers.take(rows)
        return batch


def taught_by(config: FinetuneConfig, kind: Kind) -> dict[str, Any]:
    """The entries of metrics.json about the teacher."""
    assert config.teacher is not None
    of_classes = {} if kind.task.kind == "regression" else {"temperature": config.chosen_temperature}
    return {"name": source_name(config.teacher), **of_classes, "weight": config.chosen_weight}


def with_rows(features: datasets.Dataset) -> datasets.Dataset:
    """The features with a column of their numbers, `ROW`."""
    return features.add_column(ROW, list(range(len(features))))


def check_teacher(
    config: FinetuneConfig, kind: Kind, tokenizer: Any, max_length: int, model: Any
) -> AnsweringTeacher:
    """Find the teacher of a run, and check its config. Raises UserError if it cannot teach this task."""
    assert config.teacher is not None
    if config.temperature is not None and kind.task.kind == "regression":
        raise UserError("--temperature is for classes, and amounts have none; leave it out")
    teacher = find_teacher(config.teacher, kind)
    if kind.task.kind == "span" and model.config.qa_head != "simple":
        raise UserError(
            f"--teacher teaches start and end independently, but the model's qa_head is {model.config.qa_head}; "
            "allowed with --teacher: simple"
        )
    if kind.task.kind in ("tokens", "span") and not _reads_the_same(teacher, tokenizer, max_length):
        if tokenizer_digest(teacher.tokenizer) != tokenizer_digest(tokenizer):
            raise UserError(
                f"--teacher {teacher.source}: its tokenizer differs from the model's; a task of {kind.task.kind} is "
                "learned token by token, which needs the same tokenizer"
            )
        raise UserError(
            f"--teacher {teacher.source}: reads {teacher.max_length} tokens, but --max-length is {max_length}; a task "
            f"of {kind.task.kind} is learned token by token, so the teacher must read as many"
        )
    return teacher


def learn_from(
    teacher: AnsweringTeacher,
    config: FinetuneConfig,
    kind: Kind,
    train: Encoded,
    tokenizer: Any,
    max_length: int,
    class_weights: np.ndarray | None,
) -> Teaching:
    """Get the teacher's answers to all training examples; it computes those that the cache does not have.

    A teacher with the same tokenizer reads the model's features. Another teacher reads the texts with its own
    tokenizer; all of the model's windows of a text then get the answer to the whole text.
    """
    is_same = _reads_the_same(teacher, tokenizer, max_length)
    length = max_length if is_same else min(max_length, teacher.max_length)
    read = train if is_same else kind.encode(train.examples, teacher.tokenizer, length)
    if not is_same and read.num_cut > train.num_cut:
        say(
            f"teacher: {teacher.source} reads {length} tokens of a text, by which {read.num_cut} of "
            f"{len(train.examples)} texts are cut"
        )
    found = ask_teacher(
        teacher,
        kind,
        read.features,
        max_length=length,
        cache=config.cache_folder,
        device=config.device,
        precision=config.precision,
    )
    answers: Answers = found
    if not is_same:
        of_texts = kind.combine(found.whole(), read.owners)
        answers = DealtAnswers(of_texts if train.owners is None else of_texts[train.owners])
    return Teaching(answers, kind.task.kind, config.chosen_temperature, config.chosen_weight, class_weights)


def _reads_the_same(teacher: AnsweringTeacher, tokenizer: Any, max_length: int) -> bool:
    return teacher.max_length >= max_length and tokenizer_digest(teacher.tokenizer) == tokenizer_digest(
        tokenizer
    )
