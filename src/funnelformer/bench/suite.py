"""`funnelformer bench`: time, throughput and memory of our models beside transformers', in pairs."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from ..base.errors import UserError, did_you_mean
from ..base.files import atomic_writer
from ..base.machine import hardware, load_average, versions
from ..base.options import parse_options
from ..cost.flops import forward_flops, training_flops
from ..cost.memory import DTYPES
from ..cost.peak import device_peak
from .config import BenchConfig
from .measure import (
    MODES,
    Case,
    make_call,
    make_ids,
    num_parameters,
    on_device,
    peak_memory,
    seconds_of,
    time_pairs,
)
from .result_tables import draw, tables
from .results import Failure, Memory, Results, Side, Timing, write_results
from .subjects import FAMILIES, FOR_ANY_MODEL, ONNX, ONNX_INT8, PREPACKED, Subject, find_subject

__all__ = ["bench"]

RESULTS, TABLES, FIGURE = "results.json", "results.md", "results.png"


def bench(config: BenchConfig) -> Results:
    """Measure every pair, write the folder `config.out`, and return the results.

    The results are written after each pair too, so that an interrupted run leaves what it has measured. A model that
    could not run, for lack of memory or of kernels for a dtype, is a row of `failures`.
    Raises UserError for anything unknown before the first measurement, and when no pair could be timed.
    """
    pairs, cases = _pairs(config), _cases(config)
    if config.out.exists() and not config.out.is_dir():
        raise UserError(f"{config.out} is a file; --out names a folder")
    if (config.out / RESULTS).exists() and not config.overwrite:
        raise UserError(f"{config.out} holds results; choose another --out, or pass --overwrite")
    device = _device(config.device)
    config.out.mkdir(parents=True, exist_ok=True)
    with _threads(config.threads):
        results = Results(_settings(config), hardware(device), versions(), [load_average()])
        results.command = config.command
        results.peaks = {
            dtype: device_peak(device, DTYPES[dtype]).flops_per_second
            for dtype in dict.fromkeys(case.dtype for case in cases)
            # A CPU may have no instructions for the others, and take a minute to say so.
            if dtype == "float32" or device.type != "cpu"
        }
        _measure_time(pairs, cases, config, device, results)
        if config.memory:
            _measure_memory(pairs, cases, config, device, results)
    results.load_average.append(load_average())
    results.is_complete = True
    write_results(results, config.out / RESULTS)
    with atomic_writer(config.out / TABLES) as file:
        file.write(tables(results))
    draw(results, config.out / FIGURE)
    if not results.timings:
        raise UserError(f"{config.out}: nothing could be timed: {results.failures[0].reason}")
    return results


def _measure_time(
    pairs: list[tuple[Subject, Subject]],
    cases: list[Case],
    config: BenchConfig,
    device: torch.device,
    results: Results,
) -> None:
    assert config.rounds is not None
    assert config.warmup is not None
    longest = max(case.length for case in cases)
    for (dtype, mode), group in itertools.groupby(cases, lambda case: (case.dtype, case.mode)):
        shapes = list(group)
        for ours, peer in pairs:
            # Two models at a time, which serve all shapes.
            models = [
                on_device(subject.build(longest, config.vocab_size), shapes[0], device)
                for subject in (ours, peer)
            ]
            for case in shapes:
                title = f"{mode} {case.batch_size} x {case.length} {dtype}: {ours.name} / {peer.name}"
                with _failures(results, case, [ours.name, peer.name], title):
                    ids = make_ids(case, config.vocab_size).to(device)
                    calls = [make_call(model, ids, case) for model in models]
                    samples = time_pairs(
                        calls[0],
                        calls[1],
                        lambda call: seconds_of(call, device),
                        config.rounds,
                        config.warmup,
                    )
                    sides = [
                        Side(
                            subject.name,
                            subject.implementation,
                            num_parameters(model),
                            seconds,
                            _flops(model, case),
                        )
                        for subject, model, seconds in zip((ours, peer), models, samples, strict=True)
                    ]
                    timing = Timing(case, *sides)
                    results.timings.append(timing)
                    ratio = timing.ratio
                    _say(f"{title}: {ratio.median:.2f} ({ratio.q25:.2f} to {ratio.q75:.2f})")
                write_results(results, config.out / RESULTS)
            del models


def _measure_memory(
    pairs: list[tuple[Subject, Subject]],
    cases: list[Case],
    config: BenchConfig,
    device: torch.device,
    results: Results,
) -> None:
    for case in cases:
        for subject in _unique([subject for pair in pairs for subject in pair]):
            title = f"memory, {case.mode} {case.batch_size} x {case.length} {case.dtype}: {subject.name}"
            with _failures(results, case, [subject.name], title):
                weights, peak = peak_memory(subject, case, device, config.vocab_size, torch.get_num_threads())
                results.memory.append(Memory(case, subject.name, subject.implementation, weights, peak))
                _say(f"{title}: {peak / 2**20:,.0f} MiB beyond the model")
        write_results(results, config.out / RESULTS)


@contextmanager
def _failures(results: Results, case: Case, models: list[str], title: str) -> Iterator[None]:
    """Note a failure and go on: too little memory, or a dtype that a model has no kernels for."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has a class for accelerators alone; a CPU's allocator says it in words.
        is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
        reason = "not enough memory" if is_memory else str(error).partition("\n")[0]
        results.failures.append(Failure(case, models, reason))
        _say(f"{title}: {reason}")


