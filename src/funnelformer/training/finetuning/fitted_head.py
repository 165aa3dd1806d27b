"""Heads that scikit-learn fits to vectors of texts, and that become a linear layer of the model."""

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
_NOT_CHOSEN = 1.0  # C if there are too few data to choose it
_MOST_STEPS, _TOLERANCE = 2000, 1e-7
# Beyond this many rows, three folds suffice to choose C, and five would take longer than computing the vectors.
_MANY, _FOLDS, _FEW_FOLDS = 2000, 5, 3


@dataclass(frozen=True)
class FittedHead:
    """A linear layer: logits = weight [L, D] @ vector [D] + bias [L].

    chosen: what cross-validation chose: `C` for classes, a list of one `C` for each of several labels, or `alpha` for
        amounts.
    """

    weight: np.ndarray
    bias: np.ndarray
    chosen: dict[str, float | list[float]]


def check_gold(kind: str, gold: np.ndarray, labels: Sequence[str]) -> None:
    """Raise UserError naming a class that no row has, or one of several labels that no row has or every row has."""
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
    """Fit the head for a kind of task to vectors [N, D].

    The fit scales each of the D numbers to standard deviation 1; the returned layer takes the vectors without scaling.
    kind: "classification" (logistic regression, softmax), "multi-label" (a logistic regression for each label), or
        "regression" (ridge regression).
    gold: class ids [N], 0 or 1 [N, L], or amounts [N]. class_weights: [L].
    C has the least cross-validated loss, and is 1 if a class has only one row; alpha is chosen by leave-one-out.
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
        if len(weight) == 1:  # two classes have one logit z: the softmax of (-z/2, z/2) is the sigmoid of z
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
    # Until a further step changes nothing, so that the result does not depend on where the solver began.
    return LogisticRegression(C=strength, class_weight=weights, max_iter=_MOST_STEPS, tol=_TOLERANCE).fit(
        scaled, gold
    )


def put_in(model: Any, head: FittedHead) -> None:
    """Make it the head of a `FunnelformerForSequenceClassification` with `classifier_head="linear"`."""
    output = model.classifier.output
    with torch.no_grad():
        output.weight.copy_(torch.from_numpy(head.weight))
        output.bias.copy_(torch.from_numpy(head.bias))
