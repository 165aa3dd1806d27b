"""Relative attention on `scaled_dot_product_attention`, piece by piece: the position score is a view, no gather.

Where the biases of all pieces would be too much for the backward pass to hold, it computes each of them again.
"""

from __future__ import annotations

import functools
import math
import typing
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from . import onednn, operator
from .inputs import AttentionInputs
from .pieces import (
    LAYER_BYTES,
    bias_bytes,
    clear_first_token,
    empty_output,
    piece_sizes,
    ranges,
    shifted,
)
from .reference import mix, position_scores, segment_scores

if typing.TYPE_CHECKING:
    from . import Attention

__all__ = ["attend"]


def attend(
    layer: Attention,
    query: Float[Tensor, "B H Q E"],
    key: Float[Tensor, "B H K E"],
    value: Float[Tensor, "B H K E"],
    inputs: AttentionInputs,
    dropout: float,
) -> tuple[Float[Tensor, "B H Q E"], None]:
    """As `reference.attend`, with position, segment and mask as one additive bias; gives no weights."""
    if operator.is_wanted(layer, query, inputs):
        return operator.attend(layer, query, key, value, inputs)
    dropout = dropout if layer.training else 0.0
    if layer.relative is None:
        return _attend(query + layer.scaled(layer.content_bias), key, value, inputs.mask_bias, dropout), None
    if inputs.stride is None or torch.compiler.is_compiling():
        # Ranges would fix a compiled graph's length; the compiler fuses the look-up, and has its gradients.
        bias = _looked_up(layer, query[:, :, inputs.num_apart :], inputs)
        return _attend(query + layer.scaled(layer.content_bias), key, value, bias, dropout), None
    num_sequences, num_heads, num_rows = piece_sizes(query, inputs.num_keys, inputs.stride)
    if onednn.is_faster(query, inputs):
        return onednn.attend(layer, query, key, value, inputs, _tables(layer, query, num_heads, inputs)), None
    attend_piece: Callable[..., Tensor] = functools.partial(_attend_piece, layer, inputs, dropout)
    if _must_recompute(query, num_rows, inputs):
        attend_piece = functools.partial(checkpoint, attend_piece, use_reentrant=False)
    mixed = _Mixed(query)
    for heads, table in _tables(layer, query, num_heads, inputs):
        for batch in ranges(query.size(0), num_sequences):
            for rows in ranges(query.size(2), num_rows):
                piece = batch, heads, rows
                result = attend_piece(query[piece], key[batch, heads], value[batch, heads], table, *piece)
                mixed.add(result, piece)
    return mixed.whole(), None


class _Mixed:
    """The output of all pieces: written in its place, or put together for a backward pass."""

    def __init__(self, query: Float[Tensor, "B H Q E"]) -> None:
        self._shape = query.shape
        self._parts: list[tuple[tuple[slice, slice, slice], Tensor]] = []
        self._whole: Tensor | None = None

    def add(self, part: Float[Tensor, "b h q E"], piece: tuple[slice, slice, slice]) -> None:
        if part.shape == self._shape:
            self._whole = part
        elif part.requires_grad:
            self._parts.append((piece, part))
        else:
            if self._whole is None:
                self._whole = empty_output(self._shape, part)
            self._whole[piece] = part

    def whole(self) -> Float[Tensor, "B H Q E"]:
        if self._whole is not None:
            return self._whole
        by_heads: dict[int, dict[int, list[Tensor]]] = {}
        for (batch, heads, _), part in self._parts:
            by_heads.setdefault(heads.start, {}).setdefault(batch.start, []).append(part)
        groups = [
            torch.cat([torch.cat(rows, dim=2) for rows in sequences.values()])
            for sequences in by_heads.values()
        ]
        return torch.cat(groups, dim=1)


def _attend_piece(
    layer: Attention,
    inputs: AttentionInputs,
    dropout: float,
    query: Float[Tensor, "b h q E"],
    key: Float[Tensor, "b h K E"],
    value: Float[Tensor, "b h K E"],
    table: Float[Tensor, "h E R"],
    batch: slice,
    heads: slice,
    rows: slice,
) -> Float[Tensor, "b h q E"]:
    assert inputs.stride is not None
    bias = shifted(
        query + layer.scaled(layer.position_bias)[heads],
        table,
        rows,
        num_queries=inputs.num_queries,
        num_keys=inputs.num_keys,
        stride=inputs.stride,
    )
    if inputs.same_segment is not None:
        bias += segment_scores(layer, query, inputs.same_segment[batch, rows], heads)
    if inputs.num_apart:
        clear_first_token(bias, rows)
    if inputs.mask_bias is not None:
        bias += inputs.mask_bias[batch]
    return _attend(query + layer.scaled(layer.content_bias)[heads], key, value, bias, dropout)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    if dropout and query.device.type == "cpu" and not torch.compiler.is_compiling():
        # With dropout no kernel is fused on a CPU, and its own draws take longest; see benchmarks/LOG.md.
        score = query @ key.transpose(-1, -2)
        return mix(score if bias is None else score.add_(bias), value, dropout)[0]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=1.0)


def _looked_up(
    layer: Attention, query: Float[Tensor, "B H q E"], inputs: AttentionInputs
) -> Float[Tensor, "B H Q K"]:
    """The bias of all pairs at once, every distance looked up: for tokens that were chosen one by one."""
    apart = inputs.num_apart
    relative = position_scores(layer, query, inputs)
    if inputs.same_segment is not None:
        relative = relative + segment_scores(layer, query, inputs.same_segment[:, apart:, apart:])
    bias = F.pad(relative, (apart, 0, apart, 0))
    return bias if inputs.mask_bias is None else bias + inputs.mask_bias


def _must_recompute(query: Tensor, num_rows: int, inputs: AttentionInputs) -> bool:
    assert inputs.stride is not None
    num_pieces = math.ceil(query.size(2) / num_rows) * query.size(0) * query.size(1)
    total = num_pieces * bias_bytes(query, num_rows, inputs.num_keys, inputs.stride)
    return torch.is_grad_enabled() and total > LAYER_BYTES


def _tables(
    layer: Attention, query: Float[Tensor, "B H Q E"], num_heads: int, inputs: AttentionInputs
) -> Iterator[tuple[slice, Float[Tensor, "h E R"]]]:
    """So many heads at a time, with their distances; at inference only those of a few heads are there at once."""
    table = layer.kept_table(inputs)
    all_heads = ranges(query.size(1), num_heads)
    if table is None and (torch.is_grad_enabled() or not layer.has_plain_table):
        table = layer.distance_table(inputs)
    for heads in all_heads:
        yield heads, layer.distance_table(inputs, heads) if table is None else table[heads]
