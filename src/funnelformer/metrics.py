"""Scores of classification and regression, by scikit-learn and NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

__all__ = ["HEADLINE", "classification_metrics", "regression_metrics", "softmax"]

# The one number of each kind of task that selects checkpoints and stands in tables.
HEADLINE = {"classification": "accuracy", "regression": "pearson"}


def classification_metrics(predicted: Sequence[int], gold: Sequence[int]) -> dict[str, float]:
    """Accuracy and macro-averaged F1, both 0 to 1."""
    return {
        "accuracy": float(accuracy_score(gold, predicted)),
        "macro_f1": float(f1_score(gold, predicted, average="macro", zero_division=0)),
    }


def regression_metrics(predicted: Sequence[float], gold: Sequence[float]) -> dict[str, float]:
    """Pearson and Spearman correlation (0 when one side is constant) and the mean squared error."""
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    return {
        "pearson": _correlation(x, y),
        "spearman": _correlation(_ranks(x), _ranks(y)),
        "mse": float(np.mean((x - y) ** 2)),
    }


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis."""
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
