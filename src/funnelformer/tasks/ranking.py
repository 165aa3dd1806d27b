"""Which of a model's outputs for a pair of texts is the score that documents are ranked by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..base.errors import UserError, did_you_mean
from .task import KindName

__all__ = ["check_ranks", "score_column"]


def check_ranks(kind: KindName, task: Mapping[str, Any], model: str) -> None:
    """Raise UserError if a model gives no score for a pair. task: what it was fine-tuned on, if that is known."""
    if kind in ("tokens", "choice", "span"):
        raise UserError(f"{model}: is a model of {kind}; ranking needs one of pairs of texts")
    if "text" in task and task.get("text_pair") is None:
        raise UserError(f"{model}: was trained on single texts; ranking needs a model of pairs")


def score_column(
    kind: KindName, labels: Sequence[str], label: str | None, model: str, option: str = "--label"
) -> int | None:
    """The id of the label whose probability is the score; None if the model gives amounts.

    label: by default the second of two. option: what it is called where it was asked for.
    Raises UserError when it is no label of the model, or there must be one.
    """
    if kind == "regression":
        if label is not None:
            raise UserError(
                f"{option} {label}: {model} gives amounts, which are the scores; leave {option} out"
            )
        return None
    if label is None:
        if kind == "classification" and len(labels) == 2:
            return 1
        raise UserError(
            f"{model}: use {option} to name the label whose probability is the score: {', '.join(labels)}"
        )
    if label not in labels:
        raise UserError(
            f"{option} {label}: no label of {model}{did_you_mean(label, labels)}; it has {', '.join(labels)}"
        )
    return list(labels).index(label)
