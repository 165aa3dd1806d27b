"""Training on windows of long texts: each is an example with the label of its text, and texts weigh alike.

The loss is a window's, not that of the text's mean logits: so a batch needs the memory of `--batch-size` sequences
however long the texts are. The losses are convex in the logits, so that the mean of the windows' losses, which is
minimised, is never below the loss of the mean, which is what the text is scored by.
"""

from __future__ import annotations

import datasets
import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ...tasks.kind import Encoded

__all__ = ["WEIGHT", "row_losses", "weighted_windows"]

WEIGHT = "window_weight"


def weighted_windows(encoded: Encoded, class_weights: np.ndarray | None = None) -> datasets.Dataset:
    """The features of `encoded` with their weights: all windows of a text weigh as much as those of any other.

    The mean over the windows is 1, so the learning rate keeps its meaning. class_weights: of the label ids besides.
    """
    assert encoded.owners is not None
    counts = np.bincount(encoded.owners)
    weights = len(encoded.owners) / len(counts) / counts[encoded.owners]
    if class_weights is not None:
        weights = weights * class_weights[np.asarray(encoded.features["labels"][:])]
    return encoded.features.add_column(WEIGHT, weights.astype(np.float32).tolist())


def row_losses(logits: Tensor, labels: Tensor, problem_type: str) -> Float[Tensor, " B"]:
    """The loss of each row, whose mean is the loss that transformers takes for that `problem_type`."""
    logits = logits.float()
    if problem_type == "regression":
        return F.mse_loss(logits.squeeze(-1), labels.float().reshape(-1), reduction="none")
    if problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(-1)
    return F.cross_entropy(logits, labels, reduction="none")
