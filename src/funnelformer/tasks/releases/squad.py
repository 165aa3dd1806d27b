"""Questions whose answer is a span of a passage: SQuAD 1.1 and 2.0, and files of their form.

Sources: Rajpurkar et al. 2016, arXiv:1606.05250, and 2018, arXiv:1806.03822. A file is one JSON object, `data`:
articles of `paragraphs` of a `context` and `qas`; or a table of the flattened form, a question a row: id, context,
question, answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...base.errors import UserError
from ...base.files import plain_suffix, read_document
from ...base.json_toml import load_json
from ...data.bad_rows import OnBadRow
from ...data.formats import Row, iter_rows, json_object
from ...data.tables import Table, TaskColumns, collect
from ..task import Part, Release, Spans, Task

__all__ = ["SQUAD", "WHERE"]

# Column of a question's place in a file of the release; no column of a table is called so.
WHERE = "<where>"


def _read(file: Path, part: Part, bad: OnBadRow) -> Table:
    if plain_suffix(file) == ".json" and (content := _object(file)) is not None:
        return collect(_rows(content, file, bad), str(file))
    return collect(iter_rows(file, bad=bad), str(file))


def _object(file: Path) -> dict[str, Any] | None:
    """The content of a file that is one JSON object; None for an array, or lines of JSON."""
    text = read_document(file)
    first, _, rest = text.lstrip().partition("\n")
    if first.startswith("[") or (rest.strip() and _is_row(first)):
        return None
    return json_object(load_json(text, str(file)), str(file))


def _is_row(line: str) -> bool:
    """Whether a line is a whole JSON object."""
    try:
        return isinstance(load_json(line, ""), dict)
    except UserError:
        return False


def _rows(content: dict[str, Any], file: Path, bad: OnBadRow) -> Iterator[Row]:
    """One row a question; tells `bad` of an article or a paragraph that is none."""
    if "data" not in content and "context" in content:  # a single row, as a line
        yield 1, content
        return
    articles = content.get("data")
    if not isinstance(articles, list):
        raise UserError(f"{file}: no list 'data' in it, as the files of SQuAD have")
    for number, article in enumerate(articles, start=1):
        where = f"{file}: article {number}"
        if isinstance(article, dict) and "paragraphs" not in article and "context" in article:
            yield (
                None,
                {**article, WHERE: f"{file}: row {number}"},
            )  # the flattened form, as `datasets` reads it
        elif problem := _lacks(article, "paragraphs"):
            bad(f"{where}: {problem}")
        else:
            for place, paragraph in enumerate(article["paragraphs"], start=1):
                inner = f"{where}, paragraph {place}"
                if problem := _lacks(paragraph, "qas"):
                    bad(f"{inner}: {problem}")
                else:
                    yield from _questions(article, paragraph, inner, bad)


def _questions(
    article: dict[str, Any], paragraph: dict[str, Any], where: str, bad: OnBadRow
) -> Iterator[Row]:
    for number, question in enumerate(paragraph["qas"], start=1):
        inner = f"{where}, question {number}"
        if not isinstance(question, dict):
            bad(f"{inner}: is no JSON object")
            continue
        yield (
            None,
            {
                "id": question.get("id"),
                "title": article.get("title"),
                "context": paragraph.get("context"),
                "question": question.get("question"),
                "answers": question.get("answers"),
                "is_impossible": question.get("is_impossible"),
                WHERE: inner,
            },
        )


def _lacks(value: Any, name: str) -> str | None:
    """What is wrong with an object that should have a list of that name."""
    if not isinstance(value, dict):
        return "is no JSON object"
    return None if isinstance(value.get(name), list) else f"no list {name!r}"


def _task(name: str, version: str, hub: str, *, may_lack_answer: bool) -> Task:
    def files(role: str, *others: str) -> tuple[str, ...]:
        plain = tuple(
            f"{other}{suffix}" for other in (role, *others) for suffix in (".json", ".jsonl", ".parquet")
        )
        return (f"{role}-{version}.json", *plain)

    parts = (
        Part("train", files("train"), "train"),
        Part("dev", files("dev", "validation"), "validation"),
        Part("test", files("test"), ""),  # the official one is not given out
    )
    columns = TaskColumns("question", "context", "answers")
    release = Release(parts, ("SQuAD", "squad", name), _read, hub)
    scores = _SCORES_2 if may_lack_answer else ("f1", "exact_match")
    return Task(name, "span", columns, None, scores, release, Spans(may_lack_answer=may_lack_answer))


_SCORES_2 = (
    "best_f1",
    "best_exact",
    "f1",
    "exact",
    "HasAns_f1",
    "HasAns_exact",
    "NoAns_f1",
    "NoAns_exact",
    "best_f1_thresh",
    "best_exact_thresh",
)

SQUAD = (
    _task("squad", "v1.1", "rajpurkar/squad", may_lack_answer=False),
    _task("squad2", "v2.0", "rajpurkar/squad_v2", may_lack_answer=True),
)
