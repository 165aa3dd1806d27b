"""Charts as SVG that stands inside a page, in the page's own colour of text."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..base.figures import Bbox, Figure, FuncFormatter, MaxNLocator, NullFormatter, rc_context, with_fonts
from .runs import Curve, Row

__all__ = ["cost_charts", "curve_charts", "flops_unit"]

# Drawn in this colour, then replaced by the page's; no line of the palette has it.
_INK = "#010203"
# Of matplotlib's palette those that stand out on white and on black.
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf")
_UNITS = ((1.0, "FLOPs"), (1e6, "MFLOPs"), (1e9, "GFLOPs"), (1e12, "TFLOPs"), (1e15, "PFLOPs"))
_MOST_CHARS = 24
# Names of a legend that stand side by side.
_MOST_CHARS_OF_TWO = 20
# Where a point's name may stand, the first that is free: points to the right and up, and the side it begins at.
_PLACES = [(x, y, "left" if x > 0 else "right") for y in (5, -12, 17, -24, 29, -36) for x in (6, -6)]
_DASHES = ("-", "--", ":", "-.")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "funnelformer",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "text.parse_math": False,
}


def cost_charts(rows: Sequence[tuple[int, Row]]) -> list[str]:
    """Score against the time, and against the FLOPs, of training; a point has its run's name and deviation.

    A chart for each that is known.
    """
    unit, name = flops_unit([row.flops for _, row in rows])
    panels = {
        "seconds of training": [(number, row, row.seconds) for number, row in rows if row.seconds],
        f"{name} of training": [(number, row, row.flops / unit) for number, row in rows if row.flops],
    }
    charts = []
    for label, points in panels.items():
        if not points:
            continue
        with rc_context(_STYLE):
            figure, axis = _figure(label, points[0][1].score_name)
            costs = [cost for _, _, cost in points]
            for number, row, cost in points:
                axis.errorbar(cost, row.score, yerr=row.spread, fmt="o", capsize=3, color=_colour(number))
            if max(costs) > 20 * min(costs):
                axis.set_xscale("log")
                axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.xaxis.set_minor_formatter(NullFormatter())
            axis.margins(0.2)
            _name_points(figure, axis, [(cost, row) for _, row, cost in points])
            charts.append(_svg(figure, f"{points[0][1].score_name} against {label}"))
    return charts


def curve_charts(rows: Sequence[tuple[int, Row]]) -> list[str]:
    """Loss of training, and the score, against the step; a chart for each that the logs have."""
    score = rows[0][1].score_name
    panels: dict[str, list[tuple[int, Row, Curve]]] = {
        "training loss": [(number, row, row.loss) for number, row in rows if row.loss],
        score: [(number, row, row.scores) for number, row in rows if row.scores],
    }
    charts = []
    for label, curves in panels.items():
        if not curves:
            continue
        with rc_context(_STYLE):
            figure, axis = _figure("step", label)
            for number, row, curve in curves:
                style = "." if len(curve) < 30 else ""
                dash = _DASHES[(number - 1) // len(_COLOURS) % len(_DASHES)]
                axis.plot(
                    *zip(*curve, strict=True), style + dash, color=_colour(number), label=_short(row.name)
                )
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            widest = max(len(_short(row.name)) for _, row, _ in curves)
            columns = 2 if widest <= _MOST_CHARS_OF_TWO else 1
            figure.legend(loc="outside lower center", ncols=columns, fontsize=8, framealpha=0)
            charts.append(_svg(figure, f"{label} by step"))
    return charts


def flops_unit(values: Iterable[float | None]) -> tuple[float, str]:
    """The unit in which the smallest of some FLOPs is 1 or more: 1e9 and "GFLOPs"."""
    known = [value for value in values if value]
    fits = [entry for entry in _UNITS if known and entry[0] <= min(known)]
    return fits[-1] if fits else _UNITS[0]


def _figure(across: str, up: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.set_xlabel(across)
    axis.set_ylabel(up)
    axis.grid(alpha=0.2)
    return figure, axis


def _name_points(figure: Figure, axis: Any, points: Sequence[tuple[float, Row]]) -> None:
    """The name of each point beside it, inside the axes, clear of other points and names where there is room."""
    with with_fonts(figure):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # what is measured from here on stays where it is
        taken = []
        for cost, row in points:
            spread = row.spread or 0.0
            ends = axis.transData.transform([(cost, row.score - spread), (cost, row.score + spread)])
            taken.append(Bbox(ends).padded(4))
        for cost, row in points:
            label = axis.annotate(
                _short(row.name), (cost, row.score), textcoords="offset points", xytext=(0, 0), fontsize=8
            )
            tried: list[tuple[bool, int, int, Bbox]] = []
            for x, y, side in _PLACES:
                label.set(position=(x, y), horizontalalignment=side)
                box = label.get_window_extent()
                inside = axis.bbox.x0 <= box.x0 and box.x1 <= axis.bbox.x1
                inside = inside and axis.bbox.y0 <= box.y0 and box.y1 <= axis.bbox.y1
                tried.append((not inside, box.count_overlaps(taken), len(tried), box))
            *_, best, box = min(tried)
            x, y, side = _PLACES[best]
            label.set(position=(x, y), horizontalalignment=side)
            taken.append(box)


def _short(name: str) -> str:
    """The end of a long name, which tells runs apart."""
    return name if len(name) <= _MOST_CHARS else f"...{name[-_MOST_CHARS:]}"


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
