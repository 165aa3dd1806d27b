"""metrics.json: what a run of any kind came to, what it cost, and which versions made it."""

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
    """Seconds of the steps, the most memory, and the devices; `more` is what one kind of run knows beside that."""
    return cost_on(trainer.args.device, train_seconds=trainer.train_seconds, **more)


def cost_on(device: torch.device, **known: Any) -> dict[str, Any]:
    """What is `known` of a cost, the most memory, and the devices."""
    return {
        **known,
        "peak_memory_bytes": peak_memory_bytes(device),
        "peak_memory_of": "accelerator" if device.type != "cpu" else "process",
        "device": device.type,
        "num_processes": num_processes(),
    }


def write_metrics(out: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Write the file that says a run has come to its end, so the last one; the first process alone calls it.

    Returns what the file holds: the metrics, with the versions of what made them.
    """
    whole = stamped({**metrics, "versions": versions()})
    write_json(out / METRICS_FILE, whole)
    return whole
