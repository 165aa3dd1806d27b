"""The peak of a device, FLOP/s by its vendor or measured, and the most memory that a process has held."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ..base.machine import wait_for

__all__ = ["PUBLISHED_PEAKS", "Peak", "device_peak", "peak_memory_bytes", "reset_peak_memory"]


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
    """Forget the peak so far, if the system allows it: on Linux, and on accelerators."""
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
