"""The texts that a student learns from: read in one order, checked, and some of them held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...base.errors import UserError
from ...base.files import iter_lines, plain_suffix
from ...corpus.documents import SavedDataset, Source, expand_sources, in_validation
from ...data.bad_rows import OnBadRow
from ...data.formats import Row, iter_rows, row_name
from ...data.tables import check_column, guess_text_column, iter_texts
from ...data.values import text_problem

__all__ = ["Survey", "TextFiles"]

# Held-out texts that are measured.
_MOST_HELD_OUT = 2000


@dataclass(frozen=True)
class Survey:
    """What a first reading of the texts found: all of them can be used.

    number: of texts. digest: of the texts in their order. held_out: the numbers of those that no step is made with.
    measured: those of them that are measured, and `measured_texts` what they say.
    """

    number: int
    digest: str
    held_out: np.ndarray
    measured: np.ndarray
    measured_texts: list[str]


@dataclass(frozen=True)
class TextFiles:
    """Files with a text a line or row. Every reading gives the same texts in the same order: that of sorted names.

    Lines of a .txt file without a text are no texts; in a table such a row is a bad one.
    text: the column of tables, by default the one that is plainly the text.
    """

    sources: Sequence[Source]
    text: str | None = None

    @classmethod
    def find(cls, names: Sequence[str], text: str | None = None) -> TextFiles:
        """Raises UserError for names that stand for no file, and a file of an unknown format."""
        return cls(expand_sources(names), text)

    def read(self, bad: OnBadRow) -> Iterator[str]:
        """The texts. bad: told of a row that cannot be used, which is left out when it returns.

        Raises UserError for what cannot be read.
        """
        for source in self.sources:
            yield from self._read_one(source, bad)

    def survey(self, bad: OnBadRow, validation_fraction: float) -> Survey:
        """Read all texts once. Raises UserError as `read`, and where there are none."""
        digest = hashlib.sha256()
        number, held_out, texts = 0, list[int](), list[str]()
        for text in self.read(bad):
            content = text.encode()
            digest.update(len(content).to_bytes(8, "big") + content)
            if in_validation(text, validation_fraction):
                held_out.append(number)
                if len(texts) < _MOST_HELD_OUT:
                    texts.append(text)
            number += 1
        if number == 0:
            raise UserError(f"{self.sources[0]}: there are no texts in it")
        rows = np.array(held_out, dtype=np.int64)
        return Survey(number, digest.hexdigest(), rows, rows[: len(texts)], texts)

    def _read_one(self, source: Source, bad: OnBadRow) -> Iterator[str]:
        name = str(source)
        if not isinstance(source, SavedDataset) and plain_suffix(source) == ".txt":
            for number, text in iter_lines(source):
                if not text.strip():
                    continue
                if problem := text_problem(text):
                    bad(f"{name}: line {number}: the text {problem}")
                else:
                    yield text
            return
        column: str | None = None
        for index, (line, row) in enumerate(_rows(source, bad)):
            if column is None:  # the first row tells
                column = (
                    check_column(self.text, row, name) if self.text else guess_text_column(list(row), name)
                )
            if problem := text_problem(row.get(column)):
                bad(f"{row_name(name, index, line)}: column {column!r} {problem}")
            else:
                yield row[column]


def _rows(source: Source, bad: OnBadRow) -> Iterator[Row]:
    return iter_texts(str(source))[1] if isinstance(source, SavedDataset) else iter_rows(source, bad=bad)
