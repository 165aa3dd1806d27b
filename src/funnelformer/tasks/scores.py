"""Scores of classification and regression, by scikit-learn, SciPy and NumPy; probabilities of logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "DEFAULT_SCORES",
    "Calibration",
    "calibration",
    "classification_metrics",
    "multi_label_metrics",
    "regression_metrics",
    "sigmoid",
    "softmax",
]

Score = Callable[[Any, Any], float]

# Scores of a kind of task, of which the first selects checkpoints and stands in tables.
DEFAULT_SCORES = {
    "classification": ("accuracy", "macro_f1"),
    "regression": ("pearson", "spearman", "mse"),
    "multi-label": ("micro_f1", "macro_f1", "exact_match"),
    "tokens": ("f1", "precision", "recall"),
    "choice": ("accuracy",),
}


def _accuracy(gold: Any, predicted: Any) -> float:
    from sklearn.metrics import accuracy_score

    return accuracy_score(gold, predicted)


def _f1(average: str, positive: int = 1) -> Score:
    def score(gold: Any, predicted: Any) -> float:
        from sklearn.metrics import f1_score

        return f1_score(gold, predicted, average=average, pos_label=positive, zero_division=0)

    return score


def _matthews(gold: Sequence[int], predicted: Sequence[int]) -> float:
    from sklearn.metrics import matthews_corrcoef

    # Of one class alone scikit-learn warns, and gives 0 too.
    return matthews_corrcoef(gold, predicted) if len({*gold, *predicted}) > 1 else 0.0


# All take the gold labels first, as scikit-learn does, which is imported when a score is asked for: what answers
# texts needs none of it.
_CLASS_SCORES: dict[str, Score] = {
    "accuracy": _accuracy,
    "error_percent": lambda gold, predicted: 100 * (1 - _accuracy(gold, predicted)),
    "macro_f1": _f1("macro"),
    "matthews": _matthews,
}
_LABEL_SCORES: dict[str, Score] = {
    "micro_f1": _f1("micro"),
    "macro_f1": _f1("macro"),
    "exact_match": _accuracy,
}


def classification_metrics(
    predicted: Sequence[int],
    gold: Sequence[int],
    names: Iterable[str] = DEFAULT_SCORES["classification"],
    positive: int = 1,
) -> dict[str, float]:
    """Scores of class ids: accuracy, macro_f1 and f1 from 0 to 1, matthews from -1 to 1, error_percent.

    positive: the class that f1 is of. Those that divide by nothing are 0.
    """
    scores = {**_CLASS_SCORES, "f1": _f1("binary", positive)}
    return {name: float(scores[name](gold, predicted)) for name in names}


def multi_label_metrics(
    predicted: np.ndarray, gold: np.ndarray, names: Iterable[str] = DEFAULT_SCORES["multi-label"]
) -> dict[str, float]:
    """Scores of label sets, [N, L] of 0 and 1: F1 of all decisions, mean F1 of the labels, rows all right."""
    return {name: float(_LABEL_SCORES[name](gold, predicted)) for name in names}


def regression_metrics(
    predicted: Sequence[float],
    gold: Sequence[float],
    names: Iterable[str] = DEFAULT_SCORES["regression"],
) -> dict[str, float]:
    """Pearson and Spearman correlation (0 when one side is constant) and the mean squared error."""
    from scipy.stats import rankdata

    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    scores = {
        "pearson": _correlation(x, y),
        "spearman": _correlation(rankdata(x), rankdata(y)),
        "mse": float(np.mean((x - y) ** 2)),
    }
    return {name: scores[name] for name in names}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis."""
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """A probability for each logit by itself."""
    small = np.exp(-np.abs(logits))  # never more than 1
    shares: np.ndarray = np.where(logits >= 0, 1, small) / (1 + small)
    return shares


@dataclass(frozen=True)
class Calibration:
    """Answers in bins of equal width by how sure the model is of them; bins without an answer are left out.

    counts, confidence, accuracy: [bins], answers in each, the mean probability they were given, the share of right
        ones. edges: [bins, 2].
    ece: expected calibration error, the mean over the answers of |accuracy - confidence| of their bin.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    edges: np.ndarray
    ece: float


def calibration(sureness: np.ndarray, is_right: np.ndarray, num_bins: int = 15) -> Calibration:
    """Compare probabilities [N] of what was said with whether it was right [N]. Source: Guo et al. 2017, eqs. 2 to 4.

    The bins are ]0, 1/M], ]1/M, 2/M] and so on.
    """
    bins = np.clip(np.ceil(np.asarray(sureness) * num_bins).astype(int) - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    used = counts > 0
    confidence = np.bincount(bins, np.asarray(sureness, dtype=float), num_bins)[used] / counts[used]
    accuracy = np.bincount(bins, np.asarray(is_right, dtype=float), num_bins)[used] / counts[used]
    starts = np.arange(num_bins) / num_bins
    edges = np.stack([starts, starts + 1 / num_bins], axis=1)[used]
    ece = float((counts[used] * np.abs(accuracy - confidence)).sum() / counts.sum())
    return Calibration(counts[used], confidence, accuracy, edges, ece)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])
