"""Rows in, rows out: the rows of the sources with the columns that a job adds, as parquet files called parts."""

from __future__ import annotations

import functools
import io
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..base.errors import UserError, one_line, printable
from ..data.tables import Table
from .engine_options import EngineOptions
from .parts_manifest import PARTS, check_folder, describe, inside, missing, open_run, write_manifest
from .ray_engine import each, installed_versions, make_all, on_cluster
from .storage import as_url, exists, write_whole
from .work_items import RowReader, Scanned, WorkItem, first_rows, read_item, scan

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ORIGIN", "Job", "PartMaker", "make_parts", "refuse_taken"]

# Columns in every part for the origin of a row: its file, and its number there, counted from 1.
ORIGIN = ("source", "row")
_FIRST_ROWS = 4096


class Job(Protocol):
    """The work on the rows of a part. A job is pickled without its model."""

    command: str
    reader: RowReader
    hidden: tuple[str, ...]
    "Columns of the sources that are left out of the parts."

    def sources(self, data: str) -> list[str]:
        """The files that `data` stands for. Raises UserError if there is none."""

    def prepare(self, first: Table) -> list[str]:
        """Choose the columns from the first rows; return messages about what was guessed."""

    def check(self, table: Table, before: int) -> None:
        """Raise UserError if a row cannot be used. before: how many rows of the source come before the table."""

    def fields(self) -> list[pa.Field]:
        """The names and types of the columns that the job adds."""

    def results(self, table: Table) -> list[pa.Array]:
        """The results for a table of N rows: one array of length N for each of `fields`."""


def make_parts(
    job: Job, data: str, out: str, engine: EngineOptions, settings: dict[str, Any]
) -> dict[str, Any]:
    """Write the results for the rows of `data` as parts below `out`, and then a manifest; return the manifest.

    data: a file, a pattern or a folder, on this machine or in a store. out: a folder, likewise.
    settings: all that decides the results, the key "model" among them; a resumed run must have the same.
    Raises UserError before the first part is made if the input cannot be used; later, if a source has changed since.
    """
    out = as_url(out)
    check_folder(out, engine.resume)
    sources = job.sources(data)
    messages = job.prepare(first_rows(sources[0], _FIRST_ROWS, job.reader))
    with on_cluster(engine):
        look = functools.partial(
            scan_for, job, [*ORIGIN, *(one.name for one in job.fields())], engine.rows_per_part
        )
        scans = each(look, sources, "look through")
        description = describe(settings, settings["model"], scans)
        open_run(out, description)
        items = [item for one in scans for item in one.items]
        left = missing(out, items)
        for message in messages:
            print(printable(message), file=sys.stderr)
        if len(left) < len(items):
            print(f"{len(items) - len(left):,} of {len(items):,} parts are there", file=sys.stderr)
        maker = PartMaker(job, _schema_of(scans), out)
        _, workers = make_all(maker, left, [item.rows for item in left], engine, job.command)
    return write_manifest(out, description, items, installed_versions(), workers)


def scan_for(job: Job, taken: list[str], rows_per_part: int, source: str) -> Scanned:
    """`scan` a source with the checks of a job. taken: names of the results' columns, which a source must not have."""

    def check(table: Table, before: int) -> None:
        refuse_taken(table, taken)
        job.check(table, before)

    return scan(source, rows_per_part, check, job.hidden, job.reader)


def refuse_taken(table: Table, taken: list[str]) -> None:
    """Raise UserError if a column of the table has a name that the results need."""
    for name in taken:
        if name in table.columns:
            raise UserError(f"{table.name}: has a column {name!r}, which the results need; rename it")


def _schema_of(scans: list[Scanned]) -> Any:
    """The columns of all sources, with types that hold the values of all. Raises UserError if there is no such type."""
    import pyarrow as pa

    schema = scans[0].schema
    for one in scans[1:]:
        try:
            schema = pa.unify_schemas([schema, one.schema], promote_options="permissive")
        except pa.ArrowException as error:
            raise UserError(
                f"{one.source}: its columns have other types than those of the sources before ({one_line(error)})"
            ) from None
    return schema


@dataclass(frozen=True)
class PartMaker:
    """A callable that makes the part of a work item: the item's rows and their results.

    schema: the columns of all sources. out: the folder of the results.
    """

    job: Job
    schema: pa.Schema
    out: str

    def __call__(self, item: WorkItem) -> None:
        """Make the part, unless it is there. Raises UserError if the source has changed since the scan."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        target = inside(self.out, PARTS, item.part)
        if exists(target):
            return  # parts appear whole
        table = read_item(item, self.job.reader)
        numbers = np.arange(item.first + 1, item.first + item.rows + 1, dtype=np.int64)
        empty = [None] * item.rows
        values = [pa.array([item.source] * item.rows), pa.array(numbers)]
        values += [pa.array(table.columns.get(entry.name, empty), entry.type) for entry in self.schema]
        values += self.job.results(table)
        fields = [pa.field(name, array.type) for name, array in zip(ORIGIN, values, strict=False)]
        results = self.job.fields()
        table_of_part = pa.Table.from_arrays(values, schema=pa.schema([*fields, *self.schema, *results]))
        buffer = io.BytesIO()
        # The numbers of vectors hardly repeat, so a dictionary would only double their size.
        pq.write_table(table_of_part, buffer, use_dictionary=[*ORIGIN, *self.schema.names])
        write_whole(target, buffer.getbuffer())
