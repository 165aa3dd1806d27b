"""Shorten a sequence between two blocks and restore it for the decoder, with all that travels with it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..config.model_config import FunnelformerConfig
from ..mixers.sequence import SequenceState

__all__ = ["restore", "shorten"]


def shorten(
    hidden: Float[Tensor, "B T D"],
    state: SequenceState,
    config: FunnelformerConfig,
    received: Float[Tensor, "B T"] | None = None,
) -> tuple[Float[Tensor, "B S D"], SequenceState]:
    """Pool neighbouring tokens in pairs (or keep the most attended half), leaving the first token alone.

    With `separate_cls` S = 1 + ceil((T - 2) / 2) under `truncate_seq` and 1 + ceil((T - 1) / 2) without; else
    S = ceil(T / 2). One token, or the first and one other, stay as they are; so no length is too short.
    received: attention each token received in the layer before; needed for `pooling="top"`.
    `config.padding` decides what a half-padded window is, see `FunnelformerConfig`.
    Source: Dai et al. 2020, section 2.2; equal to the authors' code in tests/modeling/test_golden.py.
    """
    exact = config.padding == "exact"
    keep = state.keep
    if exact and keep is not None and config.separate_cls and config.truncate_seq:
        keep = _drop_last_real(keep)
    pooled_keep = None
    if keep is not None:
        pair = torch.stack(_pairs(keep, config), dim=-1)
        body = pair.all(-1) if config.padding == "transformers" else pair.any(-1)
        pooled_keep = _with_first(keep, body, config)

    if config.pooling == "top":
        assert received is not None
        return _keep_top(hidden, state, keep, pooled_keep, received, config)

    first, second = _pairs(hidden, config)
    if exact and keep is not None:
        keep_first, keep_second = (half[..., None] for half in _pairs(keep, config))
        if config.pooling == "mean":
            weight_first, weight_second = keep_first.to(hidden.dtype), keep_second.to(hidden.dtype)
            total = first * weight_first + second * weight_second
            body = total / (weight_first + weight_second).clamp(min=1)
        else:
            # A token that is padding yields to its neighbour; of two the result is never read.
            body = torch.maximum(
                torch.where(keep_first, first, second), torch.where(keep_second, second, first)
            )
    else:
        body = (first + second) / 2 if config.pooling == "mean" else torch.maximum(first, second)
    return _with_first(hidden, body, config), replace(
        state,
        keep=pooled_keep,
        segments=None if state.segments is None else _stride(state.segments, config),
        positions=_stride(state.positions, config),
        counts=_sum_counts(state.counts, keep, pooled_keep, config),
        level=state.level + 1,
        extras={
            name: extra.pooled(keep, partial(_pairs, config=config), partial(_with_first, config=config))
            for name, extra in state.extras.items()
        },
    )


def _sum_counts(
    counts: Int[Tensor, "#B T"],
    keep: Bool[Tensor, "B T"] | None,
    pooled_keep: Bool[Tensor, "B S"] | None,
    config: FunnelformerConfig,
) -> Int[Tensor, "#B S"]:
    """The real tokens in each window: the sum of its members'; of a window that counts as padding none."""
    if keep is not None:  # without what truncation drops
        counts = counts.masked_fill(~keep, 0)
    first, second = _pairs(counts, config)
    place, next_place = _pairs(torch.arange(counts.size(1), device=counts.device)[None], config)
    pooled = _with_first(counts, first + second.masked_fill(place == next_place, 0), config)
    return pooled if pooled_keep is None else pooled.masked_fill(~pooled_keep, 0)


def restore(
    pooled: Float[Tensor, "B S D"], state: SequenceState, length: int, config: FunnelformerConfig
) -> Float[Tensor, "B T D"]:
    """Give every token of the unpooled sequence the vector of the pooled token it went into.

    The first token is not repeated with `separate_cls`. Tokens that truncation dropped get zeros, as in the
    authors' code. After top pooling a token takes the vector of the last kept token at or before it.
    Source: Dai et al. 2020, section 2.3.
    """
    if state.level == 0:
        return pooled
    num_apart = 1 if config.separate_cls else 0
    batch, num_pooled, _ = pooled.shape
    if state.is_regular:
        index = torch.arange(length - num_apart, device=pooled.device) >> state.level
        index = (index + num_apart)[None].expand(batch, -1)
        dropped = index >= num_pooled
        if config.padding == "exact" and state.keep is not None:
            dropped = dropped | (index >= state.keep.sum(1, keepdim=True))
        index = index.clamp(max=num_pooled - 1)
    else:
        targets = torch.arange(num_apart, length, device=pooled.device).expand(batch, -1).contiguous()
        positions = state.positions[:, num_apart:].contiguous()
        if state.keep is not None:
            # Unused places hold no token: put them after every target, so that none is chosen.
            positions = positions.masked_fill(~state.keep[:, num_apart:], length)
        index = (_number_up_to(positions, targets) - 1).clamp(min=0) + num_apart
        dropped = index >= num_pooled
        index = index.clamp(max=num_pooled - 1)
    if num_apart:
        zero = index.new_zeros(batch, 1)
        index = torch.cat([zero, index], dim=1)
        dropped = torch.cat([zero.bool(), dropped], dim=1)
    restored = pooled.gather(1, index[..., None].expand(-1, -1, pooled.size(-1)))
    return restored.masked_fill(dropped[..., None], 0)


