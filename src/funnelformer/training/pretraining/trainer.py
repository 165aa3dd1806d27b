"""The Trainer of pretraining: what it logs, and what it does about a loss that is NaN or infinite."""

from __future__ import annotations

import contextlib
import math
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ...base.options import OnNan
from ...base.processes import first, rank
from ...cost.peak import device_peak
from ..run.log_file import LogFile
from ..run.nan_watch import NanWatch
from ..run.optimizer import build_optimizer
from ..run.sharded_trainer import ShardedTrainer
from ..run.throughput import Throughput
from .probe import Probe

__all__ = ["PretrainTrainer", "Unit"]

# What a value that the model gives of a batch is the mean over: hidden tokens, tokens that are no padding, sequences.
Unit = Literal["targets", "tokens", "rows"]
# Of the running mean of the loss: what a step keeps of it, and the steps before which there are no spikes.
_KEPT, _NUM_QUIET = 0.98, 20


class _Means:
    """Weighted means of numbers that stay on the device until they are read."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.sums: dict[str, Any] = defaultdict(float)
        self.weights: dict[str, Any] = defaultdict(float)

    def add(self, values: Mapping[str, Tensor], weights: Mapping[str, Tensor | float]) -> None:
        """weights: of every value."""
        for name, value in values.items():
            self.sums[name] += value.detach().double() * weights[name]
            self.weights[name] += weights[name]  # a number that the host knows stays there

    def take(self, others: _Means) -> None:
        """Add what another one holds, and empty that."""
        for name in others.sums:
            self.sums[name] += others.sums[name]
            self.weights[name] += others.weights[name]
        others.clear()

    def read(self, reduce: Any) -> dict[str, float]:
        """The means over all processes, and begin again."""
        names = sorted(self.sums)
        if not names:
            return {}
        sums = torch.stack([self.sums[name] for name in names])
        weights = torch.stack([torch.as_tensor(self.weights[name]).to(sums) for name in names])
        totals, weight_totals = reduce(torch.stack([sums, weights]), "sum").tolist()
        self.clear()
        # Rows without a single target have no mean over targets.
        means = [
            total / weight if weight else math.nan
            for total, weight in zip(totals, weight_totals, strict=True)
        ]
        return dict(zip(names, means, strict=True))


class _Watch(NanWatch):
    """Follow the loss of the updates that are made, and keep the batch of one that is not."""

    trainer: PretrainTrainer

    def take(self, loss: float) -> None:
        self.trainer.follow(loss)

    def leave_out(self) -> None:
        self.trainer.forget_step()

    def kept(self, step: int, loss: float, norm: float) -> str:
        return f"the batch is in {self.trainer.keep_batch(step, loss, norm)}; "


class PretrainTrainer(ShardedTrainer):
    """A Trainer that logs more, and that no NaN gets by.

    In the log, beside the loss: `logged`, fields of the model's output, as means; speed and memory (`throughput`);
    `running_loss`, the loss's running mean; with on_nan="skip", `skipped_updates`. Every checkpoint has an entry of the
    log, so that a resumed run logs what an uninterrupted one does. A loss above `spike_factor` times the running mean
    is a warning, and an entry `loss_spike`.

    Every held-out row counts once, on any number of processes: the loss and the logged fields are means over all their
    targets, tokens or rows. `masked_accuracy` is the share of the targets whose likeliest token is the
    right one, `perplexity` the exponential of their mean cross-entropy; with ELECTRA both are the generator's.

    logged: names, and what each is a mean over; those that end in "_loss" add up to the loss.
    target_logits: the field of the output with the logits of the hidden tokens.
    on_nan: what is done when the loss or the norm of the gradient is NaN or infinite. "stop" writes the batch to
        nan_batch_STEP.safetensors and raises UserError; "skip" makes no update and counts it. Both decide once for
        all processes, before the optimizer's step.
    optimizer_preset: of `build_optimizer`, for a Trainer that is given no optimizer.
    out: the folder of the run.
    probe: measured by process 0 every `probe_every` steps; the others wait.
    """

    def __init__(
        self,
        *args: Any,
        logged: Mapping[str, Unit] | None = None,
        target_logits: str = "logits",
        on_nan: OnNan = "stop",
        spike_factor: float = 1.5,
        optimizer_preset: str = "modern",
        out: Path | None = None,
        probe: Probe | None = None,
        probe_every: int = 1000,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        # It would put the mean of the losses before in the place of one that is NaN.
        self.args.logging_nan_inf_filter = False
        self._logged, self._target_logits = dict(logged or {}), target_logits
        self._probe, self._probe_every, self._last_probed = probe, probe_every, 0
        self._spike_factor, self._preset = spike_factor, optimizer_preset
        self._out = Path(out or self.args.output_dir or ".")
        self._in_training, self._in_step, self._in_evaluation = _Means(), _Means(), _Means()
        self._step_batches: list[dict[str, Tensor]] = []
        self._running_loss: float | None = None
        self._num_skipped_since_log = 0
        self._spike: tuple[float, float] | None = None
        self._throughput: Throughput | None = None
        self.add_callback(LogFile(self._out / "log.jsonl"))
        self._watch = _Watch.on(self, on_nan)

    @property
    def nan_facts(self) -> dict[str, int]:
        """What metrics.json says of updates that were not made, from the beginning of the run."""
        return self._watch.facts

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None:
            own: Any = self.model
            self.optimizer = build_optimizer(
                own if model is None else model,
                self._preset,
                self.args.learning_rate,
                weight_decay=self.args.weight_decay,
            )
        return self.optimizer

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        dtype = torch.bfloat16 if self.args.bf16 else torch.float32
        self._throughput = Throughput(
            self.accelerator.unwrap_model(self.model), self.args.device, device_peak(self.args.device, dtype)
        )
        return super()._inner_training_loop(*args, **kwargs)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._init_training_state(*args, **kwargs)
        last: dict[str, Any] = next(
            (entry for entry in reversed(self.state.log_history) if "running_loss" in entry), {}
        )
        self._running_loss = last.get("running_loss")
        self._last_logged = self._last_probed = self.state.global_step
        return result

    # ---- a step

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        self._note({name: outputs[name] for name in self._logged}, outputs, inputs, model.training)
        return (loss, outputs) if return_outputs else loss

    def _note(
        self, values: dict[str, Tensor], outputs: Any, inputs: dict[str, Any], in_training: bool
    ) -> None:
        """Keep the logged fields of a micro-batch. All steps weigh the same, as in the logged loss."""
        if in_training:
            weight = 1 / self.current_gradient_accumulation_steps
            self._in_step.add(values, dict.fromkeys(values, weight))
            return
        labels, mask = inputs["labels"], inputs.get("attention_mask")
        is_target = labels != -100
        logits = outputs[self._target_logits]
        if logits.shape[:-1] == labels.shape:  # not those of the targets alone
            logits = logits[is_target]
        labels = labels[is_target]
        counts: dict[Unit, Any] = {
            "targets": len(labels),
            "tokens": is_target.numel() if mask is None else mask.bool().sum(),
            "rows": len(is_target),
        }
        num_targets = max(1, len(labels))
        masked = {
            "masked_loss": F.cross_entropy(logits.float(), labels, reduction="sum") / num_targets,
            "masked_accuracy": (logits.argmax(-1) == labels).sum().double() / num_targets,
        }
        units = self._logged | dict.fromkeys(masked, "targets")
        weights = {name: counts[unit] * self._is_new for name, unit in units.items()}
        self._in_evaluation.add(values | masked, weights)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        if not self._step_batches:
            self._loss_before = self._tr_loss.clone()
        assert self._throughput is not None
        self._throughput.add(inputs)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_batches.append(inputs)
        return loss

    def follow(self, loss: float) -> None:
        """Put an update's loss into the running mean; a spike counts as the lowest loss that would be one."""
        self._step_batches = []
        self._in_training.take(self._in_step)
        mean = self._running_loss
        if mean is None:
            self._running_loss = loss
            return
        limit = self._spike_factor * mean
        if loss > limit and self.state.global_step >= _NUM_QUIET:
            self._spike = (loss, mean)
        self._running_loss = _KEPT * mean + (1 - _KEPT) * min(loss, limit)

    def forget_step(self) -> None:
        """Leave an update's batches out of everything that is logged."""
        self._step_batches = []
        self._in_step.clear()
        self._tr_loss.copy_(self._loss_before)
        self._num_skipped_since_log += 1

    def keep_batch(self, step: int, loss: float, norm: float) -> Path:
        """Write the batches of an update, of all processes, into the run's folder; return the file."""
        batch = {
            name: self.accelerator.gather(
                torch.cat([batch[name] for batch in self._step_batches]).contiguous()
            ).cpu()
            for name in self._step_batches[0]
        }
        path = self._out / f"nan_batch_{step}.safetensors"
        if self.args.should_save:
            partial = path.with_name(f"{path.name}.partial")
            save_file(batch, partial, metadata={"step": str(step), "loss": str(loss), "gradient": str(norm)})
            partial.replace(path)
        return path

    # ---- the log

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self._spike is not None:
            loss, mean = self._spike
            self._spike = None
            if rank() == 0:
                self.shown.clear()
                print(
                    f"warning: step {self.state.global_step}: the loss {loss:.4g} is more than "
                    f"{self._spike_factor:g} times its running mean {mean:.4g}",
                    file=sys.stderr,
                )
            self.log({"loss_spike": loss, "mean_before": mean})
        self._measure_probe()  # before a checkpoint, whose log has it then
        if self.control.should_save:
            self.control.should_log = True
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _measure_probe(self) -> None:
        step, probe = self.state.global_step, self._probe
        if probe is None or step % self._probe_every or step == self._last_probed:
            return
        self._last_probed = step
        assert self._throughput is not None
        with self._throughput.pause():
            state = self.whole_state()
            found = first(lambda: probe.measure(self.accelerator.unwrap_model(self.model), state))
        if found:
            self.log(found)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            num_skipped, self._num_skipped_since_log = self._num_skipped_since_log, 0
            means = self._in_training.read(self.accelerator.reduce)
            num_steps = self._globalstep_last_logged - self._last_logged
            self._last_logged = self._globalstep_last_logged
            if num_skipped == num_steps:
                del logs["loss"]
            else:
                logs["loss"] *= num_steps / (num_steps - num_skipped)
            logs |= means
            if self._running_loss is not None:
                logs["running_loss"] = self._running_loss
            logs |= self._watch.facts
            assert self._throughput is not None
            logs |= self._throughput.read(self.accelerator.reduce, self.accelerator.num_processes)
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        assert self._throughput is not None
        with self._throughput.pause():
            super()._save_checkpoint(model, trial)

    # ---- the held-out rows

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        with self._throughput.pause() if self._throughput else contextlib.nullcontext():
            output = super().evaluation_loop(dataloader, *args, **kwargs)
        means = self._in_evaluation.read(self.accelerator.reduce)
        masked_loss = means.pop("masked_loss")
        losses = [value for name, value in means.items() if name.endswith("_loss")]
        means |= {
            "loss": sum(losses) if losses else masked_loss,
            "perplexity": math.exp(min(masked_loss, 700.0)),
        }
        prefix = kwargs.get("metric_key_prefix", "eval")
        metrics = {f"{prefix}_{name}": value for name, value in means.items()}
        return output._replace(metrics={**(output.metrics or {}), **metrics})

    def prediction_step(self, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        inputs, _, num_new = self.next_held_out(inputs)
        self._is_new = num_new > 0
        return super().prediction_step(model, inputs, *args, **kwargs)
