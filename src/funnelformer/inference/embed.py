"""`embed`: the vectors of the texts of a file, however many there are."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..base.errors import UserError, changed, printable
from ..base.files import atomic_path, atomic_writer, check_output
from ..base.options import takes
from ..base.progress import progress_bar
from ..base.streams import stdin_bytes
from ..base.strict_json import json_line
from ..data.formats import Row, row_name
from ..data.tables import check_column, collect, guess_single_text, iter_texts, no_rows
from ..data.values import BadValue, read_text
from ..spread.arrow_types import common_schema
from ..spread.table_parts import make_parts, refuse_taken
from .config import EmbedConfig
from .embedder import Embedder, asked_embedder
from .part_jobs import EmbedJob
from .settings import read_settings

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["embed"]

_COLUMN = "embedding"
# Rows that are sorted by length together, and in memory.
_CHUNK = 4096


@takes(EmbedConfig)
def embed(config: EmbedConfig) -> int:
    """Write the vectors of the texts of a file (or of stdin: "-", None) to `out`; return their number.

    out: .npy (float32 [N, D], in the order of the rows), or .parquet or .jsonl (with all columns of the input).
        What is in memory does not grow with the number of texts; stdin is copied to a temporary file.
    pooling, normalize, max_length, doc_stride, prompt, backend: see `load_embedder`.
    engine: "ray" reads files, patterns or folders, here or on S3, and makes `out` a folder of parts with a manifest,
        see `make_parts`.
    save_to: also, or only, write the embedder with these options as a folder for sentence_transformers.
    overwrite: allow a `save_to` that is not empty.
    Raises UserError for input that cannot be used, before the first text is embedded; then nothing is written.
    """
    if config.out is None and (config.data is not None or config.save_to is None):
        raise UserError("embed needs --out, a .npy, .parquet or .jsonl file, or --save-sentence-transformers")
    if config.engine == "ray":
        return _embed_on_ray(config)
    check_output(config.out, config.model, config.data)
    write = None if config.out is None else _writer(config.out)
    embedder = asked_embedder(config, only_runs=config.save_to is None)
    if config.save_to is not None:
        _ = embedder.weights  # what has none is refused before the first text
    number = 0
    if config.out is not None and write is not None:
        known = read_settings(config.model).get("text")
        with _open_texts(config.data or "-") as read:
            checked = _check(read, config.text, known, embedder.size, config.out.suffix)
            for message in checked.messages:
                print(printable(message), file=sys.stderr)
            with progress_bar("embed", checked.number) as advance:
                write(config.out, checked, _vectors(read, checked, embedder, config.batch_size, advance))
            number = checked.number
    if config.save_to is not None:
        from .sentence_folder import save_sentence_transformers

        save_sentence_transformers(embedder, config.save_to, overwrite=config.overwrite, stated=config)
    return number


def _embed_on_ray(config: EmbedConfig) -> int:
    assert config.out is not None
    if config.data in (None, "-"):
        raise UserError("--engine ray reads files, not stdin")
    names = ("model", "pooling", "normalize", "max_length", "doc_stride", "prompt", "text", "backend")
    named = {name: getattr(config, name) for name in (*names, "rows_per_part")}
    settings = {"command": "embed", **named}
    return make_parts(EmbedJob(config), str(config.data), str(config.out), config, settings)["rows"]


@dataclass(frozen=True)
class _Checked:
    """What a first pass over the rows found: all of them can be used.

    number: of rows. column: of the text. schema: of the output, for parquet. messages: what was guessed, in words.
    """

    name: str
    number: int
    column: str
    size: int
    schema: pa.Schema | None
    messages: list[str]


# Rows and their vectors.
Chunks = Iterator[tuple[list[dict[str, Any]], np.ndarray]]


@contextmanager
def _open_texts(data: str) -> Iterator[Callable[[], tuple[str, Iterator[Row]]]]:
    """Yield what reads the rows from the beginning each time it is called, as `iter_texts`."""
    if data != "-":
        yield lambda: iter_texts(data)
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(stdin_bytes(), copy)
        yield lambda: iter_texts(data, _from_start(copy))


def _from_start(file: IO[bytes]) -> IO[bytes]:
    file.seek(0)
    return file


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while chunk := list(islice(rows, _CHUNK)):
        yield chunk


def _check(
    read: Callable[[], tuple[str, Iterator[Row]]],
    text: str | None,
    known: str | None,
    size: int,
    suffix: str,
) -> _Checked:
    """Read all rows once. known: the column that the model was fine-tuned on, if the data have it."""
    name, rows = read()
    number, column, schema = 0, "", None
    messages: list[str] = []
    for chunk in _chunks(rows):
        table = collect(chunk, name)
        if not column:
            column, messages = guess_single_text(
                table, known if text is None and known in table.columns else text
            )
        for line, row in chunk:
            try:
                read_text(row[check_column(column, row, row_name(name, number, line))])
            except BadValue as problem:
                raise UserError(f"{row_name(name, number, line)}: column {column!r} {problem}") from None
            number += 1
        if suffix != ".npy":
            refuse_taken(table, [_COLUMN])
        if suffix == ".parquet":
            schema = common_schema(schema, table.columns, name)
    if not column:
        raise no_rows(name)
    if schema is not None:
        import pyarrow as pa

        schema = schema.append(pa.field(_COLUMN, pa.list_(pa.float32(), size)))
    return _Checked(name, number, column, size, schema, messages)


def _vectors(
    read: Callable[[], tuple[str, Iterator[Row]]],
    checked: _Checked,
    embedder: Embedder,
    batch_size: int,
    advance: Callable[[int], None],
) -> Chunks:
    """Read the rows again, with their vectors. Raises UserError when they are no longer as many."""
    number = 0
    for chunk in _chunks(read()[1]):
        rows = [row for _, row in chunk]
        number += len(rows)
        if number > checked.number:
            break
        yield rows, embedder.vectors([row[checked.column] for row in rows], batch_size, advance)
    if number != checked.number:
        raise changed(checked.name)


def _writer(out: Path) -> Callable[[Path, _Checked, Chunks], None]:
    writers = {".npy": _write_npy, ".parquet": _write_parquet, ".jsonl": _write_jsonl}
    if out.suffix not in writers:
        raise UserError(f"--out {out}: {out.suffix or 'no suffix'!r}; allowed: {', '.join(writers)}")
    return writers[out.suffix]


def _write_npy(out: Path, checked: _Checked, chunks: Chunks) -> None:
    with atomic_path(out) as temporary:
        shape = (checked.number, checked.size)
        file = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        start = 0
        for _, vectors in chunks:
            file[start : start + len(vectors)] = vectors
            start += len(vectors)
        file.flush()


def _write_parquet(out: Path, checked: _Checked, chunks: Chunks) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = checked.schema
    assert schema is not None
    with atomic_path(out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for rows, vectors in chunks:
            values = [
                pa.array([row.get(name) for row in rows], schema.field(name).type)
                for name in schema.names[:-1]
            ]
            flat = pa.array(vectors.ravel())
            values.append(pa.FixedSizeListArray.from_arrays(flat, checked.size))
            writer.write_table(pa.Table.from_arrays(values, schema=schema))


def _write_jsonl(out: Path, checked: _Checked, chunks: Chunks) -> None:
    with atomic_writer(out) as file:
        for rows, vectors in chunks:
            for row, vector in zip(rows, vectors, strict=True):
                # The fewest digits that give the float32 back.
                numbers = [float(str(number)) for number in vector]
                file.write(json_line({**row, _COLUMN: numbers}))
