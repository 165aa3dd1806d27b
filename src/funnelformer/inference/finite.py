"""A result that is not finite is an error, never an answer."""

from __future__ import annotations

from torch import Tensor

from ..base.errors import UserError

__all__ = ["refuse_not_finite"]


def refuse_not_finite(output: Tensor, *, may_be_lowest: bool = False) -> Tensor:
    """Return what a model gave; raise UserError when it has a NaN or is infinite, which no answer can be made of.

    may_be_lowest: of spans, where -inf is the score of one that cannot be.
    """
    is_right = output.isfinite() | output.isneginf() if may_be_lowest else output.isfinite()
    if not bool(is_right.all()):
        raise UserError(
            "the model gives NaN or infinity: its weights are damaged, or its training has diverged"
        )
    return output
