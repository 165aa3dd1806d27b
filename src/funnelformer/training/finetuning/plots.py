"""The figures of a fine-tuning run: learning curve, confusion matrix, calibration, predicted amounts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ...base.figures import Figure, MaxNLocator, class_names, plain
from ...tasks.scores import Calibration

__all__ = ["draw_amounts", "draw_calibration", "draw_confusion", "draw_curve"]

_MOST_CLASSES = 30


def draw_curve(log: Iterable[Mapping[str, Any]], loss: str, metric: str) -> Figure:
    """Plot the training and dev loss against the step, and below them the dev score that selects the checkpoint.

    log: entries as the Trainer writes them. loss, metric: names of the dev part's loss and score there, such as
    eval_accuracy.
    """
    entries = list(log)
    figure = Figure(figsize=(7, 5.5))
    upper, lower = figure.subplots(2, 1, sharex=True)
    # Set by hand: to find the margins, matplotlib would draw the figure twice, at the end of every run.
    figure.subplots_adjust(left=0.12, right=0.97, top=0.97, bottom=0.1, hspace=0.08)
    _line(upper, entries, "loss", "training", ".-")
    _line(upper, entries, loss, "dev", "o-")
    upper.set_ylabel("loss")
    if upper.get_legend_handles_labels()[0]:  # a short run may log no loss
        upper.legend()
    _line(lower, entries, metric, plain(metric.removeprefix("eval_")), "o-")
    lower.set_ylabel(plain(metric.removeprefix("eval_")))
    lower.set_xlabel("step")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in (upper, lower):
        axis.grid(alpha=0.3)
    return figure


def _line(axis: Any, entries: list[Mapping[str, Any]], name: str, label: str, style: str) -> None:
    points = [(entry["step"], entry[name]) for entry in entries if name in entry]
    if points:
        axis.plot(*zip(*points, strict=True), style, label=label, markersize=4)


def draw_confusion(matrix: np.ndarray, labels: Sequence[str]) -> Figure:
    """Plot the confusion matrix [L, L] of counts [gold, predicted]; the colour is the share of the gold class.

    If there are more than 30 classes, it shows those with the most mistakes, as gold or as predicted class.
    """
    errors = matrix.sum(0) + matrix.sum(1) - 2 * matrix.diagonal()
    shown = np.sort(np.argsort(-errors, kind="stable")[:_MOST_CLASSES])
    part = matrix[np.ix_(shown, shown)]
    shares = part / np.maximum(1, matrix.sum(1)[shown])[:, None]
    size = 2.5 + 0.42 * len(shown)
    figure = Figure(figsize=(size + 2, size), layout="compressed")
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = class_names(labels, shown.tolist())
    axis.set_xticks(range(len(names)), names, rotation=90 if len(names) > 4 else 0)
    axis.set_yticks(range(len(names)), names)
    for (row, column), count in np.ndenumerate(part):
        if count or len(shown) <= 10:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    axis.set_xlabel("predicted")
    axis.set_ylabel("gold")
    if len(shown) < len(labels):
        axis.set_title(f"the {len(shown)} of {len(labels)} classes with the most mistakes", fontsize=10)
    figure.colorbar(image, label="share of the gold class", shrink=0.8)
    return figure


def draw_calibration(found: Calibration) -> Figure:
    """Plot the share of right answers against their probability, and below it the number of answers."""
    figure = Figure(figsize=(5, 6))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    figure.subplots_adjust(left=0.15, right=0.96, top=0.93, bottom=0.09, hspace=0.08)
    widths = found.edges[:, 1] - found.edges[:, 0]
    upper.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    upper.bar(found.edges[:, 0], found.accuracy, widths, align="edge", alpha=0.35, edgecolor="tab:blue")
    upper.plot(found.confidence, found.accuracy, "o-", color="tab:blue", markersize=4)
    upper.set_ylabel("share of right answers")
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1.02)
    upper.set_title(
        f"expected calibration error {found.ece:.3f}, {found.counts.sum():,} examples", fontsize=10
    )
    lower.bar(found.edges[:, 0], found.counts, widths, align="edge", color="tab:blue")
    lower.set_ylabel("examples")
    lower.set_xlabel("probability of the answer")
    return figure


def draw_amounts(gold: np.ndarray, predicted: np.ndarray) -> Figure:
    """Plot a point for each example: the right amount [N] against the predicted one [N]."""
    figure = Figure(figsize=(5.5, 5.5))
    axis = figure.subplots()
    figure.subplots_adjust(left=0.14, right=0.97, top=0.97, bottom=0.11)
    low, high = min(gold.min(), predicted.min()), max(gold.max(), predicted.max())
    axis.plot([low, high], [low, high], color="black", linewidth=0.8, linestyle="--")
    axis.plot(gold, predicted, "o", markersize=3, alpha=min(1.0, 20 / len(gold) ** 0.5))
    axis.set_xlabel("gold")
    axis.set_ylabel("predicted")
    axis.grid(alpha=0.3)
    return figure
