"""Labels of tokens, from files of the CoNLL form: a token a line with its tag last, an empty line between sentences.

Source of the form: Tjong Kim Sang and De Meulder 2003 (CoNLL-2003), whose lines -DOCSTART- begin documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ...base.files import iter_lines, plain_suffix
from ...data.bad_rows import OnBadRow
from ...data.formats import FORMATS, Line, Row, iter_rows
from ...data.tables import Table, TaskColumns, collect
from ..task import Part, Release, Task

__all__ = ["TOKENS", "is_tag"]

_TAG = re.compile(r"O|[BI]-\S+")
_DOCUMENT = "-DOCSTART-"
# The columns of a line stand apart by these alone: other white space of Unicode is part of a token ("10\u2009000").
_BETWEEN = re.compile(r"[ \t]+")


def is_tag(text: str) -> bool:
    """Whether it is O, or the first or a further token of an entity of some type (B-person, I-person)."""
    return _TAG.fullmatch(text) is not None


def _sentences(file: Path) -> Iterator[list[Line]]:
    """The lines of each sentence."""
    lines: list[Line] = []
    for number, line in iter_lines(file):
        if line.strip(" \t") and not line.startswith(_DOCUMENT):
            lines.append((number, line))
        elif lines:
            yield lines
            lines = []
    if lines:
        yield lines


def _fields(line: str) -> list[str]:
    """The columns of a line: apart by tabs where it has any, so that a token may hold spaces, else by spaces."""
    line = line.strip(" \t")
    return [field.strip(" ") for field in re.split(r"\t+", line)] if "\t" in line else _BETWEEN.split(line)


def _conll_rows(file: Path, bad: OnBadRow) -> Iterator[Row]:
    for lines in _sentences(file):
        fields = [_fields(line) for _, line in lines]
        problem = next(
            (
                f"{file}: line {number}: "
                + ("a token without a tag" if len(entry) < 2 else f"{entry[-1]!r} is no tag")
                for (number, _), entry in zip(lines, fields, strict=True)
                if len(entry) < 2 or not is_tag(entry[-1])
            ),
            None,
        )
        if problem is None:
            first, _ = lines[0]
            yield first, {"tokens": [entry[0] for entry in fields], "tags": [entry[-1] for entry in fields]}
        else:
            bad(f"{problem}; a line is a token and its tag, as B-person, I-person or O")


def _read(file: Path, part: Part, bad: OnBadRow) -> Table:
    """Also a table, whose columns `tokens` and `tags` are lists."""
    rows = iter_rows(file, bad=bad) if plain_suffix(file) in FORMATS else _conll_rows(file, bad)
    return collect(rows, str(file))


def _files(*names: str) -> tuple[str, ...]:
    return tuple(name + suffix for name in names for suffix in (".txt", ".conll", "", ".jsonl"))


TOKENS = (
    Task(
        "ner",
        "tokens",
        TaskColumns("tokens", None, "tags"),
        None,
        ("f1", "precision", "recall"),
        Release(
            (
                Part("train", _files("train", "eng.train"), "train"),
                Part("dev", _files("dev", "valid", "eng.testa"), "validation"),
                Part("test", _files("test", "eng.testb"), "test"),
            ),
            (),
            _read,
            "eriktks/conll2003",
            renamed={"ner_tags": "tags"},
        ),
    ),
)
