"""The original code's learning rates, for the tests that follow its recorded trainings step by step."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def learning_rate_factor(
    step: int, num_steps: int, num_warmup_steps: int = 0, decay: str = "linear", min_ratio: float = 0.0
) -> float:
    """The share of the learning rate that update number `step` (from 0) uses.

    It rises linearly from `min_ratio` to 1, then falls to `min_ratio` at `num_steps`, linearly (the original's "poly")
    or along a cosine. With warm-up the first update has rate `min_ratio`, as in the original: 0 unless set.
    """
    if step < num_warmup_steps:
        share = step / num_warmup_steps
    else:
        done = min(1.0, (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps))
        share = 1 - done if decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return min_ratio + (1 - min_ratio) * share


def build_schedule(
    optimizer: Optimizer,
    num_steps: int,
    num_warmup_steps: int = 0,
    decay: str = "linear",
    min_ratio: float = 0.0,
) -> LambdaLR:
    """A `LambdaLR` of `learning_rate_factor`. decay: "linear" or "cosine"."""
    return LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, num_steps, num_warmup_steps, decay, min_ratio)
    )