def _number_up_to(positions: Int[Tensor, "B S"], targets: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """How many of the rising positions are at most each target."""
    if torch.compiler.is_exporting():  # ONNX has no binary search
        return (positions[:, None] <= targets[..., None]).sum(-1)
    return torch.searchsorted(positions, targets, right=True)


def _body(x: Tensor, config: FunnelformerConfig) -> Tensor:
    """The tokens that are pooled: all, or all but the first and (truncated) the last, one staying in any case."""
    if not config.separate_cls:
        return x
    if torch.compiler.is_exporting():
        return x.index_select(1, 1 + torch.arange(_body_length(x, config), device=x.device))
    if not config.truncate_seq:
        return x[:, 1:]
    return x[:, 1 : max(x.size(1) - 1, 2)]


def _body_length(x: Tensor, config: FunnelformerConfig) -> Any:
    """The tokens of `_body`, as an expression in the length that an exported graph computes for each input."""
    length = x.size(1) - int(config.separate_cls)
    if not (config.separate_cls and config.truncate_seq):
        return length
    return torch.sym_max(length - 1, torch.sym_min(length, 1))


def _with_first(x: Tensor, body: Tensor, config: FunnelformerConfig) -> Tensor:
    return torch.cat([x[:, :1], body], dim=1) if config.separate_cls else body


def _stride(x: Tensor, config: FunnelformerConfig) -> Tensor:
    return _with_first(x, _pairs(x, config)[0], config)


def _pairs(x: Tensor, config: FunnelformerConfig) -> tuple[Tensor, Tensor]:
    """Both members of every window; an odd last one is its own partner, so averages and maxima keep it as it is."""
    if torch.compiler.is_exporting():
        # By places that the graph computes: slices with a step would hold for the lengths of the sample alone.
        num_apart, length = int(config.separate_cls), _body_length(x, config)
        place = num_apart + 2 * torch.arange((length + 1) // 2, device=x.device)
        return x.index_select(1, place), x.index_select(1, (place + 1).clamp(max=num_apart + length - 1))
    body = _body(x, config)
    first = body[:, ::2]
    # Looked up, where slices would be of another shape for odd lengths than for even ones, and two graphs to compile.
    index = 2 * torch.arange(first.size(1), device=x.device) + 1
    return first, body.index_select(1, index.clamp(max=body.size(1) - 1))


def _drop_last_real(keep: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Truncate each sequence at its own end, not at the batch's; sequences of one or two tokens stay whole."""
    left = keep.flip(1).cumsum(1).flip(1)
    return keep & ~((left == 1) & (left[:, :1] > 2))


def _keep_top(
    hidden: Tensor,
    state: SequenceState,
    keep: Tensor | None,
    pooled_keep: Tensor | None,
    received: Tensor,
    config: FunnelformerConfig,
) -> tuple[Tensor, SequenceState]:
    """Keep as many tokens as pooling would, those that received most attention, in their order."""
    num_apart = 1 if config.separate_cls else 0
    candidates = _body(received, config)
    num_kept = _pairs(candidates.new_zeros(1, received.size(1)), config)[0].size(1)
    if keep is not None:
        candidates = candidates.masked_fill(~_body(keep, config), -torch.inf)
    chosen = candidates.topk(num_kept, dim=1).indices + num_apart
    if pooled_keep is not None:
        counts = pooled_keep.sum(1, keepdim=True)
        unused = torch.arange(num_kept, device=hidden.device)[None] >= counts - num_apart
        chosen = chosen.masked_fill(unused, hidden.size(1) - 1)
        pooled_keep = torch.arange(num_kept + num_apart, device=hidden.device)[None] < counts
    chosen = chosen.sort(dim=1).values
    if num_apart:
        chosen = torch.cat([chosen.new_zeros(chosen.size(0), 1), chosen], dim=1)

    def take(x: Tensor) -> Tensor:
        return x.expand(chosen.size(0), -1).gather(1, chosen)

    return hidden.gather(1, chosen[..., None].expand(-1, -1, hidden.size(-1))), replace(
        state,
        keep=pooled_keep,
        segments=None if state.segments is None else take(state.segments),
        positions=take(state.positions),
        counts=torch.ones_like(chosen) if pooled_keep is None else pooled_keep.long(),
        level=state.level + 1,
        source=chosen,
        extras={name: extra.chosen(take) for name, extra in state.extras.items()},
    )
