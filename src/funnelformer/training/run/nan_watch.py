"""No update is made with a loss or a gradient that is NaN or infinite."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from ...base.errors import UserError
from ...base.options import OnNan

if TYPE_CHECKING:
    from .trainer import RunTrainer

__all__ = ["SKIPPED", "NanWatch"]

# The entry of the log that a resumed run goes on counting from.
SKIPPED = "skipped_updates"


class NanWatch(TrainerCallback):
    """Stop the run before an update with a loss or a gradient that is NaN or infinite, or leave that update out.

    It looks between the last micro-batch and the optimizer's step, when the gradients are those of all processes: one
    wait for the device a step. All processes decide alike.

    on_nan: "stop" raises UserError; "skip" makes no update and counts it.
    """

    def __init__(self, trainer: RunTrainer, on_nan: OnNan) -> None:
        self.trainer, self.on_nan, self.num_skipped = trainer, on_nan, 0

    @classmethod
    def on(cls, trainer: RunTrainer, on_nan: OnNan) -> Self:
        """A watch that the trainer calls."""
        watch = cls(trainer, on_nan)
        trainer.add_callback(watch)
        return watch

    @property
    def facts(self) -> dict[str, int]:
        """What metrics.json says of it."""
        return {SKIPPED: self.num_skipped} if self.on_nan == "skip" else {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.num_skipped = next((e[SKIPPED] for e in reversed(state.log_history) if SKIPPED in e), 0)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loss = self.trainer.take_loss()
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        )
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        loss_value, norm_value = torch.stack(
            [self.trainer.accelerator.reduce(loss, "mean"), norm.float().to(loss.device)]
        ).tolist()
        if math.isfinite(loss_value) and math.isfinite(norm_value):
            self.take(loss_value)
            return
        if self.on_nan == "stop":
            raise UserError(
                f"step {state.global_step + 1}: the loss is {loss_value:g} and the norm of the gradient "
                f"{norm_value:g}; {self.kept(state.global_step + 1, loss_value, norm_value)}--on-nan skip leaves such "
                "updates out"
            )
        kwargs["model"].zero_grad()  # None: the optimizer leaves such parameters and their state alone
        self.num_skipped += 1
        self.leave_out()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Entries of steps alone: not of evaluations, nor the summary at the end.
        if self.num_skipped and "learning_rate" in state.log_history[-1]:
            state.log_history[-1][SKIPPED] = self.num_skipped

    def take(self, loss: float) -> None:
        """An update is about to be made; `loss` is the mean over the processes."""

    def leave_out(self) -> None:
        """An update was left out."""

    def kept(self, step: int, loss: float, norm: float) -> str:
        """Keep what helps to find the reason before the run stops; return the message's part on what to do."""
        return "nothing more is saved; try a lower --learning-rate, or "
