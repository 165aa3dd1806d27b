"""`funnelformer bench compare`: what changed between two runs, with the spreads, and in what else they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..base.markdown import markdown_table
from ..base.options import takes
from .config import CompareConfig
from .result_tables import case_cells, name_cell, spread_cell
from .results import Memory, Spread, Timing, read_results

__all__ = ["compare", "verdict"]

# The part of the memory that an allocator may add or leave from run to run.
_MEMORY_NOISE = 0.02


@takes(CompareConfig)
def compare(config: CompareConfig) -> str:
    """Tables in Markdown of what both files measured: times as ratios to the peer, and memory.

    Two runs are compared by ratios, because the peer was timed on the same machine at the same moment. A ratio counts
    as changed if the quartiles do not overlap.
    Raises UserError for a file that cannot be read, or that `funnelformer bench` did not write.
    """
    first, second = (
        read_results(path / "results.json" if path.is_dir() else path)
        for path in (config.before, config.after)
    )
    parts = []
    for title, left, right in (
        ("hardware", first.machine, second.machine),
        ("versions", first.versions, second.versions),
        ("settings", first.settings, second.settings),
    ):
        parts += [f"- {line}" for line in _differences(title, left, right)]
    for name, results in (("first", first), ("second", second)):
        if not results.is_complete:
            parts.append(f"- the {name} run was interrupted")
    text = (
        "What differs beside the results:\n\n" + "\n".join(parts)
        if parts
        else "Same hardware, versions, settings."
    )
    sections = [text]
    times, other_times = _by_key(first.timings), _by_key(second.timings)
    rows = [_time_row(times[key], other_times[key]) for key in times if key in other_times]
    if rows:
        header = [
            "",
            "dtype",
            "shape",
            "model",
            "peer",
            "ms",
            "ratio before",
            "ratio after",
            "after / before",
            "",
        ]
        sections.append("## Time\n\n" + markdown_table(header, rows))
    memory, other_memory = _by_key(first.memory), _by_key(second.memory)
    rows = [_memory_row(memory[key], other_memory[key]) for key in memory if key in other_memory]
    if rows:
        header = ["", "dtype", "shape", "model", "peak beyond weights, MiB", "after / before", ""]
        sections.append("## Peak memory\n\n" + markdown_table(header, rows))
    for name, mine, others in (
        ("first", {**times, **memory}, {**other_times, **other_memory}),
        ("second", {**other_times, **other_memory}, {**times, **memory}),
    ):
        alone = [_title(entry) for key, entry in mine.items() if key not in others]
        if alone:
            sections.append(f"Only in the {name}:\n\n" + "\n".join(f"- {line}" for line in alone))
    return "\n\n".join(sections) + "\n"


def verdict(before: Spread, after: Spread) -> str:
    """ "faster" or "slower" where the quartiles of the two do not overlap."""
    if after.q75 < before.q25:
        return "faster"
    if after.q25 > before.q75:
        return "slower"
    return "within the spread"


def _differences(title: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{title}: {key} {before.get(key)!r}, then {after.get(key)!r}" for key in keys]


def _by_key(entries: Sequence[Any]) -> dict[tuple[Any, ...], Any]:
    return {entry.key: entry for entry in entries}


def _time_row(before: Timing, after: Timing) -> list[str]:
    old, new = before.ratio, after.ratio
    milliseconds = [f"{timing.ours.milliseconds.median:,.1f}" for timing in (before, after)]
    return [
        *case_cells(before.case),
        name_cell(before.ours),
        name_cell(before.peer),
        ", then ".join(milliseconds),
        spread_cell(old),
        spread_cell(new),
        f"{new.median / old.median:.2f}",
        verdict(old, new),
    ]


def _memory_row(before: Memory, after: Memory) -> list[str]:
    sizes = before.peak_bytes, after.peak_bytes
    ratio = sizes[1] / sizes[0] if sizes[0] else float("nan")
    change = "less" if ratio < 1 - _MEMORY_NOISE else "more" if ratio > 1 + _MEMORY_NOISE else ""
    return [
        *case_cells(before.case),
        name_cell(before),
        ", then ".join(f"{size / 2**20:,.0f}" for size in sizes),
        f"{ratio:.2f}",
        change,
    ]


def _title(entry: Timing | Memory) -> str:
    case = ", ".join(case_cells(entry.case))
    if isinstance(entry, Memory):
        return f"memory, {case}: {name_cell(entry)}"
    return f"time, {case}: {name_cell(entry.ours)} / {name_cell(entry.peer)}"
