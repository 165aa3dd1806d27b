"""Products of float32 matrices at inference by oneDNN, which uses all instructions of a CPU where the BLAS may not."""

from __future__ import annotations

import functools
import platform

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["can_multiply", "multiply"]


def can_multiply(like: Tensor) -> bool:
    """Whether `multiply` takes tensors as `like`: float32, on an x86 processor, no gradients and no graph to make."""
    return (
        like.device.type == "cpu"
        and like.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and _has_kernels()
    )


def multiply(
    x: Float[Tensor, "N I"], rows: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None = None
) -> Float[Tensor, "N O"]:
    """x @ rows.T + bias, where `can_multiply`. `rows`: as it lies in memory, or the transpose of such a matrix."""
    if not (rows.is_contiguous() or rows.T.is_contiguous()):
        # oneDNN has no kernels for rows that lie apart, and would take a thousand times as long.
        rows = rows.contiguous()
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, rows, bias, "none", [], "")
    return result


@functools.cache
def _has_kernels() -> bool:
    return torch.backends.mkldnn.is_available() and platform.machine().lower() in ("x86_64", "amd64")
