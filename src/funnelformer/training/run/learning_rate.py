"""The learning rate of a run that names none: by how the model starts, and how wide it is."""

from __future__ import annotations

from typing import Literal

from ...base.processes import say

__all__ = ["auto_rate", "choose_rate"]

# At a width of 128 and below; wider ones take less, in proportion. Measured in benchmarks/LOG.md; at 768 it gives
# 3.3e-4 from nothing and 8.3e-5 pretrained, about what the published recipes of that width have.
_WIDTH = 128
_FROM_NOTHING, _PRETRAINED = 2e-3, 5e-4


def auto_rate(width: int, *, from_nothing: bool) -> float:
    """What --learning-rate auto means for a model of this width."""
    rate = _FROM_NOTHING if from_nothing else _PRETRAINED
    return float(f"{rate * min(1.0, _WIDTH / width):.2g}")


def choose_rate(asked: float | Literal["auto"], width: int, *, from_nothing: bool) -> float:
    """Return `asked`, or for "auto" the rate of such a model, and say so."""
    if asked != "auto":
        return asked
    rate = auto_rate(width, from_nothing=from_nothing)
    say(f"--learning-rate auto: {rate:g} ({'from nothing' if from_nothing else 'pretrained'}, width {width})")
    return rate
