"""What is ours around the Hugging Face Trainer: its arguments, its checkpoints, how a run starts and ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from ...base.errors import UserError
from ...base.kept_memory import freed_memory_kept
from ...base.processes import LONGEST_WAIT_S, first, rank
from .config import RunConfig
from .folder import (
    complete_checkpoints,
    mark_complete,
    one_line_errors,
    remove_checkpoint,
    save_final,
    write_log,
)
from .hooks import check_hooks
from .optimizer import is_decayed
from .shown import ShownProgress
from .stopwatch import Stopwatch

__all__ = ["RunTrainer", "keep_best", "run_trainer", "training_arguments"]


# The entry of the log that a resumed run goes on counting from.
_SECONDS = "train_seconds"


def training_arguments(
    config: RunConfig, num_steps: int, *, learning_rate: float, **overrides: Any
) -> TrainingArguments:
    """Arguments of a run of `num_steps` optimizer steps; `overrides` are TrainingArguments' own names."""
    settings: dict[str, Any] = {
        "output_dir": str(config.out / "checkpoints"),
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "learning_rate": learning_rate,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.clip,
        "max_steps": num_steps,
        "lr_scheduler_type": config.schedule if config.schedule != "constant" else "constant_with_warmup",
        "warmup_steps": math.ceil(config.warmup * num_steps),
        "bf16": config.precision == "bf16",
        "logging_steps": config.log_every,
        "save_total_limit": config.keep_checkpoints,
        "seed": config.seed,
        # Without an accelerator transformers refuses bfloat16, which torch computes on a CPU as well, unless told so.
        "use_cpu": config.device == "cpu" or not torch.accelerator.is_available(),
        "ddp_timeout": LONGEST_WAIT_S,
        "report_to": "none",
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**{**settings, **overrides})


def keep_best(score: str) -> dict[str, Any]:
    """Arguments of a run that keeps the checkpoint with the highest score."""
    return {"load_best_model_at_end": True, "metric_for_best_model": score, "greater_is_better": True}


def _seconds_in(log: Sequence[dict[str, float]]) -> float:
    """Seconds of the steps up to a checkpoint, from its log; 0 if the log has none."""
    return next((entry[_SECONDS] for entry in reversed(log) if _SECONDS in entry), 0.0)


