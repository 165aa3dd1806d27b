"""The learning rate of a run that names none: by how the model starts, and how wide it is."""

from __future__ import annotations

import math
from typing import Literal

from ...base.processes import say

__all__ = ["auto_rate", "choose_rate"]

# From nothing: at a width of 128 and below, less in proportion above. Measured in benchmarks/LOG.md.
_FROM_NOTHING, _WIDTH = 2e-3, 128
# Pretrained: the widest model that takes a rate. 5e-4 is that of the small models in benchmarks/LOG.md; 5e-5 is
# customary for BERT (Devlin et al. 2019, arXiv:1810.04805, try 5e-5, 3e-5 and 2e-5) and its distilled kin of width 384;
# the rate between the two is not measured.
_PRETRAINED = ((128, 5e-4), (383, 1e-4), (math.inf, 5e-5))


def auto_rate(width: int, *, from_nothing: bool) -> float:
    """What --learning-rate auto means for a model of this width."""
    if from_nothing:
        return float(f"{_FROM_NOTHING * min(1.0, _WIDTH / width):.2g}")
    return next(rate for widest, rate in _PRETRAINED if width <= widest)


def choose_rate(asked: float | Literal["auto"], width: int, *, from_nothing: bool) -> float:
    """Return `asked`, or for "auto" the rate of such a model, and say so."""
    if asked != "auto":
        return asked
    rate = auto_rate(width, from_nothing=from_nothing)
    say(f"--learning-rate auto: {rate:g} ({'from nothing' if from_nothing else 'pretrained'}, width {width})")
    return rate
