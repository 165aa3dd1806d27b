"""The tokens of the texts, computed once for all runs with one tokenizer, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...base.errors import UserError
from ...base.processes import first
from ...base.progress import progress_bar
from ...data.bad_rows import OnBadRow
from ...data.tokenizer import tokenizer_digest
from .stored_parts import StoredParts, open_parts
from .text_files import Survey, TextFiles

__all__ = ["ROWS_PER_PART", "Reader", "TokenRows", "tokenize"]

ROWS_PER_PART = 16_384
_TEXTS_AT_ONCE = 2048
# Of any length: a text's segments are these, whatever it says.
_SAMPLE = "some words of a text"


class TokenRows:
    """Token ids of all texts, mapped: a row a text, or a row a window of a text.

    lengths: [R] tokens of each row. first_row: [N + 1] the first row of each text, and the number of rows.
    """

    def __init__(self, parts: StoredParts, tokenizer: Any) -> None:
        self._parts = parts
        lengths = [np.asarray(parts.read(number, "lengths")) for number in range(parts.num_parts)]
        windows = [np.asarray(parts.read(number, "windows")) for number in range(parts.num_parts)]
        self.lengths: np.ndarray = np.concatenate(lengths)
        self.first_row: np.ndarray = np.concatenate([[0], np.cumsum(np.concatenate(windows), dtype=np.int64)])
        self._first_of_part = np.cumsum([0, *(len(part) for part in lengths)])
        self._starts = [np.concatenate([[0], np.cumsum(part, dtype=np.int64)]) for part in lengths]
        self._pad = int(tokenizer.pad_token_id)
        self._segments = _segments_of(tokenizer)

    @property
    def num_texts(self) -> int:
        return len(self.first_row) - 1

    def counts(self, vocab_size: int) -> np.ndarray:
        """[vocabulary] how often each token is in the texts."""
        total = np.zeros(vocab_size, dtype=np.int64)
        for number in range(self._parts.num_parts):
            total += np.bincount(self._parts.read(number, "ids"), minlength=vocab_size)
        return total

    def ids(self, row: int) -> np.ndarray:
        part = int(np.searchsorted(self._first_of_part, row, side="right")) - 1
        index, starts = row - int(self._first_of_part[part]), self._starts[part]
        return self._parts.read(part, "ids")[starts[index] : starts[index + 1]]

    def batch(self, rows: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        """A model's inputs, padded on the right; without a mask where there is no padding."""
        lengths = self.lengths[np.asarray(rows)]
        longest = int(lengths.max())
        ids = np.full((len(rows), longest), self._pad, dtype=np.int64)
        for place, row in enumerate(rows):
            ids[place, : lengths[place]] = self.ids(int(row))
        batch = {"input_ids": torch.from_numpy(ids)}
        if (lengths != longest).any():
            batch["attention_mask"] = torch.from_numpy(
                (np.arange(longest)[None] < lengths[:, None]).astype(np.int64)
            )
        if self._segments is not None:
            start, middle, end = self._segments
            segments = np.where(np.arange(longest)[None] < lengths[:, None] - 1, middle, end)
            segments[:, 0] = start
            batch["token_type_ids"] = torch.from_numpy(segments)
        return batch


@dataclass(frozen=True)
class Reader:
    """How a text becomes tokens.

    prompt: what is put before every text. max_length: tokens at which a text is cut. window: tokens of a row, where
    longer texts have several rows, one behind another; None: one row a text.
    """

    tokenizer: Any
    max_length: int
    prompt: str = ""
    window: int | None = None

    @property
    def key(self) -> dict[str, Any]:
        return {
            "tokenizer": tokenizer_digest(self.tokenizer),
            "max_length": self.max_length,
            "prompt": self.prompt,
            "window": self.window,
        }

    def rows(self, texts: list[str]) -> list[list[list[int]]]:
        """Of each text its rows of ids, each with the tokenizer's special tokens."""
        whole = [self.prompt + text for text in texts] if self.prompt else texts
        if self.window is None:
            ids = self.tokenizer(whole, truncation=True, max_length=self.max_length)["input_ids"]
            return [[row] for row in ids]
        encoded = self.tokenizer(
            whole, truncation=True, max_length=self.window, stride=0, return_overflowing_tokens=True
        )
        found: list[list[list[int]]] = [[] for _ in texts]
        for row, owner in zip(encoded["input_ids"], encoded["overflow_to_sample_mapping"], strict=True):
            # What the student does not read, nobody reads.
            if sum(map(len, found[owner])) < self.max_length:
                found[owner].append(row)
        return found


def tokenize(texts: TextFiles, survey: Survey, reader: Reader, cache: Path, bad: OnBadRow) -> TokenRows:
    """The tokens of all texts, from the cache as far as they are there.

    Process 0 computes them. Raises UserError when the texts changed meanwhile.
    """
    settings = {"texts": survey.digest, **reader.key}
    parts = open_parts(cache, "tokens", settings, ("ids", "windows", "lengths"), survey.number, ROWS_PER_PART)
    first(lambda: _fill(parts, texts, reader, bad))
    return TokenRows(parts, reader.tokenizer)


def _fill(parts: StoredParts, texts: TextFiles, reader: Reader, bad: OnBadRow) -> None:
    missing = set(parts.missing())
    if not missing:
        return
    width = np.uint16 if len(reader.tokenizer) <= 1 << 16 else np.uint32
    stream = texts.read(bad)
    with progress_bar("tokens", parts.num_rows) as advance:
        for number in range(parts.num_parts):
            size = len(parts.rows(number))
            if number not in missing:
                advance(sum(1 for _ in islice(stream, size)))
                continue
            rows, windows = list[np.ndarray](), list[int]()
            for chunk in _chunks(islice(stream, size)):
                for of_text in reader.rows(chunk):
                    windows.append(len(of_text))
                    rows += [np.array(ids, dtype=width) for ids in of_text]
                advance(len(chunk))
            if len(windows) != size:
                raise UserError(f"{texts.sources[0]}: the texts changed while they were read")
            parts.write(
                number,
                {
                    "ids": np.concatenate(rows),
                    "windows": np.array(windows, dtype=np.int32),
                    "lengths": np.array([len(ids) for ids in rows], dtype=np.int32),
                },
            )


def _chunks(texts: Iterator[str]) -> Iterator[list[str]]:
    while chunk := list(islice(texts, _TEXTS_AT_ONCE)):
        yield chunk


def _segments_of(tokenizer: Any) -> tuple[int, int, int] | None:
    """The segments of a single text's first token, of its last, and of those between; None where all are 0.

    Those of padding are never read.
    """
    found = tokenizer(_SAMPLE).get("token_type_ids")
    if found is None or not any(found):
        return None
    return found[0], found[1], found[-1]
