"""What a process keeps beside what it uses: memory that the allocator holds back, and kernels of every shape."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache

__all__ = ["bound_kernel_cache", "give_back_memory"]

# oneDNN keeps the kernels of every shape it has seen, 1,024 of them, with their scratch memory. A batch of a new shape
# needs some dozens; what grows with texts of all lengths is this.
_KERNELS = "256"


def bound_kernel_cache() -> None:
    """Keep fewer kernels than torch would; to be called before torch is imported, and a user's own number wins."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, _KERNELS)


@cache
def _find_trim() -> Callable[[], None]:
    """glibc's; elsewhere (musl, macOS, Windows) nothing, whose allocators give back by themselves."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda: None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return lambda: trim(0)


def give_back_memory() -> None:
    """Return freed memory to the system, where the C library is glibc, which keeps most of it.

    After many arrays of many sizes that can be more than what is in use. It takes milliseconds.
    """
    _find_trim()()
