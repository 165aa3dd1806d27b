"""The one clock of training: seconds of the steps, with the device waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ...base.machine import wait_for

__all__ = ["Stopwatch", "now"]


def now(device: torch.device) -> float:
    """Seconds of a clock that only rises, read when the device has finished its work."""
    wait_for(device)
    return time.perf_counter()


class Stopwatch:
    """A watch that counts seconds, except those of pauses."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._before, self._since = 0.0, None  # type: float, float | None

    @property
    def is_running(self) -> bool:
        return self._since is not None

    @property
    def seconds(self) -> float:
        return self._before + (0.0 if self._since is None else now(self.device) - self._since)

    def start(self, seconds: float = 0.0) -> None:
        """Go on from `seconds`."""
        self._before, self._since = seconds, now(self.device)

    def stand_at(self, seconds: float) -> None:
        """Stop at `seconds`."""
        self._before, self._since = seconds, None

    def stop(self) -> None:
        self.stand_at(self.seconds)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave out the time inside the block; a watch that stood still before it stands still after it."""
        runs = self.is_running
        self.stop()
        yield
        if runs:
            self._since = now(self.device)
