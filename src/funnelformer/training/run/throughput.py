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

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...base.machine import wait_for
from ...config import FunnelformerConfig
from ...cost.flops import Head, forward_flops, training_flops
from ...modeling.electra import FunnelformerForElectra

__all__ = [
    "PUBLISHED_PEAKS",
    "Peak",
    "Throughput",
    "device_peak",
    "peak_memory_bytes",
    "reset_peak_memory",
    "step_flops",
]

# FLOP/s with bfloat16 inputs, dense, by the vendor's data sheets; the names are those that CUDA gives.
PUBLISHED_PEAKS = {
    "NVIDIA H200": 989.4e12,
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA H100 PCIe": 756.5e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362.05e12,
}
# Rows and columns of the product that is measured: large enough to fill the device.
_MEASURED_SIZE = {"cpu": 768, "cuda": 8192}
_NUM_MEASURED = 8


@dataclass(frozen=True)
class Peak:
    """FLOP/s that a device can do, and where the figure is from: "published" or "measured"."""

    flops_per_second: float
    source: str


def device_peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """The published peak of the device, or the fastest of a few matrix products on it."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        published = PUBLISHED_PEAKS.get(torch.cuda.get_device_name(device))
        if published is not None:
            return Peak(published, "published")
    size = _MEASURED_SIZE.get(device.type, 4096)
    # Not random: the state of the generators belongs to the training.
    left = torch.full((size, size), 0.5, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(_NUM_MEASURED + 1):
        wait_for(device)
        begin = time.perf_counter()
        left @ left
        wait_for(device)
        best = min(best, time.perf_counter() - begin)
    return Peak(2 * size**3 / best, "measured")


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory this process has held, of the accelerator or of the machine."""
    if device.type != "cpu":
        return torch.accelerator.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        # On Linux getrusage would begin with the peak of the process that started this one.
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak so far, where the system lets one: on Linux, and on accelerators."""
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


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
        self._start: float | None = None
        self._paused_s = 0.0
        self._flops = self._flops_by_target = 0
        self._counts: Tensor | None = None

    def add(self, inputs: dict[str, Tensor]) -> None:
        """Count a micro-batch that is about to be computed."""
        if self._start is None:
            self._start = time.perf_counter()
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
        """Time that is not training."""
        begin = time.perf_counter()
        yield
        self._paused_s += time.perf_counter() - begin

    def read(self, reduce: Callable[[Tensor, str], Tensor], num_devices: int) -> dict[str, float]:
        """The figures since the last call, and begin again; `reduce` adds up over the processes."""
        if self._counts is None or self._start is None:
            return {}
        num_tokens, num_targets = self._counts.tolist()  # waits for the device
        elapsed_s = time.perf_counter() - self._start - self._paused_s
        flops = self._flops + self._flops_by_target * num_targets
        local = torch.tensor([num_tokens, flops], dtype=torch.float64, device=self.device)
        total_tokens, total_flops = reduce(local, "sum").tolist()
        self._begin()
        self._start = time.perf_counter()
        return {
            "tokens_per_second": total_tokens / elapsed_s,
            "mfu": total_flops / (elapsed_s * num_devices * self.peak.flops_per_second),
            "peak_memory_bytes": peak_memory_bytes(self.device),
        }
