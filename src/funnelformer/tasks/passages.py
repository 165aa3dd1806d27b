"""A question with a passage, cut into overlapping windows that a model can read."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.errors import UserError

__all__ = [
    "Place",
    "Window",
    "check_room",
    "cut_passage",
    "encode_passages",
    "most_question_tokens",
    "token_span",
    "widest_context",
]

# Tokens of a question, of which the first are kept. Source: Dai et al. 2020, as XLNet.
_QUESTION_TOKENS = 64
_NUM_SPECIAL = 3
_LEAST = 8


@dataclass(frozen=True)
class Place:
    """Where a window lies in its passage.

    begin: place in the window of its first token of the passage. first, size: that token's number in the passage, and
    how many follow it here. widest: numbers in the passage, from and up to, of the tokens that no other window shows
    with more context.
    """

    begin: int
    first: int
    size: int
    widest: tuple[int, int]


@dataclass(frozen=True)
class Window:
    """`[CLS] question [SEP] tokens of the passage [SEP]`.

    answer_mask: one for the tokens of the passage, and for [CLS], which says that there is no answer.
    """

    input_ids: list[int]
    token_type_ids: list[int]
    answer_mask: list[int]
    place: Place


def check_room(max_length: int) -> None:
    """Raise UserError if a window has no room for a question and a passage."""
    if max_length < _LEAST:
        raise UserError(f"--max-length is {max_length}; a question with a passage needs {_LEAST} or more")


def most_question_tokens(max_length: int) -> int:
    """Tokens of a question that a window keeps: the first 64, and at most half of it."""
    return min(_QUESTION_TOKENS, (max_length - _NUM_SPECIAL) // 2)


def encode_passages(tokenizer: Any, texts: Sequence[str]) -> list[Any]:
    """Tokenise texts whole, without special tokens: `tokenizers.Encoding`s."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    encodings: list[Any] = backend.encode_batch(list(texts), add_special_tokens=False)
    return encodings


def cut_passage(
    tokenizer: Any, question: Any, passage: Any, max_length: int, doc_stride: int
) -> list[Window]:
    """The windows of a passage, `doc_stride` tokens apart, of `max_length` tokens at most, with the question in each.

    question, passage: of `encode_passages`; both are cut in place, the question to `most_question_tokens`. Windows
    touch where `doc_stride` is more than they have room for; a passage that fits has one.
    Raises UserError when there is no room, or the tokenizer does not put its [CLS] first.
    """
    check_room(max_length)
    question.truncate(most_question_tokens(max_length))
    room = max_length - _NUM_SPECIAL - len(question)
    step = min(doc_stride, room)
    passage.truncate(room, stride=room - step)
    parts = [passage, *passage.overflowing]
    sizes = [len(part) for part in parts]
    firsts = [step * number for number in range(len(parts))]
    windows = []
    for part, first, size, widest in zip(parts, firsts, sizes, widest_context(firsts, sizes), strict=True):
        joined = tokenizer.backend_tokenizer.post_process(question, part)
        begin = joined.sequence_ids.index(1) if size else len(joined) - 1
        if joined.ids[0] != tokenizer.cls_token_id:
            raise UserError(
                f"the tokenizer begins a pair with {joined.tokens[0]!r}, not with its {tokenizer.cls_token!r}, "
                "which the models need there"
            )
        answer_mask = [0] * len(joined.ids)
        answer_mask[0] = 1
        answer_mask[begin : begin + size] = [1] * size
        place = Place(begin, first, size, widest)
        windows.append(Window(joined.ids, joined.type_ids, answer_mask, place))
    return windows


def widest_context(firsts: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, int]]:
    """For each window, the range of the passage's tokens that it shows with more context than any other window.

    The context of a token is the smaller number of tokens beside it, left or right, and a hundredth of the window's
    size; of equal windows the first counts. What a window is best at is one run of tokens, for of two windows the later
    one gains from token to token.
    Source: Devlin et al. 2018, `_check_is_max_context` of the public code.
    """
    best = np.full(max(first + size for first, size in zip(firsts, sizes, strict=True)), -np.inf)
    owner = np.zeros(len(best), dtype=np.int64)
    for number, (first, size) in enumerate(zip(firsts, sizes, strict=True)):
        place = np.arange(size)
        context = np.minimum(place, size - 1 - place) + 0.01 * size
        seen = slice(first, first + size)
        owner[seen] = np.where(context > best[seen], number, owner[seen])
        best[seen] = np.maximum(context, best[seen])
    runs = []
    for number, first in enumerate(firsts):
        (own,) = np.nonzero(owner == number)
        runs.append((int(own[0]), int(own[-1]) + 1) if len(own) else (first, first))
    return runs


def token_span(offsets: Sequence[tuple[int, int]], begin: int, end: int) -> tuple[int, int] | None:
    """Numbers of the first and the last token that share a character with those from `begin` up to `end`.

    offsets: of each token the characters from and up to. None where no token does, as of a character that the
    tokenizer drops.
    """
    first = bisect_right([stop for _, stop in offsets], begin)
    last = bisect_left([start for start, _ in offsets], end) - 1
    return (first, last) if first <= last else None
