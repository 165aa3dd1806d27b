"""Long texts in windows that overlap, and what a model says of each as what it says of the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..base.errors import UserError

__all__ = ["check_stride", "describe_windows", "encode_windows", "first_of_owner", "mean_by_owner"]


def check_stride(tokenizer: Any, max_length: int, stride: int) -> int:
    """Return the tokens of a text in a window of `max_length`. Raises UserError for a stride beyond them."""
    room = max_length - tokenizer.num_special_tokens_to_add(pair=False)
    if not 1 <= stride <= room:
        raise UserError(
            f"--doc-stride is {stride}; allowed: 1 to {room}, the tokens of a text in a window of {max_length}"
        )
    return room


def encode_windows(
    tokenizer: Any, texts: Sequence[str], max_length: int, stride: int
) -> tuple[dict[str, list[list[int]]], np.ndarray]:
    """Tokenise texts into windows; return what a model reads of each, and the text that each is of ([windows] int).

    A window is the special tokens and `max_length` less those of the text's. The next one begins `stride` tokens
    later; the last is the first that reaches the text's end. So every token is in a window, and a text that fits is
    one window, as without.
    Raises UserError for a stride that would leave tokens out.
    """
    room = check_stride(tokenizer, max_length, stride)
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        stride=room - stride,  # the library's stride is the overlap
        return_overflowing_tokens=True,
    )
    owners = np.asarray(encoded.pop("overflow_to_sample_mapping"), dtype=np.int64)
    return dict(encoded), owners


def mean_by_owner(values: np.ndarray, owners: np.ndarray | None) -> np.ndarray:
    """Means [N, ...] of the rows [windows, ...] of each owner 0 .. N - 1; `values` where `owners` is None."""
    if owners is None:
        return values
    counts = np.bincount(owners)
    sums = np.zeros((len(counts), *values.shape[1:]), dtype=np.float64)
    np.add.at(sums, owners, values)
    return (sums / counts.reshape(-1, *[1] * (values.ndim - 1))).astype(values.dtype)


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
