"""One measured fine-tuning run, as the benchmarks of whole trainings make many of: not a script of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import statistics
import sys
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from funnelformer.cli import main

__all__ = [
    "finetune_and_test",
    "mean_and_deviation",
    "measured",
    "split_file",
    "work_through",
    "write_json",
]


# Runs are forked from a process that has imported everything, which takes as long as a short evaluation.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["funnelformer.cli"])


def measured(arguments: Sequence[object], log: Path, num_threads: int | None = None) -> int:
    """Run a `funnelformer` command in a process of its own, which has its imports; its peak memory in bytes."""
    texts = [str(argument) for argument in arguments]
    receiver, sender = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_run, args=(texts, log, num_threads, sender))
    process.start()
    sender.close()
    process.join()
    if process.exitcode:
        raise SystemExit(f"funnelformer {' '.join(texts)} failed; see {log}")
    return receiver.recv()


def _run(arguments: list[str], log: Path, num_threads: int | None, sender: Connection) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    main(arguments)
    sys.stdout.flush()
    unit = 1 if sys.platform == "darwin" else 1024
    sender.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def split_file(folder: Path, split: str, suffix: str = ".tsv") -> Path:
    """train.tsv or train.tsv.gz of a folder."""
    for name in (f"{split}{suffix}", f"{split}{suffix}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise SystemExit(f"{folder}: holds neither {split}{suffix} nor {split}{suffix}.gz")


def finetune_and_test(
    folder: Path,
    data: Path,
    options: list[object],
    what: dict[str, Any],
    num_threads: int | None = None,
    *,
    task: str | None = None,
    score: str = "accuracy",
) -> dict[str, Any]:
    """`funnelformer finetune` with the options and the score on the test part, in processes of their own.

    task: read `data` as the release of that task; by default its tables are trained on, and `evaluate` tests.
    The result, `what` with the score, training_seconds, training_flops and peak_memory_bytes, is written beside
    `folder`; one that is there already is read, so that an interrupted benchmark goes on.
    """
    result = folder.with_name(f"{folder.name}.json")
    if result.is_file():
        return json.loads(result.read_text())
    log = folder.with_name(f"{folder.name}.log")
    if task is None:
        source: list[object] = ["--train", split_file(data, "train"), "--dev", split_file(data, "dev")]
    else:
        source = ["--task", task, "--data", data]
    training = ["finetune", *options, *source, "--out", folder, "--overwrite"]
    peak = measured(training, log, num_threads)
    metrics = json.loads((folder / "metrics.json").read_text())
    if task is None:
        tested = folder / "test.json"
        measured(["evaluate", folder, split_file(data, "test"), "--out", tested], log, num_threads)
        value = json.loads(tested.read_text())[score]
    else:
        value = metrics[f"test_{score}"]
    values = {
        **what,
        score: value,
        "training_seconds": metrics["cost"]["train_seconds"],
        "training_flops": metrics["cost"]["train_flops"],
        "peak_memory_bytes": peak,
    }
    write_json(result, values)
    return values


def work_through(jobs: list[Callable[[], dict[str, Any]]], num_at_once: int) -> list[dict[str, Any]]:
    """Run the jobs in their order, so many at a time, and print each result as it comes."""

    def run(job: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        result = job()
        print(json.dumps(result, default=str), file=sys.stderr, flush=True)
        return result

    with ThreadPoolExecutor(num_at_once) as pool:
        return list(pool.map(run, jobs))


def mean_and_deviation(scores: Collection[float]) -> str:
    """Of some seeds, in percent."""
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return f"{statistics.mean(scores):.1f} ± {deviation:.1f}"


def write_json(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(path)
