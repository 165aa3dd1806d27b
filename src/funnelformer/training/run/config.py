"""What every training run can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ...base.errors import UserError
from ...base.options import (
    FRACTION_FROM_0,
    SEED,
    DeviceOption,
    OnNan,
    Rate,
    above,
    at_least,
    check_ranges,
    flag,
    grouped,
)

__all__ = ["NumSteps", "RunConfig", "Warmup", "WeightDecay"]

# Options that trainings have with defaults of their own, each with its range and its line of `--help`.
NumSteps = Annotated[int, at_least(1), Parameter(help="Optimizer steps.")]
Warmup = Annotated[
    float,
    FRACTION_FROM_0,
    Parameter(help="Fraction of the steps during which the learning rate rises."),
]
WeightDecay = Annotated[
    float,
    at_least(0),
    Parameter(
        help="Decoupled weight decay of all parameters except dense biases and LayerNorms; attention's r_w, r_r and "
        "r_s decay, as in the paper's code."
    ),
]


@grouped(
    most="out",
    optimisation="batch_size gradient_accumulation learning_rate weight_decay warmup schedule clip",
    run="precision on_nan seed device resume auto_resume",
    output="log_every keep_checkpoints overwrite",
)
@dataclass(kw_only=True)
class RunConfig:
    """What every training run can be told."""

    out: Path
    "Folder of the run: the model, its tokenizer, metrics, checkpoints, the resolved config."
    batch_size: Annotated[int, at_least(1)] = 32
    "Sequences in a batch on each device, before accumulation."
    gradient_accumulation: Annotated[int, at_least(1)] = 1
    "Batches in a step."
    learning_rate: Annotated[Rate, above(0)] = "auto"
    "Highest learning rate. auto chooses it by the model's width, and by whether the model is pretrained."
    weight_decay: WeightDecay = 0.01
    warmup: Warmup = 0.1
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    "How the learning rate falls to 0 after the warm-up."
    clip: Annotated[float, above(0)] = 1.0
    "Clip the gradient to this norm."
    precision: Literal["fp32", "bf16"] = "fp32"
    "Arithmetic: float32, or bfloat16 autocast."
    on_nan: OnNan = "stop"
    "When the loss or the gradient is NaN or infinite: stop, or skip the update and count it."
    log_every: Annotated[int, at_least(1)] = 20
    "Steps between two entries of the log."
    keep_checkpoints: Annotated[int, at_least(1)] = 2
    "Number of checkpoints to keep."
    seed: Annotated[int, SEED] = 42
    "Seed for everything random; the same seed on the same machine repeats the run."
    device: DeviceOption = "auto"
    resume: Annotated[bool, Parameter(negative="")] = False
    "Continue from the last complete checkpoint in --out."
    auto_resume: Annotated[bool, Parameter(negative="")] = False
    "Resume if --out holds a complete checkpoint, otherwise begin: for jobs that restart when they fail."
    overwrite: Annotated[bool, Parameter(negative="")] = False
    "Replace what is in --out."

    def __post_init__(self) -> None:
        self.out = Path(self.out)
        check_ranges(self)
        chosen = [flag(name) for name in ("resume", "auto_resume", "overwrite") if getattr(self, name)]
        if len(chosen) > 1:
            raise UserError(f"{chosen[0]} and {chosen[1]} exclude each other")
