"""Scores against values worked out by hand, and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from funnelformer.tasks.scores import classification_metrics, multi_label_metrics, regression_metrics, softmax


def test_classification_by_hand():
    # Class 0: precision 1/2, recall 1/1, F1 2/3. Class 1: 2/2, 2/3, F1 4/5. Class 2: never right, F1 0.
    metrics = classification_metrics(predicted=[0, 0, 1, 1, 0], gold=[0, 1, 1, 1, 2])
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    # Class 0 is predicted three times and once right: precision 1/3, F1 1/2.
    assert metrics["macro_f1"] == pytest.approx((1 / 2 + 4 / 5 + 0) / 3)


def test_classification_extremes():
    assert classification_metrics([1, 0], [1, 0]) == {"accuracy": 1.0, "macro_f1": 1.0}
    assert classification_metrics([0, 1], [1, 0]) == {"accuracy": 0.0, "macro_f1": 0.0}
    assert classification_metrics([1, 1], [1, 1]) == {"accuracy": 1.0, "macro_f1": 1.0}


def test_regression_by_hand():
    # Deviations -1, 0, 1 and -1, 1, 0: covariance 1, variances 2 and 2. The values are their own ranks.
    metrics = regression_metrics([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])
    assert metrics == pytest.approx({"pearson": 0.5, "spearman": 0.5, "mse": 2 / 3})
    metrics = regression_metrics([0.0, 1.0, 10.0], [2.0, 3.0, 4.0])
    assert metrics["spearman"] == pytest.approx(1.0)
    assert metrics["mse"] == pytest.approx((4 + 4 + 36) / 3)


def test_tied_ranks_by_hand():
    # Ranks 1.5, 1.5, 3 and 1, 2, 3: covariance 1.5, variances 1.5 and 2.
    metrics = regression_metrics([5.0, 5.0, 9.0], [1.0, 2.0, 3.0])
    assert metrics["spearman"] == pytest.approx(1.5 / math.sqrt(1.5 * 2))


@pytest.mark.parametrize("seed", range(5))
def test_regression_is_scipys(seed):
    """Forty values with many ties on both sides."""
    generator = np.random.default_rng(seed)
    x, y = generator.integers(0, 8, 40).astype(float), generator.normal(size=40).round(1)
    metrics = regression_metrics(x.tolist(), y.tolist())
    assert metrics["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert metrics["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize(
    ("predicted", "gold"),
    [
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]),
        ([1.0, 2.0], [4.0, 4.0]),
        ([1.0], [2.0]),
        ([0.1] * 3, [1.0, 2.0, 3.0]),
    ],
)
def test_no_correlation_with_a_constant(predicted, gold):
    """0 and no warning, where the formula has 0 / 0."""
    metrics = regression_metrics(predicted, gold)
    assert metrics["pearson"] == metrics["spearman"] == 0.0


def test_softmax():
    logits = np.array([[0.0, math.log(3.0)], [1000.0, 1000.0], [-1000.0, 1000.0]], dtype=np.float32)
    assert softmax(logits) == pytest.approx(np.array([[0.25, 0.75], [0.5, 0.5], [0.0, 1.0]]))


def test_scores_of_glue_by_hand():
    """True and false positives 2 and 1, true and false negatives 4 and 1."""
    predicted, gold = [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 1]
    metrics = classification_metrics(predicted, gold, ("matthews", "accuracy", "f1", "error_percent"))
    assert metrics == pytest.approx(
        {
            "matthews": (2 * 4 - 1 * 1) / math.sqrt((2 + 1) * (2 + 1) * (4 + 1) * (4 + 1)),
            "accuracy": 6 / 8,
            "f1": 2 * 2 / (2 * 2 + 1 + 1),
            "error_percent": 25.0,
        }
    )


def test_f1_is_of_class_1():
    """Everything called 1 where half is: precision 1/2, recall 1; of class 0 it would be 0."""
    assert classification_metrics([1, 1], [1, 0], ("f1",)) == {"f1": pytest.approx(2 / 3)}
    assert classification_metrics([0, 0], [0, 0], ("f1", "matthews")) == {"f1": 0.0, "matthews": 0.0}


def test_sets_of_labels_by_hand():
    """Label 0: right twice, once too often. Label 1: once missed. Label 2: never there, never said."""
    predicted = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0]])
    gold = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]])
    # Label 0: F1 2·2 / (2·2 + 1) = 4/5. Label 1: 2·1 / (2·1 + 1) = 2/3. All: 2·3 / (2·3 + 1 + 1) = 3/4.
    assert multi_label_metrics(predicted, gold) == pytest.approx(
        {"micro_f1": 3 / 4, "macro_f1": (4 / 5 + 2 / 3 + 0) / 3, "exact_match": 2 / 3}
    )
