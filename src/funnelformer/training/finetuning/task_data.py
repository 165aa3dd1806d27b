"""The examples of a fine-tuning run: from a task's release, or from a table of the user's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import datasets
import numpy as np

from ...base.errors import UserError
from ...base.options import flag
from ...base.processes import say
from ...data.bad_rows import BadRows, OnBadRow
from ...data.data_source import DataFile, find_data
from ...data.tables import Table, guess_columns, read_table
from ...data.values import build_labels, nearly_the_same
from ...tasks.kind import Kind
from ...tasks.kinds import kind_of
from ...tasks.releases import find_task
from ...tasks.scores import DEFAULT_SCORES
from ...tasks.task import KindName, Part, Task, find_part, read_part
from .start_labels import in_order_of

__all__ = ["DataConfig", "TaskData", "load_task_data"]

# The column of the passage, which several questions may share.
_PASSAGES = {"span": "context", "choice": "article"}


class DataConfig(Protocol):
    """The part of `FinetuneConfig` that is about the data."""

    task: str | None
    data: str | None
    train: str | None
    dev: str | None
    dev_fraction: float
    text: str | None
    text_pair: str | None
    label: str | None
    regression: bool
    multi_label: bool
    label_separator: str | None
    skip_bad_rows: bool
    doc_stride: int | None
    max_answer_length: int | None
    seed: int
    split_seed: int | None


@dataclass(frozen=True)
class TaskData:
    """Examples to train on, to select the checkpoint by, and (if the release has labelled ones) to test it on.

    kind: the kind of task, with its labels. dev, test: parts by variant, which is "" if there is only one.
    num_skipped: number of rows that were left out, in all parts together.
    """

    kind: Kind
    train: datasets.Dataset
    dev: Mapping[str, datasets.Dataset]
    test: Mapping[str, datasets.Dataset] = field(default_factory=dict)
    num_skipped: int = 0


def load_task_data(config: DataConfig, start: Sequence[str] | None = None) -> TaskData:
    """Read and check all data of a run; print what was guessed, left out or split off.

    start: class names of the model to start from; if the data have the same names, they take its order.

    Raises UserError for input that cannot be used.
    """
    task = None if config.task is None else find_task(config.task)
    if config.max_answer_length is not None and (task is None or task.spans is None):
        raise UserError("--max-answer-length is only for squad and squad2, whose answers are spans")
    bad = BadRows(config.skip_bad_rows)
    data = _from_table(config, bad, start) if config.task is None else _from_release(config, bad, start)
    if report := bad.report():
        say(report)
    return dataclasses.replace(data, num_skipped=len(bad.problems))


def _from_table(config: DataConfig, bad: OnBadRow, start: Sequence[str] | None) -> TaskData:
    if config.train is None:
        raise UserError("--train is needed: a table, a folder or a `datasets` name; or --task with --data")
    if config.data is not None:
        raise UserError("--data is the folder of a --task; a table of your own is --train")
    table = read_table(config.train, split="train" if _has_splits(config.train) else None, bad=bad)
    columns, messages = guess_columns(table, text=config.text, text_pair=config.text_pair, label=config.label)
    for message in messages:
        say(message)
    columns = dataclasses.replace(columns, separator=config.label_separator)
    name: KindName = (
        "regression" if config.regression else "multi-label" if config.multi_label else "classification"
    )
    labels = None
    if not config.regression:
        assert columns.label is not None
        # `examples` below reports rows without a label.
        unlabelled: OnBadRow = (lambda problem: None) if config.skip_bad_rows else bad
        labels = build_labels(
            table, columns.label, several=config.multi_label, separator=columns.separator, bad=unlabelled
        ).names
        if warning := nearly_the_same(labels):
            say(warning)
    kind = kind_of(Task("", name, columns, in_order_of(start, labels), DEFAULT_SCORES[name]))
    train = kind.examples(table, bad).dataset()
    if config.dev is not None:
        dev = read_table(config.dev, split="validation" if _has_splits(config.dev) else None, bad=bad)
        return TaskData(kind, train, {"": kind.examples(dev, bad).dataset()})
    train, split = _split(train, kind.task, config, config.train)
    return TaskData(kind, train, {"": split})


def _has_splits(source: str) -> bool:
    """Whether the source may have several splits: a folder and a data set's name may, a file may not."""
    return not isinstance(find_data(source), DataFile)


