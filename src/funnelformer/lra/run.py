"""One run on a task of the Long Range Arena: train by the published recipe, score on the test part."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from torch import Tensor
from transformers import EvalPrediction, TrainerCallback

from ..base.processes import first, say, start_processes
from ..base.strict_json import write_json
from ..cost.peak import reset_peak_memory
from ..tasks.scores import classification_metrics
from ..training.run.facts import run_cost, write_metrics
from ..training.run.folder import check_run, finished_before, open_run
from ..training.run.input_files import files_of, input_files
from ..training.run.learning_rate import choose_rate
from ..training.run.nan_watch import NanWatch
from ..training.run.stopwatch import now
from ..training.run.trainer import RunTrainer, keep_best, run_trainer, training_arguments
from .arena_tasks import Task, find_task
from .classifiers import build_config, build_model
from .config import LraConfig
from .listops import TOKENS
from .readers import generate_data, read_data
from .sequences import LraData, collate

__all__ = ["run_lra"]


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
        write_json(folder / "lra_task.json", {**asdict(self.task), "ids": meaning})


class Clock(TrainerCallback):
    """Time of training steps alone: neither the first ones, nor evaluations, nor checkpoints.

    Loading a batch counts, for it is part of a step's time where it holds the step up.
    """

    num_skipped = 3  # allocation and, on GPU, the choice of kernels

    def __init__(self) -> None:
        self.seconds, self.num_steps, self._start, self._seen = 0.0, 0, 0.0, 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._start:
            self._start = now(args.device)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._seen += 1
        short = state.max_steps <= 2 * self.num_skipped
        stops = control.should_evaluate or control.should_save or state.global_step >= state.max_steps
        if self._seen <= self.num_skipped and not short:
            if stops or self._seen == self.num_skipped:
                self._start = 0.0 if stops else now(args.device)
            return
        self.num_steps += 1
        if stops:
            self.seconds += now(args.device) - self._start
            self._start = 0.0

    @property
    def steps_per_s(self) -> float | None:
        """None when no step was timed, as in a run that was cut off after its last one and goes on."""
        return self.num_steps / self.seconds if self.seconds else None


@input_files.register
def _(config: LraConfig) -> list[Path]:
    return files_of(config.data)


def run_lra(config: LraConfig) -> dict[str, Any]:
    """Train a model on a task, score it on the test part, return the metrics (also in metrics.json).

    The checkpoint best on the validation part is scored; the last one where that part is the test part (Text).
    Under torchrun every process calls it and returns the same; the first one writes and prints.
    Raises UserError for input that cannot be used, before training starts.
    """
    task = find_task(config.task)
    start_processes(cpu=config.device == "cpu")
    before = finished_before(config)
    if before is not None:
        return before
    transformers.set_seed(config.seed)
    first(lambda: check_run(config))
    assert config.length is not None
    assert config.batch_size is not None
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
    trainer = _trainer(config, task, model, data, rate, clock)
    watch = NanWatch.on(trainer, config.on_nan)
    reset_peak_memory(trainer.args.device)
    run_trainer(trainer, TaskVocabulary(task), config.out, checkpoint)
    cost = run_cost(trainer)
    steps_per_s = clock.steps_per_s
    num_a_step = config.batch_size * config.gradient_accumulation * trainer.args.world_size
    test = trainer.evaluate(data.test, metric_key_prefix="test")
    metrics: dict[str, Any] = {
        "task": task.name,
        "model": config.model,
        "layout": model_config.name,
        **watch.facts,
        "accuracy": test["test_accuracy"],
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step if task.selects else None,
        "best_validation_accuracy": trainer.state.best_metric if task.selects else None,
        "steps_per_s": steps_per_s,
        "examples_per_s": None if steps_per_s is None else steps_per_s * num_a_step,
        "peak_memory_bytes": None if steps_per_s is None else cost["peak_memory_bytes"],
        "peak_memory_of": cost["peak_memory_of"],
        "cost": cost,
        "num_parameters": model.num_parameters(),
        "settings": _settings(config, data, rate, num_a_step),
        "seed": config.seed,
        "mean_length": statistics.fmean(data.test.sequences[0].lengths.tolist()),
    }

    def finish() -> dict[str, Any]:
        return write_metrics(config.out, metrics)

    return first(finish)


def _trainer(
    config: LraConfig, task: Task, model: Any, data: LraData, rate: float, clock: Clock
) -> RunTrainer:
    """The Trainer of a run, which keeps the checkpoint that the task selects by."""
    assert config.steps is not None
    assert config.evaluate_every is not None
    # Transformers saves where it evaluates; without a validation part of its own a run keeps its last state.
    selection: dict[str, Any] = {"save_strategy": "steps", "save_steps": config.evaluate_every}
    if task.selects:
        selection |= {
            "eval_strategy": "steps",
            "eval_steps": config.evaluate_every,
            **keep_best("accuracy"),
        }
    return RunTrainer(
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


def _settings(config: LraConfig, data: LraData, rate: float, num_a_step: int) -> dict[str, Any]:
    """What decides a run's accuracy, as the table of runs compares it with the recipe."""
    return {
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
    }


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
