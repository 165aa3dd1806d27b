"""What a fine-tuned teacher is asked about: texts or pairs of texts without labels, some of them held out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from ...base.errors import UserError
from ...base.files import plain_suffix
from ...base.processes import say
from ...corpus.documents import SavedDataset, Source, expand_sources, in_validation
from ...data.bad_rows import BadRows, OnBadRow
from ...data.example_rows import Rows
from ...data.tables import TaskColumns, guess_columns, read_table
from ...data.values import load_task
from .config import DistillConfig
from .text_files import TextFiles

__all__ = ["AnswerInputs", "read_inputs"]

_MOST_HELD_OUT = 2000
_LEAST_HELD_OUT = 2


@dataclass(frozen=True)
class AnswerInputs:
    """Texts, or pairs of them.

    columns: the columns they stand in. digest: a hash of all of them in their order.
    train, held_out: numbers of rows. Pairs with the same first text are all in one of the two.
    """

    rows: Rows
    columns: TaskColumns
    digest: str
    train: np.ndarray
    held_out: np.ndarray
    num_skipped: int

    @property
    def are_pairs(self) -> bool:
        return "text_pair" in self.rows.column_names


def read_inputs(config: DistillConfig) -> AnswerInputs:
    """Read the texts or pairs of the files.

    Raises UserError for a row that cannot be used, for pairs in some files and texts in others, and too few rows."""
    bad = BadRows(config.skip_bad_rows)
    columns = TaskColumns("text")
    found: dict[str, list[str]] = {}
    sources = expand_sources(config.train)
    for source in sources:
        own, rows = _read(source, config, bad)
        if found and found.keys() != rows.keys():
            raise UserError(
                f"{source}: has {_what(rows)}, and {sources[0]} has {_what(found)}; give them in two runs"
            )
        columns = own
        for name, values in rows.items():
            found.setdefault(name, []).extend(values)
    if remark := bad.report():
        say(remark)
    total, held = hashlib.sha256(), np.zeros(len(found["text"]), dtype=bool)
    for number, row in enumerate(zip(*found.values(), strict=True)):
        for text in row:
            content = text.encode()
            total.update(len(content).to_bytes(8, "big") + content)
        held[number] = in_validation(row[0], config.validation_fraction)
    train, held_out = np.flatnonzero(~held), np.flatnonzero(held)
    if len(held_out) < _LEAST_HELD_OUT or not len(train):
        raise UserError(
            f"--train: of {len(held):,} rows {len(held_out)} are held out by --validation-fraction "
            f"{config.validation_fraction:g}; needed are {_LEAST_HELD_OUT} or more to choose the checkpoint by, and "
            "others to learn from"
        )
    say(f"{_what(found)}: {len(held):,}, of which {len(held_out):,} are held out")
    return AnswerInputs(
        Rows(found), columns, total.hexdigest(), train, held_out[:_MOST_HELD_OUT], len(bad.problems)
    )


def _read(source: Source, config: DistillConfig, bad: OnBadRow) -> tuple[TaskColumns, dict[str, list[str]]]:
    if not isinstance(source, SavedDataset) and plain_suffix(source) == ".txt":
        if config.text_pair is not None:
            raise UserError(f"{source}: has a text a line, and so no column {config.text_pair!r}")
        return TaskColumns("text"), {"text": list(TextFiles([source]).read(bad))}
    table = read_table(str(source), bad=bad)
    columns, messages = guess_columns(table, text=config.text, text_pair=config.text_pair, need_label=False)
    for message in messages:
        say(message)
    return columns, load_task(table, replace(columns, label=None), bad=bad).to_dict()


def _what(rows: dict[str, list[str]]) -> str:
    return "pairs of texts" if "text_pair" in rows else "texts"
