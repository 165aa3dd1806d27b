"""What a task is: the columns of its examples, their labels, the scores that count, and where its files lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..base.errors import UserError
from ..base.files import COMPRESSIONS
from ..data.bad_rows import OnBadRow, refuse
from ..data.local_folder import check_inside
from ..data.tables import Table, TaskColumns, collect, read_table

__all__ = ["KindName", "Part", "Release", "Role", "Spans", "Task", "find_part", "read_part"]

KindName = Literal["classification", "regression", "multi-label", "tokens", "choice", "span"]
Role = Literal["train", "dev", "test"]


@dataclass(frozen=True)
class Part:
    """Examples that are trained on, or scored together.

    files: names that the file (or folder) of this part has; the first that is there counts.
    hub: its split in the data set on the Hub; "" where that has none.
    variant: which one of several parts of that role, as MNLI's "matched".
    submission: the file of its predictions in the leaderboard's zip.
    """

    role: Role
    files: tuple[str, ...]
    hub: str
    variant: str = ""
    is_labelled: bool = True
    submission: str | None = None

    @property
    def name(self) -> str:
        return f"{self.role}-{self.variant}" if self.variant else self.role


@dataclass(frozen=True)
class Release:
    """The files of a task as its authors gave them out, and the data set on the Hub that holds the same.

    folders: names of its folder among those of other tasks.
    read: reads the file of a part.
    hub: "" where there is none. keep: whether a row there is of the task.
    renamed: column in the file or on the Hub -> ours. written: label there -> ours.
    submitted: our label -> the leaderboard's.
    joined: columns that make the text, one after another, where they are. clean: undoes what files do to a text.
    """

    parts: tuple[Part, ...]
    folders: tuple[str, ...]
    read: Callable[[Path, Part, OnBadRow], Table]
    hub: str
    renamed: Mapping[str, str] = field(default_factory=dict)
    written: Mapping[str, str] = field(default_factory=dict)
    submitted: Mapping[str, str] = field(default_factory=dict)
    joined: tuple[str, ...] = ()
    clean: Callable[[str], str] | None = None
    keep: Callable[[Mapping[str, Any]], bool] | None = None


@dataclass(frozen=True)
class Spans:
    """How answers are looked for in passages.

    may_lack_answer: whether a question may have none, as in SQuAD 2.0.
    doc_stride: tokens from the beginning of one window of a passage to that of the next.
    max_answer_length: tokens of an answer at most. null_threshold: log-odds of no answer above which none is given.
    Source of the defaults: Dai et al. 2020, as XLNet.
    """

    may_lack_answer: bool
    doc_stride: int = 128
    max_answer_length: int = 64
    null_threshold: float = 0.0


@dataclass(frozen=True)
class Task:
    """What a model is to learn, and how it is judged.

    labels: names in the order of their ids; None for amounts and spans, or while they are not known.
    scores: names of `metrics`, of which the first selects the checkpoint and stands in tables.
    spans: of a task whose answers are spans.
    positive: the label whose F1 is the score "f1"; by default the second.
    """

    name: str
    kind: KindName
    columns: TaskColumns
    labels: tuple[str, ...] | None
    scores: tuple[str, ...]
    release: Release | None = None
    spans: Spans | None = None
    positive: str | None = None

    @property
    def positive_id(self) -> int:
        return 1 if self.positive is None or self.labels is None else self.labels.index(self.positive)

    def with_labels(self, labels: tuple[str, ...]) -> Task:
        """The same task with its labels in another order, which changes no score."""
        positive = self.positive
        if positive is None and self.labels is not None and len(self.labels) == 2:
            positive = self.labels[1]
        return dataclasses.replace(self, labels=labels, positive=positive)

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.release.parts if self.release is not None else ()

    def of_role(self, role: Role) -> list[Part]:
        return [part for part in self.parts if part.role == role]

    def part(self, name: str) -> Part:
        """The part with this name, or with this split on the Hub. Raises UserError if there is none."""
        for names in ({part.name: part for part in self.parts}, {part.hub: part for part in self.parts}):
            if name in names:
                return names[name]
        known = ", ".join(part.name for part in self.parts)
        raise UserError(f"{self.name} has no part {name!r}; it has {known}")


def find_part(task: Task, source: str, part: Part) -> Path | None:
    """The file of a part: `source` itself, or in that folder or the task's folder in it; None when it is not there."""
    path = Path(source)
    if path.is_file():
        return path
    return next(_candidates(task, path, part), None)


def _candidates(task: Task, folder: Path, part: Part) -> Iterator[Path]:
    assert task.release is not None
    for inner in (folder, *(folder / name for name in task.release.folders)):
        for name in part.files:
            for suffix in ("", *COMPRESSIONS):
                path = inner / (name + suffix)
                # A folder of examples, as IMDB's; but not one that `datasets` wrote.
                if path.is_file() or (path.is_dir() and not suffix and not (path / "state.json").exists()):
                    yield path


def read_part(task: Task, source: str, part: Part, bad: OnBadRow = refuse) -> Table:
    """Read a part of a task, with our names of its columns and labels.

    source: its file; a folder of the task's files, or of several tasks' folders; a folder that `datasets` wrote; or the
        name of a data set on the Hub.
    Raises UserError when it is not there or cannot be read; tells `bad` of a row that cannot be.
    """
    assert task.release is not None
    file = find_part(task, source, part)
    if file is not None:
        if Path(source).is_dir():
            check_inside(file, Path(source))
        return _renamed(task.release.read(file, part, bad), task)
    path = Path(source)
    if path.is_dir() and (any(find_part(task, source, other) for other in task.parts) or not _is_saved(path)):
        names = " or ".join(part.files)
        inside = f", nor in {' or '.join(task.release.folders)} in it" if task.release.folders else ""
        raise UserError(f"{source}: no {names} in this folder{inside}: the {part.name} part of {task.name}")
    table = read_table(source, split=part.hub, bad=bad)
    if keep := task.release.keep:
        table = collect(((line, row) for line, row in table.rows() if keep(row)), table.name)
    return _renamed(table, task)


def _is_saved(folder: Path) -> bool:
    """Whether `datasets` can read a folder: it wrote it, or downloaded it from the Hub."""
    return any(folder.rglob("*.arrow")) or any(folder.rglob("*.parquet"))


def _renamed(table: Table, task: Task) -> Table:
    """Our names of columns and labels, and texts as a reader sees them."""
    release, wanted = task.release, task.columns
    assert release is not None
    columns = {release.renamed.get(name, name): values for name, values in table.columns.items()}
    if clean := release.clean:
        for name in {wanted.text, *release.joined} & columns.keys():
            columns[name] = [clean(text) if isinstance(text, str) else text for text in columns[name]]
    if release.joined and all(name in columns for name in release.joined):
        fields = zip(*(columns[name] for name in release.joined), strict=True)
        columns[wanted.text] = [
            " ".join(text.strip() for text in row if text and text.strip()) for row in fields
        ]
    if wanted.label in columns and release.written:
        columns[wanted.label] = [release.written.get(str(value), value) for value in columns[wanted.label]]
    return dataclasses.replace(table, columns=columns)
