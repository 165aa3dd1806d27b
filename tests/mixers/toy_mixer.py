"""A mixer of one file: a causal running mean of the values, with a marked token that every later one also adds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from funnelformer.mixers.mixer import MixerFlops, product_flops
from funnelformer.mixers.sequence import padded


@dataclass(frozen=True)
class Marks:
    """Its extra: which tokens are marked, those of id 7."""

    is_marked: Tensor

    def pooled(self, keep, pairs, with_first):
        first, second = pairs(self.is_marked)
        return Marks(with_first(self.is_marked, first | second))

    def chosen(self, take):
        return Marks(take(self.is_marked))


class RunningMean(nn.Module):
    reads_unpooled = False
    gives_weights = False
    weights_read = ()

    @staticmethod
    def start_extra(state, tokens, config):
        return Marks(tokens.input_ids == 7)

    @staticmethod
    def prepare(queries, keys, config, like, training):
        is_marked = keys.extras["running-mean"].is_marked
        keep = torch.ones_like(is_marked) if keys.keep is None else keys.keep
        assert keys.packing is None
        return (keep[..., None] * (1 + is_marked[..., None])).to(like.dtype)

    @staticmethod
    def flops(config, shape):
        rows = shape.batch_size * shape.num_queries
        return MixerFlops(projections=product_flops(rows, config.hidden_size, config.hidden_size))

    def __init__(self, config):
        super().__init__()
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.gain = nn.Parameter(torch.empty(config.hidden_size))

    def init_weights(self, draw):
        draw(self.gain)

    def forward(self, queries, keys, inputs, need_weights=False):
        total = (self.value(padded(keys, None)) * inputs).cumsum(1)
        return self.gain * total / inputs.cumsum(1).clamp(min=1), None
