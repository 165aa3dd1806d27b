"""Multi-head attention with relative positions and segments, and the choice of its implementation.

What `attn_implementation` names is used, "sdpa" where it names none. All are equal in values and gradients up to
rounding:

| name     | what it does | use it |
|----------|--------------|--------|
| "sdpa"   | position, segment and mask as the bias of a stock kernel, piece by piece | the default, everywhere |
| "triton" | all of them inside fused kernels, no score in memory | experimental: long inputs on a GPU; see fused.py |
| "eager"  | every score written out | to read, to test, for attention weights |

"triton" is correct in Triton's interpreter and compiles for GPUs, but no GPU has run it yet. It needs relative
positions of equal distances: with absolute positions or top pooling it raises UserError.
Weights that are asked for (`output_attentions`, `pooling="top"`) are computed with every score written out. What
computes is logged once (level info).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import logging

from ...config.model_config import FunnelformerConfig
from ..mixer import CallShape, MixerFlops, product_flops
from ..products import can_multiply, multiply
from ..sequence import SequenceState, packed, padded
from . import fused, reference, sdpa
from .fixed import FixedLinear
from .inputs import AttentionInputs, prepare

__all__ = ["IMPLEMENTATIONS", "Attention", "AttentionInputs", "FixedLinear"]

logger = logging.get_logger(__name__)

IMPLEMENTATIONS: dict[str, Callable[..., tuple[Tensor, Tensor | None]]] = {
    "eager": reference.attend,
    "sdpa": sdpa.attend,
    "triton": fused.attend,
}

# A table of the distances of about 1,300 tokens at width 768: of longer ones it would save a twentieth of the time, and
# every layer would hold its own.
_KEPT_BYTES = 8 << 20
# "Other segment" and "same segment": every query meets both vectors, whatever the keys.
_NUM_SEGMENT_VECTORS = 2


class Attention(nn.Module):
    """The mixer "attention".

    content_bias, position_bias, segment_bias are the paper's r_w, r_r, r_s; relative is W_r; segment_embedding
    holds the vectors of "other segment" and "same segment". With absolute positions only content_bias is there.
    Source: Dai et al. 2020, appendix A.2.
    """

    start_extra = None
    reads_unpooled = True
    gives_weights = True
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
        self.relative: nn.Linear | FixedLinear | None = None
        self._kept: tuple[tuple[object, ...], int, Tensor] | None = None
        if config.position == "relative":
            self.relative = nn.Linear(config.hidden_size, width, bias=False)
            self.position_bias = nn.Parameter(torch.empty(self.per_head))
            self.segment_bias = nn.Parameter(torch.empty(self.per_head))
            self.segment_embedding = nn.Parameter(torch.empty(2, *self.per_head))

    @staticmethod
    def prepare(
        queries: SequenceState, keys: SequenceState, config: FunnelformerConfig, like: Tensor, training: bool
    ) -> AttentionInputs:
        """Collect masks, segments and the sinusoids of every distance. Raises UserError as `fused.check_config`."""
        if config._attn_implementation == "triton":
            fused.check_config(config)
        return prepare(queries, keys, config, like, training)

    @staticmethod
    def flops(config: FunnelformerConfig, shape: CallShape) -> MixerFlops:
        """Queries and output at B x Q tokens, keys and values at B x K. H products of size E count as one of size W."""
        width, hidden = config.num_attention_heads * config.head_size, config.hidden_size
        queries, keys = shape.batch_size * shape.num_queries, shape.batch_size * shape.num_keys
        counts = {
            "projections": 2 * product_flops(queries, hidden, width) + 2 * product_flops(keys, hidden, width),
            "content_scores": product_flops(queries, width, shape.num_keys),
            "values": product_flops(queries, shape.num_keys, width),
        }
        if config.position == "absolute":
            return MixerFlops(**counts)
        # As in `prepare`: regular positions have `stride` rows more than distances, for the shift; chosen tokens have a
        # row for every distance from 1 - T to T - 1. The rows before the distance 0 cost no product, see
        # `distance_table`.
        if shape.is_regular:
            num_rows = shape.stride * shape.num_queries + shape.num_keys
            zero = shape.stride * (shape.num_queries - 1) - int(config.separate_cls) * (shape.stride - 1)
        else:
            num_rows, zero = 2 * shape.span - 1, shape.span - 1
        # The first token has neither position nor segment score with `separate_cls`.
        body = shape.batch_size * (shape.num_queries - int(config.separate_cls))
        segment_scores = product_flops(body, width, _NUM_SEGMENT_VECTORS) if shape.has_segments else 0
        return MixerFlops(
            **counts,
            position_table=product_flops(num_rows - zero, hidden, width),
            position_scores=product_flops(body, width, num_rows),
            segment_scores=segment_scores,
        )

    def init_weights(self, draw: Callable[[Tensor], None]) -> None:
        """r_w, and with relative positions r_r, r_s and the two segment vectors."""
        draw(self.content_bias)
        if self.relative is not None:
            for parameter in (self.position_bias, self.segment_bias, self.segment_embedding):
                draw(parameter)

    def fix_table(self) -> None:
        """Make W_r unchangeable, so that its table can be kept between calls at inference.

        Only `nn.Linear` itself is replaced: a module in its place, such as an adapter's, may change at any time.
        """
        if type(self.relative) is nn.Linear:
            self.relative = FixedLinear(self.relative)

    def forward(
        self,
        queries: Float[Tensor, "B Q D"],
        keys: Float[Tensor, "B K D"],
        inputs: AttentionInputs,
        need_weights: bool = False,
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "N H q k"] | None]:
        """Mix `keys` into one vector a query. Packed sequences are apart in the weights, and between projections."""
        name = "eager" if need_weights else self.config._attn_implementation or "sdpa"
        if not torch.compiler.is_compiling():
            _log_choice(name, queries.device.type)
        if need_weights:
            inputs = fused.with_pairs(inputs)
        mixed, weights = IMPLEMENTATIONS[name](
            self,
            self._split(padded(self.query(queries) * self.scale, inputs.query_packing)),
            self._split(padded(self.key(keys), inputs.key_packing)),
            self._split(padded(self.value(keys), inputs.key_packing)),
            inputs,
            self.config.attention_dropout,
        )
        return self.output(packed(mixed.transpose(1, 2).flatten(2), inputs.query_packing)), weights

    def distance_table(self, inputs: AttentionInputs, heads: slice = slice(None)) -> Float[Tensor, "h E R"]:
        """W_r R(t) for every distance t of `inputs`, of some of the heads.

        W_r R(-t) is the cosines' part and the sines', W_r R(t) their difference, so half of the distances need a
        product. That holds for a weight alone: a module in the place of `relative`, such as an adapter's, reads all.
        """
        assert self.relative is not None
        if not (inputs.is_mirrored and self.has_plain_table):
            return self.relative(inputs.all_sinusoids()).unflatten(-1, self.per_head).permute(1, 2, 0)[heads]
        assert inputs.sinusoids is not None
        weight = self.relative.weight.unflatten(0, self.per_head)[heads]
        product = multiply if can_multiply(weight) else F.linear
        halves = weight.flatten(0, 1).chunk(2, dim=-1)
        sines, cosines = (product(part, half) for part, half in zip(inputs.sinusoids, halves, strict=True))
        after = (cosines[1 : inputs.zero + 1] - sines[1 : inputs.zero + 1]).flip(0)
        return torch.cat([after, cosines + sines]).unflatten(-1, weight.shape[:2]).permute(1, 2, 0)

    @property
    def has_plain_table(self) -> bool:
        """Whether `relative` is a weight and no more, whose rows can be read apart.

        Not where a hook waits for its call, or the call itself was replaced, as for weights that lie elsewhere.
        """
        relative = self.relative
        if relative is None or type(relative) not in (nn.Linear, FixedLinear) or "forward" in vars(relative):
            return False
        return not (relative._forward_pre_hooks or relative._forward_hooks)

    def kept_table(self, inputs: AttentionInputs) -> Float[Tensor, "H E R"] | None:
        """The table of all heads, kept from call to call and for shorter inputs: at inference, after `fix_table`.

        None where it cannot be kept, or is so large that keeping it costs more memory than it saves time.
        """
        if (
            not isinstance(self.relative, FixedLinear)
            or self.training
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
        ):
            return None
        sinusoids = inputs.sinusoids
        assert sinusoids is not None
        device = sinusoids.device
        autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        key = (inputs.unit, sinusoids.dtype, device, autocast)
        if self._kept is not None and self._kept[0] == key:
            _, farthest, table = self._kept
            first = (farthest - inputs.farthest) // inputs.unit
            if first >= 0 and first + inputs.num_rows <= table.size(-1):
                return table[..., first : first + inputs.num_rows]
        if inputs.num_rows * self.query.out_features * (autocast or sinusoids.dtype).itemsize > _KEPT_BYTES:
            return None
        table = self.distance_table(inputs).transpose(1, 2).contiguous().transpose(1, 2)
        self._kept = (key, inputs.farthest, table)
        return table

    def scaled(self, bias: Float[Tensor, "H E"]) -> Float[Tensor, "H 1 E"]:
        """A bias of the query, divided by sqrt(E) as the query is."""
        return bias[:, None] * self.scale

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, self.per_head).transpose(1, 2)


@functools.cache
def _log_choice(name: str, device: str) -> None:
    logger.info("attention is computed by %r on %s", name, device)
    if name == "triton":
        logger.warning(
            "attn_implementation='triton' is experimental: no GPU has run it yet; compare it with 'sdpa'"
        )
