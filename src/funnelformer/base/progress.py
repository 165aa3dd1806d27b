"""How far something has come: one line on a terminal that is written over, and rows that stay.

Everything that shows progress does it here. Where stderr is no terminal nothing is written over.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["LiveLine", "counting", "duration", "progress_bar"]

# What takes no longer than this is not worth a line.
_QUIET_S = 1.0
_REFRESH_S = 0.1
_BAR_CHARS = 20


def duration(seconds: float) -> str:
    """Minutes and seconds, from an hour on hours too: 0:07, 12:30, 2:03:00."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class LiveLine:
    """A line on stderr that is written over; if stderr is no terminal, nothing is written.

    `row` prints a line to stdout that stays, above the live one.
    """

    def __init__(self, shown: bool = True) -> None:
        self.is_live = shown and sys.stderr.isatty()
        self._begin = time.monotonic()
        self._last, self._width = 0.0, 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begin

    def update(self, text: Callable[[], str]) -> None:
        """Show `text()`, ten times a second at most, and after the first second."""
        now = time.monotonic()
        if not self.is_live or now - self._begin < _QUIET_S or now - self._last < _REFRESH_S:
            return
        self._last = now
        line = text()[: shutil.get_terminal_size().columns - 1]
        print(f"\r{line:<{self._width}}", end="", file=sys.stderr, flush=True)
        self._width = len(line)

    def clear(self) -> None:
        if self._width:
            print(f"\r{'':<{self._width}}\r", end="", file=sys.stderr, flush=True)
            self._width, self._last = 0, 0.0

    def row(self, text: str) -> None:
        self.clear()
        print(text, flush=True)


@contextmanager
def progress_bar(
    title: str | None, total: int, line_every_s: float | None = None
) -> Iterator[Callable[[int], None]]:
    """Yield a function `advance(number)`, which you call when so many more of `total` are done.

    A bar shows them on a terminal, if there is a title.

    line_every_s: seconds between lines that say the same if stderr is no terminal; by default there are none.
    """
    line, done, printed = LiveLine(title is not None), 0, 0.0

    def text() -> str:
        share = done / max(total, 1)
        left = line.seconds * (1 - share) / share if share else 0.0
        bar = "█" * round(share * _BAR_CHARS)
        return (
            f"{title} {bar:<{_BAR_CHARS}} {share:>4.0%}  {done:,} of {total:,}  "
            f"{done / line.seconds:,.1f}/s  {duration(left)} left"
        )

    def advance(number: int) -> None:
        nonlocal done, printed
        done += number
        line.update(text)
        if not line.is_live and line_every_s is not None and line.seconds - printed >= line_every_s:
            printed = line.seconds
            print(text(), file=sys.stderr, flush=True)

    try:
        yield advance
    finally:
        line.clear()


@contextmanager
def counting(title: str, show: bool, total_bytes: int | None = None) -> Iterator[Callable[..., None]]:
    """Yield a function `add(documents, tokens, bytes=0)`; the line shows the sums, and the share of the bytes read.

    total_bytes: of the files to read, where it is known.
    """
    line, documents, tokens, read = LiveLine(show), 0, 0, 0

    def text() -> str:
        share = "" if total_bytes is None else f" {read / max(total_bytes, 1):>4.0%}"
        return f"{title}{share}  {documents:,} documents  {tokens:,} tokens  {duration(line.seconds)}"

    def add(num_documents: int, num_tokens: int, num_bytes: int = 0) -> None:
        nonlocal documents, tokens, read
        documents, tokens, read = documents + num_documents, tokens + num_tokens, read + num_bytes
        line.update(text)

    try:
        yield add
    finally:
        line.clear()
