"""Multi-head attention with relative positions and segments, and the choice of its implementation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...config import FunnelformerConfig
from . import reference, sdpa
from .inputs import AttentionInputs, prepare

__all__ = ["IMPLEMENTATIONS", "Attention", "AttentionInputs"]

IMPLEMENTATIONS: dict[str, Callable[..., tuple[Tensor, Tensor | None]]] = {
    "eager": reference.attend,
    "sdpa": sdpa.attend,
}


class Attention(nn.Module):
    """The mixer "attention".

    content_bias, position_bias, segment_bias are the paper's r_w, r_r, r_s; relative is W_r; segment_embedding
    holds the vectors of "other segment" and "same segment". With absolute positions only content_bias is there.
    Source: Dai et al. 2020, appendix A.2.
    """

    prepare = staticmethod(prepare)
    reads_unpooled = True

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__()
        width = config.num_attention_heads * config.head_size
        self.config = config
        self.per_head = (config.num_attention_heads, config.head_size)
        self.scale = config.head_size**-0.5
        self.query = nn.Linear(config.hidden_size, width, bias=False)
        self.key = nn.Linear(config.hidden_size, width)
        self.value = nn.Linear(config.hidden_size, width)
        self.output = nn.Linear(width, config.hidden_size)
        self.content_bias = nn.Parameter(torch.empty(self.per_head))
        self.relative: nn.Linear | None = None
        if config.position == "relative":
            self.relative = nn.Linear(config.hidden_size, width, bias=False)
            self.position_bias = nn.Parameter(torch.empty(self.per_head))
            self.segment_bias = nn.Parameter(torch.empty(self.per_head))
            self.segment_embedding = nn.Parameter(torch.empty(2, *self.per_head))

    def forward(
        self,
        queries: Float[Tensor, "B Q D"],
        keys: Float[Tensor, "B K D"],
        inputs: AttentionInputs,
        need_weights: bool = False,
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "B H Q K"] | None]:
        """Mix `keys` into one vector a query. Weights come from the reference implementation alone."""
        name = "eager" if need_weights else self.config._attn_implementation or "sdpa"
        mixed, weights = IMPLEMENTATIONS[name](
            self,
            self._split(self.query(queries) * self.scale),
            self._split(self.key(keys)),
            self._split(self.value(keys)),
            inputs,
            self.config.attention_dropout,
        )
        return self.output(mixed.transpose(1, 2).flatten(2)), weights

    def scaled(self, bias: Float[Tensor, "H E"]) -> Float[Tensor, "H 1 E"]:
        """A bias of the query, divided by sqrt(E) as the query is."""
        return bias[:, None] * self.scale

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, self.per_head).transpose(1, 2)
