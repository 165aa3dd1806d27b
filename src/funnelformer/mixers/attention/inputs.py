"""What all attention layers of one stage share: masks, segments and the sinusoids of every distance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ...config.model_config import FunnelformerConfig
from ..sequence import Packing, SequenceState

__all__ = ["CLS_SEGMENT", "AttentionInputs", "pairs_of_same_segment", "prepare"]

# In `query_segments` and `key_segments`.
CLS_SEGMENT = -1


@dataclass(frozen=True)
class AttentionInputs:
    """Shared by the layers of a stage.

    num_apart: tokens at the front without position and segment score (1 with `separate_cls`).
    sinusoids: sines and cosines. Row r of R = `num_rows` belongs to the distance `farthest - r * unit`. Of these there
        are the rows from the distance 0 on, from which the others follow (`is_mirrored`), or all, where dropout makes
        them differ. None with absolute positions.
    stride: query i and key j, the first ones included, belong to row `stride * (num_queries - 1 - i) + j`; None when
        positions are irregular.
    query_positions, key_positions: of the tokens after those apart.
    same_segment: of every pair; None without segment scores, and where query_segments and key_segments take its place.
    query_segments, key_segments: segment ids; CLS_SEGMENT is of every segment.
    mask_bias: 0 for real keys, the least finite number for padding.
    query_packing, key_packing: of the hidden states, see `SequenceState`.
    """

    num_queries: int
    num_keys: int
    num_apart: int
    sinusoids: Float[Tensor, "2 r d"] | None
    is_mirrored: bool
    num_rows: int
    farthest: int
    unit: int
    stride: int | None
    query_positions: Int[Tensor, "#B q"]
    key_positions: Int[Tensor, "#B k"]
    same_segment: Bool[Tensor, "B Q K"] | None
    query_segments: Int[Tensor, "B Q"] | None
    key_segments: Int[Tensor, "B K"] | None
    mask_bias: Float[Tensor, "B 1 1 K"] | None
    query_packing: Packing | None
    key_packing: Packing | None

    @property
    def zero(self) -> int:
        """The row of the distance 0."""
        return self.farthest // self.unit

    def all_sinusoids(self) -> Float[Tensor, "R D"]:
        """The sinusoids of every row, the sines before the cosines."""
        assert self.sinusoids is not None
        sines, cosines = self.sinusoids
        if self.is_mirrored:
            before = slice(1, self.zero + 1)
            sines = torch.cat([-sines[before].flip(0), sines])
            cosines = torch.cat([cosines[before].flip(0), cosines])
        return torch.cat([sines, cosines], dim=-1)


def prepare(
    queries: SequenceState, keys: SequenceState, config: FunnelformerConfig, like: Tensor, training: bool
) -> AttentionInputs:
    """Build the inputs for attention from `queries` to `keys`; `like` gives dtype and device.

    Source: Dai et al. 2020, appendix A.2; positions of pooled tokens are the first of each window.
    """
    num_apart = 1 if config.separate_cls else 0
    num_queries, num_keys = queries.positions.size(1), keys.positions.size(1)
    if queries.is_regular and keys.is_regular:
        unit, stride = 2**keys.level, 2 ** (queries.level - keys.level)
        # The first tokens apart get rows as if they stood one step before the others, and nobody reads these.
        farthest = unit * (stride * (num_queries - 1) - num_apart * (stride - 1))
        # `stride` rows more than there are distances: the shift in sdpa.py reads whole rows.
        num_rows = stride * num_queries + num_keys
    else:
        unit, stride = 1, None
        farthest, num_rows = queries.span - 1, 2 * queries.span - 1
    sinusoids = None
    is_mirrored = not (training and config.hidden_dropout)
    if config.position == "relative":
        start = 0 if is_mirrored else farthest
        rows_left = num_rows - (farthest - start) // unit
        sinusoids = _sinusoids(start, unit, rows_left, config.hidden_size, like)
        sinusoids = F.dropout(sinusoids, config.hidden_dropout, training)
    same_segment = query_segments = key_segments = None
    if config.position == "relative" and queries.segments is not None and keys.segments is not None:
        if config._attn_implementation == "triton" and stride is not None:
            query_segments, key_segments = (
                segments.int().masked_fill(segments == config.cls_token_type_id, CLS_SEGMENT)
                for segments in (queries.segments, keys.segments)
            )
        else:
            same_segment = pairs_of_same_segment(queries.segments, keys.segments, config.cls_token_type_id)
    mask_bias = None
    if keys.keep is not None:
        mask_bias = torch.zeros_like(keys.keep, dtype=like.dtype)
        mask_bias = mask_bias.masked_fill(~keys.keep, torch.finfo(like.dtype).min)[:, None, None]
    return AttentionInputs(
        num_queries=num_queries,
        num_keys=num_keys,
        num_apart=num_apart,
        sinusoids=sinusoids,
        is_mirrored=is_mirrored,
        num_rows=num_rows,
        farthest=farthest,
        unit=unit,
        stride=stride,
        query_positions=queries.positions[:, num_apart:],
        key_positions=keys.positions[:, num_apart:],
        same_segment=same_segment,
        query_segments=query_segments,
        key_segments=key_segments,
        mask_bias=mask_bias,
        query_packing=queries.packing,
        key_packing=keys.packing,
    )


def pairs_of_same_segment(
    query_segments: Int[Tensor, "B Q"], key_segments: Int[Tensor, "B K"], cls_segment: int
) -> Bool[Tensor, "B Q K"]:
    """Whether query and key are of one segment; that of CLS is of every one."""
    of_queries, of_keys = query_segments[:, :, None], key_segments[:, None]
    any_cls = (of_queries == cls_segment) | (of_keys == cls_segment)
    return (of_queries == of_keys) | any_cls


def _sinusoids(start: int, unit: int, num_rows: int, width: int, like: Tensor) -> Float[Tensor, "2 R d"]:
    """sin(t f) and cos(t f) for t = start, start - unit, ... with f_m = 10000^(-m / (D / 2))."""
    # Angles need more than half precision; float64 models get float64 angles.
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    half = width // 2
    frequencies = 10000 ** (-torch.arange(half, device=like.device, dtype=dtype) / half)
    distances = start - unit * torch.arange(num_rows, device=like.device, dtype=dtype)
    angles = distances[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()]).to(like.dtype)
