"""Random numbers computed from seed, epoch and row, for a whole batch at once: no generator has a state to keep."""

from __future__ import annotations

import numpy as np

__all__ = ["row_keys", "uniforms"]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_STREAM = np.uint64(1 << 32)


def _mix(values: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64. It changes `values`, which is always a new array."""
    values ^= values >> np.uint64(30)
    values *= _FIRST
    values ^= values >> np.uint64(27)
    values *= _SECOND
    values ^= values >> np.uint64(31)
    return values


def row_keys(seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """One key for each row, [B] uint64: a hash of (seed, epoch, index), whatever the batch and the order.

    indices: [B], the numbers of the rows.
    """
    keys = np.full(len(indices), seed, dtype=np.uint64)
    for part in (epoch, indices):
        keys = _mix(keys + _GAMMA)
        keys += np.asarray(part).astype(np.uint64)
    return _mix(keys + _GAMMA)


def uniforms(keys: np.ndarray, stream: int, count: int) -> np.ndarray:
    """Random numbers in [0, 1), [B, count] float64 with 53 random bits each: SplitMix64, started at each row's key.

    stream: different for each purpose, so that the numbers are independent. count: below 2^32.
    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    counters = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(stream) * _STREAM
    bits = _mix(keys[:, None] + counters * _GAMMA)
    bits >>= np.uint64(11)
    return bits * 2.0**-53
