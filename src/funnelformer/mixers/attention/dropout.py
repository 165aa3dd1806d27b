"""Dropout of attention weights: a CPU takes a fifth of a training step to draw a number for each of them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["drop"]

# One draw of 64 bits decides on four weights.
_LEVELS, _PER_DRAW = 1 << 16, 4


def drop(weights: Float[Tensor, "*S"], probability: float) -> Float[Tensor, "*S"]:
    """As `torch.nn.functional.dropout` in training; on a CPU the probability is rounded to 1 / 65,536."""
    if not probability:
        return weights
    num_dropped = round(probability * _LEVELS)
    if weights.device.type != "cpu" or torch.compiler.is_compiling() or num_dropped == _LEVELS:
        return F.dropout(weights, probability)
    draws = torch.empty(-(-weights.numel() // _PER_DRAW), dtype=torch.int64).random_(-(1 << 63), None)
    levels = draws.view(torch.int16)[: weights.numel()].view(weights.shape)
    # Written as numbers, not as booleans: a third of the time.
    scales = torch.ge(levels, num_dropped - _LEVELS // 2, out=torch.empty_like(weights))
    return weights * scales.mul_(_LEVELS / (_LEVELS - num_dropped))
