"""A loss in which rare classes count more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...base.errors import UserError, did_you_mean
from ...tasks.task import Task

__all__ = ["class_weights", "task_weights", "weighted_loss"]


def class_weights(text: str, labels: tuple[str, ...], counts: np.ndarray) -> np.ndarray:
    """The weights of L classes [L], scaled so that the mean weight of a training example is 1.

    text: "balanced" (inversely proportional to the counts), or "no=1,yes=3"; a class that is not named has weight 1.
    counts: [L], the number of training examples in each class.
    Raises UserError for any other text.
    """
    if text == "balanced":
        weights = np.where(counts > 0, 1 / np.maximum(counts, 1), 1.0)
    else:
        weights = np.ones(len(labels))
        for entry in text.split(","):
            name, _, value = entry.rpartition("=")
            if name.strip() not in labels:
                hint = did_you_mean(name.strip(), labels)
                raise UserError(
                    f"--class-weights: {entry!r} is not LABEL=WEIGHT with a known label{hint}; "
                    f"allowed: balanced, or weights of {', '.join(labels[:20])}"
                )
            try:
                weights[labels.index(name.strip())] = float(value)
            except ValueError:
                raise UserError(f"--class-weights: {entry!r} has no number after the =") from None
    if not (np.isfinite(weights).all() and (weights >= 0).all() and (weights * counts).sum() > 0):
        raise UserError(f"--class-weights is {text}; allowed: weights of 0 or more, not all 0")
    return weights * counts.sum() / (weights * counts).sum()


def task_weights(text: str | None, task: Task, examples: datasets.Dataset) -> np.ndarray | None:
    """The weights of `--class-weights`; None without the option. Raises UserError if the task has no such classes."""
    if text is None:
        return None
    if task.kind != "classification" or task.labels is None:
        raise UserError(
            f"--class-weights needs classes that exclude each other; this is a task of {task.kind}"
        )
    counts = np.bincount(np.asarray(examples["label"]), minlength=len(task.labels))
    return class_weights(text, task.labels, counts)


def weighted_loss(found: np.ndarray | None) -> Callable[..., Tensor] | None:
    """The Trainer's `compute_loss_func` for the class weights `found` [L]; None if there are none."""
    if found is None:
        return None
    weights = torch.tensor(found, dtype=torch.float32)

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        logits = outputs["logits"].float()
        total = F.cross_entropy(logits, labels, weight=weights.to(logits.device), reduction="sum")
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    return loss
