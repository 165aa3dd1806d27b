"""metrics.json: the results of a run of any kind, what it cost, and which versions made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...base.machine import versions
from ...base.processes import num_processes
from ...base.strict_json import write_json
from ...base.version import stamped
from ...cost.peak import peak_memory_bytes
from .folder import METRICS_FILE
from .trainer import RunTrainer

__all__ = ["cost_on", "run_cost", "write_metrics"]


def run_cost(trainer: RunTrainer, **more: Any) -> dict[str, Any]:
    """The seconds of the steps, the peak memory in bytes, and the devices; `more` is what a kind of run adds."""
    return cost_on(trainer.args.device, train_seconds=trainer.train_seconds, **more)


def cost_on(device: torch.device, **known: Any) -> dict[str, Any]:
    """The cost that is `known`, the peak memory in bytes, and the devices."""
    return {
        **known,
        "peak_memory_bytes": peak_memory_bytes(device),
        "peak_memory_of": "accelerator" if device.type != "cpu" else "process",
        "device": device.type,
        "num_processes": num_processes(),
    }


def write_metrics(out: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Write the file that says a run is finished, so after all others; only the first process calls this.

    Returns what the file holds: the metrics, with the versions of what made them.
    """
    whole = stamped({**metrics, "versions": versions()})
    write_json(out / METRICS_FILE, whole)
    return whole
