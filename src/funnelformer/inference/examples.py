"""The examples that a model is asked about: which task, which columns, which kind."""

from __future__ import annotations

import dataclasses
import sys

from ..base.errors import UserError, printable
from ..base.processes import rank
from ..data.data_source import DataFolder, HubData, find_data
from ..data.example_rows import Rows
from ..data.tables import Table, TaskColumns, guess_columns, read_table, read_text_table
from ..data.values import load_task
from ..tasks.kind import Kind
from ..tasks.kinds import kind_of
from ..tasks.releases import find_task
from ..tasks.scores import DEFAULT_SCORES
from ..tasks.task import Task
from .answer import questions_of
from .predictor import Predictor

__all__ = [
    "check_part",
    "columns_of",
    "kind_on",
    "named_task",
    "read_examples",
    "say_messages",
    "split_at_spaces",
]


def read_examples(predictor: Predictor, data: str, *, labelled: bool) -> tuple[Kind, Rows]:
    """The examples of a file, in the columns of the training data or those that look like them, and their kind.

    Raises UserError for a file that does not fit the model.
    """
    table = read_table(data) if labelled else read_text_table(data)
    columns, _ = columns_of(predictor, table, None, None, None, labelled=labelled)
    if predictor.kind == "tokens" and not labelled:
        table, columns = split_at_spaces(table, columns)
    kind = kind_on(predictor, columns, None)
    return kind, kind.examples(table)


def check_part(data: str, part: str | None) -> None:
    """Raise UserError if a part is named, and neither a task nor the data has parts."""
    found = find_data(data)
    has_splits = isinstance(found, HubData) or (
        isinstance(found, DataFolder) and not (found.path / "state.json").exists()
    )
    if part is not None and not has_splits:
        raise UserError(f"--part {part} needs a --task, or a folder or a name with splits; {data} is neither")


def named_task(predictor: Predictor, model: str, task: str | None, data: str) -> Task | None:
    """The task whose release `data` is: the one that is named, or for a folder the one that the model learned.

    Of names on the Hub only the task's own, with or without its owner: others may be anything.
    """
    learned = predictor.task.get("task")
    release = find_task(learned).release if learned else None
    is_own = release is not None and data in (release.hub, release.hub.partition("/")[2])
    # Questions have no other form than their task's.
    by_itself = isinstance(find_data(data), DataFolder) or is_own or predictor.kind in ("choice", "span")
    name = task or (learned if by_itself else None)
    if name is None and predictor.kind == "span":
        raise UserError(f"{model}: does not say what it was trained on; name --task squad or --task squad2")
    if name is None:
        return None
    if data == "-":
        raise UserError("stdin holds only texts; give the questions of a task as a file or a folder")
    named = find_task(name)
    if named.kind != predictor.kind:
        raise UserError(
            f"{model}: is a model of {predictor.kind}, but {named.name} is a task of {named.kind}"
        )
    if predictor.task.get("text_pair") is None and named.columns.text_pair and "text" in predictor.task:
        raise UserError(f"{model}: was trained on single texts, but {named.name} has pairs")
    return named


def kind_on(predictor: Predictor, columns: TaskColumns, named: Task | None) -> Kind:
    """The kind of the model's task, with the model's labels, on these columns."""
    if predictor.kind == "span":
        return questions_of(predictor, named, labelled=columns.label is not None)
    if named is None and predictor.task.get("task"):
        named = find_task(predictor.task["task"])
    scores = DEFAULT_SCORES[predictor.kind] if named is None else named.scores
    labels = None if predictor.kind == "regression" else tuple(predictor.labels)
    positive = None
    if named is not None and named.labels is not None and len(named.labels) == 2 and labels is not None:
        positive = named.labels[1] if named.labels[1] in labels else None
    columns = dataclasses.replace(columns, separator=predictor.task.get("label_separator"))
    return kind_of(Task("", predictor.kind, columns, labels, scores, positive=positive), predictor.windowing)


def split_at_spaces(table: Table, columns: TaskColumns) -> tuple[Table, TaskColumns]:
    """Texts as lists of tokens, which a model of tokens reads."""
    texts = load_task(table, TaskColumns(columns.text))["text"]
    tokens = {"tokens": [text.split() for text in texts]}
    return dataclasses.replace(table, columns={**table.columns, **tokens}), TaskColumns("tokens")


def columns_of(
    predictor: Predictor,
    table: Table,
    text: str | None,
    text_pair: str | None,
    label: str | None,
    labelled: bool,
) -> tuple[TaskColumns, list[str]]:
    """The columns to read, and what was guessed, in words.

    They are those the user names, else those of the training data if the table has them, else a guess.
    """
    known = {
        role: name
        for role, name in predictor.task.items()
        if role in ("text", "text_pair", "label") and name in table.columns
    }
    columns, messages = guess_columns(
        table,
        text=text or known.get("text"),
        text_pair=text_pair or known.get("text_pair"),
        label=(label or known.get("label")) if labelled else None,
        need_label=labelled,
    )
    if predictor.task.get("text_pair") and columns.text_pair is None:
        raise UserError(
            f"{table.name}: the model was trained on pairs of texts; name the second with --text-pair"
        )
    return columns, messages


def say_messages(messages: list[str]) -> None:
    """Say what was guessed, once nothing can fail any more, so that an error stays one line."""
    for message in messages if rank() == 0 else []:
        print(printable(message), file=sys.stderr)
