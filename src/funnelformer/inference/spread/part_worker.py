"""What a worker does: it holds the model, and makes the part of each work item that it is given."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import psutil

from ...base.errors import UserError
from ...data.tables import Table, TaskColumns, guess_single_text
from ..answer import say_all
from ..config import EmbedConfig, PredictConfig
from ..embedder import Embedder, asked_embedder
from ..examples import columns_of, kind_on, split_at_spaces
from ..predictor import Predictor, load_predictor
from ..settings import read_settings
from .parts_manifest import PARTS, inside
from .storage import exists, write_whole
from .work_items import WorkItem, read_item

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ITEM_COLUMNS", "ORIGIN", "EmbedJob", "Job", "PartWorker", "PredictJob"]

# Columns of every part that say where a row is from: its file, and its number there, counted from 1.
ORIGIN = ("source", "row")
# A work item as a row of Ray Data.
ITEM_COLUMNS = ("source", "first", "rows", "begin", "end", "header")


class Job(Protocol):
    """What is done with the rows of a part."""

    command: str

    def prepare(self, first: Table) -> list[str]:
        """Choose the columns by the first rows; return what was guessed, in words."""

    @property
    def texts(self) -> list[str]:
        """The columns that must hold a text."""

    def fields(self) -> list[pa.Field]:
        """The columns of the results."""

    def results(self, table: Table) -> list[pa.Array]:
        """The results for the rows of a table, by `fields`."""


@dataclass
class EmbedJob:
    """The vectors of texts. The model is loaded where it is first asked for."""

    config: EmbedConfig
    column: str = ""
    command: str = "embed"
    _embedder: Embedder | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_embedder": None}

    @property
    def embedder(self) -> Embedder:
        if self._embedder is None:
            self._embedder = asked_embedder(self.config, only_runs=True)
        return self._embedder

    def prepare(self, first: Table) -> list[str]:
        self.embedder  # noqa: B018 - a model that cannot be loaded is refused here
        known = read_settings(self.config.model).get("text")
        asked = known if self.config.text is None and known in first.columns else self.config.text
        self.column, messages = guess_single_text(first, asked)
        return messages

    @property
    def texts(self) -> list[str]:
        return [self.column]

    def fields(self) -> list[pa.Field]:
        import pyarrow as pa

        return [pa.field("embedding", pa.list_(pa.float32(), self.embedder.size))]

    def results(self, table: Table) -> list[pa.Array]:
        import pyarrow as pa

        vectors = self.embedder.vectors(table.columns[self.column], self.config.batch_size, _silent)
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
        return [pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])]


@dataclass
class PredictJob:
    """The labels of texts. The model is loaded where it is first asked for."""

    config: PredictConfig
    columns: TaskColumns | None = None
    command: str = "predict"
    _predictor: Predictor | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_predictor": None}

    @property
    def predictor(self) -> Predictor:
        if self._predictor is None:
            config = self.config
            self._predictor = load_predictor(config.model, config.max_length, config.device, config.backend)
        return self._predictor

    def prepare(self, first: Table) -> list[str]:
        if self.predictor.kind in ("span", "choice"):
            raise UserError(
                f"{self.config.model}: is a model of {self.predictor.kind}; --engine ray labels texts and tokens alone"
            )
        self.columns, messages = columns_of(
            self.predictor, first, self.config.text, self.config.text_pair, None, labelled=False
        )
        return messages

    @property
    def texts(self) -> list[str]:
        assert self.columns is not None
        return [name for name in (self.columns.text, self.columns.text_pair) if name is not None]

    def fields(self) -> list[pa.Field]:
        import pyarrow as pa

        kind = self.predictor.kind
        if kind == "regression":
            return [pa.field("prediction", pa.float64())]
        if kind == "tokens":
            words = pa.list_(pa.string())
            return [pa.field("tokens", words), pa.field("prediction", words)]
        shares = pa.field(
            "probabilities", pa.struct([(name, pa.float64()) for name in self.predictor.labels])
        )
        if kind == "multi-label":
            return [pa.field("prediction", pa.list_(pa.string())), shares]
        return [pa.field("prediction", pa.string()), pa.field("probability", pa.float64()), shares]

    def results(self, table: Table) -> list[pa.Array]:
        import pyarrow as pa

        columns = self.columns
        assert columns is not None
        if self.predictor.kind == "tokens":
            table, columns = split_at_spaces(table, columns)
        kind = kind_on(self.predictor, columns, None)
        said = list(say_all(self.predictor, kind, kind.examples(table), self.config.batch_size, None))
        if self.predictor.kind == "tokens":
            said = [
                row | {"tokens": tokens} for row, tokens in zip(said, table.columns["tokens"], strict=True)
            ]
        return [pa.array([row[found.name] for row in said], found.type) for found in self.fields()]


def _silent(number: int) -> None: ...


class PartWorker:
    """Called with work items it makes their parts, and says of each which rows it has and how large the process is.

    schema: of the sources' columns. A part that is there is whole, and is not made again.
    """

    def __init__(self, job: Job, schema: pa.Schema, out: str) -> None:
        self.job, self.schema, self.out = job, schema, out

    def make(self, item: WorkItem) -> None:
        """Write the part of an item. Raises UserError when its source is not as it was."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        target = inside(self.out, PARTS, item.part)
        if exists(target):
            return
        table = read_item(item)
        numbers = np.arange(item.first + 1, item.first + item.rows + 1, dtype=np.int64)
        empty = [None] * item.rows
        values = [pa.array([item.source] * item.rows), pa.array(numbers)]
        values += [pa.array(table.columns.get(entry.name, empty), entry.type) for entry in self.schema]
        values += self.job.results(table)
        fields = [pa.field(name, array.type) for name, array in zip(ORIGIN, values, strict=False)]
        results = self.job.fields()
        table_of_part = pa.Table.from_arrays(values, schema=pa.schema([*fields, *self.schema, *results]))
        buffer = io.BytesIO()
        # Hardly a number of a vector comes twice: a dictionary of them is as large again.
        pq.write_table(table_of_part, buffer, use_dictionary=[*ORIGIN, *self.schema.names])
        write_whole(target, buffer.getbuffer())

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Ray Data's form: columns of a batch. An error is a value: Ray would try the item again."""
        made: dict[str, list[Any]] = {"part": [], "rows": [], "error": [], "process": [], "bytes": []}
        for source, *numbers in zip(*(batch[name] for name in ITEM_COLUMNS), strict=True):
            item, error = WorkItem(str(source), *map(int, numbers)), ""
            try:
                self.make(item)
            except UserError as problem:
                error = str(problem)
            process = psutil.Process()
            for name, value in {
                "part": item.part,
                "rows": item.rows,
                "error": error,
                "process": f"{os.uname().nodename}:{process.pid}",
                "bytes": process.memory_info().rss,
            }.items():
                made[name].append(value)
        return made
