"""What travels with the hidden states from block to block.

Legend (whole package): B batch, T tokens, S pooled tokens, K keys, Q queries, H heads, D model width, E head width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

__all__ = ["Extra", "Packing", "SequenceState", "pack", "packed", "padded", "start_state"]


@dataclass(frozen=True)
class Packing:
    """A batch whose real tokens stand behind each other in one row, without the padding.

    places: of each of the P tokens in the flattened batch [batch_size * length].
    """

    places: Int[Tensor, " P"]
    batch_size: int
    length: int


def pack(keep: Bool[Tensor, "N T"]) -> Packing:
    """The packing of the tokens that are real. (Their number is read from the device: once a block.)"""
    return Packing(keep.flatten().nonzero()[:, 0], keep.size(0), keep.size(1))


def packed(x: Shaped[Tensor, "N T *W"], packing: Packing | None) -> Shaped[Tensor, "M P *W"]:
    """One row [1, P, ...] of the tokens of a batch [N, T, ...]; as it is without packing."""
    if packing is None:
        return x
    return x.flatten(0, 1).index_select(0, packing.places)[None]


def padded(x: Shaped[Tensor, "M P *W"], packing: Packing | None) -> Shaped[Tensor, "N T *W"]:
    """The batch [N, T, ...] of a row [1, P, ...], zero where it is padding; as it is without packing."""
    if packing is None:
        return x
    zeros = x.new_zeros(packing.batch_size * packing.length, *x.shape[2:])
    batch = zeros.index_copy(0, packing.places, x[0])
    return batch.unflatten(0, (packing.batch_size, packing.length))


@runtime_checkable
class Extra(Protocol):
    """What a single mixer must know of every token, pooled together with the sequence."""

    def pooled(
        self,
        keep: Bool[Tensor, "B T"] | None,
        pairs: Callable[[Tensor], tuple[Tensor, Tensor]],
        with_first: Callable[[Tensor, Tensor], Tensor],
    ) -> Extra:
        """The extra of the windows of two tokens.

        keep: the real tokens that are pooled. pairs: the first and the second member of every window.
        with_first: puts a token that is not pooled in front of the windows.
        """

    def chosen(self, take: Callable[[Tensor], Tensor]) -> Extra:
        """The extra of the tokens that `take` picks out of a tensor [B, T]."""


@dataclass(frozen=True)
class SequenceState:
    """What travels with the hidden states of one length.

    keep: True for real tokens; None when all are.
    segments: segment ids; None when there is no segment score.
    positions: the position of each token in the unpooled sequence, a pooled one standing at its window's first.
    span: length of the unpooled sequence.
    counts: the real tokens of the input that each token holds, 0 of padding; of a chosen one (top pooling) 1, itself.
    level: how many times the sequence was pooled; neighbours are 2^level apart.
    extras: what one mixer alone must know of every token, by the mixer's name.
    source: the tokens of the longer sequence these were chosen from, after top pooling; None while the
        positions are regular, which is what lets attention use a shift in place of a gather.
    packing: what the hidden states are packed by, one row of all sequences; all else here stays a padded batch. None
        where they are a batch too.
    """

    keep: Bool[Tensor, "B T"] | None
    segments: Int[Tensor, "B T"] | None
    positions: Int[Tensor, "#B T"]
    span: int
    counts: Int[Tensor, "#B T"]
    level: int = 0
    source: Int[Tensor, "B T"] | None = None
    extras: Mapping[str, Extra] = field(default_factory=dict)
    packing: Packing | None = None

    @property
    def is_regular(self) -> bool:
        return self.source is None


def start_state(
    length: int, keep: Bool[Tensor, "B T"] | None, segments: Int[Tensor, "B T"] | None, device: torch.device
) -> SequenceState:
    """The state of an unpooled sequence of `length` tokens."""
    positions = torch.arange(length, device=device)[None]
    counts = torch.ones_like(positions) if keep is None else keep.long()
    return SequenceState(keep=keep, segments=segments, positions=positions, span=length, counts=counts)
