"""What a measurement ran on: hardware, versions, threads, and how busy the machine was."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
import transformers

from .version import stamped

__all__ = ["hardware", "load_average", "versions", "wait_for"]


def hardware(device: torch.device) -> dict[str, Any]:
    """Processor, cores, threads and memory; of an accelerator, its name and memory too."""
    facts: dict[str, Any] = {
        "system": platform.platform(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": _memory_bytes(),
        "device": device.type,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "accelerator": properties.name,
            "accelerator_memory_bytes": properties.total_memory,
            "accelerator_capability": f"{properties.major}.{properties.minor}",
        }
    elif device.type != "cpu":
        facts["accelerator"] = device.type
    return facts


def versions() -> dict[str, Any]:
    """The versions of everything that could change a time."""
    return stamped(
        {
            "commit": _source_commit(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "cuda": torch.version.cuda,
        }
    )


def _source_commit() -> str | None:
    """The commit of this package's source, where it runs from a checkout.

    An environment inside another repository is no part of that: git does not track its files.
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        for arguments in (["ls-files", "--error-unmatch", Path(__file__).name], ["rev-parse", "HEAD"]):
            done = subprocess.run([*git, *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def wait_for(device: torch.device) -> None:
    """Wait until the accelerator, of any make, has finished its work; a clock read earlier times only the launches."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def load_average() -> float | None:
    """Processes that wanted a core, on average over the last minute; None if the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
