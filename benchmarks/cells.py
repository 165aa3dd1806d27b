"""Results that grow by a row at a time, and how the scores of several seeds are shown: not a script of its own."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from finetuning import write_json

__all__ = ["add", "read_results", "seconds_beside", "shown", "spread"]


def read_results(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows that are there: of cells, which are trained, and of times."""
    return json.loads(file.read_text()) if file.is_file() else {"cells": [], "times": []}


def add(file: Path, part: str, row: dict[str, Any], key: Callable[[dict[str, Any]], Any]) -> None:
    """Put a row into the results, in place of one with its key; nothing else of the file changes."""
    results = read_results(file)
    rows = [old for old in results.get(part, []) if key(old) != key(row)]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {**results, part: [*rows, row]})


def shown(arguments: Iterable[object]) -> str:
    """A command as it is typed, with names of files in place of this machine's paths."""
    return shlex.join(["funnelformer", *(a.name if isinstance(a, Path) else str(a) for a in arguments)])


def spread(scores: list[float]) -> str:
    """The mean of some seeds, and the lowest and highest where there are several."""
    text = f"{statistics.mean(scores):.1f}"
    return text if len(scores) == 1 else f"{text} ({min(scores):.1f} to {max(scores):.1f})"


def seconds_beside(seconds: list[float], peers: list[float] | None, digits: int) -> str:
    """The median of some rounds; with the peer's seconds of the same rounds also the ratio, with least and most."""
    text = f"{statistics.median(seconds):.{digits}f} s"
    if peers is None:
        return text
    ratios = [own / peer for own, peer in zip(seconds, peers, strict=True)]
    return f"{text}, {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
