"""The inputs of a fine-tuning run, and the results of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...tasks.kind import Encoded, Kind
from ..distillation.answering_teacher import AnsweringTeacher
from .task_data import TaskData

__all__ = ["Answered", "Inputs", "Trained", "prefixed", "role_scores"]


@dataclass(frozen=True)
class Inputs:
    """The checked inputs of a run.

    max_length: tokens of a sequence. weights: [L], of the classes. teacher: the one whose answers are learned beside
    the labels.
    """

    tokenizer: Any
    data: TaskData
    model: Any
    max_length: int
    weights: np.ndarray | None
    teacher: AnsweringTeacher | None = None


@dataclass(frozen=True)
class Answered:
    """A model's outputs for all features of a part, and the right answers."""

    outputs: Any
    gold: Any


@dataclass(frozen=True)
class Trained:
    """The results of training; the model is saved.

    kind: with the settings chosen on the dev part. scores: of the dev and test parts, as in metrics.json.
    facts, cost: further entries of metrics.json. log: the Trainer's entries, empty if it made no step.
    num_cut: number of training texts that were cut.
    """

    kind: Kind
    dev: Mapping[str, Encoded]
    answered: Mapping[str, Answered]
    scores: Mapping[str, float]
    facts: Mapping[str, Any]
    cost: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    num_cut: int


def prefixed(variant: str, name: str) -> str:
    return f"{variant}_{name}" if variant else name


def role_scores(
    role: str, variant: str, names: Sequence[str], found: Mapping[str, float]
) -> dict[str, float]:
    """The loss and the scores of a part by their names in metrics.json. A part may lack one of RACE's two levels."""
    return {f"{role}_{prefixed(variant, name)}": found[name] for name in ("loss", *names) if name in found}
