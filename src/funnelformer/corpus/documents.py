"""Plain text for pretraining: stream documents, hold some out by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..base.errors import UserError, joined
from ..base.files import expand_paths, iter_lines, plain_suffix
from ..base.hub import reach_hub
from ..data.data_source import DataFolder, HubData, find_data
from ..data.formats import FORMATS, arrow_rows, iter_rows, row_name
from ..data.local_folder import check_saved
from ..data.tables import check_column, guess_text_column
from ..data.values import text_problem

__all__ = [
    "SavedDataset",
    "Source",
    "Split",
    "documents_of",
    "expand_sources",
    "in_validation",
    "iter_documents",
]

Split = Literal["train", "validation"]

# A longer document of a text file is cut at a line end: memory stays constant where a file has no empty
# lines, and the hold-out can take a part of a book.
MAX_DOCUMENT_CHARS = 50_000
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, order=True)
class SavedDataset:
    """A data set that the `datasets` library reads: a folder of `save_to_disk`, or a Hub name (`user/name:config`)."""

    name: str

    def __str__(self) -> str:
        return self.name


Source = Path | SavedDataset


def _text_documents(path: Path) -> Iterator[str]:
    lines: list[str] = []
    num_chars = 0
    for _, line in iter_lines(path):
        if line.strip():
            lines.append(line)
            num_chars += len(line) + 1
        if lines and (not line.strip() or num_chars > MAX_DOCUMENT_CHARS):
            yield "\n".join(lines)
            lines, num_chars = [], 0
    if lines:
        yield "\n".join(lines)


def _table_documents(
    rows: Iterable[tuple[int | None, dict[str, Any]]], name: str, text_column: str | None
) -> Iterator[str]:
    column: str | None = None
    for index, (line, row) in enumerate(rows):
        if column is None:  # the first row tells; later JSON objects may leave the column out
            column = (
                check_column(text_column, row, name) if text_column else guess_text_column(list(row), name)
            )
        text = row.get(column)
        if text is None or (isinstance(text, str) and not text.strip()):
            continue
        if problem := text_problem(text):
            raise UserError(f"{row_name(name, index, line)}: column {column!r} {problem}")
        yield text


def _saved_rows(source: SavedDataset) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """Rows of the part named "train", or of the only one, memory-mapped."""
    import datasets

    try:
        found = find_data(source.name)
        if isinstance(found, HubData):
            reach_hub(found.repository, "dataset")
            data: Any = datasets.load_dataset(found.repository, found.config)
        else:
            check_saved(found.path)
            data = datasets.load_from_disk(source.name)
    except UserError:
        raise
    except Exception as error:  # network, Hub and builder errors have no common base class
        raise UserError(
            f"{source}: no such file, nor a data set that can be loaded ({joined(error)})"
        ) from error
    if isinstance(data, dict):
        if "train" not in data and len(data) > 1:
            raise UserError(f"{source}: has the splits {', '.join(data)}, but none is called train")
        data = data["train" if "train" in data else next(iter(data))]
    for start in range(0, len(data), _ROWS_AT_ONCE):
        part = data.with_format("arrow")[start : start + _ROWS_AT_ONCE]
        yield from ((None, row) for row in arrow_rows(part, source.name))


def _is_saved(pattern: str | Path) -> bool:
    found = find_data(pattern)
    return isinstance(found, HubData) or (isinstance(found, DataFolder) and found.is_saved)


def expand_sources(patterns: str | Path | Iterable[str | Path]) -> list[Source]:
    """Return what names and globs stand for: sorted files, then data sets.

    Raises UserError as `expand_paths`, and for a file of an unknown format.
    """
    patterns = [patterns] if isinstance(patterns, str | Path) else list(patterns)
    saved = sorted({SavedDataset(str(pattern)) for pattern in patterns if _is_saved(pattern)})
    plain = [pattern for pattern in patterns if not _is_saved(pattern)]
    paths = expand_paths(plain) if plain or not saved else []
    for path in paths:
        if plain_suffix(path) not in (".txt", *FORMATS):
            known = ", ".join((".txt", *FORMATS))
            raise UserError(
                f"{path}: unknown format {plain_suffix(path)!r}; use one of {known}, or those with .gz"
            )
    return [*paths, *saved]


def documents_of(source: Source, text_column: str | None = None) -> Iterator[str]:
    """Yield the documents of one file or data set; there may be none."""
    if isinstance(source, SavedDataset):
        return _table_documents(_saved_rows(source), str(source), text_column)
    if plain_suffix(source) == ".txt":
        return _text_documents(source)
    return _table_documents(iter_rows(source), str(source), text_column)


def iter_documents(
    patterns: str | Path | Iterable[str | Path], text_column: str | None = None
) -> Iterator[str]:
    """Yield the documents of text files and tables, file by file in sorted order, in constant memory.

    patterns: names and globs. A .txt file has an empty line between documents (one that gets longer than
    `MAX_DOCUMENT_CHARS` is cut at a line end); a table (`tables.FORMATS`) has one document a row.
    Both may be compressed. Also folders written by `Dataset.save_to_disk` and names on the Hub (`user/name`).
    text_column: the tables' column; by default the one that is plainly the text. Empty documents are skipped.
    Raises UserError for what cannot be read, an unknown format, and files without any text.
    """
    sources = expand_sources(patterns)
    empty = True
    for source in sources:
        for document in documents_of(source, text_column):
            empty = False
            yield document
    if empty:
        names = str(sources[0]) + (f" and {len(sources) - 1} more" if len(sources) > 1 else "")
        raise UserError(f"{names}: there is no text in the corpus")


def in_validation(document: str, fraction: float) -> bool:
    """Tell whether a document belongs to the held-out part: by a hash of its text, so always the same way.

    fraction: expected share of documents, 0 to 1. Equal documents fall on the same side, and a document that
    is held out for one fraction is so for every larger one.
    """
    digest = hashlib.blake2b(document.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64
