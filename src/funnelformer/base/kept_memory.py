"""What a process keeps beside what it uses: memory that the allocator holds back, and kernels of every shape."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

__all__ = ["bound_kernel_cache", "freed_memory_kept", "give_back_memory"]

# oneDNN keeps the kernels of every shape it has seen, 1,024 of them, with their scratch memory. A batch of a new shape
# needs some dozens; what grows with texts of all lengths is this.
_KERNELS = "256"


def bound_kernel_cache() -> None:
    """Keep fewer kernels than torch would. Call it before torch is imported; a number that the user has set stays."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, _KERNELS)


# Parameters of glibc's mallopt (malloc.h), what they are while a model is trained, and what they are afterwards: the
# values glibc itself arrives at once a block of 32 MiB has been freed. -1 says that the heap is never made smaller.
_MMAP_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -4, -3, -1
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
_USUAL = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
_SET_BY_THE_USER = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


@cache
def _find(name: str, argument: type, number: int) -> Callable[..., int] | None:
    """A function of glibc's allocator; None elsewhere (musl, macOS, Windows)."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes, function.restype = [argument] * number, ctypes.c_int
    return function


def give_back_memory() -> None:
    """Return freed memory to the system, where the C library is glibc, which keeps most of it.

    After many arrays of many sizes, the freed memory can be more than what is in use. The call takes milliseconds.
    """
    trim = _find("malloc_trim", ctypes.c_size_t, 1)
    if trim is not None:
        trim(0)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Meanwhile, memory that is freed stays with the process, where the C library is glibc.

    glibc gives blocks of over 32 MiB back as soon as they are freed. A step of training that needs them again waits
    until the system has filled every page with zeros: with texts of 512 tokens, about half of its time. In return
    the process may hold up to half more memory than it would. What a user has set in the environment stays as it is.
    """
    mallopt = _find("mallopt", ctypes.c_int, 2)
    if mallopt is None or any(name in os.environ for name in _SET_BY_THE_USER):
        yield
        return
    for parameter, value in _KEEPING.items():
        mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _USUAL.items():
            mallopt(parameter, value)
        give_back_memory()
