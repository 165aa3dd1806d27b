"""The demo's last word: one table and one picture, quality beside seconds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["KINDS", "Row", "draw", "read_control", "remarks", "table"]

KINDS = ("films", "products", "tweets", "editorials")


@dataclass
class Row:
    """One line of the table; what a model has no figure for stays empty.

    accuracy: share of right labels by kind of text. mrr: of the vectors alone (of TF-IDF, of words alone);
    mrr_added: with TF-IDF added. sentences_s, documents_s: seconds for 1,000, one number a round.
    recorded: where the accuracies and the training seconds were measured, if not in this run.
    """

    name: str
    accuracy: dict[str, float] = field(default_factory=dict)
    mrr: float | None = None
    mrr_added: float | None = None
    sentences_s: list[float] = field(default_factory=list)
    documents_s: list[float] = field(default_factory=list)
    parameters: int | None = None
    training_s: float | None = None
    recorded: str = ""


def read_control(results: Path, model: str) -> tuple[dict[str, float], float, str] | None:
    """The accuracies of a model that a benchmark trained on the films, means of its seeds, and its fastest training.

    Third, in words, where and how they were measured. None when the benchmark has not trained the model.
    """
    cells = json.loads(results.read_text(encoding="utf-8"))["cells"]
    group = [cell for cell in cells if cell["set"] == "films" and cell["model"] == model]
    if not group:
        return None
    accuracy = {"films": statistics.mean(cell["test"] for cell in group)}
    for kind in KINDS[1:]:
        accuracy[kind] = statistics.mean(cell["also"][kind] for cell in group)
    seconds = min(cell["training_seconds"] for cell in group)  # what else ran can only add to it
    seeds = f"{len(group)} seed{'s' if len(group) > 1 else ''}"
    threads = group[0]["threads"]
    where = f"{seeds}, {threads} thread{'s' if threads > 1 else ''}, {group[0]['hardware']['processor']}"
    return accuracy, seconds, where


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| model | films | products | tweets | editorials | search, MRR | added to TF-IDF "
        "| s / 1,000 sentences | s / 1,000 documents | parameters | training, s |",
        "|---" * 11 + "|",
    ]
    for row in rows:
        star = "*" if row.recorded else ""
        cells = [row.name]
        cells += [f"{row.accuracy[kind]:.1%}{star}" if kind in row.accuracy else "" for kind in KINDS]
        cells += ["" if value is None else f"{value:.3f}" for value in (row.mrr, row.mrr_added)]
        cells += [
            f"{statistics.median(took):.2f}" if took else "" for took in (row.sentences_s, row.documents_s)
        ]
        cells.append("" if row.parameters is None else f"{row.parameters:,}")
        cells.append("" if row.training_s is None else f"{row.training_s:.0f}{star}")
        lines.append(f"| {' | '.join(cells)} |")
    notes = [
        f"* {row.name}: from benchmarks/results/sources.json ({row.recorded})" for row in rows if row.recorded
    ]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def remarks(funnel: Row, others: Sequence[Row]) -> list[str]:
    """Where the funnel is ahead of another row and where it is behind, in sentences with the figures."""
    found = []
    for other in others:
        ahead: list[str] = []
        behind: list[str] = []
        even: list[str] = []
        for kind in KINDS:
            if kind in other.accuracy and kind in funnel.accuracy:
                gain = 100 * (funnel.accuracy[kind] - other.accuracy[kind])
                (ahead if gain > 0 else behind if gain else even).append(f"{gain:+.1f} points on {kind}")
        for label, mine, theirs in (
            ("search", funnel.mrr, other.mrr),
            ("search added to TF-IDF", funnel.mrr_added, other.mrr_added),
        ):
            if mine is not None and theirs is not None:
                (ahead if mine > theirs else behind if mine < theirs else even).append(
                    f"{mine - theirs:+.3f} in {label}"
                )
        for label, took, peer in (
            ("sentences", funnel.sentences_s, other.sentences_s),
            ("documents", funnel.documents_s, other.documents_s),
        ):
            if took and peer:
                ratio = statistics.median(a / b for a, b in zip(took, peer, strict=True))
                (ahead if ratio < 1 else behind if ratio > 1 else even).append(
                    f"{ratio:.2f} of the time for {label}"
                )
        for verdict, what in (("ahead of", ahead), ("behind", behind), ("even with", even)):
            if what:
                found.append(f"{funnel.name} is {verdict} {other.name}: {', '.join(what)}.")
    return found


def draw(rows: Sequence[Row], file: Path) -> None:
    """Quality against seconds: sentences on the left, documents on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from funnelformer.base.figures import save_png

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for number, row in enumerate(rows):
        # In turns above and below their points, since some are near to one another.
        place = {"xytext": (6, 5)} if number % 2 == 0 else {"xytext": (-6, -13), "ha": "right"}
        beside: dict[str, Any] = {**place, "textcoords": "offset points", "fontsize": 8}
        color, name = f"C{number}", row.name.removesuffix("H384")
        if row.sentences_s and row.accuracy:
            took = statistics.median(row.sentences_s)
            left.plot(took, 100 * row.accuracy["films"], "o", color=color)
            left.plot(took, 100 * row.accuracy["products"], "^", color=color, fillstyle="none")
            left.annotate(name, (took, 100 * row.accuracy["films"]), **beside)
        if row.documents_s and row.mrr_added is not None:
            took = statistics.median(row.documents_s)
            right.plot(took, row.mrr_added, "o", color=color)
            right.annotate(name, (took, row.mrr_added), **beside)
        elif row.mrr is not None:
            right.axhline(row.mrr, color="grey", linestyle=":", linewidth=1)
            inside = {"xycoords": ("axes fraction", "data"), "va": "bottom"}
            right.annotate(f"{name} alone", (0.02, row.mrr), fontsize=8, **inside)
    left.plot([], [], "o", color="grey", label="films, unseen ones")
    left.plot([], [], "^", color="grey", fillstyle="none", label="products, never trained on")
    left.legend(fontsize=8, loc="lower right")
    left.set(
        xlabel="seconds for 1,000 sentences",
        ylabel="accuracy, %",
        title="Reviews, learned from films",
    )
    right.set(
        xlabel="seconds for 1,000 documents", ylabel="MRR, vectors + TF-IDF", title="Search in documentation"
    )
    for axes in (left, right):
        axes.margins(x=0.3, y=0.15)
        axes.set_xlim(left=-0.1 * axes.get_xlim()[1])  # names of what takes no time have room
        axes.grid(alpha=0.3)
    save_png(figure, file)
    plt.close(figure)
