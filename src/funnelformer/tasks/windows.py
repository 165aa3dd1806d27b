"""Long texts cut into overlapping windows, and the windows' outputs combined into the text's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..base.errors import UserError
from .windowing import Windowing

__all__ = [
    "by_owner",
    "check_stride",
    "describe_windows",
    "encode_windows",
    "first_of_owner",
    "mean_by_owner",
    "overlapping",
    "text_room",
    "usual_stride",
]


def usual_stride(room: int) -> int:
    """Half of a window: every token has a quarter of one on either side, but at the ends of the text."""
    return max(1, room // 2)


def check_stride(tokenizer: Any, max_length: int, stride: int) -> None:
    """Raise UserError for a stride beyond the tokens of a text in a window of `max_length`."""
    room = text_room(tokenizer, max_length)
    if not 1 <= stride <= room:
        raise UserError(
            f"--doc-stride is {stride}; allowed: 1 to {room}, the tokens of a text in a window of {max_length}"
        )


def overlapping(
    tokenizer: Any, texts: Sequence[Any], max_length: int, stride: int | None, **options: Any
) -> tuple[Any, list[int], int]:
    """Tokenise texts in windows; also return the text of each window, and the stride that was used.

    stride: by default half a window's tokens of a text. options: of the tokenizer.
    Raises UserError for a stride that would leave tokens out.
    """
    room = text_room(tokenizer, max_length)
    stride = usual_stride(room) if stride is None else stride
    check_stride(tokenizer, max_length, stride)
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        stride=room - stride,  # the library's stride is the overlap
        return_overflowing_tokens=True,
        **options,
    )
    return encoded, encoded.pop("overflow_to_sample_mapping"), stride


def encode_windows(
    tokenizer: Any, texts: Sequence[str], max_length: int, stride: int | None, most: int | None = None
) -> tuple[dict[str, list[list[int]]], np.ndarray]:
    """Tokenise texts into windows; return what a model reads of each, and the text that each is of ([windows] int).

    A window is the special tokens and `max_length` less those of the text's. The next one begins `stride` tokens
    later; the last is the first that reaches the text's end. So every token is in a window, and a text that fits is
    one window, as without.
    stride: by default half a window's tokens of a text. most: windows of a text that are kept, the first ones.
    Raises UserError for a stride that would leave tokens out.
    """
    encoded, numbers_of_texts, _ = overlapping(tokenizer, texts, max_length, stride)
    owners = np.asarray(numbers_of_texts, dtype=np.int64)
    if most is None:
        return dict(encoded), owners
    numbers = np.arange(len(owners)) - np.unique(owners, return_index=True)[1][owners]
    kept = np.flatnonzero(numbers < most)
    return {name: [rows[index] for index in kept] for name, rows in encoded.items()}, owners[kept]


def text_room(tokenizer: Any, max_length: int) -> int:
    """Tokens of a text in a window."""
    return max_length - int(tokenizer.num_special_tokens_to_add(pair=False))


def mean_by_owner(values: np.ndarray, owners: np.ndarray | None) -> np.ndarray:
    """Means [N, ...] of the rows [windows, ...] of each owner 0 .. N - 1; `values` where `owners` is None."""
    if owners is None:
        return values
    counts = np.bincount(owners)
    sums = np.zeros((len(counts), *values.shape[1:]), dtype=np.float64)
    np.add.at(sums, owners, values)
    return (sums / counts.reshape(-1, *[1] * (values.ndim - 1))).astype(values.dtype)


def by_owner(
    logits: np.ndarray, owners: np.ndarray | None, windowing: Windowing | None, kind: str
) -> np.ndarray:
    """The logits [N, L] of texts from those of their windows [windows, L]; the same where `owners` is None.

    kind: of the task; of exclusive classes the maximum is one of log-probabilities, since logits have no common zero.
    """
    if owners is None or windowing is None or windowing.combine == "mean":
        return mean_by_owner(logits, owners)
    if kind == "classification":
        logits = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    begins = np.unique(owners, return_index=True)[1]
    found: np.ndarray = np.maximum.reduceat(logits, begins, axis=0)
    return found


def first_of_owner(values: np.ndarray, owners: np.ndarray | None) -> np.ndarray:
    """The row of the first window of each owner; `values` where `owners` is None."""
    return values if owners is None else values[np.unique(owners, return_index=True)[1]]


def describe_windows(owners: np.ndarray, max_length: int) -> str:
    """One line on how many texts are read in windows."""
    counts = np.bincount(owners)
    several = counts[counts > 1]
    if not len(several):
        return f"all {len(counts):,} training texts fit in {max_length} tokens"
    return (
        f"{len(several):,} of {len(counts):,} training texts exceed {max_length} tokens and are read in windows, "
        f"{several.mean():.1f} each, {several.max()} at most"
    )
