"""One run on a task of the Long Range Arena: train by the published recipe, score on the test part."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import transformers
from cyclopts import Parameter
from torch import Tensor
from transformers import EvalPrediction, TrainerCallback

from ..data.files import atomic_writer
from ..errors import UserError
from ..metrics import classification_metrics
from ..strict_json import dump_json
from ..training.input_files import files_of
from ..training.learning_rate import choose_rate
from ..training.processes import first, say, start_processes
from ..training.run import METRICS_FILE, RunConfig, check_run, finished_metrics, flag, model_options, open_run
from ..training.throughput import peak_memory_bytes, reset_peak_memory
from ..training.trainer import NanWatch, RunTrainer, run_trainer, training_arguments
from ..version import stamped
from .examples import LraData, collate
from .listops import TOKENS
from .models import build_config, build_model
from .readers import generate_data, read_data
from .tasks import Task, find_task

__all__ = ["LraConfig", "run_lra"]


@Parameter(name="*")
@dataclass(kw_only=True)
class LraConfig(RunConfig):
    """What a run on the Long Range Arena can be told; what is not given comes from the task's recipe."""

    task: Annotated[str, Parameter(parse=False)] = ""
    "listops, text, retrieval, image, pathfinder or path-x; on the command line the first word, not an option."
    model: str
    "transformer, ponet, fnet, funnel, hybrid, or a layout such as B1-1H64."
    data: Path | None = None
    "Folder of the task's release (nothing is downloaded)."
    generate: int | None = None
    "Instead: examples to generate and train on, and a tenth as many each to validate and test on."
    data_seed: int = 0
    "Seed of the generated data."
    length: int | None = None
    "Tokens of a sequence: text is cut there, generated data are made so long."
    steps: int | None = None
    "Steps of training."
    batch_size: int | None = None  # type: ignore[assignment] # never None once the recipe has filled it in
    "Sequences a step on each device, before accumulation."
    warmup: float | None = None  # type: ignore[assignment]
    "Fraction of the steps during which the learning rate rises."
    learning_rate: float | Literal["auto"] = 1e-4
    "Highest learning rate: the recipe's; auto: by the model's width."
    weight_decay: float = 0.0
    "Decoupled weight decay; biases and LayerNorms have none."
    evaluate_every: int | None = None
    "Steps between two checkpoints, scored on the validation part; by default a tenth of the steps."
    model_options: Annotated[dict[str, str], Parameter(name="--set", negative="")] = field(
        default_factory=dict
    )
    "Config keys of the model, as --set.hidden_dropout=0.2."

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
        for name in ("length", "steps", "evaluate_every", "generate"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{flag(name)} is {value}; allowed: 1 and more")
        if (self.data is None) == (self.generate is None):
            raise UserError("give either --data, a folder, or --generate, a number of examples")
        self.data = None if self.data is None else Path(self.data)
        if not 0 <= self.data_seed < 2**32:
            raise UserError(f"--data-seed is {self.data_seed}; allowed: 0 to {2**32 - 1}")
        self.parsed_options()

    def parsed_options(self) -> dict[str, Any]:
        """What `--set` says. Raises UserError for a key that the task decides."""
        return model_options(self.model_options, ("cls_token_id", "sep_token_id", "mask_token_id"))

    def input_files(self) -> list[Path]:
        return files_of(self.data)


@dataclass(frozen=True)
class TaskVocabulary:
    """What the ids of a task's model mean; saved beside the weights in the place of a tokenizer."""

    task: Task

    def save_pretrained(self, folder: Path) -> None:
        if self.task.name == "listops":
            meaning: Any = list(TOKENS)
        elif self.task.image_size:
            meaning = "grey value 0 to 255, row by row"
        else:
            meaning = "0: padding, else byte + 1"
        with atomic_writer(folder / "lra_task.json") as file:
            dump_json({**asdict(self.task), "ids": meaning}, file)


class Clock(TrainerCallback):
    """Time of training steps alone: neither the first ones, nor evaluations, nor checkpoints.

    Loading a batch counts, for it is part of a step's time where it holds the step up.
    """

    num_skipped = 3  # allocation and, on GPU, the choice of kernels

    def __init__(self) -> None:
        self.seconds, self.num_steps, self._start, self._seen = 0.0, 0, 0.0, 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._start:
            self._start = self._now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._seen += 1
        short = state.max_steps <= 2 * self.num_skipped
        stops = control.should_evaluate or control.should_save or state.global_step >= state.max_steps
        if self._seen <= self.num_skipped and not short:
            if stops or self._seen == self.num_skipped:
                self._start = 0.0 if stops else self._now()
            return
        self.num_steps += 1
        if stops:
            self.seconds += self._now() - self._start
            self._start = 0.0

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    @property
    def steps_per_s(self) -> float | None:
        """None when no step was timed, as in a run that was cut off after its last one and goes on."""
        return self.num_steps / self.seconds if self.seconds else None


def run_lra(config: LraConfig) -> dict[str, Any]:
    """Train a model on a task, score it on the test part, return the metrics (also in metrics.json).

    The checkpoint best on the validation part is scored; the last one where that part is the test part (Text).
    Under torchrun every process calls it and returns the same; the first one writes and prints.
    Raises UserError for input that cannot be used, before training starts.
    """
    task = find_task(config.task)
    start_processes(cpu=config.device == "cpu")
    before = first(lambda: finished_metrics(config))
    if before is not None:
        say(f"{config.out} is finished")
        return before
    transformers.set_seed(config.seed)
    first(lambda: check_run(config))
    assert config.length is not None
    assert config.steps is not None
    assert config.batch_size is not None
    assert config.evaluate_every is not None
    model_config = build_config(task, config.model, config.length, config.parsed_options())
    data = _load(config, task)
    model = build_model(task, model_config)
    checkpoint = first(lambda: open_run(config, "lra"))
    say(f"model: {model_config.name}, {model.num_parameters():,} parameters")
    say(
        f"data: {len(data.train):,} to train on, {len(data.validation):,} to validate, {len(data.test):,} to test"
    )
    for note in data.notes:
        say(note)
    rate = choose_rate(config.learning_rate, model_config.hidden_size, from_nothing=True)
    clock = Clock()
    # Transformers saves where it evaluates; without a validation part of its own a run keeps its last state.
    selection: dict[str, Any] = {"save_strategy": "steps", "save_steps": config.evaluate_every}
    if task.selects:
        selection |= {
            "eval_strategy": "steps",
            "eval_steps": config.evaluate_every,
            "load_best_model_at_end": True,
            "metric_for_best_model": "accuracy",
            "greater_is_better": True,
        }
    trainer = RunTrainer(
        model=model,
        args=training_arguments(
            config, config.steps, learning_rate=rate, remove_unused_columns=False, **selection
        ),
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=collate,
        compute_metrics=_score,
        preprocess_logits_for_metrics=_predicted,
        callbacks=[clock],
    )
    watch = NanWatch(trainer, config.on_nan)
    trainer.add_callback(watch)
    reset_peak_memory(trainer.args.device)
    run_trainer(trainer, TaskVocabulary(task), config.out, checkpoint)
    peak_bytes = peak_memory_bytes(trainer.args.device)
    steps_per_s = clock.steps_per_s
    num_a_step = config.batch_size * config.gradient_accumulation * trainer.args.world_size
    test = trainer.evaluate(data.test, metric_key_prefix="test")
    metrics: dict[str, Any] = {
        "task": task.name,
        "model": config.model,
        "layout": model_config.name,
        **({"skipped_updates": watch.num_skipped} if config.on_nan == "skip" else {}),
        "accuracy": test["test_accuracy"],
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step if task.selects else None,
        "best_validation_accuracy": trainer.state.best_metric if task.selects else None,
        "steps_per_s": steps_per_s,
        "examples_per_s": None if steps_per_s is None else steps_per_s * num_a_step,
        "peak_memory_mb": None if steps_per_s is None else peak_bytes / 2**20,
        "peak_memory_of": "gpu" if trainer.args.device.type == "cuda" else "process",
        "num_parameters": model.num_parameters(),
        "settings": {
            "length": config.length,
            "steps": config.steps,
            "examples_a_step": num_a_step,
            "num_train": len(data.train),
            "num_test": len(data.test),
            "generated": config.generate is not None,
            "data_seed": None if config.generate is None else config.data_seed,
            "learning_rate": rate,
            "warmup": config.warmup,
            "schedule": config.schedule,
            "weight_decay": config.weight_decay,
            "precision": config.precision,
            "set": dict(config.model_options),
        },
        "seed": config.seed,
        "mean_length": statistics.fmean(data.test.sequences[0].lengths.tolist()),
    }

    def finish() -> dict[str, Any]:
        with atomic_writer(config.out / METRICS_FILE) as file:
            dump_json(stamped(metrics), file)
        return metrics

    return first(finish)


def _load(config: LraConfig, task: Task) -> LraData:
    assert config.length is not None
    if config.generate is not None:
        return generate_data(task, config.generate, config.length, config.data_seed)
    assert config.data is not None
    return read_data(task, config.data, config.length)


def _predicted(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.argmax(-1)


def _score(prediction: EvalPrediction) -> dict[str, float]:
    predicted, gold = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    return {"accuracy": classification_metrics(predicted.tolist(), gold.tolist())["accuracy"]}
