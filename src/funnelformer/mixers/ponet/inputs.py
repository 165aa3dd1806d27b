"""What every PoNet layer of a stage shares."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor

from ...config.model_config import FunnelformerConfig
from ..sequence import Packing, SequenceState
from .segments import Regions

__all__ = ["PoNetInputs", "prepare"]


@dataclass(frozen=True)
class PoNetInputs:
    """Masks and segments of one stage.

    keep: real tokens; None when all are. segments: numbers below `num_slots`.
    special: tokens that get nothing from segments and windows; None when there are none.
    outside_windows: tokens that give nothing to windows: padding, and the special ones.
    packing: of the hidden states, see `SequenceState`.
    """

    keep: Bool[Tensor, "B T"] | None
    segments: Int[Tensor, "#B T"]
    num_slots: int
    special: Bool[Tensor, "B T"] | None
    outside_windows: Bool[Tensor, "B T"] | None
    packing: Packing | None


def prepare(
    queries: SequenceState, keys: SequenceState, config: FunnelformerConfig, like: Tensor, training: bool
) -> PoNetInputs:
    """Collect the inputs of a stage from its state; `queries` and `keys` are the same."""
    regions = keys.extras["ponet"]
    assert isinstance(regions, Regions)
    special = regions.special if config.ponet_special_apart else None
    outside = special
    if keys.keep is not None:
        outside = ~keys.keep if special is None else special | ~keys.keep
    batch_size = like.size(0) if keys.packing is None else keys.packing.batch_size
    segments = regions.segments.expand(batch_size, -1)
    return PoNetInputs(keys.keep, segments, regions.num_segments, special, outside, keys.packing)
