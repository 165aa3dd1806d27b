"""Give freed memory back to the system, which the allocator would keep after a burst of long texts.

glibc keeps what was freed between blocks that are in use, an arena for every thread, and what the largest batch needed
stays with the process for ever. `malloc_trim` gives whole free pages back; it takes milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable

__all__ = ["FreedMemory", "bound_kernel_cache"]

# oneDNN keeps the kernels of every shape it has seen, 1,024 of them, with their scratch memory. A batch of a new shape
# needs some dozens; what grows with texts of all lengths is this.
_KERNELS = "256"
_IDLE_S = 0.25
_BUSY_S = 5.0


def bound_kernel_cache() -> None:
    """Keep fewer kernels than torch would; to be called before torch is imported, and a user's own number wins."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, _KERNELS)


def _find_trim() -> Callable[[], None]:
    """glibc's; elsewhere (musl, macOS, Windows) nothing, whose allocators give back by themselves."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda: None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return lambda: trim(0)


class FreedMemory:
    """When to give back: soon after the last batch, and every few seconds while batches follow one another.

    wait_s: how long the queue may be empty before `give_back` is to be called; None when there is nothing to give.
    """

    def __init__(self, trim: Callable[[], None] | None = None) -> None:
        self._trim = trim or _find_trim()
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
