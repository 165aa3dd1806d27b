"""Pieces of attention, small enough that the scores of one stay in a CPU's cache or within an accelerator's memory.

A piece is a range of sequences, heads and query rows; its rows need the distances from them alone, which halves the
positional product.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "LAYER_BYTES",
    "bias_bytes",
    "clear_first_token",
    "distances_of",
    "empty_output",
    "piece_sizes",
    "ranges",
    "shift",
    "shifted",
]

# Measured, see benchmarks/LOG.md: what a CPU's cache holds, and how many rows keep its kernel busy.
_CPU_PIECE_BYTES, _CPU_ROWS = 4 << 20, 256
# The biases of one layer at once: on an accelerator, and for the backward pass.
LAYER_BYTES = 256 << 20


def piece_sizes(query: Float[Tensor, "B H Q E"], num_keys: int, stride: int) -> tuple[int, int, int]:
    """Sequences, heads and rows of a piece; `stride` as in `AttentionInputs`."""
    num_sequences, num_heads, num_rows = query.shape[:3]
    if query.device.type == "cpu":
        budget, least_heads = _CPU_PIECE_BYTES, max(2, torch.get_num_threads() // 4)
        num_rows = min(num_rows, _CPU_ROWS)
    else:
        budget, least_heads = LAYER_BYTES, 1
        while num_rows > 1 and bias_bytes(query, num_rows, num_keys, stride) > budget:
            num_rows = math.ceil(num_rows / 2)
    num_fitting = budget // bias_bytes(query, num_rows, num_keys, stride)
    if num_fitting >= num_heads:
        return min(num_sequences, num_fitting // num_heads), num_heads, num_rows
    return 1, min(num_heads, max(num_fitting, least_heads)), num_rows


def bias_bytes(query: Tensor, num_rows: int, num_keys: int, stride: int) -> int:
    """Bytes of the scores by distance of so many rows, in one head of one sequence."""
    return query.element_size() * num_rows * (stride * num_rows + num_keys)


def ranges(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def empty_output(shape: torch.Size, like: Tensor) -> Float[Tensor, "B H Q E"]:
    """Room for all pieces, as the projection after it reads it: token by token, all heads of one side by side."""
    batch, heads, rows, size = shape
    return like.new_empty(batch, rows, heads, size).transpose(1, 2)


def clear_first_token(bias: Float[Tensor, "*b q K"], rows: slice) -> None:
    """The row and column of a first token that stands apart have a content score alone: set them to 0, in place."""
    bias[..., 0] = 0
    if rows.start == 0:
        bias[..., 0, :] = 0


def shifted(
    query: Float[Tensor, "b h q E"],
    table: Float[Tensor, "h E R"],
    rows: slice,
    *,
    num_queries: int,
    num_keys: int,
    stride: int,
) -> Float[Tensor, "b h q K"]:
    """P(i, j) of some rows, out of their products with the table."""
    return shift(query @ table[..., distances_of(rows, num_queries, num_keys, stride)], num_keys, stride)


def distances_of(rows: slice, num_queries: int, num_keys: int, stride: int) -> slice:
    """The columns of the table that some rows read, and `stride` more for `shift`."""
    first = stride * (num_queries - rows.stop)
    return slice(first, first + stride * (rows.stop - rows.start) + num_keys)


def shift(by_distance: Float[Tensor, "*b q R"], num_keys: int, stride: int) -> Float[Tensor, "*b q K"]:
    """Read P(i, j) out of the products with `distances_of` some rows; a view.

    Query i of Q wants the columns from `stride * (Q - 1 - i)` on. Laid out flat, rows of R columns become rows of
    R - stride columns that start at the last row's offset.
    """
    num_rows, width = by_distance.size(-2), by_distance.size(-1) - stride
    start = stride * (num_rows - 1)
    flat = by_distance.flatten(-2)[..., start : start + num_rows * width]
    return flat.unflatten(-1, (num_rows, width))[..., :num_keys]
