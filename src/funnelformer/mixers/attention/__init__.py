"""Multi-head attention with relative positions and segments, and the choice of its implementation.

What `attn_implementation` names is used, "sdpa" where it names none. All are equal in values and gradients up to
rounding:

| name     | what it does | use it |
|----------|--------------|--------|
| "sdpa"   | position, segment and mask as the bias of a stock kernel, piece by piece | the default, everywhere |
| "wide"   | all of them inside a wider head, no bias | for flash kernels, to 256 tokens; not yet timed on a GPU |
| "triton" | all of them inside fused kernels, no score in memory | on GPUs, for long inputs; see fused.py |
| "eager"  | every score written out | to read, to test, for attention weights |

"triton" is correct in Triton's interpreter and compiles for GPUs; it was neither run nor timed on one yet.

With absolute positions there is no bias, and "wide" and "triton" are "sdpa". Weights that are asked for
(`output_attentions`, `pooling="top"`) are computed with every score written out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...config import FunnelformerConfig
from ...sequence import packed, padded
from . import fused, reference, sdpa, wide
from .frequencies import WideInputs
from .inputs import AttentionInputs, prepare

__all__ = ["IMPLEMENTATIONS", "Attention", "AttentionInputs"]

IMPLEMENTATIONS: dict[str, Callable[..., tuple[Tensor, Tensor | None]]] = {
    "eager": reference.attend,
    "sdpa": sdpa.attend,
    "wide": wide.attend,
    "triton": fused.attend,
}

# A table of the distances of about 2,700 tokens at width 768: where sequences are longer, it matters less.
_KEPT_BYTES = 16 << 20


class Attention(nn.Module):
    """The mixer "attention".

    content_bias, position_bias, segment_bias are the paper's r_w, r_r, r_s; relative is W_r; segment_embedding
    holds the vectors of "other segment" and "same segment". With absolute positions only content_bias is there.
    Source: Dai et al. 2020, appendix A.2.
    """

    prepare = staticmethod(prepare)
    reads_unpooled = True
    weights_read = ("relative",)

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
        self._kept: tuple[tuple[object, ...], int, Tensor] | None = None
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
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "N H q k"] | None]:
        """Mix `keys` into one vector a query. Packed sequences are apart in the weights, and between projections."""
        attend = IMPLEMENTATIONS[self.config._attn_implementation or "sdpa"]
        if need_weights:
            attend = reference.attend if inputs.wide is None else wide.attend_with_weights
            inputs = fused.with_pairs(inputs)
        mixed, weights = attend(
            self,
            self._split(padded(self.query(queries) * self.scale, inputs.query_packing)),
            self._split(padded(self.key(keys), inputs.key_packing)),
            self._split(padded(self.value(keys), inputs.key_packing)),
            inputs,
            self.config.attention_dropout,
        )
        return self.output(packed(mixed.transpose(1, 2).flatten(2), inputs.query_packing)), weights

    def distance_table(self, inputs: AttentionInputs, may_keep: bool = False) -> Float[Tensor, "H E R"]:
        """W_r R(t) for every distance t of `inputs.sinusoids`.

        may_keep: at inference, keep the table for the next call and serve shorter inputs from it.
        """
        assert self.relative is not None
        assert inputs.sinusoids is not None
        key = self._state_of_weights() if may_keep else None
        if key is None:
            return self._table(inputs.sinusoids)
        key = (*key, inputs.unit)
        num_rows = inputs.sinusoids.size(0)
        if self._kept is not None and self._kept[0] == key:
            _, farthest, table = self._kept
            first = (farthest - inputs.farthest) // inputs.unit
            if first >= 0 and first + num_rows <= table.size(-1):
                return table[..., first : first + num_rows]
        table = self._table(inputs.sinusoids)
        if table.numel() * table.element_size() <= _KEPT_BYTES:
            table = table.transpose(1, 2).contiguous().transpose(1, 2)
            self._kept = (key, inputs.farthest, table)
        return table

    def frequency_table(self, wide: WideInputs) -> Float[Tensor, "H E M"]:
        """W_r in terms of the chosen frequencies, their sines first; at inference kept for the next call."""
        assert self.relative is not None
        key = self._state_of_weights()
        if key is not None:
            key = (*key, wide.source)
            if self._kept is not None and self._kept[0] == key:
                return self._kept[2]
        halves = self.relative.weight.unflatten(-1, (2, -1)).transpose(0, 1)
        table = (halves @ wide.coefficients).unflatten(1, self.per_head).permute(1, 2, 0, 3).flatten(2)
        if key is not None:
            self._kept = (key, 0, table)
        return table

    def train(self, mode: bool = True) -> Attention:
        """As in torch. What was kept is dropped, so that no change of the weights can outlive it."""
        self._kept = None
        return super().train(mode)

    def _state_of_weights(self) -> tuple[object, ...] | None:
        """What a table computed from W_r depends on; None where it must not be kept."""
        assert self.relative is not None
        weight = self.relative.weight
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        version = 0 if weight.is_inference() else weight._version
        return (weight.data_ptr(), version, weight.dtype, weight.device)

    def _table(self, sinusoids: Float[Tensor, "R D"]) -> Float[Tensor, "H E R"]:
        assert self.relative is not None
        return self.relative(sinusoids).unflatten(-1, self.per_head).permute(1, 2, 0)

    def scaled(self, bias: Float[Tensor, "H E"]) -> Float[Tensor, "H 1 E"]:
        """A bias of the query, divided by sqrt(E) as the query is."""
        return bias[:, None] * self.scale

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, self.per_head).transpose(1, 2)
