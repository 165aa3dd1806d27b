"""Relative attention on `scaled_dot_product_attention`: the position score is a view, the rest one bias."""

from __future__ import annotations

import typing

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .inputs import AttentionInputs
from .reference import position_scores, scores_by_distance, segment_scores

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
    bias = inputs.mask_bias
    if layer.relative is not None:
        apart = inputs.num_apart
        body = query[:, :, apart:]
        relative = (
            position_scores(layer, body, inputs) if inputs.stride is None else _shifted(layer, body, inputs)
        )
        if inputs.same_segment is not None:
            relative = relative + segment_scores(layer, body, inputs)
        relative = F.pad(relative, (apart, 0, apart, 0))
        bias = relative if bias is None else relative + bias
    mixed = F.scaled_dot_product_attention(
        query + layer.scaled(layer.content_bias),
        key,
        value,
        attn_mask=bias,
        dropout_p=dropout if layer.training else 0.0,
        scale=1.0,
    )
    return mixed, None


def _shifted(
    layer: Attention, query: Float[Tensor, "B H Q E"], inputs: AttentionInputs
) -> Float[Tensor, "B H Q K"]:
    """Read P(i, j) out of the scores by distance without a gather.

    Row i wants the columns from `stride * (Q - 1 - i)` on. Laid out flat, rows of R columns become rows of
    R - stride columns that start at the first row's offset: a slice and a view.
    """
    by_distance = scores_by_distance(layer, query, inputs)
    batch, heads, num_queries, num_rows = by_distance.shape
    stride, num_keys = inputs.stride, inputs.key_positions.size(1)
    assert stride is not None
    width = num_rows - stride
    start = stride * (num_queries - 1)
    flat = by_distance.view(batch, heads, num_queries * num_rows)
    flat = flat[:, :, max(start, 0) : max(start, 0) + num_queries * width]
    return flat.view(batch, heads, num_queries, width)[..., :num_keys]
