"""Rows of one file: csv, tsv, JSON lines or array, parquet, compressed or not."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, one_line
from .bad_rows import OnBadRow, refuse
from .columns import check_names, once_each
from .files import check_file, iter_lines, plain_suffix, read_bytes

__all__ = ["FORMATS", "Line", "Row", "iter_rows", "json_object", "jsonl_rows", "parse_json", "row_name"]

Line = tuple[int, str]
Row = tuple[int | None, dict[str, Any]]


def row_name(name: str, index: int, line: int | None) -> str:
    """Return "train.tsv: row 3 (line 4)" for row 2 counted from 0, without the line when it is None."""
    return f"{name}: row {index + 1}" + (f" (line {line})" if line is not None else "")


class _Header:
    """The columns of a csv or tsv file: those of its first line, or those that its form says."""

    def __init__(self, name: str, columns: Sequence[str] | None, bad: OnBadRow) -> None:
        self.name, self.bad = name, bad
        self.columns = None if columns is None else list(columns)
        self.says = "the header has" if columns is None else "its rows have"

    def rows(self, line: int, fields: list[str]) -> Iterator[Row]:
        """The row that `fields` make: none when they are the header, or as many as they should not be."""
        if self.columns is None:
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
        limit = csv.field_size_limit(sys.maxsize)
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


def parse_json(text: str, name: str, first_line: int) -> Any:
    """Parse JSON that begins on a line of a file; raise UserError naming the line where it ends to be JSON."""
    try:
        return json.loads(text, object_pairs_hook=once_each)
    except json.JSONDecodeError as error:
        where = f"{name}: line {first_line + error.lineno - 1}"
        raise UserError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise UserError(f"{name}: line {first_line}: not usable JSON ({one_line(error)})") from error


def json_object(value: Any, where: str) -> dict[str, Any]:
    """Return `value` when it is a JSON object; otherwise raise UserError."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object of columns, found {type(value).__name__}")
    return value


def jsonl_rows(lines: Iterable[Line], name: str, bad: OnBadRow = refuse) -> Iterator[Row]:
    """The rows of lines of JSON, blank ones left out."""
    for number, line in lines:
        if line.strip():
            try:
                row = json_object(parse_json(line, name, number), f"{name}: line {number}")
            except UserError as error:
                bad(str(error))
            else:
                yield number, row


def _json_rows(lines: Iterator[Line], name: str, bad: OnBadRow) -> Iterator[Row]:
    """Read an array of objects, in memory; a file that does not start with "[" is read as JSON lines."""
    kept = list(lines)
    if not next((line for _, line in kept if line.strip()), "").lstrip().startswith("["):
        yield from jsonl_rows(kept, name, bad)
        return
    for index, value in enumerate(parse_json("\n".join(line for _, line in kept), name, 1)):
        try:
            row = json_object(value, f"{name}: row {index + 1}")
        except UserError as error:
            bad(str(error))
        else:
            yield None, row


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    compressed = path.suffix.lower() != ".parquet"
    source = io.BytesIO(read_bytes(path)) if compressed else check_file(path)
    try:
        with pq.ParquetFile(source) as file:
            check_names(file.schema_arrow.names, f"{path}: the schema")
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    yield None, row
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable parquet file ({one_line(error)})") from error


_TEXT_TABLES: dict[str, Callable[[Iterator[Line], _Header], Iterator[Row]]] = {
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
}
_JSON: dict[str, Callable[[Iterator[Line], str, OnBadRow], Iterator[Row]]] = {
    ".jsonl": jsonl_rows,
    ".ndjson": jsonl_rows,
    ".json": _json_rows,
}
FORMATS = (*_TEXT_TABLES, *_JSON, ".parquet")


def iter_rows(
    path: str | Path, *, columns: Sequence[str] | None = None, bad: OnBadRow = refuse
) -> Iterator[Row]:
    """Yield (line number or None, {column: value}) of a file, in constant memory but for a JSON array.

    csv has RFC 4180 quoting, tsv has none; both skip blank lines and give every value as text. Any format may be
    compressed (.gz, .bz2, .xz, .zst).
    columns: of a csv or tsv file that has no header. bad: told of a row of the wrong arity, or a line that is no JSON.
    Raises UserError for what is no file of its format.
    """
    path = Path(path)
    suffix = plain_suffix(path)
    if suffix == ".parquet":
        return _parquet_rows(path)
    if suffix in _TEXT_TABLES:
        return _TEXT_TABLES[suffix](iter_lines(path), _Header(str(path), columns, bad))
    if suffix in _JSON:
        return _JSON[suffix](iter_lines(path), str(path), bad)
    check_file(path)
    raise UserError(f"{path}: unknown format {suffix!r}; use one of {', '.join(FORMATS)}, or those with .gz")
