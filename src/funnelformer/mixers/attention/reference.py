"""Relative attention as the paper writes it: every score of every pair. The test of all other implementations."""

from __future__ import annotations

import typing

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from .dropout import drop
from .inputs import AttentionInputs

if typing.TYPE_CHECKING:
    from . import Attention

__all__ = ["attend", "mix", "position_scores", "segment_scores", "segment_terms"]


def attend(
    layer: Attention,
    query: Float[Tensor, "B H Q E"],
    key: Float[Tensor, "B H K E"],
    value: Float[Tensor, "B H K E"],
    inputs: AttentionInputs,
    dropout: float,
) -> tuple[Float[Tensor, "B H Q E"], Float[Tensor, "B H Q K"]]:
    """Softmax over content + position + segment score; returns the mixed values and the weights.

    query: already divided by sqrt(E), as all biases are by `layer.scaled`.
    Source: Dai et al. 2020, appendix A.2.1.
    """
    score = (query + layer.scaled(layer.content_bias)) @ key.transpose(-1, -2)
    apart = inputs.num_apart
    if layer.relative is not None:
        # The first token's row and column have a content score alone.
        relative = position_scores(layer, query[:, :, apart:], inputs)
        if inputs.same_segment is not None:
            same = inputs.same_segment[:, apart:, apart:]
            relative = relative + segment_scores(layer, query[:, :, apart:], same)
        score = score + F.pad(relative, (apart, 0, apart, 0))
    if inputs.mask_bias is not None:
        score = score + inputs.mask_bias
    return mix(score, value, dropout if layer.training else 0.0)


def mix(
    score: Float[Tensor, "B H Q K"], value: Float[Tensor, "B H K E"], dropout: float
) -> tuple[Float[Tensor, "B H Q E"], Float[Tensor, "B H Q K"]]:
    """Softmax, in float32 at least, and the values it weighs."""
    weights = torch.softmax(score, dim=-1, dtype=torch.promote_types(score.dtype, torch.float32)).to(
        value.dtype
    )
    weights = drop(weights, dropout)
    return weights @ value, weights


def position_scores(
    layer: Attention, query: Float[Tensor, "B H Q E"], inputs: AttentionInputs
) -> Float[Tensor, "B H Q K"]:
    """P(i, j) = (q_i + r_r) . W_r R(position of i - position of j), the distance looked up for every pair."""
    by_distance = (query + layer.scaled(layer.position_bias)) @ layer.distance_table(inputs)
    distance = inputs.query_positions[:, :, None] - inputs.key_positions[:, None, :]
    row = (inputs.farthest - distance) // inputs.unit
    batch, heads = query.shape[:2]
    return by_distance.gather(-1, row[:, None].expand(batch, heads, -1, -1))


def segment_scores(
    layer: Attention,
    query: Float[Tensor, "B h Q E"],
    same_segment: Bool[Tensor, "B Q K"],
    heads: slice = slice(None),
) -> Float[Tensor, "B h Q K"]:
    """S(i, j) = (q_i + r_s) . (embedding of "same segment" or of "other segment"), for some of the heads."""
    other, same = segment_terms(layer, query, heads)
    return torch.where(same_segment[:, None], same, other)


def segment_terms(
    layer: Attention, query: Float[Tensor, "B h Q E"], heads: slice = slice(None)
) -> tuple[Float[Tensor, "B h Q 1"], Float[Tensor, "B h Q 1"]]:
    """What S(i, j) is for a key of another segment, and for one of the same."""
    vectors = layer.segment_embedding[:, heads].permute(1, 2, 0)
    terms = (query + layer.scaled(layer.segment_bias)[heads]) @ vectors
    return terms[..., :1], terms[..., 1:]
