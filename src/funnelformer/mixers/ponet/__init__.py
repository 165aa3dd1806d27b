"""The pooling network: global, segment-wise and local pooling in place of attention, linear in the length.

Source: Tan et al. 2022, arXiv:2110.02442, section 3; equal to the published code in tests/mixers/test_mixers.py.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ...config.model_config import FunnelformerConfig
from ..mixer import CallShape, MixerFlops, product_flops
from ..sequence import packed, padded
from .inputs import PoNetInputs, prepare
from .segments import Regions, find_regions

__all__ = ["PoNet", "PoNetInputs", "Regions", "find_regions"]

_NOTHING = -10000.0  # as published: below every real value, and finite, so that gradients stay so


class PoNet(nn.Module):
    """The mixer "ponet": out = (global + segment maximum) * gate + local maximum, then dense.

    query, key, gate, segment, local, output are the paper's Q, K, O, S, L and the dense after the fusion.
    Across a pooling step it reads the pooled sequence alone (`pool_q_only` is attention's): its maxima pool
    already, and a query only enters an average.
    """

    prepare = staticmethod(prepare)
    start_extra = staticmethod(find_regions)
    reads_unpooled = False
    gives_weights = True
    weights_read = ("key",)

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__()
        width = config.num_attention_heads * config.head_size
        self.per_head = (config.num_attention_heads, config.head_size)
        self.query = nn.Linear(config.hidden_size, width)
        self.key = nn.Linear(config.hidden_size, width)
        self.gate = nn.Linear(config.hidden_size, width)
        self.segment = nn.Linear(config.hidden_size, width)
        self.local = nn.Linear(config.hidden_size, width)
        self.output = nn.Linear(width, config.hidden_size)

    def init_weights(self, draw: Callable[[Tensor], None]) -> None:
        """All parameters are those of its linear layers."""

    @staticmethod
    def flops(config: FunnelformerConfig, shape: CallShape) -> MixerFlops:
        """Four projections of every token; the query's and the key's are of one vector a sequence, see `_global`."""
        width, hidden, batch = (
            config.num_attention_heads * config.head_size,
            config.hidden_size,
            shape.batch_size,
        )
        one_a_head = product_flops(batch * config.num_attention_heads, hidden, shape.num_queries)
        return MixerFlops(
            projections=4 * product_flops(batch * shape.num_queries, hidden, width)
            + product_flops(batch, hidden, width),
            content_scores=product_flops(batch, width, hidden) + one_a_head,
            values=product_flops(batch, width, hidden) + one_a_head,
        )

    def forward(
        self,
        queries: Float[Tensor, "B T D"],
        keys: Float[Tensor, "B T D"],
        inputs: PoNetInputs,
        need_weights: bool = False,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "N H 1 t"] | None]:
        """Mix `keys`, which are the `queries`. The weights are those of the global aggregation, one row a head.

        Packed sequences are apart in the weights, and between projections.
        """
        outlook, weights = self._global(padded(keys, inputs.packing), inputs.keep)
        gate, segment, local = (
            padded(project(keys), inputs.packing) for project in (self.gate, self.segment, self.local)
        )
        mixed = outlook[:, None] * gate + self._within_text(segment, local, gate, inputs)
        if inputs.keep is not None:
            mixed = mixed.masked_fill(~inputs.keep[..., None], 0)
        return self.output(packed(mixed, inputs.packing)), weights[:, :, None] if need_weights else None

    def _global(
        self, hidden: Float[Tensor, "B T D"], keep: Bool[Tensor, "B T"] | None
    ) -> tuple[Float[Tensor, "B W"], Float[Tensor, "B H T"]]:
        """Attention of the mean query over all real tokens (paper, equations 1 to 3).

        Query and key are linear, so mean(Q h) = Q mean(h), g . K h = (K' g) . h, and the weighted sum of the keys
        is K of the weighted sum of the tokens: neither is ever computed for every token.
        """
        if keep is None:
            mean = hidden.mean(1)
        else:
            share = keep.to(hidden.dtype) / keep.sum(1, keepdim=True).clamp(min=1).to(hidden.dtype)
            mean = (share[:, None] @ hidden)[:, 0]
        query = self.query(mean).unflatten(-1, self.per_head) * self.per_head[1] ** -0.5
        weight = self.key.weight.unflatten(0, self.per_head)  # H E D
        # The key's bias adds the same to every score of a head, and softmax takes that away.
        direction = (query.transpose(0, 1) @ weight).transpose(0, 1)  # B H D
        scores = direction @ hidden.transpose(1, 2)
        if keep is not None:
            scores = scores.masked_fill(~keep[:, None], torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        seen = weights @ hidden  # B H D
        value = (seen.transpose(0, 1) @ weight.transpose(1, 2)).transpose(0, 1).flatten(1)
        return value + self.key.bias, weights

    def _within_text(
        self,
        segment: Float[Tensor, "B T W"],
        local: Float[Tensor, "B T W"],
        gate: Float[Tensor, "B T W"],
        inputs: PoNetInputs,
    ) -> Float[Tensor, "B T W"]:
        """Segment maximum times gate, plus local maximum (equations 4 to 6); 0 at separate special tokens."""
        if inputs.keep is not None:
            segment = segment.masked_fill(~inputs.keep[..., None], _NOTHING)
        if inputs.outside_windows is not None:
            local = local.masked_fill(inputs.outside_windows[..., None], _NOTHING)
        mixed = _segment_maximum(segment, inputs) * gate + _local_maximum(local)
        if inputs.special is not None:
            mixed = mixed.masked_fill(inputs.special[..., None], 0)
        return mixed


def _segment_maximum(values: Float[Tensor, "B T W"], inputs: PoNetInputs) -> Float[Tensor, "B T W"]:
    """The elementwise maximum over each token's segment, at every token of it."""
    batch_size, length, width = values.shape
    if torch.compiler.is_compiling():
        # What inductor fuses; outside it, whole rows are reduced eight times faster (benchmarks/LOG.md).
        index = inputs.segments[..., None].expand_as(values)
        slots = values.new_full((batch_size, inputs.num_slots, width), _NOTHING)
        return slots.scatter_reduce(1, index, values, "amax", include_self=False).gather(1, index)
    _hush_index_reduce(values.device)
    first_slot = torch.arange(batch_size, device=values.device)[:, None] * inputs.num_slots
    rows = (first_slot + inputs.segments).flatten()
    slots = values.new_full((batch_size * inputs.num_slots, width), _NOTHING)
    slots = slots.index_reduce(0, rows, values.flatten(0, 1), "amax")
    return slots.index_select(0, rows).view(batch_size, length, width)


@functools.cache
def _hush_index_reduce(device: torch.device) -> None:
    """Torch warns once in a process, on each kind of device, that index_reduce is in beta; its result is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = torch.ones(1, 1, device=device)
        one.index_reduce(0, one.new_zeros(1, dtype=torch.long), one, "amax")


def _local_maximum(values: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
    """The elementwise maximum over each token and its two neighbours."""
    padded = F.pad(values, (0, 0, 1, 1), value=_NOTHING)
    return torch.maximum(torch.maximum(padded[:, :-2], values), padded[:, 2:])
