"""What a process keeps: kernels of so many shapes of products and no more; freed memory while it trains."""

from __future__ import annotations

import mmap
import os
import platform
import subprocess
import sys

import psutil
import pytest
import torch

from funnelformer.base import kept_memory
from funnelformer.base.kept_memory import bound_kernel_cache, freed_memory_kept

# Products of 1,000 shapes, and how much the process grew over the second half of them.
_SHAPES = """
import sys
import psutil
import torch
from funnelformer.base.kept_memory import bound_kernel_cache

if sys.argv[1] == "fewer":
    bound_kernel_cache()
torch.set_num_threads(1)
layer, sizes = torch.nn.Linear(384, 384), []
with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
    for rows in range(1, 1001):
        layer(torch.zeros(rows, 384))
        sizes.append(psutil.Process().memory_info().rss)
print((sizes[-1] - sizes[500]) >> 20)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="the products of this processor are not oneDNN's"
)
def test_memory_does_not_grow_with_every_new_shape():
    """Measured: 31 MiB, and 344 MiB as PyTorch has it."""
    unset = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"}
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    grown = [
        int(
            subprocess.run(
                [sys.executable, "-c", _SHAPES, how], capture_output=True, check=True, env=kept
            ).stdout
        )
        for how in ("fewer", "all")
    ]
    assert grown[0] < 100 < grown[1]


def test_what_the_environment_says_of_kernels_stays(monkeypatch):
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    bound_kernel_cache()
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "256"


@pytest.fixture
def as_it_comes(monkeypatch):
    for name in ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_kept_and_then_given_back(as_it_comes):
    """Of 20 blocks of 64 MiB, each freed before the next, the system fills few; without the context it fills all."""
    resource = pytest.importorskip("resource")

    def faults():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    process = psutil.Process()
    with freed_memory_kept():
        before = faults()
        for _ in range(20):
            torch.ones(2**24)
        assert faults() - before < 10 * 2**26 / mmap.PAGESIZE
        kept = process.memory_info().rss
    assert kept - process.memory_info().rss > 60 << 20


def test_what_the_environment_says_of_freed_memory_stays(as_it_comes, monkeypatch):
    asked = []
    monkeypatch.setattr(kept_memory, "_find", lambda name, *_: lambda *values: asked.append((name, *values)))
    with freed_memory_kept():
        assert asked == [("mallopt", -4, 0), ("mallopt", -1, -1)]
    assert asked[-1] == ("malloc_trim", 0)
    asked.clear()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "100000000")
    with freed_memory_kept():
        pass
    assert asked == []
