"""What a fine-tuning needs before it starts, and what its training came to."""

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
    """weights: of the classes. teacher: whose answers are learned beside the labels."""

    tokenizer: Any
    data: TaskData
    model: Any
    max_length: int
    weights: np.ndarray | None
    teacher: AnsweringTeacher | None = None


@dataclass(frozen=True)
class Answered:
    """What a model said of all features of a part, and what it should have said."""

    outputs: Any
    gold: Any


@dataclass(frozen=True)
class Trained:
    """What training came to; the model is saved.

    kind: with what the dev scores settle. scores: of the dev and test parts, as metrics.json has them. facts: what else
    that says of the training. log: the Trainer's entries, none where it made no step.
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
    """The loss and the scores of a part by their names in metrics.json; a part may lack a level of RACE."""
    return {f"{role}_{prefixed(variant, name)}": found[name] for name in ("loss", *names) if name in found}
