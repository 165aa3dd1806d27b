"""Work items: a range of rows of one source, the bytes that hold them, and the name of the part they become."""

from __future__ import annotations

import codecs
import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..base.errors import UserError, changed
from ..base.files import plain_suffix
from ..data.formats import Row, arrow_rows
from ..data.tables import Table, collect, iter_texts, no_rows
from .arrow_types import common_schema
from .storage import is_remote, local_copy, open_store, read_range

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "TEXT_ROWS",
    "RowReader",
    "Scanned",
    "WorkItem",
    "first_rows",
    "has_places",
    "item_rows",
    "places_of",
    "read_item",
    "scan",
    "source_copy",
]

# Formats in which one can seek to a row; files of other formats are read from their beginning.
_BY_BYTES = (".csv", ".tsv", ".jsonl", ".ndjson", ".txt")
_WITH_HEADER = (".csv", ".tsv")
_MARK = codecs.BOM_UTF8


@dataclass(frozen=True)
class WorkItem:
    """`rows` rows of a source, from row `first` on, counted from 0.

    begin, end: the rows are the bytes from `begin` to before `end` of the source; both are 0 if one cannot seek in it.
    header: number of bytes before the source's first row, which hold the names of its columns.
    """

    source: str
    first: int
    rows: int
    begin: int = 0
    end: int = 0
    header: int = 0

    @property
    def part(self) -> str:
        """The file name of the item's results. It depends on the item alone, so a retry writes the same file."""
        digest = hashlib.sha256(self.source.encode()).hexdigest()[:16]
        return f"{digest}-{self.first:012d}-{self.rows:06d}.parquet"


class RowReader(Protocol):
    """How the rows of a file are read.

    is_whole: True if `rows` loads and checks the whole file anyway, so that `scan` takes it as one table.
    """

    @property
    def is_whole(self) -> bool: ...

    def rows(self, path: Path) -> Iterator[Row]:
        """The rows of a file. Raises UserError if it cannot be read."""


@dataclass(frozen=True)
class TextRows:
    """Reads the rows of texts to predict on, see `iter_texts`."""

    is_whole: bool = False

    def rows(self, path: Path) -> Iterator[Row]:
        return iter_texts(path)[1]


TEXT_ROWS: RowReader = TextRows()


@dataclass(frozen=True)
class Scanned:
    """What one pass over a source found; all its rows can be used.

    bytes, sha256: of the file; the hash is in hex. rows: their number. items: together they have every row once, in
    order. schema: the types of the columns that the results keep.
    """

    source: str
    bytes: int
    sha256: str
    rows: int
    items: list[WorkItem]
    schema: pa.Schema


def first_rows(source: str, number: int, reader: RowReader = TEXT_ROWS) -> Table:
    """The first `number` rows of a source, fewer if it has fewer. Raises UserError if it has none or cannot be read."""
    with source_copy(source) as path:
        return collect(islice(reader.rows(path), number), source)


def has_places(source: str) -> bool:
    """Whether one can seek to a row of a source; if not, it is read from its beginning."""
    return Path(source).suffix.lower() in _BY_BYTES


def scan(
    source: str,
    rows_per_part: int,
    check: Callable[[Table, int], None],
    hidden: tuple[str, ...] = (),
    reader: RowReader = TEXT_ROWS,
) -> Scanned:
    """Read a source once, check every row, and divide it into work items of `rows_per_part` rows, the last with fewer.

    check: called with a table of rows and how many rows of the source come before it; raises UserError if a row of the
        table cannot be used.
    hidden: columns that the results leave out.
    Raises UserError if the source cannot be read, or has no rows; and what `check` raises.
    """
    by_bytes = has_places(source) and isinstance(reader, TextRows)
    with source_copy(source) as path:
        rows = reader.rows(path)
        number, schema = 0, None
        begins: list[tuple[int, int | None, int]] = []  # first row, its line, how many
        while chunk := list(islice(rows, None if reader.is_whole else rows_per_part)):
            table = collect(chunk, source)
            check(table, number)
            shown = {name: values for name, values in table.columns.items() if name not in hidden}
            schema = common_schema(schema, shown, source)
            for start in range(0, len(chunk), rows_per_part):
                begins.append((number + start, chunk[start][0], min(rows_per_part, len(chunk) - start)))
            number += len(chunk)
        if schema is None:
            raise no_rows(source)
        ranges, size, digest = places_of(path, [line for _, line, _ in begins] if by_bytes else [])
        items = [
            WorkItem(source, first, count, *place)
            for (first, _, count), place in zip(begins, ranges or [(0, 0, 0)] * len(begins), strict=True)
        ]
        return Scanned(source, size, digest, number, items, schema)


def places_of(path: Path, lines: list[int | None]) -> tuple[list[tuple[int, int, int]], int, str]:
    """Find the bytes of groups of rows, given the line on which each group begins.

    lines: counted from 1, in rising order; may be empty.
    Returns (begin, end, header) of each group, see `WorkItem`: it ends where the next one begins, the last one at the
    end of the file; then the size of the file in bytes, and its SHA-256 in hex.
    Raises UserError if the file has no such line any more.
    """
    begins, size, digest = _places(path, lines)
    if len(begins) != len(lines):
        raise changed(path)
    header = begins[0] if begins and path.suffix.lower() in _WITH_HEADER else 0
    ends = [*begins[1:], size] if begins else []
    return [(begin, end, header) for begin, end in zip(begins, ends, strict=True)], size, digest


def _places(path: Path, lines: list[int | None]) -> tuple[list[int], int, str]:
    """The offsets in bytes at which the given lines begin; then the size of the file, and its SHA-256 in hex.

    Lines beyond the end of the file are left out.
    """
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


@contextmanager
def source_copy(source: str) -> Iterator[Path]:
    """`local_copy`, but a UserError that names the temporary copy names the source instead."""
    with local_copy(source) as path:
        try:
            yield path
        except UserError as error:
            if str(path) == source or str(path) not in str(error):
                raise
            raise UserError(str(error).replace(str(path), source)) from None


def read_item(item: WorkItem, reader: RowReader = TEXT_ROWS) -> Table:
    """Read the rows of an item as a table. Raises UserError if the source has changed since the scan."""
    rows = list(item_rows(item, reader))
    if len(rows) != item.rows:
        raise changed(item.source)
    return collect(rows, item.source)


def item_rows(item: WorkItem, reader: RowReader = TEXT_ROWS) -> Iterator[Row]:
    """The rows of an item, one by one. If the item has bytes, lines are counted from there, not from the file's start.

    Raises UserError if the source has changed since the scan.
    """
    if item.end:
        content = read_range(item.source, item.begin, item.end)
        if item.header:
            content = read_range(item.source, 0, item.header) + content
        elif item.begin and content.startswith(_MARK):
            content = _MARK + content  # the reader drops one mark, as at the start of a file
        with tempfile.NamedTemporaryFile(suffix=plain_suffix(item.source)) as file:
            file.write(content)
            file.flush()
            try:
                yield from reader.rows(Path(file.name))
            except UserError:  # the scan could read these rows
                raise changed(item.source) from None
    elif item.source.lower().endswith(".parquet") and isinstance(reader, TextRows):
        yield from _parquet_rows(item)
    else:
        with source_copy(item.source) as path:
            yield from islice(reader.rows(path), item.first, item.first + item.rows)


def _parquet_rows(item: WorkItem) -> Iterator[Row]:
    """The item's rows; only the row groups that hold them are read."""
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
