"""Seconds of several things that do the same work, in turns: a slow moment of the machine meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

__all__ = ["seconds_in_turns"]


def seconds_in_turns(
    work: Mapping[str, Callable[[Sequence[str]], object]], texts: Sequence[str], rounds: int = 3
) -> dict[str, list[float]]:
    """Seconds for 1,000 texts of each, one number a round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, do in work.items():
            start = time.perf_counter()
            do(texts)
            if turn:
                seconds[name].append((time.perf_counter() - start) / len(texts) * 1000)
    return seconds