def _from_release(config: DataConfig, bad: OnBadRow, start: Sequence[str] | None) -> TaskData:
    assert config.task is not None
    task = find_task(config.task)
    assert task.release is not None
    for name in ("text", "text_pair", "label", "label_separator"):
        if getattr(config, name) is not None:
            raise UserError(f"{flag(name)} and --task exclude each other: the task has its columns")
    if config.regression or config.multi_label:
        given = flag("regression" if config.regression else "multi_label")
        raise UserError(f"{given} and --task exclude each other: {task.name} is a task of {task.kind}")
    if not task.of_role("train"):
        raise UserError(
            f"{task.name} has no training data; fine-tune on mnli and evaluate with --task {task.name}"
        )
    source = config.train or config.data
    if source is None:
        folder = f"{task.release.folders[0]} with " if task.release.folders else ""
        hub = f", or {task.release.hub}" if task.release.hub else ""
        raise UserError(
            f"--task {task.name} needs --data: the folder of its files ({folder}{task.parts[0].files[0]}, ...){hub}"
        )
    if config.data is not None and Path(config.data).is_file():
        # One file would be read as every part, so the model would be scored on its training data.
        raise UserError(
            f"{config.data}: is a file, but --data takes a folder or a name; name it with --train (and --dev)"
        )
    if task.spans is not None:
        spans = {name: getattr(config, name) for name in ("doc_stride", "max_answer_length")}
        spans = {name: value for name, value in spans.items() if value is not None}
        task = dataclasses.replace(task, spans=dataclasses.replace(task.spans, **spans))
    kind = kind_of(task)
    if kind.has_class_names and task.labels is not None:
        kind = kind_of(task.with_labels(in_order_of(start, task.labels) or task.labels))

    def read(part: Part, source: str) -> datasets.Dataset:
        table: Table = read_part(task, source, part, bad)
        return kind.examples(table, bad).dataset()

    train = read(task.of_role("train")[0], source)
    if task.labels is None:
        names = kind.label_names(train)
        names = in_order_of(start, names) if kind.has_class_names else names
        kind = kind_of(dataclasses.replace(task, labels=names))
    dev_parts = task.of_role("dev")
    if config.dev is not None:
        # A part without a file of its own has the form of the training data.
        dev = {"": read(dev_parts[0] if dev_parts else task.of_role("train")[0], config.dev)}
    elif dev_parts and config.data is not None:
        dev = {part.variant: read(part, config.data) for part in dev_parts}
    else:
        train, split = _split(train, task, config, source)
        dev = {"": split}
    test = {}
    for part in task.of_role("test"):
        if part.is_labelled and config.data is not None:
            is_elsewhere = Path(config.data).is_dir() or not part.hub
            if is_elsewhere and find_part(task, config.data, part) is None:
                say(f"{config.data}: no {' or '.join(part.files)} in it, so no score of the {part.name} part")
            else:
                test[part.variant] = read(part, config.data)
    return TaskData(kind, train, dev, test)


def _split(
    train: datasets.Dataset, task: Task, config: DataConfig, source: str
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Split off a dev part: the same share of every class, or passages with all their questions."""
    if task.kind in _PASSAGES:
        return _split_passages(train, _PASSAGES[task.kind], config, source)
    by_class = task.kind == "classification"
    if by_class:
        assert task.labels is not None
        train = train.cast_column("label", datasets.ClassLabel(names=list(task.labels)))
    try:
        parts = train.train_test_split(
            config.dev_fraction,
            seed=_split_seed(config),
            stratify_by_column="label" if by_class else None,
        )
    except ValueError as error:
        raise UserError(
            f"{source}: no dev part can be drawn from every class ({error}); "
            "give --dev or another --dev-fraction"
        ) from None
    _say_split(config, source)
    return parts["train"], parts["test"]


def _split_passages(
    train: datasets.Dataset, column: str, config: DataConfig, source: str
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Split by passages, so that all questions to one passage are in the same part."""
    _, passage = np.unique(np.asarray(train[column][:], dtype=object), return_inverse=True)
    order = np.random.default_rng(_split_seed(config)).permutation(passage.max() + 1)
    number = round(config.dev_fraction * len(order))
    if not 0 < number < len(order):
        raise UserError(
            f"{source}: no dev part can be drawn from {len(order)} passages; give --dev or another --dev-fraction"
        )
    is_dev = np.isin(passage, order[:number])
    _say_split(config, source)
    return train.select(np.flatnonzero(~is_dev)), train.select(np.flatnonzero(is_dev))


def _split_seed(config: DataConfig) -> int:
    return config.seed if config.split_seed is None else config.split_seed


def _say_split(config: DataConfig, source: str) -> None:
    say(f"no --dev given: {config.dev_fraction:.0%} of {source} selects the best epoch")
