"""What a training shows while it runs: a live line, and a row for every evaluation. log.jsonl has all the numbers."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback

from ...base.processes import rank
from ...base.progress import LiveLine, duration

__all__ = ["ShownProgress"]

# Of the Trainer's metrics what is no score.
_TIMES = ("runtime", "samples_per_second", "steps_per_second", "epoch", "train_seconds")
# Seconds between two lines where stderr is no terminal, as in the log of a job.
_JOB_LOG_S = 60.0
_LEAST_WIDTH = 8


class ShownProgress(TrainerCallback):
    """In place of the Trainer's own callback, which prints dictionaries.

    parts: names of the evaluated parts, where there are several. num_tokens: those that were trained on so far, padding
    included.
    """

    def __init__(self, num_tokens: Callable[[], int], parts: tuple[str, ...] = ()) -> None:
        self._num_tokens, self._parts = num_tokens, parts
        self._line = LiveLine(rank() == 0)
        self._in_training = False
        self._logged: dict[str, float] = {}
        self._columns: list[str] = []
        self._best: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._line = LiveLine(rank() == 0)
        self._in_training, self._first_step = True, state.global_step
        self._begin = self._said = time.monotonic()
        self._best = state.best_metric

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._line.update(lambda: self._text(state))
        if rank() == 0 and not self._line.is_live and time.monotonic() - self._said > _JOB_LOG_S:
            self._said = time.monotonic()
            print(self._text(state), file=sys.stderr, flush=True)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._in_training:
            self._line.update(lambda: f"{self._text(state)}  evaluating")

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        self._logged |= {name: logs[name] for name in ("loss", "learning_rate") if logs and name in logs}

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if not self._in_training or rank() or not metrics:
            return
        scores = {name.removeprefix("eval_"): value for name, value in metrics.items()}
        part = next((part for part in self._parts if f"{part}_loss" in scores), "")
        prefix = f"{part}_" if part else ""
        scores = {
            name.removeprefix(prefix): value
            for name, value in scores.items()
            if name.removeprefix(prefix) not in _TIMES and isinstance(value, float | int)
        }
        is_best = self._is_best(args, metrics)
        if list(scores) != self._columns:
            self._columns = list(scores)
            names = ["step", "epoch", *(["part"] if self._parts else []), "train loss", *scores]
            self._line.row("  ".join(f"{name:>{_width(name)}}" for name in names))
        cells = {
            "step": f"{state.global_step:,}",
            "epoch": f"{state.epoch or 0:.2f}",
            **({"part": part} if self._parts else {}),
            "train loss": _number(self._logged.get("loss", math.nan)),
            **{name: _number(value) for name, value in scores.items()},
        }
        row = "  ".join(f"{cell:>{_width(name)}}" for name, cell in cells.items())
        self._line.row(f"{row}{'  best so far' if is_best else ''}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._line.clear()
        self._in_training = False

    def clear(self) -> None:
        """Clear the live line, before something else is printed or when the training is interrupted."""
        self._line.clear()

    def _is_best(self, args: Any, metrics: Mapping[str, Any]) -> bool:
        """As the Trainer decides which checkpoint it keeps, which it does after this."""
        name = args.metric_for_best_model
        value = None if name is None else metrics.get(name if name.startswith("eval_") else f"eval_{name}")
        if value is None or math.isnan(value):
            return False
        is_better = self._best is None or (
            value > self._best if args.greater_is_better else value < self._best
        )
        if is_better:
            self._best = value
        return is_better

    def _text(self, state: Any) -> str:
        seconds = time.monotonic() - self._begin
        done = state.global_step - self._first_step
        parts = [f"step {state.global_step:,} of {state.max_steps:,}"]
        if "loss" in self._logged:
            parts.append(f"loss {_number(self._logged['loss'])}")
        if "learning_rate" in self._logged:
            parts.append(f"rate {self._logged['learning_rate']:.1e}")
        parts.append(f"{self._num_tokens() / max(seconds, 1e-9):,.0f} tokens/s")
        if done:
            parts.append(f"{duration(seconds / done * (state.max_steps - state.global_step))} left")
        return "  ".join(parts)


def _width(name: str) -> int:
    return max(_LEAST_WIDTH, len(name))


def _number(value: float) -> str:
    """Four digits after the point, or as many figures where it is large; nothing for what is not known."""
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"
