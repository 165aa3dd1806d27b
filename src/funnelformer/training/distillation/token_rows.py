"""The tokens of the texts, computed once for all runs with one tokenizer, and batches of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
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
from .stored_parts import StoredParts, open_parts
from .text_files import Survey, TextFiles

__all__ = ["ROWS_PER_PART", "TokenRows", "tokenize"]

ROWS_PER_PART = 16_384
_TEXTS_AT_ONCE = 2048
# Of any length: a text's segments are these, whatever it says.
_SAMPLE = "some words of a text"


class TokenRows:
    """Token ids of all texts, mapped. lengths: [N] tokens of each."""

    def __init__(self, parts: StoredParts, tokenizer: Any) -> None:
        self._parts = parts
        lengths = [np.asarray(parts.read(number, "lengths")) for number in range(parts.num_parts)]
        self.lengths: np.ndarray = np.concatenate(lengths)
        self._starts = [np.concatenate([[0], np.cumsum(part, dtype=np.int64)]) for part in lengths]
        self._pad = int(tokenizer.pad_token_id)
        self._segments = _segments_of(tokenizer)

    def __len__(self) -> int:
        return len(self.lengths)

    def counts(self, vocab_size: int) -> np.ndarray:
        """[vocabulary] how often each token is in the texts."""
        total = np.zeros(vocab_size, dtype=np.int64)
        for number in range(self._parts.num_parts):
            total += np.bincount(self._parts.read(number, "ids"), minlength=vocab_size)
        return total

    def ids(self, row: int) -> np.ndarray:
        part, index = divmod(row, self._parts.rows_per_part)
        starts = self._starts[part]
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


def tokenize(
    texts: TextFiles, survey: Survey, tokenizer: Any, max_length: int, prompt: str, cache: Path, bad: OnBadRow
) -> TokenRows:
    """The tokens of all texts, from the cache as far as they are there.

    prompt: what is put before every text. Process 0 computes them. Raises UserError when the texts changed meanwhile.
    """
    settings = {
        "texts": survey.digest,
        "tokenizer": _digest_of(tokenizer),
        "max_length": max_length,
        "prompt": prompt,
    }
    parts = open_parts(cache, "tokens", settings, ("ids", "lengths"), survey.number, ROWS_PER_PART)
    first(lambda: _fill(parts, texts, tokenizer, max_length, prompt, bad))
    return TokenRows(parts, tokenizer)


def _fill(
    parts: StoredParts, texts: TextFiles, tokenizer: Any, max_length: int, prompt: str, bad: OnBadRow
) -> None:
    missing = set(parts.missing())
    if not missing:
        return
    width = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32
    reader = texts.read(bad)
    with progress_bar("tokens", parts.num_rows) as advance:
        for number in range(parts.num_parts):
            rows = parts.rows(number)
            if number not in missing:
                found = sum(1 for _ in islice(reader, len(rows)))
                advance(found)
                continue
            encoded = list[np.ndarray]()
            for chunk in _chunks(islice(reader, len(rows))):
                whole = [prompt + text for text in chunk] if prompt else chunk
                ids = tokenizer(whole, truncation=True, max_length=max_length)["input_ids"]
                encoded += [np.array(row, dtype=width) for row in ids]
                advance(len(chunk))
            if len(encoded) != len(rows):
                raise UserError(f"{texts.sources[0]}: the texts changed while they were read")
            lengths = np.array([len(ids) for ids in encoded], dtype=np.int32)
            parts.write(number, {"ids": np.concatenate(encoded), "lengths": lengths})


def _chunks(texts: Iterator[str]) -> Iterator[list[str]]:
    while chunk := list(islice(texts, _TEXTS_AT_ONCE)):
        yield chunk


def _digest_of(tokenizer: Any) -> str:
    """Of what decides the ids of a text."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def _segments_of(tokenizer: Any) -> tuple[int, int, int] | None:
    """The segments of a single text's first token, of its last, and of those between; None where all are 0.

    Those of padding are never read.
    """
    found = tokenizer(_SAMPLE).get("token_type_ids")
    if found is None or not any(found):
        return None
    return found[0], found[1], found[-1]
