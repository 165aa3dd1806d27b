"""Time two models in turn in this process, and the memory of one in a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ..base.machine import wait_for
from ..cost.memory import DTYPES
from ..cost.peak import peak_memory_bytes, reset_peak_memory
from ..modeling import num_prepacked
from .subjects import CLS, SEP, Subject

__all__ = [
    "MODES",
    "Case",
    "Mode",
    "make_call",
    "make_ids",
    "num_parameters",
    "on_device",
    "peak_memory",
    "seconds_of",
    "time_pairs",
]

Mode = Literal["inference", "training"]
MODES: tuple[Mode, ...] = ("inference", "training")
_SENTENCE = 32  # tokens between two separators
_LEARNING_RATE = 1e-6  # of a step that learns nothing


@dataclass(frozen=True)
class Case:
    """One measurement: a mode, a dtype (a key of `DTYPES`) and a shape.

    Inference has weights and activations in `dtype`. Training has float32 weights, under autocast where `dtype` is
    another; a step is forward, backward from the mean square of the last states, and AdamW.
    """

    mode: Mode
    batch_size: int
    length: int
    dtype: str

    @property
    def num_tokens(self) -> int:
        return self.batch_size * self.length


def make_ids(case: Case, vocab_size: int) -> Int[Tensor, "B T"]:
    """Random tokens, the same for every model: [CLS], and a separator every 32 tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(SEP + 1, vocab_size, (case.batch_size, case.length), generator=generator)
    ids[:, ::_SENTENCE] = SEP
    ids[:, 0] = CLS
    return ids


def on_device(model: nn.Module, case: Case, device: torch.device) -> nn.Module:
    """The model on its device, in the dtype of the case."""
    return model.to(device, torch.float32 if case.mode == "training" else DTYPES[case.dtype])


def num_parameters(model: nn.Module) -> int:
    """The number of weights in a model, prepacked ones too."""
    return num_prepacked(model) + sum(parameter.numel() for parameter in model.parameters())


def make_call(model: nn.Module, ids: Int[Tensor, "B T"], case: Case) -> Callable[[], None]:
    """What is measured: one forward pass, or one training step."""
    if case.mode == "inference":
        model.eval()

        def infer() -> None:
            with torch.inference_mode():
                model(input_ids=ids)

        return infer
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(ids.device.type, DTYPES[case.dtype], enabled=case.dtype != "float32"):
            states = model(input_ids=ids)[0]
        states.float().square().mean().backward()
        optimizer.step()

    return step


def seconds_of(call: Callable[[], None], device: torch.device) -> float:
    """Seconds of one call, until an accelerator too has finished."""
    wait_for(device)
    start = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - start


def time_pairs(
    ours: Callable[[], None],
    peer: Callable[[], None],
    seconds: Callable[[Callable[[], None]], float],
    rounds: int,
    warmup: int,
) -> tuple[list[float], list[float]]:
    """Seconds of each call, made in turn (ours, peer, ours, peer ...), so that a slow moment of the machine hits both.

    warmup: pairs before the first that counts.
    """
    for _ in range(warmup):
        ours()
        peer()
    gc.collect()
    samples: tuple[list[float], list[float]] = [], []
    for _ in range(rounds):
        samples[0].append(seconds(ours))
        samples[1].append(seconds(peer))
    return samples


def peak_memory(
    subject: Subject, case: Case, device: torch.device, vocab_size: int, num_threads: int
) -> tuple[int, int]:
    """Bytes of the weights, and the peak bytes of two calls beyond the loaded model.

    They are measured in a separate process: the allocated memory of an accelerator, else the resident memory.
    Raises MemoryError or RuntimeError if there was too little memory, or if the process died.
    """
    # Not a child of this process, which would begin with its memory; imported once for all of them where possible.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        done = pool.submit(_measure_memory, subject, case, device, vocab_size, num_threads)
        try:
            return done.result()
        except BrokenProcessPool:
            raise MemoryError("the process was killed") from None


def _measure_memory(
    subject: Subject, case: Case, device: torch.device, vocab_size: int, num_threads: int
) -> tuple[int, int]:
    torch.set_num_threads(num_threads)
    model = on_device(subject.build(case.length, vocab_size), case, device)
    ids = make_ids(case, vocab_size).to(device)
    weights = getattr(model, "weight_bytes", None) or (
        num_parameters(model) * next(model.parameters()).element_size()
    )
    call = make_call(model, ids, case)
    gc.collect()
    if device.type != "cpu":
        before = torch.accelerator.memory_allocated(device)
        torch.accelerator.reset_peak_memory_stats(device)
        call()
        call()
        wait_for(device)
        return weights, torch.accelerator.max_memory_allocated(device) - before
    reset_peak_memory(device)
    before = peak_memory_bytes(device)
    call()
    call()
    return weights, peak_memory_bytes(device) - before
