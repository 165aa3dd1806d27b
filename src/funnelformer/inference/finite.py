"""A result that is not finite is an error, never an answer."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from ..base.errors import UserError

__all__ = ["refuse_not_finite"]

Output = TypeVar("Output", bound=Any)


def refuse_not_finite(output: Output, *, may_be_lowest: bool = False) -> Output:
    """Return a model's outputs. Raise UserError if one is NaN or infinite, as no answer can be made of it.

    output: an array or a tensor. may_be_lowest: of spans, where -inf is the score of one that cannot be.
    """
    if isinstance(output, np.ndarray):
        is_right, is_lowest = np.isfinite(output), np.isneginf(output) if may_be_lowest else False
    else:
        is_right, is_lowest = output.isfinite(), output.isneginf() if may_be_lowest else False
    if not bool((is_right | is_lowest).all()):
        raise UserError(
            "the model gives NaN or infinity: its weights are damaged, or its training has diverged"
        )
    return output
