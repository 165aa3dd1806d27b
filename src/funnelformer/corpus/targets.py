"""Choose the tokens to predict: a given number in each sequence, as single tokens, whole words or spans.

In all functions, `keys` [B] has a random key for each row (`counter_random.row_keys`), `free` [B, L] is True for tokens
that may be chosen, and `counts` [B] says how many are chosen; none is above the number of free tokens. Words and spans
are chosen whole, in random order, as long as they fit into the count; single tokens fill the rest of it.
Source: Dai et al. 2020, the original pretraining code's four strategies.
"""

from __future__ import annotations

import numpy as np

from .counter_random import uniforms

__all__ = ["SPAN_PROBABILITIES", "choose_single", "choose_spans", "choose_words", "place_spans"]

SPAN_LENGTHS = np.arange(1, 6)
SPAN_PROBABILITIES = (1 / (SPAN_LENGTHS + 1)) / (1 / (SPAN_LENGTHS + 1)).sum()
_SINGLE, _ORDER, _LENGTH, _OFFSET = range(4)  # streams of random numbers
_NEVER = 2.0  # larger than every random number, so sorted last


def choose_single(
    keys: np.ndarray, free: np.ndarray, counts: np.ndarray, first: np.ndarray | None = None
) -> np.ndarray:
    """Choose single tokens: [B, L] bool. Those where `first` [B, L] is True are chosen before all others."""
    length = free.shape[1]
    priority = np.where(free, uniforms(keys, _SINGLE, length), _NEVER)
    if first is not None:
        priority -= first
    order = priority.argsort(1)
    chosen = np.zeros_like(free)
    np.put_along_axis(chosen, order, np.arange(length) < counts[:, None], 1)
    return chosen


def choose_words(
    keys: np.ndarray, free: np.ndarray, counts: np.ndarray, word_starts: np.ndarray
) -> np.ndarray:
    """Choose whole words: [B, L] bool. word_starts: [B, L], True where a word or a special token begins."""
    return _choose_groups(keys, free, counts, word_starts.cumsum(1) - 1)


def choose_spans(
    keys: np.ndarray,
    free: np.ndarray,
    counts: np.ndarray,
    num_tokens: np.ndarray,
    word_starts: np.ndarray | None = None,
) -> np.ndarray:
    """Choose spans of 1 to 5 tokens, or with `word_starts` [B, L] of 1 to 5 words: [B, L] bool.

    A span that holds a special token is never chosen. num_tokens: [B], the number of tokens before the padding.
    """
    length = free.shape[1]
    spacing = num_tokens / np.maximum(counts, 1)
    if word_starts is None:
        groups = place_spans(keys, num_tokens, spacing, length)
    else:
        is_real = np.arange(length) < num_tokens[:, None]
        word = (word_starts & is_real).cumsum(1) - 1
        placed = place_spans(keys, word[:, -1] + 1, spacing, length)
        groups = np.where(is_real, np.take_along_axis(placed, word, 1), -1)
    broken = np.zeros((len(keys), length + 1), dtype=bool)
    row, place = np.nonzero(~free)
    broken[row, groups[row, place]] = True  # tokens outside of spans have group -1, which is the last entry
    return _choose_groups(keys, free, counts, np.where(np.take_along_axis(broken, groups, 1), -1, groups))


def place_spans(keys: np.ndarray, num_units: np.ndarray, spacing: np.ndarray, max_units: int) -> np.ndarray:
    """Number the span that each unit (token or word) is in, or -1 if it is in none: [B, max_units] int64.

    A span has n units with p ∝ 1/(n + 1), n = 1 to 5. Spans follow one another, each at a random place in a stretch of
    `spacing` [B] × n units. Spans that end beyond `num_units` [B] are left out.
    """
    num_spans = int(np.ceil(max_units / max(1, np.rint(spacing.min(initial=max_units)))))
    drawn = np.searchsorted(SPAN_PROBABILITIES.cumsum()[:-1], uniforms(keys, _LENGTH, num_spans), "right")
    lengths = SPAN_LENGTHS[drawn]
    stretch = np.maximum(np.rint(lengths * spacing[:, None]).astype(np.int64), lengths)
    offset = (uniforms(keys, _OFFSET, num_spans) * (stretch - lengths + 1)).astype(np.int64)
    begin = stretch.cumsum(1) - stretch + offset
    fits = begin + lengths <= num_units[:, None]
    groups = np.full((len(keys), max_units), -1, dtype=np.int64)
    for step in range(SPAN_LENGTHS[-1]):
        row, span = np.nonzero(fits & (step < lengths))
        groups[row, begin[row, span] + step] = span
    return groups


def _choose_groups(keys: np.ndarray, free: np.ndarray, counts: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Choose whole groups of tokens in random order while they fit `counts`, then single tokens; -1 is no group."""
    length = free.shape[1]
    order_of_group = uniforms(keys, _ORDER, length)
    sort_key = np.where(
        free & (groups >= 0), np.take_along_axis(order_of_group, np.maximum(groups, 0), 1), _NEVER
    )
    order = sort_key.argsort(1)
    in_order = np.take_along_axis(sort_key, order, 1)
    # For every token in this order: the number of tokens up to the end of its group.
    ends = np.full(free.shape, length + 1)
    ends[:, -1] = length
    np.copyto(ends[:, :-1], np.arange(1, length), where=in_order[:, 1:] != in_order[:, :-1])
    ends = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    fits = (ends <= counts[:, None]) & (in_order < _NEVER)
    whole = np.zeros_like(free)
    np.put_along_axis(whole, order, fits, 1)
    return choose_single(keys, free, counts, first=whole)
