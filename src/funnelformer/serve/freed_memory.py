"""Give freed memory back to the system, which the allocator would keep after a burst of long texts.

glibc keeps what was freed between blocks that are in use, an arena for every thread, and what the largest batch needed
stays with the process for ever. `malloc_trim` gives whole free pages back; it takes milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..base.kept_memory import give_back_memory

__all__ = ["FreedMemory"]

_IDLE_S = 0.25
_BUSY_S = 5.0


class FreedMemory:
    """Decides when to give memory back: soon after the last batch, and every few seconds under steady load.

    wait_s: seconds that the queue may be empty before you call `give_back`; None if there is nothing to give back.
    """

    def __init__(self, trim: Callable[[], None] | None = None) -> None:
        self._trim = trim or give_back_memory
        self._last = time.monotonic()
        self._is_dirty = False

    @property
    def wait_s(self) -> float | None:
        return _IDLE_S if self._is_dirty else None

    def batch_ended(self) -> None:
        self._is_dirty = True
        if time.monotonic() - self._last >= _BUSY_S:
            self.give_back()

    def give_back(self) -> None:
        self._trim()
        self._is_dirty, self._last = False, time.monotonic()