class _Watched(TrainerCallback):
    """Start and stop the watch with the training; a resumed run goes on counting."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.start(_seconds_in(state.log_history))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.stop()


class RunTrainer(Trainer):
    """The Trainer, whose checkpoints are whole or none, and that trains no step after the last one.

    The Trainer's own state is no sign of a whole checkpoint: process 0 writes it without waiting for what others write.
    Old checkpoints are deleted after the new one is known to be whole, not before. Resumed from its last step, the
    Trainer would make another one, and go on where early stopping had ended the run.
    """

    _losses: Tensor | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Raises UserError for a version of transformers that lacks a private method which is overridden here."""
        check_hooks()
        super().__init__(*args, **kwargs)
        self._num_tokens = 0
        self.watch = Stopwatch(self.args.device)
        self.add_callback(_Watched(self.watch))
        self.pop_callback(PrinterCallback)
        self.pop_callback(ProgressCallback)
        parts = tuple(self.eval_dataset) if isinstance(self.eval_dataset, dict) else ()
        self.shown = ShownProgress(lambda: self._num_tokens, parts)
        self.add_callback(self.shown)

    @property
    def train_seconds(self) -> float:
        """Wall-clock time of the steps, without evaluations and checkpoints; all parts of a resumed run."""
        return self.watch.seconds

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with freed_memory_kept() if self.args.device.type == "cpu" else nullcontext():
            return super().train(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # The gradient of an update that was left out has no norm.
        logs = {name: value for name, value in logs.items() if name != "grad_norm" or math.isfinite(value)}
        super().log({**logs, _SECONDS: self.train_seconds} if self.is_in_train else logs, start_time)

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """As everywhere here, see `is_decayed`; the Trainer's own rule leaves out r_w, r_r and r_s."""
        return [name for name, _ in model.named_parameters() if is_decayed(name)]

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        # From the shapes: to count without the padding, a device would have to be waited for.
        tokens = inputs["input_ids"].numel() if "input_ids" in inputs else 0
        self._num_tokens += tokens * self.accelerator.num_processes
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._losses = loss.detach() if self._losses is None else self._losses + loss.detach()
        return loss

    def take_loss(self) -> Tensor:
        """The sum of the losses of the micro-batches since it was last asked for."""
        loss, self._losses = self._losses, None
        assert loss is not None
        return loss.float()

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        checkpoint = kwargs.get("resume_from_checkpoint")
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
            # Early stopping saves its decision with the checkpoint that it follows.
            control = state.stateful_callbacks.get("TrainerControl", {}).get("args", {})
            is_ended_early = control.get("should_training_stop") and state.global_step < state.max_steps
            if state.global_step >= self.args.max_steps or is_ended_early:
                self.state = state
                self.watch.stand_at(_seconds_in(state.log_history))
                if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
                    self._load_best_model()
                return TrainOutput(state.global_step, 0.0, {})
        return super()._inner_training_loop(*args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.args.device.type != "cpu":
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        # On several processes transformers 5.17 would load to "cpu:0", which torch does not know.
        for part, name in ((self.optimizer, "optimizer.pt"), (self.lr_scheduler, "scheduler.pt")):
            assert part is not None
            part.load_state_dict(torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True))

    # ---- rows that no step is made with

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int]:
        """Keep held-out rows in their order; the Trainer would sort them by length if it sorts the training rows."""
        return SequentialSampler(eval_dataset)

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        self._num_held_out, self._num_batches = len(dataloader.dataset), 0
        with self.watch.pause():
            return super().evaluation_loop(dataloader, *args, **kwargs)

    def next_held_out(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], int, int]:
        """For the next batch of this process: its rows that no other process has, the first one's number, their count.

        The loader repeats rows to give every process as many batches. One row is kept where all are repeated, and
        counts nothing, for the sake of what the processes do together. To be called once in every `prediction_step`.
        """
        num_processes, number = self.accelerator.num_processes, self.accelerator.process_index
        begin = (self._num_batches * num_processes + number) * self.args.eval_batch_size
        self._num_batches += 1
        num_rows = len(next(iter(inputs.values())))
        num_new = min(max(self._num_held_out - begin, 0), num_rows)
        return {name: value[: max(1, num_new)] for name, value in inputs.items()}, begin, num_new

    def whole_state(self) -> dict[str, Any] | None:
        """The weights to save where those of this process's model are not whole; every process calls it."""
        return None

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None and not (Path(checkpoint) / self._rng_file).is_file():
            # Written by fewer processes, or by one and not several: other numbers than from the beginning.
            torch.manual_seed(self.args.seed + rank() + (self.state.global_step << 32))
        super()._load_rng_state(checkpoint)

    @property
    def _rng_file(self) -> str:
        number = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        return f"rng_state{number}.pth"

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.watch.pause():
            self._save_whole_checkpoint(model, trial)

    def _save_whole_checkpoint(self, model: Any, trial: Any) -> None:
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial))
            newest = folder / f"checkpoint-{self.state.global_step}"
            mark_complete(newest)
            found = complete_checkpoints(folder)
            best = self.state.best_model_checkpoint
            kept = {newest, newest if best is None else Path(best)}
            surplus = len(found) - max(len(kept), limit or len(found))
            for checkpoint in [entry for entry in found if entry not in kept][: max(0, surplus)]:
                remove_checkpoint(checkpoint)
        self.accelerator.wait_for_everyone()


def run_trainer(trainer: RunTrainer, tokenizer: Any, out: Path, checkpoint: Path | None) -> None:
    """Train (or go on from `checkpoint`), then save the model and the log into `out`.

    Raises UserError for a model whose weights are NaN or infinite, which is not saved.
    """

    model: Any = trainer.model

    def finish(state: dict[str, Any] | None) -> None:
        for name, tensor in (state or dict(model.named_parameters())).items():
            if not bool(tensor.isfinite().all()):
                raise UserError(
                    f"the training has diverged: {name} is NaN or infinite, so the model is not saved; try a lower "
                    "--learning-rate"
                )
        save_final(model, tokenizer, out, state)
        write_log(out, trainer.state.log_history)

    with one_line_errors(out):
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        finally:
            trainer.shown.clear()
        state = trainer.whole_state()
        first(lambda: finish(state))
