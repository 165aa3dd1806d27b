"""How a batch lies while it is encoded: from its first real token on, and without padding where that saves work."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int, Num
from torch import Tensor

from ..config.model_config import FunnelformerConfig
from ..mixers.sequence import Packing, pack, padded

__all__ = ["Arrangement"]


class Arrangement:
    """Arranges the inputs of every token for the encoder, and puts the resulting states back in the input's order.

    Three ways, by what is given: packed rows become a padded batch of their N sequences; with `padding="exact"` and a
    mask every sequence is turned so that its first real token stands at index 0; anything else stays as it is.

    keep: the real tokens [N, L] after arranging; None when all are. length: L.
    packing: how the arranged batch is packed for the layers; None where they work on the batch itself.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        attention_mask: Num[Tensor, "B T"] | None,
        position_ids: Int[Tensor, "B T"] | None,
        config: FunnelformerConfig,
    ) -> None:
        """shape: B, T. Raises ValueError for packed rows that cannot be, see `FunnelformerModel.forward`."""
        self._shape, self.length = shape, shape[1]
        self.keep: Bool[Tensor, "N L"] | None = None if attention_mask is None else attention_mask.bool()
        self.packing: Packing | None = None
        self.is_packed = position_ids is not None
        # Where each arranged token comes from, and where each token of the input has gone.
        self._order: Tensor | None = None
        self._inverse: Tensor | None = None
        if position_ids is not None:
            if attention_mask is not None or config.padding != "exact":
                raise ValueError('packed rows have no attention_mask, and need padding="exact"')
            self.keep = _keep_of_packed(position_ids)
            self.packing, self.length = pack(self.keep), self.keep.size(1)
        elif self.keep is not None and config.padding == "exact":
            place = torch.arange(self.length, device=self.keep.device)[None]
            num_leading = self.keep.to(torch.uint8).argmax(1, keepdim=True)
            num_places = place[:, -1:] + 1  # as a tensor, so that an exported graph has it from the input
            self._order, self._inverse = (
                (place + num_leading) % num_places,
                (place - num_leading) % num_places,
            )
            self.keep = self.keep.gather(1, self._order)
            if config.unpad and not torch.compiler.is_compiling():
                self.packing = pack(self.keep)

    @property
    def batch_size(self) -> int:
        """Of the input."""
        return self._shape[0]

    def arrange(self, x: Any) -> Any:
        """Arrange a tensor [B, T] or [B, T, W] of the input into [N, L] or [N, L, W]; None stays None."""
        if x is None:
            return None
        if self.is_packed:
            return padded(x.flatten(0, 1)[None], self.packing)
        return _gathered(x, self._order)

    def put_back(self, hidden: Any, packing: Packing | None) -> Any:
        """States of all tokens, packed as `packing` says, in the order and shape [B, T, D] of the input."""
        if self.is_packed:
            return hidden.view(*self._shape, -1)
        return _gathered(padded(hidden, packing), self._inverse)


def _gathered(x: Tensor, order: Tensor | None) -> Tensor:
    if order is None:
        return x
    return x.gather(1, order if x.dim() == 2 else order[..., None].expand(-1, -1, x.size(-1)))


def _keep_of_packed(position_ids: Int[Tensor, "B T"]) -> Bool[Tensor, "N L"]:
    """The mask [N, L] of the N sequences in packed rows, as a padded batch. Raises ValueError for other positions."""
    positions = position_ids.flatten()
    is_first = positions == 0
    places = torch.arange(len(positions), device=positions.device)
    starts = torch.where(is_first, places, 0).cummax(0).values
    if (positions != places - starts).any():
        raise ValueError(
            "position_ids of packed rows must count 0, 1, 2, ... from each sequence's first token on"
        )
    lengths = (is_first.cumsum(0) - 1).bincount()[:, None]
    return torch.arange(int(lengths.max()), device=positions.device) < lengths
