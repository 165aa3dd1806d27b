"""Lines that tell how far the reading of a corpus has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["counting"]


@contextmanager
def counting(title: str, show: bool, total_bytes: int | None = None) -> Iterator[Callable[..., None]]:
    """Give a function `add(documents, tokens, bytes=0)`; the line shows the sums, and a bar of the bytes read.

    total_bytes: of the files to read; None shows a spinner.
    """
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from ..terminal import plain_console

    first = SpinnerColumn() if total_bytes is None else BarColumn()
    columns = (first, TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    documents = tokens = 0
    with Progress(*columns, console=plain_console(stderr=True), disable=not show) as progress:
        task = progress.add_task(title, total=total_bytes)

        def add(num_documents: int, num_tokens: int, num_bytes: int = 0) -> None:
            nonlocal documents, tokens
            documents, tokens = documents + num_documents, tokens + num_tokens
            text = f"{title}: {documents:,} documents, {tokens:,} tokens"
            progress.update(task, description=text, advance=num_bytes)

        yield add
