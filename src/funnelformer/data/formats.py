"""Read the rows of one file: csv, tsv, JSON lines, a JSON array or parquet, compressed or not."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import UserError, one_line
from ..base.files import (
    MAX_DOCUMENT_BYTES,
    MAX_LINE_BYTES,
    check_file,
    iter_lines,
    plain_suffix,
    read_bytes,
    read_document,
)
from ..base.json_toml import load_json
from .bad_rows import OnBadRow, refuse
from .columns import check_names

__all__ = [
    "FORMATS",
    "Line",
    "Row",
    "arrow_columns",
    "arrow_rows",
    "iter_rows",
    "json_object",
    "jsonl_rows",
    "row_name",
    "with_first",
]

# A table with more has rows and columns exchanged, or values in the place of its keys.
MAX_COLUMNS = 1000

Line = tuple[int, str]
Row = tuple[int | None, dict[str, Any]]


def row_name(name: str, index: int, line: int | None) -> str:
    """Name a row for a message: "train.tsv: row 3 (line 4)" for index 2, which counts from 0; line may be None."""
    return f"{name}: row {index + 1}" + (f" (line {line})" if line is not None else "")


class _Header:
    """The columns of a csv or tsv file: given ones, or else those that its first line names."""

    def __init__(self, name: str, columns: Sequence[str] | None, bad: OnBadRow) -> None:
        self.name, self.bad = name, bad
        self.columns = None if columns is None else list(columns)
        self.says = "the header has" if columns is None else "its rows have"

    def rows(self, line: int, fields: list[str]) -> Iterator[Row]:
        """Yield the row that `fields` make: none if they are the header, or if their number is wrong."""
        if self.columns is None:
            _check_number(len(fields), f"{self.name}: line {line}")
            check_names(fields, f"{self.name}: line {line}: the header")
            self.columns = fields
        elif len(fields) != len(self.columns):
            self.bad(f"{self.name}: line {line}: {len(fields)} fields, but {self.says} {len(self.columns)}")
        else:
            yield line, dict(zip(self.columns, fields, strict=True))


def _tsv_rows(lines: Iterator[Line], header: _Header) -> Iterator[Row]:
    for number, line in lines:
        # In a table of one column an empty line is a row with an empty value.
        if line or header.columns is None or len(header.columns) == 1:
            yield from header.rows(number, line.split("\t"))


def _csv_rows(lines: Iterator[Line], header: _Header) -> Iterator[Row]:
    reader = csv.reader((line + "\n" for _, line in lines), strict=True)
    while True:
        start = reader.line_num + 1
        # The limit is global to the process and 128 KiB by default, less than a long document.
        limit = csv.field_size_limit(MAX_LINE_BYTES)
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{header.name}: line {start}: not valid CSV ({error})") from error
        finally:
            csv.field_size_limit(limit)
        if fields is None:
            return
        if fields:
            yield from header.rows(start, fields)


def _check_number(columns: int, where: str) -> None:
    if columns > MAX_COLUMNS:
        raise UserError(f"{where}: {columns:,} columns; allowed: {MAX_COLUMNS:,}")


def json_object(value: Any, where: str) -> dict[str, Any]:
    """Return a value that is a JSON object. Raises UserError, beginning with `where`, if it is not."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object of columns, found {type(value).__name__}")
    return value


def jsonl_rows(lines: Iterable[Line], name: str, bad: OnBadRow = refuse) -> Iterator[Row]:
    """Yield a row for each line that is not blank.

    lines: (number, text), each a JSON object. name: the file, for messages. bad: is told of any other line.
    Raises UserError if there are too many columns in all, or if two have names that look alike.
    """
    columns: dict[str, None] = {}
    for number, line in lines:
        if line.strip():
            where = f"{name}: line {number}"
            try:
                row = json_object(load_json(line, name, number), where)
            except UserError as error:
                bad(str(error))
            else:
                _add_columns(columns, row, where)
                yield number, row


def _add_columns(columns: dict[str, None], row: dict[str, Any], where: str) -> None:
    """Add the columns of a row to those of the rows before. Raises UserError if there are too many, or look-alikes."""
    if not columns.keys() >= row.keys():
        columns.update(dict.fromkeys(row))
        check_names(columns, f"{where}: with the rows before, it")
        _check_number(len(columns), f"{where}: with the rows before")


