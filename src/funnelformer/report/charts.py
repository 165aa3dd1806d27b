"""Charts as SVG that stands inside a page, in the page's own colour of text."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from typing import Any

from ..figures import Figure, FuncFormatter, MaxNLocator, NullFormatter, plain, rc_context, with_fonts
from .runs import Curve, Row

__all__ = ["cost_chart", "curve_chart"]

# Drawn in this colour, then replaced by the page's; no line of the palette has it.
_INK = "#010203"
# Of matplotlib's palette those that stand out on white and on black.
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf")
_DASHES = ("-", "--", ":", "-.")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "funnelformer",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "text.parse_math": False,
}


def cost_chart(rows: Sequence[tuple[int, Row]]) -> str | None:
    """Score against the time, and against the FLOPs, of training; a point has its row's number and deviation.

    None where nothing of it is known.
    """
    panels = {
        "seconds of training": [(number, row, row.seconds) for number, row in rows if row.seconds],
        "FLOPs of training": [(number, row, row.flops) for number, row in rows if row.flops],
    }
    known = {label: points for label, points in panels.items() if points}
    if not known:
        return None
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.6 * len(known), 3.4), layout="constrained")
        for axis, (label, points) in zip(
            figure.subplots(1, len(known), squeeze=False)[0], known.items(), strict=True
        ):
            for number, row, cost in points:
                axis.errorbar(cost, row.score, yerr=row.spread, fmt="o", capsize=3, color=_colour(number))
                axis.annotate(str(number), (cost, row.score), textcoords="offset points", xytext=(5, 5))
            costs = [cost for _, _, cost in points if cost]
            if max(costs) > 20 * min(costs):
                axis.set_xscale("log")
                axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_xlabel(label)
            axis.set_ylabel(plain(points[0][1].score_name))
            axis.margins(0.15)
            axis.grid(alpha=0.2)
        return _svg(figure, f"{rows[0][1].score_name} against cost")


def curve_chart(rows: Sequence[tuple[int, Row]]) -> str | None:
    """Loss of training, and the score, against the step; None where the logs have neither."""
    panels: dict[str, list[tuple[int, Curve]]] = {
        "training loss": [(number, row.loss) for number, row in rows if row.loss],
        f"{plain(rows[0][1].score_name)}, by step": [
            (number, row.scores) for number, row in rows if row.scores
        ],
    }
    known = {label: curves for label, curves in panels.items() if curves}
    if not known:
        return None
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.6 * len(known), 3.4), layout="constrained")
        for axis, (label, curves) in zip(
            figure.subplots(1, len(known), squeeze=False)[0], known.items(), strict=True
        ):
            for number, curve in curves:
                style = "." if len(curve) < 30 else ""
                dash = _DASHES[(number - 1) // len(_COLOURS) % len(_DASHES)]
                axis.plot(*zip(*curve, strict=True), style + dash, color=_colour(number), label=f"{number}")
            axis.set_xlabel("step")
            axis.set_ylabel(label)
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axis.grid(alpha=0.2)
            axis.legend(title="run", fontsize=8, framealpha=0)
        return _svg(figure, "training curves")


def _colour(number: int) -> str:
    return _COLOURS[(number - 1) % len(_COLOURS)]


def _svg(figure: Figure, title: str) -> str:
    """The element alone, without the ids of groups, which several charts of a page would share."""
    stream = io.StringIO()
    with with_fonts(figure):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[\w.]+">', "<g>", text)
    text = text.replace(_INK, "currentColor")
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
