"""One measured fine-tuning run, as the benchmarks of whole trainings make many of: not a script of its own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

__all__ = [
    "command",
    "finetune_and_test",
    "mean_and_deviation",
    "measured",
    "split_file",
    "work_through",
    "write_json",
]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "funnelformer", *map(str, arguments)]


def measured(arguments: list[str], log: Path, num_threads: int | None = None) -> tuple[float, float]:
    """Seconds and peak memory (MiB) of a process."""
    environment = dict(os.environ)
    if num_threads is not None:
        environment["OMP_NUM_THREADS"] = str(num_threads)
    start = time.perf_counter()
    with log.open("ab") as file:
        process = subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed; see {log}")
    return time.perf_counter() - start, usage.ru_maxrss / 2**10


def split_file(folder: Path, split: str) -> Path:
    """train.tsv or train.tsv.gz of a folder."""
    for name in (f"{split}.tsv", f"{split}.tsv.gz"):
        if (folder / name).is_file():
            return folder / name
    raise SystemExit(f"{folder}: holds neither {split}.tsv nor {split}.tsv.gz")


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
    The result, `what` with the score, training_seconds, training_flops and peak_mib, is written beside `folder`; one
    that is there already is read, so that an interrupted benchmark goes on.
    """
    result = folder.with_name(f"{folder.name}.json")
    if result.is_file():
        return json.loads(result.read_text())
    log = folder.with_name(f"{folder.name}.log")
    if task is None:
        source: list[object] = ["--train", split_file(data, "train"), "--dev", split_file(data, "dev")]
    else:
        source = ["--task", task, "--data", data]
    training = command("finetune", *options, *source, "--out", folder, "--overwrite")
    _, peak = measured(training, log, num_threads)
    metrics = json.loads((folder / "metrics.json").read_text())
    if task is None:
        tested = folder / "test.json"
        measured(command("evaluate", folder, split_file(data, "test"), "--out", tested), log, num_threads)
        value = json.loads(tested.read_text())[score]
    else:
        value = metrics[f"test_{score}"]
    values = {
        **what,
        score: value,
        "training_seconds": metrics["cost"]["train_seconds"],
        "training_flops": metrics["cost"]["train_flops"],
        "peak_mib": peak,
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