def with_first(lines: Iterator[Line]) -> tuple[str, Iterator[Line]]:
    """The first character that is not white space, "" if there is none; and all the lines again."""
    begun: list[Line] = []
    first = ""
    while not first and (entry := next(lines, None)) is not None:
        begun.append(entry)
        first = entry[1].lstrip()[:1]
    return first, itertools.chain(begun, lines)


def _json_rows(path: Path, bad: OnBadRow) -> Iterator[Row]:
    """Read an array of objects, all in memory; a file that does not begin with "[" is read as JSON lines."""
    first, lines = with_first(iter_lines(path, MAX_DOCUMENT_BYTES))
    if first != "[":
        yield from jsonl_rows(lines, str(path), bad)
        return
    del lines  # this closes the file
    columns: dict[str, None] = {}
    for index, value in enumerate(load_json(read_document(path), str(path))):
        where = f"{path}: row {index + 1}"
        try:
            row = json_object(value, where)
        except UserError as error:
            bad(str(error))
        else:
            _add_columns(columns, row, where)
            yield None, row


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    compressed = path.suffix.lower() != ".parquet"
    source = io.BytesIO(read_bytes(path)) if compressed else check_file(path)
    try:
        with pq.ParquetFile(source) as file:
            check_names(file.schema_arrow.names, f"{path}: the schema")
            _check_number(len(file.schema_arrow.names), str(path))
            for batch in file.iter_batches(batch_size=1024):
                yield from ((None, row) for row in arrow_rows(batch, str(path)))
    except UserError:
        raise
    except (pa.ArrowException, OSError, MemoryError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: not a readable parquet file ({one_line(error)})") from error


def arrow_rows(batch: Any, name: str) -> list[dict[str, Any]]:
    """The rows of an Arrow table or batch. Raises UserError naming a column with a value that Python cannot hold."""
    columns = arrow_columns(batch, name)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def arrow_columns(batch: Any, name: str) -> dict[str, list[Any]]:
    """The columns of an Arrow table or batch, as lists. Raises UserError as `arrow_rows`, and for a repeated name."""
    columns: dict[str, list[Any]] = {}
    for column, values in zip(batch.schema.names, batch.columns, strict=True):
        if column in columns:
            raise UserError(f"{name}: has two columns {column!r}")
        try:
            columns[column] = values.to_pylist()
        except (ArithmeticError, ValueError, TypeError) as error:
            # a year beyond 9999, bytes that are not UTF-8; Arrow's own errors are ValueErrors too
            raise UserError(
                f"{name}: column {column!r} has a value that cannot be read ({one_line(error)})"
            ) from None
    return columns


_TEXT_TABLES: dict[str, Callable[[Iterator[Line], _Header], Iterator[Row]]] = {
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
}
_JSON_LINES = (".jsonl", ".ndjson")
FORMATS = (*_TEXT_TABLES, *_JSON_LINES, ".json", ".parquet")


def iter_rows(
    path: str | Path, *, columns: Sequence[str] | None = None, bad: OnBadRow = refuse
) -> Iterator[Row]:
    """Yield (line number, {column: value}) for each row of a file. The number counts from 1; it is None if not known.

    A JSON array and a compressed parquet file are read into memory; of any other file only a few rows are. csv has
    quotes as in RFC 4180, tsv has none; both skip blank lines, and all their values are text. Any format may be
    compressed (.gz, .bz2, .xz, .zst).
    columns: names for a csv or tsv file without a header.
    bad: is called with a message about a row with a wrong number of fields, or a line that is not a JSON object.
    Raises UserError if the file cannot be read, or is not in the format of its suffix.
    """
    path = Path(path)
    suffix = plain_suffix(path)
    if suffix == ".parquet":
        return _parquet_rows(path)
    if suffix in _TEXT_TABLES:
        return _TEXT_TABLES[suffix](iter_lines(path), _Header(str(path), columns, bad))
    if suffix in _JSON_LINES:
        return jsonl_rows(iter_lines(path), str(path), bad)
    if suffix == ".json":
        return _json_rows(path, bad)
    check_file(path)
    raise UserError(f"{path}: unknown format {suffix!r}; use one of {', '.join(FORMATS)}, or those with .gz")
