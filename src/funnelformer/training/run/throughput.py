"""How fast a run is, against what its device can do.

tokens_per_second: tokens that are not padding, of all processes, over the time since the last entry of the log,
without that of evaluations and checkpoints.
mfu, model FLOPs utilisation (Chowdhery et al. 2022, arXiv:2204.02311): FLOPs of the model in that time, over the time,
the peak of a device and the number of devices. The FLOPs are those of `funnelformer.cost.flops`, 3 x forward, with
padding; what gradient checkpointing computes again is not counted. The peak is the vendor's (dense, bfloat16) for
bfloat16 on the devices of `PUBLISHED_PEAKS`, and else the fastest of a few square matrix products in the run's
arithmetic at the start.
peak_memory_bytes: the most that process 0 has held, of the accelerator's memory or, on a CPU, of the machine's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...config.model_config import FunnelformerConfig
from ...cost.flops import Head, forward_flops, training_flops
from ...cost.peak import Peak, peak_memory_bytes
from ...modeling.electra import FunnelformerForElectra
from .stopwatch import Stopwatch

__all__ = ["Throughput", "step_flops"]


def step_flops(model: Any, num_rows: int, length: int) -> tuple[int, int]:
    """FLOPs of a training step on a batch [num_rows, length]: those of any step, and those for each target."""
    if isinstance(model, FunnelformerForElectra):
        judged = _flops(model.discriminator.config, "token_detection", num_rows, length, None)
        fixed, by_target = _masked_lm(model.generator.config, num_rows, length)
        return judged + fixed, by_target
    return _masked_lm(model.config, num_rows, length)


def _masked_lm(config: FunnelformerConfig, num_rows: int, length: int) -> tuple[int, int]:
    if not config.sparse_prediction:
        return _flops(config, "masked_lm", num_rows, length, None), 0
    none, one = (_flops(config, "masked_lm", num_rows, length, count) for count in (0, 1))
    return none, one - none


def _flops(
    config: FunnelformerConfig, head: Head, num_rows: int, length: int, num_targets: int | None
) -> int:
    return training_flops(
        forward_flops(config, length, batch_size=num_rows, head=head, num_targets=num_targets)
    )


class Throughput:
    """Counts what is trained on between two entries of the log; the counts stay on the device until then."""

    def __init__(self, model: Any, device: torch.device, peak: Peak) -> None:
        self.model, self.device, self.peak = model, device, peak
        self._flops_of: dict[tuple[int, int], tuple[int, int]] = {}
        self._begin()

    def _begin(self) -> None:
        self._watch = Stopwatch(self.device)
        self._flops = self._flops_by_target = 0
        self._counts: Tensor | None = None

    def add(self, inputs: dict[str, Tensor]) -> None:
        """Count a micro-batch that is about to be computed."""
        if not self._watch.is_running:
            self._watch.start()
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        num_rows, length = ids.shape
        if (num_rows, length) not in self._flops_of:
            self._flops_of[num_rows, length] = step_flops(self.model, num_rows, length)
        fixed, self._flops_by_target = self._flops_of[num_rows, length]
        self._flops += fixed
        tokens = torch.as_tensor(ids.numel(), device=ids.device) if mask is None else mask.bool().sum()
        counts = torch.stack([tokens, inputs["labels"].ne(-100).sum()])
        self._counts = counts if self._counts is None else self._counts + counts

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave out the time inside the block, which is not training."""
        with self._watch.pause():
            yield

    def read(self, reduce: Callable[[Tensor, str], Tensor], num_devices: int) -> dict[str, float]:
        """The figures since the last call, and begin again; `reduce` adds up over the processes."""
        if self._counts is None:
            return {}
        num_tokens, num_targets = self._counts.tolist()
        elapsed_s = self._watch.seconds
        flops = self._flops + self._flops_by_target * num_targets
        local = torch.tensor([num_tokens, flops], dtype=torch.float64, device=self.device)
        total_tokens, total_flops = reduce(local, "sum").tolist()
        self._begin()
        self._watch.start()
        return {
            "tokens_per_second": total_tokens / elapsed_s,
            "mfu": total_flops / (elapsed_s * num_devices * self.peak.flops_per_second),
            "peak_memory_bytes": peak_memory_bytes(self.device),
        }
