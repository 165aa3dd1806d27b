"""Results of a benchmark for people: tables in Markdown, and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..base.figures import Figure, plain, save_png
from ..base.markdown import markdown_table
from ..base.version import VERSION_KEY
from .measure import Case
from .results import Memory, Results, Side, Spread, Timing

__all__ = ["MemoryFit", "case_cells", "draw", "memory_fits", "name_cell", "spread_cell", "tables"]

_MIB = 2**20


def tables(results: Results) -> str:
    """What was measured, where, and what failed."""
    parts = [_circumstances(results)]
    if results.timings:
        header = ["", "dtype", "shape", "model", "peer", "ms", "peer's ms", "ratio (quartiles)"]
        header += ["tokens/s", "peer's tokens/s", "of peak"]
        rows = [_timing_row(timing, results.peaks) for timing in results.timings]
        parts.append("## Time\n\n" + markdown_table(header, rows))
    if results.memory:
        header = ["", "dtype", "shape", "model", "weights, MiB", "peak beyond them, MiB", "sum"]
        first = _first_of_case(results.memory)
        header += ["peak / first model's", "sum / first model's"]
        rows = [_memory_row(entry, first[entry.case]) for entry in results.memory]
        parts.append("## Peak memory\n\n" + markdown_table(header, rows))
        fits = memory_fits(results.memory)
        if fits:
            header = ["", "dtype", "sequences", "model", "MiB per 1,024 tokens", "R² of the line", "exponent"]
            parts.append(
                "## Peak memory against length\n\n" + markdown_table(header, [_fit_row(fit) for fit in fits])
            )
    if results.failures:
        rows = [
            [*case_cells(failure.case), ", ".join(failure.models), failure.reason]
            for failure in results.failures
        ]
        parts.append("## Not measured\n\n" + markdown_table(["", "dtype", "shape", "models", "why"], rows))
    return "\n\n".join(parts) + "\n"


def draw(results: Results, file: Path) -> None:
    """Write a PNG: each pair's ratio of times with its quartiles, by shape; a panel a mode and dtype."""
    panels: dict[tuple[str, str], list[Timing]] = {}
    for timing in results.timings:
        panels.setdefault((timing.case.mode, timing.case.dtype), []).append(timing)
    figure = Figure(figsize=(7, 1 + 3.2 * max(1, len(panels))), layout="constrained")
    axes = figure.subplots(max(1, len(panels)), 1, squeeze=False)[:, 0]
    for axis, ((mode, dtype), timings) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, timings)
        axis.set_title(f"{mode}, {dtype}", loc="left", fontsize=10)
        axis.set_ylabel("time / peer's time")
    save_png(figure, file)


def _draw_panel(axis: Any, timings: list[Timing]) -> None:
    shapes = list(dict.fromkeys(_shape(timing) for timing in timings))
    pairs = list(dict.fromkeys(_pair(timing) for timing in timings))
    for index, pair in enumerate(pairs):
        chosen = [timing for timing in timings if _pair(timing) == pair]
        ratios = [timing.ratio for timing in chosen]
        # Pairs stand side by side, so that their whiskers do not hide each other.
        shift = 0.5 * ((index + 0.5) / len(pairs) - 0.5)
        axis.errorbar(
            [shapes.index(_shape(timing)) + shift for timing in chosen],
            [ratio.median for ratio in ratios],
            yerr=[[r.median - r.q25 for r in ratios], [r.q75 - r.median for r in ratios]],
            fmt="o",
            capsize=3,
            markersize=4,
            label=plain(pair, 60).replace("$", r"\$"),
        )
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set_xticks(range(len(shapes)), shapes)
    axis.set_xlim(-0.5, len(shapes) - 0.5)
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=7)


def _circumstances(results: Results) -> str:
    machine, versions = results.machine, results.versions
    where = machine.get("accelerator") or f"{machine.get('processor')} ({machine.get('instructions')})"
    lines = [
        f"{where}, {machine.get('threads')} threads on {machine.get('cores')} cores; torch "
        f"{versions.get('torch')}, transformers {versions.get('transformers')}, funnelformer "
        f"{versions.get(VERSION_KEY)} ({str(versions.get('commit'))[:12]}).",
        f"Load average: {', '.join(str(load) for load in results.load_average)} (before, after).",
    ]
    if not results.is_complete:
        lines.append("The run was interrupted: this is a part of it.")
    return "\n".join(lines)


