"""What `embed` and `predict` do with the rows of a part, on whatever machine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import UserError
from ..data.formats import Row, row_name
from ..data.tables import Table, TaskColumns, check_column, guess_single_text
from ..data.values import BadValue, read_text
from ..spread.storage import list_sources
from ..spread.work_items import TEXT_ROWS, RowReader
from ..tasks.releases import find_task
from ..tasks.releases.squad import WHERE
from ..tasks.task import Task, read_part
from .answer import say_all
from .config import EmbedConfig, PredictConfig
from .embedder import Embedder, asked_embedder
from .examples import columns_of, kind_on, named_task, split_at_spaces
from .predictor import Predictor, load_predictor
from .settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

__all__ = ["EmbedJob", "PredictJob"]

# Of a row of a release: where it is in the file. In the parts, the source and the number of the row say it.
_PLACES = (WHERE, "where")


def _check_texts(table: Table, columns: list[str], before: int) -> None:
    """Raise UserError for the first row without a text in one of the columns."""
    for column in columns:
        check_column(column, table.columns, table.name)
    for index, line in enumerate(table.lines):
        for column in columns:
            try:
                read_text(table.columns[column][index])
            except BadValue as problem:
                where = row_name(table.name, before + index, line)
                raise UserError(f"{where}: column {column!r} {problem}") from None


@dataclass(frozen=True)
class ReleaseRows:
    """The rows of a file of questions, in the form of a task's release."""

    task: str
    is_whole: bool = True

    def rows(self, path: Path) -> Iterator[Row]:
        named = find_task(self.task)
        return read_part(named, str(path), named.of_role("test")[0]).rows()


@dataclass
class EmbedJob:
    """The vectors of texts. The model is loaded where it is first asked for."""

    config: EmbedConfig
    column: str = ""
    command: str = "embed"
    reader: RowReader = TEXT_ROWS
    hidden: tuple[str, ...] = ()
    _embedder: Embedder | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_embedder": None}

    @property
    def embedder(self) -> Embedder:
        if self._embedder is None:
            self._embedder = asked_embedder(self.config, only_runs=True)
        return self._embedder

    def sources(self, data: str) -> list[str]:
        return list_sources(data)

    def prepare(self, first: Table) -> list[str]:
        self.embedder  # noqa: B018 - a model that cannot be loaded is refused here
        known = read_settings(self.config.model).get("text")
        asked = known if self.config.text is None and known in first.columns else self.config.text
        self.column, messages = guess_single_text(first, asked)
        return messages

    def check(self, table: Table, before: int) -> None:
        _check_texts(table, [self.column], before)

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
    """What a model says of texts, or of questions. It is loaded where it is first asked for."""

    config: PredictConfig
    columns: TaskColumns | None = None
    named: str | None = None
    command: str = "predict"
    reader: RowReader = TEXT_ROWS
    hidden: tuple[str, ...] = ()
    _predictor: Predictor | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_predictor": None}

    @property
    def predictor(self) -> Predictor:
        if self._predictor is None:
            config = self.config
            self._predictor = load_predictor(
                config.model, config.max_length, config.device, config.backend, config
            )
        return self._predictor

    @property
    def task(self) -> Task | None:
        """The task in whose form the questions are; None of texts."""
        return None if self.named is None else find_task(self.named)

    def sources(self, data: str) -> list[str]:
        """Raises UserError for a task whose texts are read by its release."""
        config = self.config
        if self.predictor.kind in ("span", "choice"):
            named = named_task(self.predictor, config.model, config.task, data)
            if named is None:
                raise UserError(
                    f"{config.model}: does not say what it was trained on; name --task race, racemiddle, racehigh or "
                    "choice"
                )
            self.named, self.reader, self.hidden = named.name, ReleaseRows(named.name), _PLACES
        elif config.task is not None:
            raise UserError(
                f"--task {config.task}: --engine ray reads tables of texts; name the files, without --task"
            )
        return list_sources(data)

    def prepare(self, first: Table) -> list[str]:
        if self.task is not None:
            self.columns = dataclasses.replace(self.task.columns, label=None)
            return []
        self.columns, messages = columns_of(
            self.predictor, first, self.config.text, self.config.text_pair, None, labelled=False
        )
        return messages

    def check(self, table: Table, before: int) -> None:
        columns = self.columns
        assert columns is not None
        if self.task is not None:
            kind_on(self.predictor, columns, self.task).examples(table)
        else:
            _check_texts(table, [name for name in (columns.text, columns.text_pair) if name], before)

    def fields(self) -> list[pa.Field]:
        import pyarrow as pa

        kind, prediction = self.predictor.kind, pa.field("prediction", pa.string())
        probability = pa.field("probability", pa.float64())
        if kind == "regression":
            return [pa.field("prediction", pa.float64())]
        if kind == "tokens":
            words = pa.list_(pa.string())
            return [pa.field("tokens", words), pa.field("prediction", words)]
        if kind == "span":
            spans = None if self.task is None else self.task.spans
            may_lack = spans is not None and spans.may_lack_answer
            return [prediction, probability, *([pa.field("null_odds", pa.float64())] if may_lack else [])]
        shares = pa.field(
            "probabilities", pa.struct([(name, pa.float64()) for name in self.predictor.labels])
        )
        if kind == "multi-label":
            return [pa.field("prediction", pa.list_(pa.string())), shares]
        return [prediction, probability, shares]

    def results(self, table: Table) -> list[pa.Array]:
        import pyarrow as pa

        columns = self.columns
        assert columns is not None
        if self.predictor.kind == "tokens":
            table, columns = split_at_spaces(table, columns)
        kind = kind_on(self.predictor, columns, self.task)
        said = list(say_all(self.predictor, kind, kind.examples(table), self.config.batch_size, None))
        if self.predictor.kind == "tokens":
            said = [
                row | {"tokens": tokens} for row, tokens in zip(said, table.columns["tokens"], strict=True)
            ]
        return [pa.array([row[found.name] for row in said], found.type) for found in self.fields()]


def _silent(number: int) -> None: ...