def _flops(model: Any, case: Case) -> int | None:
    """FLOPs of a call of one of our models."""
    config = model.config
    if config.model_type != "funnelformer":
        return None
    segments = config.default_token_type_id is not None
    flops = forward_flops(config, case.length, batch_size=case.batch_size, segments=segments)
    return training_flops(flops) if case.mode == "training" else flops.total


def _pairs(config: BenchConfig) -> list[tuple[Subject, Subject]]:
    """Every model in every implementation, with every peer."""
    settings = parse_options(config.set)
    models = [
        find_subject(name, "--models", _implementation(name, implementation), settings)
        for name in _names(config, "models")
        for implementation in _names(config, "implementations")
    ]
    peers = [find_subject(name, "--peers", config.peer_implementation) for name in _names(config, "peers")]
    # A peer among the models has one implementation, however many are asked for.
    return list(itertools.product(_unique(models), _unique(peers)))


def _implementation(name: str, implementation: str) -> str | None:
    """What a model is run as: of transformers' attention --implementations says nothing."""
    return implementation if not _is_peer(name) or implementation in FOR_ANY_MODEL else None


def _unique(subjects: list[Subject]) -> list[Subject]:
    return list({repr(subject): subject for subject in subjects}.values())


def _cases(config: BenchConfig) -> list[Case]:
    """Every shape in every mode and dtype, those of one mode and dtype together."""
    modes, dtypes = _names(config, "modes", MODES), _names(config, "dtypes", DTYPES)
    if "training" in modes and "float16" in dtypes:
        raise UserError("--dtypes float16: training in float16 would need a scaled loss; use bfloat16")
    for name in (*_names(config, "implementations"), config.peer_implementation):
        if name in (PREPACKED, ONNX, ONNX_INT8) and (modes != ["inference"] or dtypes != ["float32"]):
            raise UserError(
                f"{name} is for inference with float32 inputs: --modes inference --dtypes float32"
            )
        if name == PREPACKED and _device(config.device).type != "cpu":
            raise UserError(f"{name} is for a CPU: --device cpu")
    shapes = [_shape(text) for text in _names(config, "shapes")]
    return [
        Case(mode, batch_size, length, dtype)
        for dtype in dtypes
        for mode in MODES
        if mode in modes
        for batch_size, length in shapes
    ]


def _names(config: BenchConfig, key: str, allowed: Collection[str] | None = None) -> list[str]:
    """What a list was given, each once; one entry at least, and all of them allowed."""
    names = list(dict.fromkeys(getattr(config, key)))
    if not names:
        raise UserError(f"--{key}: name at least one")
    for name in names:
        if allowed is not None and name not in allowed:
            hint = did_you_mean(name, allowed)
            raise UserError(f"--{key}: {name!r} is unknown; allowed: {', '.join(allowed)}{hint}")
    return names


def _shape(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise UserError(f"--shapes: {text!r} cannot be read; allowed: sequences x tokens, as 8x128")
    return int(match[1]), int(match[2])


def _is_peer(name: str) -> bool:
    return name.partition(":")[0] in FAMILIES


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return torch.device(name)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _settings(config: BenchConfig) -> dict[str, Any]:
    return {key: value for key, value in asdict(config).items() if key not in ("out", "overwrite")}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
