"""The Trainer of fine-tuning: rates by layer, weights of rows, exact scores on any number of processes, and costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
from .taught import ROW, TAUGHT, Teaching
from .window_weights import WEIGHT, row_losses

__all__ = ["FinetuneTrainer"]

_NO_LABEL = -100


@dataclass(frozen=True)
class _Answered:
    """The model's outputs for some rows; logits and labels are arrays, or tuples of them. weight: of the loss."""

    begin: int
    logits: Any
    labels: Any
    loss: float
    weight: float


class FinetuneTrainer(RunTrainer):
    """A Trainer whose evaluations answer every row once and in order, on any number of processes.

    The loss of held-out rows is the mean over all rows, or over all tags if tokens have labels. The processes take
    whole batches in turn; afterwards all processes have all answers.

    layer_decay: the learning rate of layer l is the run's times layer_decay^(top - l), see `layer_rates`.
    teaching: the teacher's answers, which are learned beside the labels; the data's column `ROW` numbers the rows.
    measure: gives further scores of the model, at every evaluation.

    If the data have a column `WEIGHT`, it is each row's weight in the loss (windows of texts have it). `total_flos` in
    the log and in `state` is counted by `funnelformer.cost.flops`, see `floating_point_ops`.
    """

    def __init__(
        self,
        *args: Any,
        layer_decay: float = 1.0,
        teaching: Teaching | None = None,
        measure: Callable[[Any], dict[str, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._layer_decay, self._teaching, self._measure = layer_decay, teaching, measure
        self._taught: list[Tensor] = []
        self._answered: list[_Answered] = []
        self._flops_of: dict[tuple[int, int], int] = {}
        self.add_callback(_Begin())

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
            columns += [WEIGHT, ROW, "length"]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """As in transformers; rows with weights give their weighted mean, and a teacher adds its share of the loss."""
        weights, theirs = inputs.pop(WEIGHT, None), inputs.pop(TAUGHT, None)
        given = dict(inputs)
        loss, outputs = self._loss_of_labels(model, inputs, weights, num_items_in_batch)
        if theirs is not None:
            assert self._teaching is not None
            losses = self._teaching.losses(outputs, theirs, given, weights)
            taught = losses.mean()
            self._taught.append(taught.detach())
            if num_items_in_batch is not None and (self.model_accepts_loss_kwargs or self.compute_loss_func):
                # Like the labels' loss, which is a share of the mean over all micro-batches of all processes.
                taught = losses.sum() / num_items_in_batch * self.accelerator.num_processes
            loss = (1 - self._teaching.weight) * loss + self._teaching.weight * taught
        return (loss, outputs) if return_outputs else loss

    def _loss_of_labels(
        self, model: Any, inputs: dict[str, Any], weights: Tensor | None, num_items_in_batch: Any
    ) -> tuple[Tensor, Any]:
        if weights is None:
            return cast(tuple[Tensor, Any], super().compute_loss(model, inputs, True, num_items_in_batch))
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        problem_type = self.accelerator.unwrap_model(model).config.problem_type
        return (weights * row_losses(outputs.logits, labels, problem_type)).mean(), outputs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._taught:
            taught, self._taught = torch.stack(self._taught).mean(), []
            logs["teacher_loss"] = float(self.accelerator.reduce(taught, "mean"))
        super().log(logs, start_time)

    # ---- cost

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """FLOPs of training on a batch, padding included: 3 × forward. Heads on tokens are small and not counted."""
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

    # ---- evaluation

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        self._answered = []
        with self.watch.pause():
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
        if prefix == "eval" and self._measure is not None:
            with self.watch.pause():
                metrics |= self._measure(self.accelerator.unwrap_model(self.model))
        return output._replace(
            predictions=predictions,
            label_ids=labels,
            metrics={
                **(output.metrics or {}),
                **{f"{prefix}_{key}": value for key, value in metrics.items()},
            },
        )

    def prediction_step(self, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """Keep the answers here: the Trainer would gather them on the accelerator, together with repeated rows."""
        inputs, begin, num_new = self.next_held_out(inputs)
        # The third positional argument in transformers 5.23; the logits are needed even if nothing is scored.
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


class _Begin(TrainerCallback):
    """Give every process its own dropout when training begins."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if rank():
            torch.manual_seed(args.seed + rank())


def _to_arrays(value: Any) -> Any:
    """Convert tensors to arrays on the CPU; tuples keep their form."""
    if isinstance(value, list | tuple):
        return tuple(_to_arrays(part) for part in value)
    return value.float().cpu().numpy() if value.is_floating_point() else value.cpu().numpy()


def _join(parts: Sequence[Any]) -> Any:
    """Join the arrays of batches; shorter rows are padded with -100, as the Trainer does. Tuples are joined by item."""
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
