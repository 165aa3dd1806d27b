"""Scores of classification and regression, by scikit-learn, SciPy and NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata
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
        "spearman": _correlation(rankdata(x), rankdata(y)),
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
