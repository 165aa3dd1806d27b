"""What `lra TASK`, `lra generate` and `lra report` can be told."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..base.errors import UserError
from ..base.options import (
    FRACTION_FROM_0,
    SEED,
    ConfigKeys,
    OutFolder,
    Rate,
    above,
    at_least,
    check_ranges,
    grouped,
    model_options,
)
from ..training.run.config import RunConfig, WeightDecay
from .arena_tasks import find_task

__all__ = ["GenerateConfig", "LraConfig", "LraReportConfig"]


@grouped(
    most="model data generate",
    data="data_seed length",
    model="model_options",
    optimisation="steps evaluate_every",
)
@dataclass(kw_only=True)
class LraConfig(RunConfig):
    """What a run on the Long Range Arena can be told; what is not given comes from the task's recipe."""

    task: Annotated[str, Parameter(parse=False)] = ""
    "listops, text, retrieval, image, pathfinder or path-x; on the command line the first word, not an option."
    model: str
    "transformer, ponet, fnet, funnel, hybrid, or a layout such as B1-1H64."
    data: Path | None = None
    "Folder of the task's release (nothing is downloaded)."
    generate: Annotated[int | None, at_least(1)] = None
    "In place of --data: training examples to generate, with a tenth as many for validation and for test."
    data_seed: Annotated[int, SEED] = 0
    "Seed of the generated data."
    length: Annotated[int | None, at_least(1)] = None
    "Tokens in a sequence: longer text is cut, and generated data are made this long."
    steps: Annotated[int | None, at_least(1)] = None
    "Steps of training; by default the recipe's."
    batch_size: Annotated[int | None, at_least(1)] = None  # type: ignore[assignment] # never None once the recipe has filled it in
    "Sequences in a batch on each device, before accumulation; by default the recipe's."
    warmup: Annotated[float | None, FRACTION_FROM_0] = None  # type: ignore[assignment]
    "Fraction of the steps during which the learning rate rises; by default the recipe's."
    learning_rate: Annotated[Rate, above(0)] = 1e-4
    "Highest learning rate; by default the recipe's. auto chooses it by the model's width."
    weight_decay: WeightDecay = 0.0
    evaluate_every: Annotated[int | None, at_least(1)] = None
    "Steps between two checkpoints, scored on the validation part; by default a tenth of the steps."
    model_options: ConfigKeys = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.task:  # the command line's options before they meet their task; run_lra refuses it
            return
        task = find_task(self.task)
        self.length = task.length if self.length is None else self.length
        self.steps = task.num_steps if self.steps is None else self.steps
        self.batch_size = task.batch_size if self.batch_size is None else self.batch_size
        self.warmup = task.warmup if self.warmup is None else self.warmup
        super().__post_init__()
        if self.evaluate_every is None:
            self.evaluate_every = max(1, self.steps // 10)
        if (self.data is None) == (self.generate is None):
            raise UserError("give either --data, a folder, or --generate, a number of examples")
        self.data = None if self.data is None else Path(self.data)
        self.parsed_options()

    def parsed_options(self) -> dict[str, Any]:
        """The values of `--set`. Raises UserError for a key that the task decides."""
        return model_options(self.model_options, ("cls_token_id", "sep_token_id", "mask_token_id"))


@grouped(most="task out count length seed")
@dataclass
class GenerateConfig:
    """What `lra generate` can be told."""

    task: str
    "listops, pathfinder or path-x."
    _: KW_ONLY
    out: OutFolder
    count: Annotated[list[int], at_least(1), Parameter(consume_multiple=True)]
    "For listops: samples to train, validate and test on, or only those to train on. For images: their number."
    length: Annotated[int | None, at_least(1)] = None
    "For listops: tokens in the longest expressions. For images: pixels in an image."
    seed: Annotated[int, SEED] = 0
    "The same seed gives the same data."

    def __post_init__(self) -> None:
        self.out = Path(self.out)
        check_ranges(self)


@grouped(most="runs")
@dataclass
class LraReportConfig:
    """What `lra report` can be told."""

    runs: Annotated[list[Path], Parameter(consume_multiple=True)]
    "Folders of runs."

    def __post_init__(self) -> None:
        self.runs = [Path(run) for run in self.runs]
