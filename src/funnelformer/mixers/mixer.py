"""What a token mixer must offer: the contract, and the table's way from a name to a class.

A new mixer is one file with a class that has what `Mixer` lists, and one line in `config.model_options.MIXERS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, cast, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from ..base.errors import UserError, did_you_mean
from ..config.model_config import MIXERS, FunnelformerConfig
from .sequence import Extra, SequenceState

__all__ = ["CallShape", "Mixer", "MixerClass", "MixerFlops", "TokenInputs", "mixer_class", "product_flops"]

# A multiply and an add. The convention of torch's counter; papers that count "MACs" report half.
FLOPS_PER_MULTIPLY_ADD = 2


@dataclass(frozen=True)
class TokenInputs:
    """What the tokens of an unpooled batch are; see `FunnelformerModel.forward`."""

    input_ids: Int[Tensor, "B T"] | None
    segment_ids: Int[Tensor, "B T"] | None


@dataclass(frozen=True)
class CallShape:
    """The sizes of one call of a mixer, as FLOPs are counted from them.

    span: tokens of the unpooled sequence. stride: queries are so many keys apart.
    is_regular: whether neighbours are equally far apart, which top pooling ends.
    has_segments: whether `token_type_ids` are given.
    """

    batch_size: int
    num_queries: int
    num_keys: int
    span: int
    stride: int = 1
    is_regular: bool = True
    has_segments: bool = True


@dataclass(frozen=True)
class MixerFlops:
    """FLOPs of one call of a mixer, by product.

    projections: queries, keys, values and output.
    position_table: W_r on the sinusoids of every distance, once for all sequences of a batch.
    position_scores: queries with that table. content_scores: queries with keys.
    segment_scores: queries with the two segment vectors. values: weights with values.
    """

    projections: int = 0
    position_table: int = 0
    position_scores: int = 0
    content_scores: int = 0
    segment_scores: int = 0
    values: int = 0

    def to_dict(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@runtime_checkable
class Mixer(Protocol):
    """The class of a token mixer, an `nn.Module` made from a config.

    reads_unpooled: in the first layer of a block the mixer can read the sequence before the pooling (`pool_q_only`),
        so that there are more keys than queries. Otherwise that layer mixes the pooled sequence.
    gives_weights: the mixer has attention weights to return.
    weights_read: names of the projections whose weight the mixer reads instead of calling them.
    start_extra: makes what this mixer alone must know of every token, from the unpooled inputs; it then travels in
        `SequenceState.extras` under the mixer's name and is pooled with the sequence. None for a mixer without.
    """

    reads_unpooled: ClassVar[bool]
    gives_weights: ClassVar[bool]
    weights_read: ClassVar[tuple[str, ...]]
    start_extra: ClassVar[Callable[[SequenceState, TokenInputs, FunnelformerConfig], Extra] | None]

    def __init__(self, config: FunnelformerConfig) -> None: ...

    @staticmethod
    def prepare(
        queries: SequenceState, keys: SequenceState, config: FunnelformerConfig, like: Tensor, training: bool
    ) -> Any:
        """Compute what all layers of a stage share; `like` has the dtype, device and batch size of the states."""

    @staticmethod
    def flops(config: FunnelformerConfig, shape: CallShape) -> MixerFlops:
        """Count the matrix products of one forward call."""

    def init_weights(self, draw: Callable[[Tensor], None]) -> None:
        """Give `draw` every parameter of the mixer's own; the model initialises its `nn.Linear`s."""

    def __call__(
        self,
        queries: Float[Tensor, "B Q D"],
        keys: Float[Tensor, "B K D"],
        inputs: Any,
        need_weights: bool = False,
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "N H q k"] | None]:
        """Mix `keys` into one vector for each query; `inputs` is what `prepare` returned.

        The weights are [B, H, N, K], N being Q, or 1 where all queries have the same; None when nobody asked for them,
        or the mixer has none.
        """


if TYPE_CHECKING:
    MixerClass: TypeAlias = type[Mixer]
else:  # a protocol with data cannot be asked at run time whether a class fulfils it
    MixerClass = type


def mixer_class(name: str) -> MixerClass:
    """The class of a mixer's name in `config.model_options.MIXERS`. Raises UserError with the nearest name."""
    if name not in MIXERS:
        raise UserError(f"mixer is {name!r}; allowed: {', '.join(MIXERS)}{did_you_mean(name, list(MIXERS))}")
    module, _, class_name = MIXERS[name].partition(":")
    return cast("MixerClass", getattr(importlib.import_module(module), class_name))


def product_flops(rows: int, inner: int, columns: int) -> int:
    """FLOPs of [rows, inner] @ [inner, columns]: `inner` multiply-adds for each of rows x columns results."""
    return FLOPS_PER_MULTIPLY_ADD * rows * inner * columns
