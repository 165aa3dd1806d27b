"""Work items: so many rows of one source, with where they begin in it, and the name of the part they become."""

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

from ..base.errors import UserError
from ..base.files import plain_suffix
from ..data.formats import Row, arrow_rows
from ..data.tables import Table, collect, iter_texts
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

# Formats whose rows begin at bytes that can be looked for; others are read from their beginning.
_BY_BYTES = (".csv", ".tsv", ".jsonl", ".ndjson", ".txt")
_WITH_HEADER = (".csv", ".tsv")
_MARK = codecs.BOM_UTF8


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


class RowReader(Protocol):
    """How the rows of a file are read.

    is_whole: it has the whole file in memory, and what is wrong with a row is found there.
    """

    @property
    def is_whole(self) -> bool: ...

    def rows(self, path: Path) -> Iterator[Row]:
        """The rows of a file. Raises UserError if it cannot be read."""


@dataclass(frozen=True)
class TextRows:
    """The rows of texts to predict on, see `iter_texts`."""

    is_whole: bool = False

    def rows(self, path: Path) -> Iterator[Row]:
        return iter_texts(path)[1]


TEXT_ROWS: RowReader = TextRows()


@dataclass(frozen=True)
class Scanned:
    """What one pass over a source found: every row can be used. schema: the types of its columns."""

    source: str
    bytes: int
    sha256: str
    rows: int
    items: list[WorkItem]
    schema: pa.Schema


def first_rows(source: str, number: int, reader: RowReader = TEXT_ROWS) -> Table:
    """The first rows of a source, to choose columns by."""
    with source_copy(source) as path:
        return collect(islice(reader.rows(path), number), source)


def has_places(source: str) -> bool:
    """Whether one can seek to the rows of a source; any other source is read from its beginning."""
    return Path(source).suffix.lower() in _BY_BYTES


def scan(
    source: str,
    rows_per_part: int,
    check: Callable[[Table, int], None],
    hidden: tuple[str, ...] = (),
    reader: RowReader = TEXT_ROWS,
) -> Scanned:
    """Read a source once, as one machine would, and divide it into work items.

    check: raises UserError for rows that cannot be used, given a table and how many rows of the source are before it.
    hidden: columns that the results are not to have. Raises UserError naming the source with the row and line of the
    first that cannot be used.
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
            raise UserError(f"{source}: there are no rows of data in it")
        ranges, size, digest = places_of(path, [line for _, line, _ in begins] if by_bytes else [])
        items = [
            WorkItem(source, first, count, *place)
            for (first, _, count), place in zip(begins, ranges or [(0, 0, 0)] * len(begins), strict=True)
        ]
        return Scanned(source, size, digest, number, items, schema)


def places_of(path: Path, lines: list[int | None]) -> tuple[list[tuple[int, int, int]], int, str]:
    """Where the rows that begin at the given lines are, in their order; the size of the file, and its SHA-256.

    A place is (begin, end, header), see `WorkItem`: it ends where the next begins, and the last with the file.
    Raises UserError where a line is not there.
    """
    begins, size, digest = _places(path, lines)
    if len(begins) != len(lines):
        raise UserError(f"{path}: changed while it was read")
    header = begins[0] if begins and path.suffix.lower() in _WITH_HEADER else 0
    ends = [*begins[1:], size] if begins else []
    return [(begin, end, header) for begin, end in zip(begins, ends, strict=True)], size, digest


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


@contextmanager
def source_copy(source: str) -> Iterator[Path]:
    """Yield a file of this machine with a source's content; errors of a copy name the source that it is a copy of."""
    with local_copy(source) as path:
        try:
            yield path
        except UserError as error:
            if str(path) == source or str(path) not in str(error):
                raise
            raise UserError(str(error).replace(str(path), source)) from None


def read_item(item: WorkItem, reader: RowReader = TEXT_ROWS) -> Table:
    """The rows of an item, read like those of a whole file. Raises UserError if the source has changed since."""
    rows = list(item_rows(item, reader))
    if len(rows) != item.rows:
        raise UserError(f"{item.source}: changed while it was read")
    return collect(rows, item.source)


def item_rows(item: WorkItem, reader: RowReader = TEXT_ROWS) -> Iterator[Row]:
    """The rows of an item, one by one; of those with places their lines are not the file's.

    Raises UserError when the source is not as it was.
    """
    if item.end:
        content = read_range(item.source, item.begin, item.end)
        if item.header:
            content = read_range(item.source, 0, item.header) + content
        elif item.begin and content.startswith(_MARK):
            content = _MARK + content  # of a file's first line one is dropped
        with tempfile.NamedTemporaryFile(suffix=plain_suffix(item.source)) as file:
            file.write(content)
            file.flush()
            try:
                yield from reader.rows(Path(file.name))
            except UserError:  # the scan read them
                raise UserError(f"{item.source}: changed while it was read") from None
    elif item.source.lower().endswith(".parquet") and isinstance(reader, TextRows):
        yield from _parquet_rows(item)
    else:
        with source_copy(item.source) as path:
            yield from islice(reader.rows(path), item.first, item.first + item.rows)


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
