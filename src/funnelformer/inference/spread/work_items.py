"""Work items: so many rows of one source, with where they begin in it, and the name of the part they become."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import UserError
from ...base.files import plain_suffix
from ...data.formats import Row, arrow_rows, row_name
from ...data.tables import Table, check_column, collect, iter_texts
from ...data.values import BadValue, read_text
from ..arrow_types import common_schema
from .storage import is_remote, local_copy, open_store, read_range

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Scanned", "WorkItem", "first_rows", "read_item", "scan"]

# Formats whose rows begin at bytes that can be looked for; others are read from their beginning.
_BY_BYTES = (".csv", ".tsv", ".jsonl", ".ndjson", ".txt")
_WITH_HEADER = (".csv", ".tsv")


@dataclass(frozen=True)
class WorkItem:
    """`rows` rows of a source, from the row `first`, counted from 0.

    begin, end: bytes of the source that hold them; header: the bytes before the first row. end is 0 where the format
    has no such places.
    """

    source: str
    first: int
    rows: int
    begin: int = 0
    end: int = 0
    header: int = 0

    @property
    def part(self) -> str:
        """The name of the file of its results: it follows from the item alone, so that a retry writes the same file."""
        digest = hashlib.sha256(self.source.encode()).hexdigest()[:16]
        return f"{digest}-{self.first:012d}-{self.rows:06d}.parquet"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Scanned:
    """What one pass over a source found: every row can be used. schema: the types of its columns."""

    source: str
    bytes: int
    sha256: str
    rows: int
    items: list[WorkItem]
    schema: pa.Schema


def first_rows(source: str, number: int) -> Table:
    """The first rows of a source, to choose columns by."""
    with local_copy(source) as path, _named(source, path):
        return collect(islice(iter_texts(path)[1], number), source)


def scan(source: str, rows_per_part: int, texts: list[str], taken: list[str]) -> Scanned:
    """Read a source once, as one machine would, and divide it into work items.

    texts: the columns that must hold a text in every row. taken: names that the output needs for itself.
    Raises UserError naming the source with the row and line of the first that cannot be used.
    """
    with local_copy(source) as path, _named(source, path):
        _, rows = iter_texts(path)
        number, schema = 0, None
        begins: list[tuple[int, int | None, int]] = []  # first row, its line, how many
        while chunk := list(islice(rows, rows_per_part)):
            table = collect(chunk, source)
            for column in texts:
                check_column(column, table.columns, source)
            for name in taken:
                if name in table.columns:
                    raise UserError(f"{source}: has a column {name!r}, which the results need; rename it")
            for index, line in enumerate(table.lines):
                for column in texts:
                    try:
                        read_text(table.columns[column][index])
                    except BadValue as problem:
                        where = row_name(source, number + index, line)
                        raise UserError(f"{where}: column {column!r} {problem}") from None
            schema = common_schema(schema, table.columns, source)
            begins.append((number, chunk[0][0], len(chunk)))
            number += len(chunk)
        if schema is None:
            raise UserError(f"{source}: there are no rows of data in it")
        by_bytes = path.suffix.lower() in _BY_BYTES
        places, size, digest = _places(path, [line for _, line, _ in begins] if by_bytes else [])
        items = []
        for index, (first, _, count) in enumerate(begins):
            begin, end, header = 0, 0, 0
            if by_bytes:
                begin = places[index]
                end = places[index + 1] if index + 1 < len(places) else size
                header = places[0] if path.suffix.lower() in _WITH_HEADER else 0
            items.append(WorkItem(source, first, count, begin, end, header))
        return Scanned(source, size, digest, number, items, schema)


def _places(path: Path, lines: list[int | None]) -> tuple[list[int], int, str]:
    """The bytes where the given lines begin, in their order; the size of the file, and its SHA-256."""
    digest, place = hashlib.sha256(), 0
    places: list[int] = []
    with open(path, "rb") as file:
        if lines:
            wanted = iter(lines)
            next_line = next(wanted, None)
            for number, raw in enumerate(file, start=1):
                if number == next_line:
                    places.append(place)
                    next_line = next(wanted, None)
                digest.update(raw)
                place += len(raw)
        while block := file.read(1 << 20):
            digest.update(block)
            place += len(block)
    return places, place, digest.hexdigest()


class _named:  # noqa: N801 - a context manager
    """Errors of a copy name the source that it is a copy of."""

    def __init__(self, source: str, path: Path) -> None:
        self.source, self.path = source, str(path)

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, UserError) and self.path != self.source and self.path in str(error):
            raise UserError(str(error).replace(self.path, self.source)) from None


def read_item(item: WorkItem) -> Table:
    """The rows of an item, read as those of a whole file are. Raises UserError when the source is not as it was."""
    suffix = plain_suffix(item.source)
    if item.end:
        content = read_range(item.source, 0, item.header) + read_range(item.source, item.begin, item.end)
        with tempfile.NamedTemporaryFile(suffix=suffix) as file:
            file.write(content)
            file.flush()
            try:
                rows = list(iter_texts(file.name)[1])
            except UserError:  # the scan read them
                raise UserError(f"{item.source}: changed while it was read") from None
    elif item.source.lower().endswith(".parquet"):
        rows = list(_parquet_rows(item))
    else:
        with local_copy(item.source) as path:
            rows = list(islice(iter_texts(path)[1], item.first, item.first + item.rows))
    if len(rows) != item.rows:
        raise UserError(f"{item.source}: changed while it was read")
    return collect(rows, item.source)


def _parquet_rows(item: WorkItem) -> Iterator[Row]:
    """The item's rows out of the row groups that hold them; no other group is read."""
    import pyarrow.parquet as pq

    opened: Callable[[], Any]
    if is_remote(item.source):
        store, path = open_store(item.source)
        opened = lambda: store.open_input_file(path)  # noqa: E731
    else:
        opened = lambda: io.FileIO(item.source)  # noqa: E731
    with opened() as stream, pq.ParquetFile(stream) as file:
        groups: list[int] = []
        skip, before = 0, 0
        for group in range(file.num_row_groups):
            after = before + file.metadata.row_group(group).num_rows
            if before < item.first + item.rows and after > item.first:
                skip = item.first - before if not groups else skip
                groups.append(group)
            before = after
        left = item.rows
        for batch in file.iter_batches(batch_size=1024, row_groups=groups):
            kept = batch.slice(skip, left)
            skip = max(0, skip - len(batch))
            left -= len(kept)
            yield from ((None, row) for row in arrow_rows(kept, item.source))
            if not left:
                return
