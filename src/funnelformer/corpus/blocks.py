"""Single-segment training sequences: documents one after another, cut wherever a row is full."""

from __future__ import annotations

import numpy as np

from .encode import EncodedDocuments
from .rows import NO_LABEL, Rows

__all__ = ["MIN_TAIL_TOKENS", "pack_rows"]

# A shorter row at the end is dropped.
MIN_TAIL_TOKENS = 32


def pack_rows(
    text: EncodedDocuments,
    order: np.ndarray,
    block_size: int,
    num_usable: int,
    cls_id: int,
    sep_id: int,
    pad_id: int,
) -> Rows:
    """Pack documents into rows `[CLS] tokens [SEP]` of `num_usable` ids, padded to `block_size` ids.

    order: numbers of the documents [number of documents]. They follow one another with a [SEP] between two of them, so
    a row may hold parts of several. The last row may be shorter; it is dropped below `MIN_TAIL_TOKENS` tokens.
    """
    bounds = text.sentences[text.documents]
    lengths = np.diff(bounds)[order] + 1  # with the [SEP] after each
    starts = lengths.cumsum() - lengths
    source = np.repeat(bounds[:-1][order] - starts, lengths) + np.arange(lengths.sum())
    is_sep = np.zeros(len(source), dtype=bool)
    is_sep[starts + lengths - 1] = True
    source[is_sep] = 0
    stream = np.where(is_sep, sep_id, text.ids[source])[:-1]
    word_starts = (is_sep | text.word_starts[source])[:-1]

    body = num_usable - 2
    num_rows, rest = divmod(len(stream), body)
    num_rows += rest >= MIN_TAIL_TOKENS
    num_kept = min(len(stream), num_rows * body)
    num_tokens = np.full(num_rows, num_usable, dtype=np.int32)
    if num_rows * body > num_kept:
        num_tokens[-1] = num_kept - (num_rows - 1) * body + 2
    ids = np.full((num_rows, block_size), pad_id, dtype=np.int32)
    flags = np.ones((num_rows, block_size), dtype=bool)
    place = np.arange(1, body + 1)
    inside = place <= num_tokens[:, None] - 2
    ids[:, 1 : body + 1][inside] = stream[:num_kept]
    flags[:, 1 : body + 1][inside] = word_starts[:num_kept]
    # A row may begin inside a word: the end of that word counts as a word, not as a part of [CLS].
    flags[:, 1] = True
    ids[:, 0] = cls_id
    ids[np.arange(num_rows), num_tokens - 1] = sep_id
    return Rows(ids, flags, num_tokens, num_tokens.copy(), np.full(num_rows, NO_LABEL, dtype=np.int16))
