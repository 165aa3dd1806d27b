"""Relative attention as one operator, in which a graph has no length of the sample's: for export, and torch.compile.

What is one query's or one key's is moved into their inner product: the mask, and that the first token apart has neither
position nor segment score. `export.attention` says what the operator is in ONNX.
"""

from __future__ import annotations

import itertools
import typing
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from . import reference
from .inputs import AttentionInputs
from .pieces import piece_sizes, ranges, shifted

if typing.TYPE_CHECKING:
    from . import Attention

__all__ = ["attend", "is_wanted", "relative_attention"]


def is_wanted(layer: Attention, query: Tensor, inputs: AttentionInputs) -> bool:
    """Whether a graph is made in which attention is to go through pieces: one for export, or for a CPU at inference."""
    if torch.compiler.is_exporting():
        return True
    if layer.relative is None or inputs.stride is None or layer.training or torch.is_grad_enabled():
        return False
    return torch.compiler.is_compiling() and query.device.type == "cpu"


def attend(
    layer: Attention,
    query: Float[Tensor, "B H Q E"],
    key: Float[Tensor, "B H K E"],
    value: Float[Tensor, "B H K E"],
    inputs: AttentionInputs,
) -> tuple[Float[Tensor, "B H Q E"], None]:
    """As `reference.attend` at inference; gives no weights.

    The pieces of `sdpa.attend` and its kept tables would fix the length in the graph.
    """
    if layer.relative is None or inputs.stride is None:
        return reference.attend(layer, query, key, value, inputs, dropout=0.0)[0], None
    content = query + layer.scaled(layer.content_bias)
    position, table = query + layer.scaled(layer.position_bias), layer.distance_table(inputs)
    same, gain = inputs.same_segment, None
    rows, columns = (
        torch.arange(number, device=query.device)[:, None] for number in (inputs.num_queries, inputs.num_keys)
    )
    # Without a query there is no score: the row of the first token apart.
    without_score = rows < inputs.num_apart
    position = position.masked_fill(without_score, 0)
    if same is not None:
        other, own = (term.masked_fill(without_score, 0) for term in reference.segment_terms(layer, query))
        # What all keys have is nothing to a softmax.
        gain = own - other
    queries, keys = [content], [key]
    if inputs.num_apart:
        # Its column is known beforehand, and taken back.
        distances = table.index_select(2, inputs.stride * (inputs.num_queries - 1 - rows[:, 0]))
        column = (position * distances.transpose(1, 2)).sum(-1, keepdim=True)
        if same is not None:
            column = column + torch.where(same[:, None, :, :1], own, other)
        queries.append(-column)
        keys.append((columns == 0).to(key.dtype).expand(*key.shape[:2], -1, -1))
    if inputs.mask_bias is not None:
        queries.append(torch.ones_like(content[..., :1]))
        keys.append(inputs.mask_bias.transpose(-1, -2).expand(-1, key.size(1), -1, -1))
    content, key = (torch.cat(parts, dim=-1) for parts in (queries, keys))
    return relative_attention(content, position, key, value, table, same, gain, inputs.stride), None


def _relative_attention(
    content: Float[Tensor, "B H Q F"],
    position: Float[Tensor, "B H Q E"],
    key: Float[Tensor, "B H K F"],
    value: Float[Tensor, "B H K E"],
    table: Float[Tensor, "H E R"],
    same: Tensor | None,
    gain: Float[Tensor, "B H Q 1"] | None,
    stride: int,
) -> Float[Tensor, "B H Q E"]:
    """Softmax of content . key + position . table column of the distance + gain where `same`, and the values it weighs.

    Query i and key j belong to column stride * (Q - 1 - i) + j of the table.
    """
    num_queries, num_keys = content.size(2), key.size(2)
    # Of the width of content and key, which the fused kernel asks for.
    wide_value = F.pad(value, (0, key.size(3) - value.size(3)))
    mixed = torch.empty_like(position)
    sizes = piece_sizes(position, num_keys, stride)
    for piece in itertools.product(*map(ranges, position.shape, sizes)):
        batch, heads, rows = piece
        bias = shifted(
            position[piece], table[heads], rows, num_queries=num_queries, num_keys=num_keys, stride=stride
        )
        if same is not None and gain is not None:
            bias = bias + gain[piece] * same[batch, None, rows]
        result = F.scaled_dot_product_attention(
            content[piece], key[batch, heads], wide_value[batch, heads], attn_mask=bias, scale=1.0
        )
        mixed[piece] = result[..., : value.size(3)]
    return mixed


relative_attention: Callable[..., Tensor] = torch.library.custom_op(
    "funnelformer::relative_attention",
    _relative_attention,
    mutates_args=(),
    schema="(Tensor content, Tensor position, Tensor key, Tensor value, Tensor table, Tensor? same, Tensor? gain, "
    "int stride) -> Tensor",
)
relative_attention.register_fake(  # type: ignore[attr-defined]
    lambda content, position, key, value, *others: torch.empty_like(position)
)
