"""Standard streams: always UTF-8, and safe to use when the caller has closed them."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from .errors import UserError
from .files import ESCAPED, atomic_writer

__all__ = ["discard_stdout", "flush_stdout", "open_streams", "output", "stdin_bytes"]


class _Closed(io.TextIOBase):
    """Takes what is said and drops it, in place of a stream that was closed before the program began."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        return len(text)


def open_streams() -> None:
    """Make stdout UTF-8 whatever the locale, as stdin is read; a closed stream takes messages and drops them.

    Half a surrogate pair is written as an escape, which in JSON stands for the same. The numbers 0 to 2 of closed
    streams are taken by the null device: the next file to be opened would have them, and receive what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stdout is None:
        sys.stdout = _Closed()
    if sys.stderr is None:
        sys.stderr = _Closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors=ESCAPED)


@contextmanager
def output(out: Path | None) -> Iterator[TextIO]:
    """Open the place for results: the file, which appears whole, or stdout. Raises UserError if stdout is closed."""
    if out is not None:
        with atomic_writer(out) as file:
            yield file
    elif sys.stdout is None or isinstance(sys.stdout, _Closed):
        raise UserError("stdout is closed, so there is no place for the results; name a file with --out")
    else:
        yield sys.stdout


def stdin_bytes() -> BinaryIO:
    """The bytes of stdin. Raises UserError if it is closed."""
    if sys.stdin is None:
        raise UserError("stdin is closed, so there is nothing to read; name a file")
    return sys.stdin.buffer


def flush_stdout() -> None:
    """Write what is still buffered, while an error can be reported; Python would complain only when it ends."""
    with contextlib.suppress(ValueError):  # closed by who called us
        sys.stdout.flush()


def discard_stdout() -> None:
    """Drop what could not be written to stdout, so that Python does not try it again at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
