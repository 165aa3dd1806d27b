"""One run as several processes, started by torchrun: which one this is, and what only the first does."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from .errors import UserError, printable

__all__ = [
    "LONGEST_WAIT_S",
    "first",
    "gather_lists",
    "leave_processes",
    "num_processes",
    "rank",
    "say",
    "start_processes",
]

# Processes wait for each other while the first one prepares data or measures a probe; NCCL's ten minutes would end it.
LONGEST_WAIT_S = 3 * 3600

T = TypeVar("T")


def rank() -> int:
    """The number of this process, from 0, over all machines."""
    return int(os.environ.get("RANK", "0"))


def num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def say(line: str) -> None:
    """Print a line, once for all processes."""
    if rank() == 0:
        print(printable(line), flush=True)


def start_processes(cpu: bool) -> None:
    """Join the processes that torchrun started; in a run of one process it does nothing."""
    if num_processes() > 1:
        from accelerate import PartialState

        PartialState(cpu=cpu, timeout=timedelta(seconds=LONGEST_WAIT_S))


def leave_processes() -> None:
    """Part from the other processes when the work is done.

    Otherwise Gloo's threads are still running when this process ends, which can abort it then: torchrun would take a
    finished run for a failed one.
    """
    torch = sys.modules.get("torch")
    if num_processes() > 1 and torch is not None and torch.distributed.is_initialized():
        gc.collect()  # a trainer, of circles of references, would hold the group
        torch.distributed.destroy_process_group()


def first(action: Callable[[], T]) -> T:
    """Let process 0 act while the others wait; all get its result, or raise its UserError."""
    if num_processes() == 1:
        return action()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = action()
        except UserError as error:
            outcome[1] = error
    import torch

    torch.distributed.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


def gather_lists(own: Sequence[T]) -> list[T]:
    """The items of all processes, those of process 0 first. Every process calls this and gets all items."""
    if num_processes() == 1:
        return list(own)
    parts: list[Any] = [None] * num_processes()
    import torch

    torch.distributed.all_gather_object(parts, list(own))
    return [item for part in parts for item in part]
