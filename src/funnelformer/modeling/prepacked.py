"""Weights laid out beforehand as a CPU's kernels read them, with the activation: for inference.

`nn.Linear` hands its weight to a BLAS that rearranges it at every call; oneDNN takes it rearranged once. The fewer
rows, the more that saves; see benchmarks/LOG.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.utils import logging

from ..mixers.attention import Attention, FixedLinear
from .encoder import FeedForward

__all__ = ["PrepackedLinear", "fix_tables", "num_prepacked", "prepack"]

logger = logging.get_logger(__name__)

# What oneDNN computes within the product: `hidden_act` -> its name there, and its algorithm.
_FUSED = {
    "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "gelu": ("gelu", "none"),
    "relu": ("relu", ""),
}


class PrepackedLinear(nn.Module):
    """An `nn.Linear` of the CPU, its weight rearranged; followed by an activation, if one is named.

    It has no parameters and no gradients: what would save, move or train it raises RuntimeError.
    num_parameters: those of `linear`.
    """

    def __init__(self, linear: nn.Linear, activation: tuple[str, str] = ("none", "")) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = linear.weight.dtype
        # oneDNN's own tensors, which neither a state dict nor another device can take.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = None if linear.bias is None else linear.bias.detach().clone()
        self._activation, self._algorithm = activation
        # oneDNN's GELU in AVX2 takes three times as long as PyTorch's (with AVX-512 a third), see benchmarks/LOG.md.
        self._is_gelu_apart = activation[0] == "gelu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
        self.num_parameters = linear.weight.numel() + (0 if linear.bias is None else linear.bias.numel())

    @torch.compiler.disable  # inductor lays out weights itself, and cannot read these
    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        if torch.is_grad_enabled() and x.requires_grad:
            raise RuntimeError(
                "a prepacked model has no gradients; use torch.inference_mode(), or do not prepack"
            )
        kind, algorithm = ("none", "") if self._is_gelu_apart else (self._activation, self._algorithm)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, kind, [], algorithm)
        return torch.ops.aten.gelu_(result, approximate=self._algorithm) if self._is_gelu_apart else result

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, activation={self._activation}"

    def _save_to_state_dict(self, *args: Any) -> None:
        raise RuntimeError("a prepacked model cannot be saved; save it before prepack")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PrepackedLinear:
        sample = fn(torch.empty(0, dtype=self.dtype))
        if sample.device.type != "cpu" or sample.dtype != self.dtype:
            raise RuntimeError(
                f"a prepacked model stays {self.dtype} on the CPU, not {sample.dtype} on {sample.device}"
            )
        return self


def prepack(model: nn.Module) -> nn.Module:
    """Make a model faster at inference on a CPU, in place, and return it; its outputs change by rounding alone.

    Every `nn.Linear` in float32, or in bfloat16 if the processor has it, becomes a `PrepackedLinear`. Tied weights, and
    weights that a module reads itself (`weights_read`), stay as they are. Attention keeps its tables, see `fix_tables`.
    No weight is held twice. You can no longer train, save or move the model.
    If PyTorch has no oneDNN, the model stays as it is, and a warning says so once.
    Raises ValueError if the model is not on the CPU.
    """
    parameters = Counter(id(tensor) for _, tensor in model.named_parameters(remove_duplicate=False))
    if any(tensor.device.type != "cpu" for tensor in model.parameters()):
        raise ValueError("prepack is for models on the CPU")
    if not torch.backends.mkldnn.is_available():
        logger.warning_once("this PyTorch has no oneDNN: the model's weights stay as they are, not prepacked")
        return model.eval()
    dtypes = [torch.float32]
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtypes.append(torch.bfloat16)
    # Nobody asks for gradients that are not there.
    model.requires_grad_(False)
    fused = _FUSED.get(getattr(getattr(model, "config", None), "hidden_act", ""))
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is not nn.Linear or name in getattr(module, "weights_read", ()):
                continue
            if child.weight.dtype not in dtypes or parameters[id(child.weight)] > 1:
                continue
            if fused and isinstance(module, FeedForward) and name == "expand":
                setattr(module, name, PrepackedLinear(child, fused))
                module.activation = nn.Identity()
            else:
                setattr(module, name, PrepackedLinear(child))
    return fix_tables(model).eval()


def fix_tables(model: nn.Module) -> nn.Module:
    """Let attention keep its tables of distances between calls at inference, in place; return the model.

    What a table is computed from becomes unchangeable, so the model cannot be trained, saved or moved any more.
    """
    for module in list(model.modules()):
        if isinstance(module, Attention):
            module.fix_table()
    return model


def num_prepacked(model: nn.Module) -> int:
    """The number of weights that are no longer parameters."""
    fixed = (PrepackedLinear, FixedLinear)
    return sum(module.num_parameters for module in model.modules() if isinstance(module, fixed))
