"""The paper's optimizer, and the usual AdamW beside it.

Source: the original code's `AdamWeightDecayOptimizer`; Dai et al. 2020, appendix B.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...base.errors import UserError, did_you_mean
from ...config.model_config import FunnelformerConfig

__all__ = [
    "BIAS_AND_NORM",
    "PRESETS",
    "PaperAdamW",
    "build_optimizer",
    "is_decayed",
    "layer_rates",
]

# Dense biases, LayerNorm gains and biases. The score biases of attention (`content_bias` ...) are no such names: the
# original's exclusion leaves them decayed too.
BIAS_AND_NORM = r"(.*\.)?(bias|\w*norm\.weight)"
# name -> defaults of `build_optimizer`
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.01, "no_decay": None},
    "modern": {"betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01, "no_decay": BIAS_AND_NORM},
}
_LAYER = re.compile(r"(?:encoder\.blocks\.(\d+)|decoder\.layers)\.(\d+)\.")


def is_decayed(name: str, no_decay: str | None = BIAS_AND_NORM) -> bool:
    """Whether the weights with this name decay: the one rule of pretraining, fine-tuning and the Arena.

    no_decay: pattern of the whole names of weights that do not; None: all do.
    """
    return no_decay is None or re.fullmatch(no_decay, name) is None


class PaperAdamW(Optimizer):
    """Adam with weight decay as the original trains: p -= lr_t · (m / (sqrt(v) + eps) + weight_decay · p).

    With correct_bias, lr_t = lr · sqrt(1 - beta2^t) / (1 - beta1^t). Unlike torch's AdamW the correction scales the
    decay too, and eps is added to the uncorrected root.
    State: `step`, `exp_avg`, `exp_avg_sq`, as torch's.
    Source: the original code; equal to it in tests/training/run/test_optimizer.py.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        correct_bias: bool = True,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"lr {lr}, eps {eps}, weight_decay {weight_decay} must be >= 0 and betas {betas} in [0, 1)"
            )
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "correct_bias": correct_bias,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            # One update for all tensors that have seen as many steps: nearly always the whole group.
            by_step: dict[int, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.grad.is_sparse:
                    raise ValueError("PaperAdamW does not take sparse gradients")
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] += 1
                by_step[int(state["step"])].append(parameter)
            for step, parameters in by_step.items():
                self._update(group, parameters, step)
        return loss

    def _update(self, group: dict[str, Any], parameters: list[Tensor], step: int) -> None:
        beta1, beta2 = group["betas"]
        rate = float(group["lr"])
        if group["correct_bias"]:
            rate *= math.sqrt(1 - beta2**step) / (1 - beta1**step)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        means = [self.state[parameter]["exp_avg"] for parameter in parameters]
        squares = [self.state[parameter]["exp_avg_sq"] for parameter in parameters]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, group["eps"])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
        torch._foreach_addcdiv_(parameters, means, roots, -rate)


def build_optimizer(
    model: nn.Module,
    preset: str = "paper",
    learning_rate: float = 1e-4,
    *,
    weight_decay: float | None = None,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
    no_decay: str | None = None,
) -> Optimizer:
    """An optimizer over the trainable parameters of `model`; arguments left None are the preset's.

    preset: "paper" (`PaperAdamW`, every parameter decayed, as the original unless told otherwise) or "modern" (torch's
        AdamW, fused, without decay on biases and LayerNorms).
    no_decay: pattern of whole parameter names that are not decayed; `BIAS_AND_NORM` is the original's option, "" none.
    Raises UserError for an unknown preset or an option that it does not have.
    """
    if preset not in PRESETS:
        raise UserError(
            f"optimizer is {preset!r}; allowed: {', '.join(PRESETS)}{did_you_mean(preset, list(PRESETS))}"
        )
    given = {"weight_decay": weight_decay, "betas": betas, "eps": eps, "no_decay": no_decay}
    settings = PRESETS[preset] | {key: value for key, value in given.items() if value is not None}
    pattern, decay = settings.pop("no_decay"), settings.pop("weight_decay")
    groups: dict[float, list[Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[decay if is_decayed(name, pattern) else 0.0].append(parameter)
    by_decay = [{"params": group, "weight_decay": decay} for decay, group in groups.items()]
    if preset == "modern":
        return torch.optim.AdamW(by_decay, lr=learning_rate, fused=True, **settings)
    return PaperAdamW(by_decay, lr=learning_rate, **settings)


def layer_rates(
    names: Iterable[str], config: FunnelformerConfig, rate: float, prefix: str = "funnelformer."
) -> dict[str, float]:
    """Factors of the learning rates of a body's parameters, rate^(top - layer): what layer-wise decay is meant to be.

    The embedding with its projection is layer 0, then come the encoder's and the decoder's layers; one that is applied
    several times is one. Parameters that are not named, those of heads, have the whole rate.
    prefix: of the body in `names`.
    """
    layers = _layers(names, config, prefix)
    top = max(layers.values(), default=0)
    return {name: rate ** (top - layer) for name, layer in layers.items()}


def _layers(names: Iterable[str], config: FunnelformerConfig, prefix: str) -> dict[str, int]:
    """The layer of each parameter of the body: 0 the embeddings', then the encoder's, then the decoder's."""
    starts = [sum(config.blocks[:block]) for block in range(config.num_blocks + 1)]
    layers: dict[str, int] = {}
    for name in names:
        if not name.startswith(prefix):
            continue
        own = name.removeprefix(prefix)
        match = _LAYER.match(own)
        if match:
            start = starts[-1] if match[1] is None else starts[int(match[1])]
            layers[name] = 1 + start + int(match[2])
        elif own.startswith("embeddings."):
            layers[name] = 0
    return layers
