"""Heads that are fitted by scikit-learn to vectors of texts, and are linear layers of the model afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeCV
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from ...base.errors import UserError

__all__ = ["FittedHead", "check_gold", "fit_head", "put_in"]

_STRENGTHS = tuple(10.0**power for power in range(-4, 2))
_PENALTIES = tuple(10.0**power for power in range(-1, 6))
_NOT_CHOSEN = 1.0  # the C of data that are too few to choose one
_MOST_STEPS, _TOLERANCE = 2000, 1e-7
# Beyond so many rows three folds tell the values of C apart, and five take longer than computing the vectors.
_MANY, _FOLDS, _FEW_FOLDS = 2000, 5, 3


@dataclass(frozen=True)
class FittedHead:
    """logits = weight [L, D] @ vector + bias [L].

    chosen: what cross-validation chose: of classes `C`, of several labels one `C` each, of amounts `alpha`.
    """

    weight: np.ndarray
    bias: np.ndarray
    chosen: dict[str, float | list[float]]


def check_gold(kind: str, gold: np.ndarray, labels: Sequence[str]) -> None:
    """Raise UserError naming a class that no row has, or one of several labels that no row or every row has."""
    if kind == "classification":
        missing = np.flatnonzero(np.bincount(gold, minlength=len(labels)) == 0)
        if len(missing):
            raise UserError(f"no training row has the class {labels[missing[0]]!r}, so it cannot be learned")
    elif kind == "multi-label":
        for name, count in zip(labels, gold.sum(0), strict=True):
            if count in (0, len(gold)):
                which = "no" if count == 0 else "every"
                raise UserError(f"{which} training row has the label {name!r}, so it cannot be learned")


def fit_head(
    kind: str,
    vectors: np.ndarray,
    gold: np.ndarray,
    class_weights: np.ndarray | None = None,
    seed: int = 0,
) -> FittedHead:
    """Fit the head of a kind of task to vectors [N, D], scaled to deviation 1; the layer takes them as they are.

    kind: "classification": logistic regression, softmax of its logits; "multi-label": one for each label; or
        "regression": ridge regression.
    gold: ids [N], 0 or 1 [N, L], or amounts [N]. C is the one of the least cross-validated loss, or 1 where a class has
        one row alone; alpha is that of leaving one out.
    """
    scaler = StandardScaler().fit(vectors.astype(np.float64))
    scaled = scaler.transform(vectors.astype(np.float64))
    chosen: dict[str, float | list[float]]
    if kind == "regression":
        ridge = RidgeCV(alphas=_PENALTIES).fit(scaled, gold.reshape(-1))
        weight, bias = ridge.coef_.reshape(1, -1), np.reshape(ridge.intercept_, (1,))
        chosen = {"alpha": float(ridge.alpha_)}
    elif kind == "multi-label":
        models = [_logistic(scaled, column.astype(int), None, seed) for column in gold.T]
        weight = np.concatenate([model.coef_ for model in models])
        bias = np.concatenate([model.intercept_ for model in models])
        chosen = {"C": [float(model.C) for model in models]}
    else:
        weights = None if class_weights is None else dict(enumerate(class_weights.tolist()))
        model = _logistic(scaled, gold, weights, seed)
        weight, bias = model.coef_, model.intercept_
        if (
            len(weight) == 1
        ):  # of two classes one is given: softmax of half of it, and of minus that, is its sigmoid
            weight, bias = (np.concatenate([-part, part]) / 2 for part in (weight, bias))
        chosen = {"C": float(model.C)}
    weight = weight / scaler.scale_
    return FittedHead(weight, bias - weight @ scaler.mean_, chosen)


def _logistic(scaled: np.ndarray, gold: np.ndarray, weights: dict[int, float] | None, seed: int) -> Any:
    fewest = int(np.bincount(gold)[np.unique(gold)].min())
    folds = min(_FOLDS if len(gold) <= _MANY else _FEW_FOLDS, fewest)
    strength = _NOT_CHOSEN
    if folds > 1:
        chosen = LogisticRegressionCV(
            Cs=_STRENGTHS,
            l1_ratios=(0.0,),
            cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
            scoring="neg_log_loss",
            class_weight=weights,
            max_iter=_MOST_STEPS,
            refit=False,
            use_legacy_attributes=False,
        ).fit(scaled, gold)
        strength = float(chosen.C_)
    # To where a further step changes nothing, so that it does not matter where the solver began.
    return LogisticRegression(C=strength, class_weight=weights, max_iter=_MOST_STEPS, tol=_TOLERANCE).fit(
        scaled, gold
    )


def put_in(model: Any, head: FittedHead) -> None:
    """Put it into a `FunnelformerForSequenceClassification` with `classifier_head="linear"`, as its head."""
    output = model.classifier.output
    with torch.no_grad():
        output.weight.copy_(torch.from_numpy(head.weight))
        output.bias.copy_(torch.from_numpy(head.bias))
