"""Plain text for pretraining: stream documents, hold some out by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from ..base.errors import UserError, joined
from ..base.files import expand_paths, iter_lines, plain_suffix
from ..base.hub import reach_hub
from ..data.data_source import DataFolder, HubData, find_data
from ..data.formats import FORMATS, Line, Row, arrow_rows, iter_rows, row_name
from ..data.local_folder import check_saved
from ..data.tables import check_column, guess_text_column
from ..data.values import text_problem
from ..spread.storage import as_url, file_sizes, is_remote, list_sources
from ..spread.work_items import source_copy

__all__ = [
    "Document",
    "RemoteFile",
    "SavedDataset",
    "Source",
    "Split",
    "SpreadSource",
    "documents_of",
    "everywhere",
    "expand_sources",
    "in_validation",
    "iter_documents",
    "table_documents",
    "text_documents",
    "whole_documents",
]

Split = Literal["train", "validation"]

# A longer document of a text file is cut at the end of a line. So memory stays constant if a file has no empty lines,
# and a part of a book can be held out.
MAX_DOCUMENT_CHARS = 50_000
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, order=True)
class SavedDataset:
    """A data set that the `datasets` library reads: a folder of `save_to_disk`, or a Hub name (`user/name:config`)."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, order=True)
class RemoteFile:
    """A file in an object store. size: in bytes."""

    url: str
    size: int

    @property
    def name(self) -> str:
        return PurePosixPath(self.url).name

    def __str__(self) -> str:
        return self.url


Source = Path | SavedDataset
SpreadSource = Source | RemoteFile


class Document(NamedTuple):
    """A document and where it begins in its source.

    row: the row of a table, or the first line of a .txt file, counted from 0. line: its line in the file, counted from
    1, or None if not known. column: the column of the text in a table, or None.
    """

    text: str
    row: int
    line: int | None
    column: str | None


def text_documents(lines: Iterable[Line]) -> Iterator[Document]:
    """The documents of a .txt file, which empty lines separate."""
    begun: list[str] = []
    num_chars, first = 0, 0
    for number, line in lines:
        if line.strip():
            first = first if begun else number
            begun.append(line)
            num_chars += len(line) + 1
        if begun and (not line.strip() or num_chars > MAX_DOCUMENT_CHARS):
            yield Document("\n".join(begun), first - 1, first, None)
            begun, num_chars = [], 0
    if begun:
        yield Document("\n".join(begun), first - 1, first, None)


def table_documents(rows: Iterable[Row], name: str, text_column: str | None) -> Iterator[Document]:
    """The documents of a table; rows without a text are skipped. Raises UserError for a value that is not text."""
    column: str | None = None
    for index, (line, row) in enumerate(rows):
        if column is None:  # the first row decides; later JSON objects may lack the column
            column = (
                check_column(text_column, row, name) if text_column else guess_text_column(list(row), name)
            )
        text = row.get(column)
        if text is None or (isinstance(text, str) and not text.strip()):
            continue
        if problem := text_problem(text):
            raise UserError(f"{row_name(name, index, line)}: column {column!r} {problem}")
        yield Document(text, index, line, column)


def _saved_rows(source: SavedDataset) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """Rows of the split "train", or of the only split, memory-mapped."""
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
    """Return what names and globs stand for: files, then data sets, each sorted.

    Raises UserError as `expand_paths` does, and for a file of an unknown format.
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


def everywhere(patterns: Iterable[str]) -> list[SpreadSource]:
    """As `expand_sources`; names may also be URLs of an object store, and folders of files.

    Raises UserError if a name stands for no file, or if a URL cannot be read.
    """
    here: list[str | Path] = []
    remote: list[str] = []
    for pattern in patterns:
        if is_remote(as_url(pattern)):
            remote += list_sources(pattern)
        elif Path(pattern).is_dir() and not _is_saved(pattern):
            here += list_sources(pattern)
        else:
            here.append(pattern)
    urls = sorted(set(remote), key=PurePosixPath)
    found: list[SpreadSource] = [
        RemoteFile(url, size) for url, size in zip(urls, file_sizes(urls), strict=True)
    ]
    own = expand_sources(here) if here or not found else []
    is_file = [not isinstance(source, SavedDataset) for source in own]
    return [*own[: sum(is_file)], *found, *own[sum(is_file) :]]


def whole_documents(source: SpreadSource, text_column: str | None = None) -> Iterator[Document]:
    """The documents of one file or data set, with their places; there may be none. Raises UserError if unreadable."""
    if isinstance(source, SavedDataset):
        yield from table_documents(_saved_rows(source), str(source), text_column)
        return
    with source_copy(str(source)) as path:
        if plain_suffix(path) == ".txt":
            yield from text_documents(iter_lines(path))
        else:
            yield from table_documents(iter_rows(path), str(path), text_column)


def documents_of(source: SpreadSource, text_column: str | None = None) -> Iterator[str]:
    """Yield the texts of the documents of one file or data set; there may be none."""
    return (document.text for document in whole_documents(source, text_column))


def iter_documents(
    patterns: str | Path | Iterable[str | Path], text_column: str | None = None
) -> Iterator[str]:
    """Yield the documents of text files and tables, file by file in sorted order, in constant memory.

    patterns: names and globs of files, folders written by `Dataset.save_to_disk`, and names on the Hub (`user/name`).
        A .txt file has an empty line between documents; a document longer than `MAX_DOCUMENT_CHARS` is cut at the end
        of a line. A table (`formats.FORMATS`) has one document in each row. Both may be compressed.
    text_column: the tables' column of text; by default the one that is clearly the text. Empty documents are skipped.
    Raises UserError for a source that cannot be read or has an unknown format, and if there is no text at all.
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
    """Whether a document is held out. A hash of its text decides, so the answer is always the same.

    fraction: expected share of documents that are held out, 0 to 1. Equal documents are in the same split, and a
    document that is held out with one fraction is also held out with every larger one.
    """
    digest = hashlib.blake2b(document.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64
