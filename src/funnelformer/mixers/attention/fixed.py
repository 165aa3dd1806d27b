"""W_r of a model that only runs: nothing can change it, so what is computed from it can be kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FixedLinear"]


class FixedLinear(nn.Module):
    """An `nn.Linear` without bias whose weight is a copy that is no parameter: no optimizer, no loading reaches it.

    What would save or move it raises RuntimeError. num_parameters: those of `linear`.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        assert linear.bias is None
        self.in_features: int = linear.in_features
        self.out_features: int = linear.out_features
        self._weight: Tensor = linear.weight.detach().clone()
        self.num_parameters: int = linear.weight.numel()

    @property
    def weight(self) -> Float[Tensor, "O I"]:
        """To be read only."""
        return self._weight

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        return F.linear(x, self._weight)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"

    def _save_to_state_dict(self, *args: Any) -> None:
        raise RuntimeError("a model with fixed tables cannot be saved; save it before prepack")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FixedLinear:
        sample = fn(torch.empty(0, dtype=self._weight.dtype, device=self._weight.device))
        if sample.device != self._weight.device or sample.dtype != self._weight.dtype:
            raise RuntimeError(
                f"a model with fixed tables stays {self._weight.dtype} on {self._weight.device}, "
                f"not {sample.dtype} on {sample.device}"
            )
        return self
