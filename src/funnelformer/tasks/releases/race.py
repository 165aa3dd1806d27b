"""Questions on a passage with a few answers to choose from: RACE, and files of its form.

Source: Lai et al. 2017, arXiv:1704.04683; the fields of its files are article, questions, options, answers, id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...base.errors import UserError
from ...base.files import plain_suffix, read_document
from ...base.json_toml import load_json
from ...data.bad_rows import OnBadRow
from ...data.formats import FORMATS, Row, iter_rows, json_object
from ...data.local_folder import check_inside
from ...data.tables import Table, TaskColumns, collect
from ..task import Part, Release, Task

__all__ = ["CHOICES", "level_of"]

_LEVELS = ("middle", "high")
_FIELDS = ("article", "questions", "options", "answers")


def level_of(row: Mapping[str, Any]) -> str:
    """middle or high, which the name of an article of RACE begins with ("high1.txt"); "" of any other."""
    names = [str(row.get(name)) for name in ("id", "example_id")]
    return next((level for level in _LEVELS for name in names if name.startswith(level)), "")


Article = tuple[int | None, str, str, dict[str, Any]]


def _articles(source: Path, levels: tuple[str, ...], bad: OnBadRow) -> Iterator[Article]:
    """(line, where, level, fields) of each article: of files of one article below the levels' folders, or of rows."""
    if source.is_file() and plain_suffix(source) in FORMATS:
        for index, (line, row) in enumerate(iter_rows(source, bad=bad)):
            where = f"{source}: " + (f"line {line}" if line is not None else f"row {index + 1}")
            level = level_of(row)
            if level in levels or not level:
                yield line, where, level, row
        return
    folders = [source / level for level in levels if (source / level).is_dir()]
    if not folders:
        raise UserError(
            f"{source}: no folder {' or '.join(levels)} in it, as RACE has, and it is not a .jsonl file"
        )
    for folder in folders:
        for path in sorted(folder.glob("*.txt"), key=lambda path: (len(path.name), path.name)):
            check_inside(path, source)
            try:
                content = load_json(read_document(path), str(path))
                yield None, str(path), folder.name, json_object(content, str(path))
            except UserError as error:
                bad(str(error))


def _rows(source: Path, levels: tuple[str, ...], bad: OnBadRow) -> Iterator[Row]:
    """One row a question, whose answer may be None. The Hub's form has one question a row, without lists."""
    for line, where, level, fields in _articles(source, levels, bad):
        if "question" in fields and "questions" not in fields:
            fields = {
                "article": fields.get("article"),
                "questions": [fields["question"]],
                "options": [fields.get("options")],
                "answers": [fields.get("answer")],
            }
        if "answers" not in fields and isinstance(fields.get("questions"), list):
            fields = {**fields, "answers": [None] * len(fields["questions"])}
        missing = [name for name in _FIELDS if fields.get(name) is None]
        lists: list[Any] = [fields.get(name) for name in _FIELDS[1:]]
        if missing:
            bad(f"{where}: no field {missing[0]!r}")
        elif not all(isinstance(entry, list) and len(entry) == len(lists[0]) for entry in lists):
            bad(f"{where}: questions, options and answers are no lists of one length")
        else:
            for number, (question, options, answer) in enumerate(zip(*lists, strict=True), start=1):
                yield (
                    line,
                    {
                        "article": fields["article"],
                        "question": question,
                        "options": options,
                        "answer": answer,
                        "level": level,
                        "where": f"{where}, question {number}",
                    },
                )


def _task(
    name: str, levels: tuple[str, ...], labels: tuple[str, ...] | None, scores: tuple[str, ...]
) -> Task:
    def read(source: Path, part: Part, bad: OnBadRow) -> Table:
        return collect(_rows(source, levels, bad), str(source))

    parts = (
        Part("train", ("train", "train.jsonl"), "train"),
        Part("dev", ("dev", "dev.jsonl"), "validation"),
        Part("test", ("test", "test.jsonl"), "test"),
    )
    hub = f"ehovy/race:{levels[0] if len(levels) == 1 else 'all'}"
    columns = TaskColumns("question", "article", "answer")
    release = Release(parts, ("RACE",), read, hub, keep=lambda row: level_of(row) in (*levels, ""))
    return Task(name, "choice", columns, labels, scores, release)


_FOUR = ("A", "B", "C", "D")

CHOICES = (
    _task("race", _LEVELS, _FOUR, ("accuracy", "middle_accuracy", "high_accuracy")),
    _task("racemiddle", ("middle",), _FOUR, ("accuracy",)),
    _task("racehigh", ("high",), _FOUR, ("accuracy",)),
    # Files of that form with any number of options, the same everywhere.
    _task("choice", _LEVELS, None, ("accuracy",)),
)
