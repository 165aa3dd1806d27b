"""The Trainer of fine-tuning: rates by layer, weights of rows, scores right on any number of processes, and costs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from ...base.processes import gather_lists, rank
from ...cost.flops import forward_flops, training_flops
from ...inference.finite import refuse_not_finite
from ..run.optimizer import layer_rates
from ..run.trainer import RunTrainer
from .window_weights import WEIGHT, row_losses

__all__ = ["FinetuneTrainer"]

_NO_LABEL = -100
# The entry of the log that a resumed run goes on counting from.
_SECONDS = "train_seconds"


@dataclass(frozen=True)
class _Answered:
    """What the model said of some rows; logits and labels as arrays, or tuples of them. weight: of the loss."""

    begin: int
    logits: Any
    labels: Any
    loss: float
    weight: float


class FinetuneTrainer(RunTrainer):
    """A Trainer whose evaluations answer every row once and in order, on any number of processes.

    The loss of held-out rows is the mean over all of them, or over all tags where labels are of tokens. A process
    answers whole batches, in turn with the others; all processes then have the answers of all.

    layer_decay: the learning rate of layer l is that of the run times layer_decay^(top - l), see `layer_rates`.
    A column `WEIGHT` of the data is each row's weight in the loss, of windows of texts.

    The Trainer's `total_flos` of the log and `state` are those of `funnelformer.cost.flops`, see `floating_point_ops`.
    """

    def __init__(self, *args: Any, layer_decay: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._layer_decay = layer_decay
        self._answered: list[_Answered] = []
        self._watch = _Stopwatch()
        self._flops_of: dict[tuple[int, int], int] = {}
        self.add_callback(_Begin(self._watch))

    @property
    def train_seconds(self) -> float:
        """Wall-clock time of the steps, without evaluations and checkpoints; all parts of a resumed run."""
        return self._watch.seconds

    def create_optimizer(self, model: Any = None) -> Any:
        is_new = self.optimizer is None
        optimizer: Any = super().create_optimizer(model)
        if not is_new or self._layer_decay == 1:
            return optimizer
        own: Any = self.model if model is None else model
        names = {parameter: name for name, parameter in own.named_parameters()}
        rates = layer_rates(names.values(), self.accelerator.unwrap_model(own).config, self._layer_decay)
        groups: dict[tuple[int, float], dict[str, Any]] = {}
        for number, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                rate = rates.get(names[parameter], 1.0)
                entry = {**group, "params": [], "lr": group["lr"] * rate}
                groups.setdefault((number, rate), entry)["params"].append(parameter)
        optimizer.param_groups[:] = groups.values()
        return optimizer

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        if WEIGHT not in columns:
            # By `length` the sampler groups choices; their collator leaves it out.
            columns += [WEIGHT, "length"]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """As the Trainer's; of rows with weights the mean of their weighted losses."""
        weights = inputs.pop(WEIGHT, None)
        if weights is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        problem_type = self.accelerator.unwrap_model(model).config.problem_type
        loss = (weights * row_losses(outputs.logits, labels, problem_type)).mean()
        return (loss, outputs) if return_outputs else loss

    # ---- cost

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """FLOPs of training on a batch, padding included: 3 x forward. A head on tokens is small, and left out."""
        *rows, length = inputs["input_ids"].shape
        shape = int(np.prod(rows)), length
        if shape not in self._flops_of:
            model: Any = self.accelerator.unwrap_model(self.model)
            has_decoder = model.funnelformer.decoder is not None
            flops = forward_flops(
                model.config,
                length,
                batch_size=shape[0],
                head="none" if has_decoder else "classification",
                decoder=has_decoder,
            )
            self._flops_of[shape] = training_flops(flops)
        return self._flops_of[shape]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log({**logs, _SECONDS: self.train_seconds} if self.is_in_train else logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self._watch.pause():
            super()._save_checkpoint(model, trial)

    # ---- rows that no step is made with

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        self._answered = []
        with self._watch.pause():
            output = super().evaluation_loop(dataloader, *args, **kwargs)
            answered = sorted(gather_lists(self._answered), key=lambda entry: entry.begin)
            self._answered = []
            predictions, labels = _join([a.logits for a in answered]), _join([a.labels for a in answered])
            losses = [(entry.loss, entry.weight) for entry in answered if entry.weight]
            total = sum(weight for _, weight in losses)
            metrics = {"loss": sum(loss * weight for loss, weight in losses) / total if total else math.nan}
            if self.compute_metrics is not None:
                metrics |= self.compute_metrics(EvalPrediction(predictions, labels))
        prefix = kwargs.get("metric_key_prefix", "eval")
        return output._replace(
            predictions=predictions,
            label_ids=labels,
            metrics={
                **(output.metrics or {}),
                **{f"{prefix}_{key}": value for key, value in metrics.items()},
            },
        )

    def prediction_step(self, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """Keep the answers here: the Trainer would gather them with those of repeated rows, on the accelerator."""
        inputs, begin, num_new = self.next_held_out(inputs)
        # In 5.23 the third positional argument; logits are wanted also without a score.
        kwargs.pop("prediction_loss_only", None)
        loss, logits, labels = super().prediction_step(model, inputs, False, *args[1:], **kwargs)
        if num_new:
            assert loss is not None
            for tensor in logits if isinstance(logits, tuple) else (logits,):
                refuse_not_finite(cast(Tensor, tensor), may_be_lowest=True)
            if self.preprocess_logits_for_metrics is not None:
                logits = self.preprocess_logits_for_metrics(cast(Tensor, logits), cast(Tensor, labels))
            weight = float(num_new)
            if isinstance(labels, Tensor) and labels.dim() > 1 and not labels.is_floating_point():
                weight = float((labels != _NO_LABEL).sum())
            self._answered.append(
                _Answered(begin, _to_arrays(logits), _to_arrays(labels), float(loss), weight)
            )
        return loss, None, None


class _Stopwatch:
    """Seconds, but for those of pauses."""

    def __init__(self) -> None:
        self._before, self._since = 0.0, None  # type: float, float | None

    @property
    def seconds(self) -> float:
        return self._before + (0.0 if self._since is None else time.perf_counter() - self._since)

    def start(self, seconds: float) -> None:
        self._before, self._since = seconds, time.perf_counter()

    def stop(self) -> None:
        self._before, self._since = self.seconds, None

    @contextmanager
    def pause(self) -> Iterator[None]:
        runs = self._since is not None
        self.stop()
        yield
        if runs:
            self._since = time.perf_counter()


class _Begin(TrainerCallback):
    """A process has its own dropout; a resumed run goes on counting its seconds."""

    def __init__(self, watch: _Stopwatch) -> None:
        self.watch = watch

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if rank():
            torch.manual_seed(args.seed + rank())
        found = (entry[_SECONDS] for entry in reversed(state.log_history) if _SECONDS in entry)
        self.watch.start(next(found, 0.0))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.stop()


def _to_arrays(value: Any) -> Any:
    """Tensors as arrays on the CPU, in the same tuples."""
    if isinstance(value, list | tuple):
        return tuple(_to_arrays(part) for part in value)
    return value.float().cpu().numpy() if value.is_floating_point() else value.cpu().numpy()


def _join(parts: Sequence[Any]) -> Any:
    """Arrays of batches as one, shorter rows filled with -100 as the Trainer does it; tuples of them part by part."""
    if isinstance(parts[0], tuple):
        return tuple(_join(column) for column in zip(*parts, strict=True))
    if parts[0].ndim > 1:
        width = max(part.shape[1] for part in parts)
        others = [(0, 0)] * (parts[0].ndim - 2)
        parts = [
            np.pad(part, [(0, 0), (0, width - part.shape[1]), *others], constant_values=_NO_LABEL)
            for part in parts
        ]
    return np.concatenate(parts)
