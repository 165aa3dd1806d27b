"""Relative attention for a graph that is exported: one piece, no gather, and no length of the sample's in it."""

from __future__ import annotations

import typing

import torch
from jaxtyping import Float
from torch import Tensor

from .inputs import AttentionInputs
from .reference import position_scores, segment_scores

if typing.TYPE_CHECKING:
    from . import Attention

__all__ = ["attend"]


def attend(
    layer: Attention,
    query: Float[Tensor, "B H Q E"],
    key: Float[Tensor, "B H K E"],
    value: Float[Tensor, "B H K E"],
    inputs: AttentionInputs,
) -> tuple[Float[Tensor, "B H Q E"], None]:
    """As `reference.attend` at inference; gives no weights.

    The pieces of `sdpa.attend` and its kept tables would fix the length, and ONNX knows no strided view.
    """
    score = (query + layer.scaled(layer.content_bias)) @ key.transpose(-1, -2)
    if layer.relative is None:
        if inputs.mask_bias is not None:
            score = score + inputs.mask_bias
    else:
        score = score + _bias(layer, query, inputs)
    return torch.softmax(score, dim=-1) @ value, None


def _bias(
    layer: Attention, query: Float[Tensor, "B H Q E"], inputs: AttentionInputs
) -> Float[Tensor, "B H Q K"]:
    """Position, segment and mask of every pair; the first token's row and column have the mask alone."""
    if inputs.stride is None:
        apart = inputs.num_apart
        inner = position_scores(layer, query[:, :, apart:], inputs)
        bias = torch.nn.functional.pad(inner, (apart, 0, apart, 0))
    else:
        bias = _shifted(layer, query, inputs)
    if inputs.same_segment is not None:
        bias = bias + segment_scores(layer, query, inputs.same_segment)
    mask = inputs.mask_bias
    if not inputs.num_apart:
        return bias if mask is None else bias + mask
    is_first_row, is_first_column = (
        torch.arange(number, device=query.device) == 0 for number in (inputs.num_queries, inputs.num_keys)
    )
    is_apart = is_first_row[:, None] | is_first_column
    if mask is None:
        return bias.masked_fill(is_apart, 0)
    # One choice for both: what is masked is read by nobody, whatever stands beside the mask.
    return torch.where(is_apart | (mask != 0), mask, bias)


def _shifted(
    layer: Attention, query: Float[Tensor, "B H Q E"], inputs: AttentionInputs
) -> Float[Tensor, "B H Q K"]:
    """P(i, j), read out of the products with the table of distances as `sdpa._shifted` does for a piece."""
    stride, num_queries, num_keys = inputs.stride, inputs.num_queries, inputs.num_keys
    assert stride is not None
    by_distance = (query + layer.scaled(layer.position_bias)) @ layer.distance_table(inputs)
    width, start = stride * (num_queries - 1) + num_keys, stride * (num_queries - 1)
    flat = by_distance.flatten(2)[..., start : start + num_queries * width]
    return flat.unflatten(2, (num_queries, width))[..., :num_keys]
