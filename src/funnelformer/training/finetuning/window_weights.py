"""Training on windows of long texts: each window is an example with the label of its text, and all texts weigh alike.

The loss is computed for each window, not for the mean of a text's logits, so that a batch needs the memory of
`--batch-size` sequences, however long the texts are. The losses are convex in the logits. So the mean loss of the
windows, which training minimises, is never below the loss of the mean logits, by which a text is scored.
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
    """The features of `encoded` with a column `WEIGHT`: the windows of each text have the same weight in total.

    The mean weight of the windows is 1, so the learning rate keeps its meaning. class_weights: [L], further factors.
    """
    assert encoded.owners is not None
    counts = np.bincount(encoded.owners)
    weights = len(encoded.owners) / len(counts) / counts[encoded.owners]
    if class_weights is not None:
        weights = weights * class_weights[np.asarray(encoded.features["labels"][:])]
    return encoded.features.add_column(WEIGHT, weights.astype(np.float32).tolist())


def row_losses(logits: Tensor, labels: Tensor, problem_type: str) -> Float[Tensor, " B"]:
    """The loss of each row. Their mean is the loss that transformers computes for this `problem_type`.

    logits: [B, L]; for "regression" with one amount [B, 1]. labels: [B] or [B, L].
    """
    logits = logits.float()
    if problem_type == "regression":
        return F.mse_loss(logits.squeeze(-1), labels.float().reshape(-1), reduction="none")
    if problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(-1)
    return F.cross_entropy(logits, labels, reduction="none")