def _timing_row(timing: Timing, peaks: dict[str, float]) -> list[str]:
    ours, peer = timing.ours, timing.peer
    return [
        *case_cells(timing.case),
        name_cell(ours),
        name_cell(peer),
        f"{ours.milliseconds.median:,.1f}",
        f"{peer.milliseconds.median:,.1f}",
        spread_cell(timing.ratio),
        *(f"{1000 * timing.case.num_tokens / side.milliseconds.median:,.0f}" for side in (ours, peer)),
        _share_of_peak(timing, peaks.get(timing.case.dtype)),
    ]


def _memory_row(entry: Memory, first: Memory) -> list[str]:
    sizes = entry.weight_bytes, entry.peak_bytes, entry.total_bytes
    ratios = ["", ""]
    if entry is not first and first.peak_bytes:
        ratios = [
            f"{entry.peak_bytes / first.peak_bytes:.2f}",
            f"{entry.total_bytes / first.total_bytes:.2f}",
        ]
    return [*case_cells(entry.case), name_cell(entry), *(f"{size / _MIB:,.0f}" for size in sizes), *ratios]


@dataclass(frozen=True)
class MemoryFit:
    """How a model's peak beyond its weights grows with the length, in one mode, dtype and number of sequences.

    mib_per_1024_tokens, r_squared: of the straight line of least squares through the peaks. exponent: of the power of
    the length that fits best, by least squares of logarithms; 1 is linear, 2 quadratic.
    """

    longest: Memory
    mib_per_1024_tokens: float
    r_squared: float
    exponent: float


def memory_fits(memory: Sequence[Memory]) -> list[MemoryFit]:
    """Fit memory against length, for every model that was measured at three lengths at least."""
    groups: dict[tuple[Any, ...], list[Memory]] = {}
    for entry in memory:
        case = entry.case
        key = (case.mode, case.dtype, case.batch_size, entry.model, entry.implementation)
        groups.setdefault(key, []).append(entry)
    fits = []
    for group in groups.values():
        lengths = np.array([entry.case.length for entry in group], dtype=float)
        peaks = np.array([entry.peak_bytes / _MIB for entry in group])
        if len(set(lengths)) < 3 or min(peaks) <= 0:
            continue
        slope, start = np.polyfit(lengths, peaks, 1)
        total = ((peaks - peaks.mean()) ** 2).sum()
        left = ((peaks - slope * lengths - start) ** 2).sum()
        exponent, _ = np.polyfit(np.log(lengths), np.log(peaks), 1)
        longest = max(group, key=lambda entry: entry.case.length)
        r_squared = float(1 - left / total) if total else 1.0
        fits.append(MemoryFit(longest, float(1024 * slope), r_squared, float(exponent)))
    return fits


def _fit_row(fit: MemoryFit) -> list[str]:
    mode, dtype, _ = case_cells(fit.longest.case)
    figures = f"{fit.mib_per_1024_tokens:,.0f}", f"{fit.r_squared:.3f}", f"{fit.exponent:.2f}"
    return [mode, dtype, str(fit.longest.case.batch_size), name_cell(fit.longest), *figures]


def _share_of_peak(timing: Timing, peak: float | None) -> str:
    """FLOPs of ours a second over those of plain matrix products on this machine (MFU)."""
    if timing.ours.flops is None or not peak:
        return ""
    seconds = timing.ours.milliseconds.median / 1000
    return f"{timing.ours.flops / seconds / peak:.0%}"


def _first_of_case(memory: Sequence[Memory]) -> dict[Case, Memory]:
    first: dict[Case, Memory] = {}
    for entry in memory:
        first.setdefault(entry.case, entry)
    return first


def case_cells(case: Case) -> list[str]:
    """Mode, dtype and shape."""
    return [case.mode, case.dtype, f"{case.batch_size} x {case.length:,}"]


def _shape(timing: Timing) -> str:
    return case_cells(timing.case)[2]


def _pair(timing: Timing) -> str:
    return f"{name_cell(timing.ours)} / {name_cell(timing.peer)}"


def name_cell(side: Side | Memory) -> str:
    """A model and its implementation."""
    return f"{side.model} {side.implementation}"


def spread_cell(spread: Spread) -> str:
    """Median (lower to upper quartile)."""
    return f"{spread.median:.2f} ({spread.q25:.2f} to {spread.q75:.2f})"
