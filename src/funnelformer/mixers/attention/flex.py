"""Relative attention in PyTorch's FlexAttention: the position score is read from its table inside the kernel.

Against sdpa it saves the bias: neither the shift nor segments and mask are written for every pair. The products with
the table of distances remain, [Q, 2 K] for each head. For inference: on a CPU FlexAttention has no backward pass.
It runs compiled, so the first call takes long and needs a C++ compiler on a CPU.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from transformers.utils import logging

from . import sdpa
from .inputs import AttentionInputs

if typing.TYPE_CHECKING:
    from . import Attention

__all__ = ["attend"]

logger = logging.get_logger(__name__)


def attend(
    layer: Attention,
    query: Float[Tensor, "B H Q E"],
    key: Float[Tensor, "B H K E"],
    value: Float[Tensor, "B H K E"],
    inputs: AttentionInputs,
    dropout: float,
) -> tuple[Float[Tensor, "B H Q E"], None]:
    """As `reference.attend` without gradients; sdpa where that cannot be, which is said once. Gives no weights."""
    obstacle = _obstacle(layer, inputs)
    if obstacle is not None:
        logger.warning_once(f"flex_attention: {obstacle}; sdpa takes its place")
        return sdpa.attend(layer, query, key, value, inputs, dropout)
    assert inputs.stride is not None
    by_segment = None
    if inputs.same_segment is not None:
        vectors = layer.segment_embedding.permute(1, 2, 0)
        by_segment = (query + layer.scaled(layer.segment_bias)) @ vectors
    # Of query i, the row that belongs to key 0.
    first_rows = inputs.stride * torch.arange(inputs.num_queries - 1, -1, -1, device=query.device)
    table = layer.distance_table(inputs, may_keep=True)
    attention = _attention if torch.compiler.is_compiling() else _compiled()
    mixed = attention(
        query + layer.scaled(layer.content_bias),
        key,
        value,
        (query + layer.scaled(layer.position_bias)) @ table,
        first_rows,
        by_segment,
        inputs.same_segment,
        inputs.mask_bias,
        inputs.num_apart,
    )
    return mixed, None


def _obstacle(layer: Attention, inputs: AttentionInputs) -> str | None:
    if torch.is_grad_enabled() or layer.training:
        return "it is for inference, without gradients"
    if layer.relative is None:
        return "absolute positions have no scores to add"
    return "positions are irregular after top pooling" if inputs.stride is None else None


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    """One graph for all lengths."""
    return torch.compile(_attention, dynamic=True)


def _attention(
    query: Float[Tensor, "B H Q E"],
    key: Float[Tensor, "B H K E"],
    value: Float[Tensor, "B H K E"],
    by_distance: Float[Tensor, "B H Q R"],
    first_rows: Int[Tensor, " Q"],
    by_segment: Float[Tensor, "B H Q 2"] | None,
    same_segment: Bool[Tensor, "B Q K"] | None,
    mask_bias: Float[Tensor, "B 1 1 K"] | None,
    num_apart: int,
) -> Float[Tensor, "B H Q E"]:
    def add_scores(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        relative = by_distance[b, h, i, first_rows[i] + j]
        if by_segment is not None and same_segment is not None:
            relative = relative + torch.where(
                same_segment[b, i, j], by_segment[b, h, i, 1], by_segment[b, h, i, 0]
            )
        if num_apart:
            # The first token's row and column have a content score alone.
            relative = torch.where((i > 0) & (j > 0), relative, 0.0)
        score = score + relative
        return score if mask_bias is None else score + mask_bias[b, 0, 0, j]

    return flex_attention(query, key, value, score_mod=add_scores, scale=1.0)
