"""Relative attention as plain attention in a wider head: no bias, no table of distances, any attention kernel.

By angle addition sin((i - j) f) and cos((i - j) f) are inner products of what is known of i and what is known of j. So
are "same segment or not", the first token apart, and the mask. With [q ; position ; segment ; mask] against
[k ; cos, sin ; segment ; mask] one score is one inner product, and the stock kernels (flash included, forward and
backward, deterministic where they are) do the rest.

The head grows by two dimensions for each chosen frequency: about 110 at 128 tokens, 170 at 256, 230 at 512. For heads
of 64 that stays within the 256 that flash kernels take up to 256 tokens; beyond, other kernels are chosen.
"""

from __future__ import annotations

import typing

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from . import reference, sdpa
from .frequencies import WideInputs
from .inputs import AttentionInputs

if typing.TYPE_CHECKING:
    from . import Attention

__all__ = ["attend", "attend_with_weights"]


def attend(
    layer: Attention,
    query: Float[Tensor, "B H Q E"],
    key: Float[Tensor, "B H K E"],
    value: Float[Tensor, "B H K E"],
    inputs: AttentionInputs,
    dropout: float,
) -> tuple[Float[Tensor, "B H Q E"], None]:
    """As `reference.attend`, equal up to rounding; gives no weights."""
    if inputs.wide is None:
        return sdpa.attend(layer, query, key, value, inputs, dropout)
    wide_query, wide_key = _widen(layer, query, key, inputs.wide)
    # Fused kernels take one size for all three.
    mixed = F.scaled_dot_product_attention(
        wide_query,
        wide_key,
        F.pad(value, (0, wide_key.size(-1) - value.size(-1))),
        dropout_p=dropout if layer.training else 0.0,
        scale=1.0,
    )
    return mixed[..., : value.size(-1)], None


def attend_with_weights(
    layer: Attention,
    query: Float[Tensor, "B H Q E"],
    key: Float[Tensor, "B H K E"],
    value: Float[Tensor, "B H K E"],
    inputs: AttentionInputs,
    dropout: float,
) -> tuple[Float[Tensor, "B H Q E"], Float[Tensor, "B H Q K"]]:
    """The same with every score written out, for inputs that have what is wide."""
    assert inputs.wide is not None
    wide_query, wide_key = _widen(layer, query, key, inputs.wide)
    return reference.mix(wide_query @ wide_key.transpose(-1, -2), value, dropout if layer.training else 0.0)


def _widen(
    layer: Attention, query: Float[Tensor, "B H Q E"], key: Float[Tensor, "B H K E"], wide: WideInputs
) -> tuple[Float[Tensor, "B H Q W"], Float[Tensor, "B H K W"]]:
    """Append to query and key what makes their inner product the whole score."""
    # A frequency's share of the score is a sin(t f) + b cos(t f), at t = i - j.
    a, b = ((query + layer.scaled(layer.position_bias)) @ layer.frequency_table(wide)).chunk(2, dim=-1)
    sines, cosines = wide.query_sines, wide.query_cosines
    parts = [
        query + layer.scaled(layer.content_bias),
        a * sines + b * cosines,
        b * sines - a * cosines,
    ]
    if wide.query_segments is not None:
        vectors = layer.segment_embedding.permute(1, 2, 0)
        scores = (query + layer.scaled(layer.segment_bias)) @ vectors
        other, same = scores.chunk(2, dim=-1)
        parts.append((same - other) * wide.query_segments)
        if wide.query_constants is not None:
            parts.append((scores * wide.query_constants).sum(-1, keepdim=True))
    batch, heads, num_queries, _ = query.shape
    parts.append(wide.query_fill.expand(batch, heads, num_queries, -1))
    features = wide.key_features.expand(batch, heads, -1, -1).to(key.dtype)
    return torch.cat(parts, dim=-1), torch.cat([key, features], dim=-1)
