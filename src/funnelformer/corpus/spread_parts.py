"""Prepare data on a cluster: workers find where the documents of each part are, and make the parts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from ..base.errors import UserError, changed
from ..base.files import plain_suffix
from ..data.tokenizer import load_tokenizer
from ..spread.work_items import WorkItem, has_places, item_rows, places_of, source_copy
from .build import iter_parts
from .documents import (
    SavedDataset,
    SpreadSource,
    documents_of,
    table_documents,
    text_documents,
    whole_documents,
)
from .parts import is_finished, part_name, prepare_part
from .row_settings import RowSettings

__all__ = ["CorpusItem", "CorpusMaker", "Surveyed", "survey"]

# Number of rows of a piece that extends to the end of its source.
_TO_END = 1 << 60


@dataclass(frozen=True)
class Piece:
    """Consecutive documents of one source that belong to one part. column: the column of the text in a table."""

    rows: WorkItem
    documents: int
    column: str | None

    def texts(self) -> Iterator[str]:
        """The texts of the documents. Raises UserError if the source has changed since the scan."""
        rows = item_rows(self.rows)
        if plain_suffix(self.rows.source) == ".txt":
            documents = text_documents((line or 0, row["text"]) for line, row in rows)
        else:
            documents = table_documents(rows, self.rows.source, self.column)
        return (document.text for document in islice(documents, self.documents))


@dataclass(frozen=True)
class Part:
    """One part of the prepared data, see `prepare_part`."""

    key: tuple[int, int]
    documents: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class CorpusItem:
    """The work of one call: a part, or all parts of a group whose sources can only be read from their beginning.

    sources: those of such a group; empty for a single part, because its pieces name theirs.
    """

    parts: tuple[Part, ...]
    sources: tuple[SpreadSource, ...] = ()

    @property
    def documents(self) -> int:
        return sum(part.documents for part in self.parts)


@dataclass(frozen=True)
class Surveyed:
    """The result of `survey`: the items of a group, and its sources as settings.json describes them."""

    items: list[CorpusItem]
    described: list[dict[str, Any]]


class _Place(NamedTuple):
    """Where a document is, and its length in characters. source: the number of its source in the group."""

    chars: int
    source: int
    row: int
    line: int | None
    column: str | None


def survey(text_column: str | None, part_chars: int, group: tuple[int, list[SpreadSource]]) -> Surveyed:
    """Read a group of sources, cut it into the parts that one machine would make, and find where their documents are.

    group: its number, and its sources. Raises UserError for a row that cannot be used.
    """
    number, sources = group
    # For each source in a part: its first document there, and their number.
    parts: list[list[tuple[_Place, int]]] = []
    begins: dict[int, list[_Place]] = {}  # source -> the first document of each of its pieces
    for places in iter_parts(_documents(sources, text_column), part_chars, lambda place: place.chars):
        counts = Counter(place.source for place in places)
        firsts = {place.source: place for place in reversed(places)}
        parts.append([(firsts[index], count) for index, count in counts.items()])
        for index in counts:
            begins.setdefault(index, []).append(firsts[index])
    described, rows = list[dict[str, Any]](), dict[tuple[int, int], WorkItem]()
    for index, source in enumerate(sources):
        facts, items = _found(source, begins.get(index, []))
        described.append(facts)
        rows |= {(index, item.first): item for item in items}
    made = tuple(
        Part(
            (number, place_of_part),
            sum(count for _, count in pieces),
            tuple(Piece(rows[place.source, place.row], count, place.column) for place, count in pieces),
        )
        for place_of_part, pieces in enumerate(parts)
    )
    if all(_can_begin_anywhere(source) for source in sources):
        return Surveyed([CorpusItem((part,)) for part in made], described)
    return Surveyed([CorpusItem(made, tuple(sources))] if made else [], described)


def _documents(sources: list[SpreadSource], text_column: str | None) -> Iterator[_Place]:
    for index, source in enumerate(sources):
        for document in whole_documents(source, text_column):
            yield _Place(len(document.text), index, document.row, document.line, document.column)


def _can_begin_anywhere(source: SpreadSource) -> bool:
    return not isinstance(source, SavedDataset) and (
        has_places(str(source)) or str(source).lower().endswith(".parquet")
    )


def _found(source: SpreadSource, firsts: list[_Place]) -> tuple[dict[str, Any], list[WorkItem]]:
    """Describe a source for the settings, and make a work item from each of these documents to before the next."""
    name = str(source)
    if isinstance(source, SavedDataset):
        return {"name": name, "bytes": 0}, [WorkItem(name, place.row, _TO_END) for place in firsts]
    with source_copy(name) as path:
        if not path.is_file():
            raise UserError(f"{name}: is not a regular file; --engine ray must be able to read it again")
        by_bytes = has_places(name)
        ranges, size, digest = places_of(path, [place.line for place in firsts] if by_bytes else [])
    ends = [*(place.row for place in firsts[1:]), _TO_END]
    items = [
        WorkItem(name, place.row, end - place.row, *where)
        for place, end, where in zip(firsts, ends, ranges or [(0, 0, 0)] * len(firsts), strict=True)
    ]
    return {"name": source.name, "bytes": size, "sha256": digest}, items


class CorpusMaker:
    """A callable for workers: it makes those parts of an item that are not finished, see `prepare_part`."""

    def __init__(self, tokenizer: Path, settings: RowSettings, text_column: str | None, out: Path) -> None:
        self.source, self.settings, self.text_column, self.out = tokenizer, settings, text_column, out
        self._tokenizer: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_tokenizer": None}

    def __call__(self, item: CorpusItem) -> None:
        """Make the item's parts. Raises UserError if a source has changed since the scan."""
        if self._tokenizer is None:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a worker has one CPU
            self._tokenizer = load_tokenizer(self.source)
        stream = chain.from_iterable(documents_of(source, self.text_column) for source in item.sources)
        for part in item.parts:
            own = stream if item.sources else chain.from_iterable(piece.texts() for piece in part.pieces)
            texts = list(islice(own, part.documents))
            if len(texts) != part.documents:
                names = ", ".join(dict.fromkeys(piece.rows.source for piece in part.pieces))
                raise changed(f"{names} (part {part_name(part.key)})")
            if not is_finished(self.out, part.key):
                prepare_part(texts, self._tokenizer, self.settings, part.key, self.out)
