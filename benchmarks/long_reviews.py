"""Accuracy, time and memory of four kinds of encoder on long documents, against the length they may read.

    python benchmarks/long_reviews.py --data movie_reviews_long --out runs/long_reviews --seeds 3

The data: a folder with train.tsv.gz, dev.tsv.gz and test.tsv.gz of columns text and label. Every run is one
`funnelformer finetune` from random weights and one `funnelformer evaluate`, in processes of their own. A run that is
there already is not repeated, so an interrupted benchmark goes on; one seed of everything comes before the next.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Equal numbers of layers and widths; the funnels halve the sequence after the first block.
MODELS: dict[str, tuple[str, dict[str, str]]] = {
    "transformer": ("L2H64", {}),
    "funnel": ("B1-1H64", {}),
    "ponet": ("L2H64", {"mixer": "ponet", "position": "absolute"}),
    "hybrid": ("B1-1H64", {"mixer": '["ponet", "attention"]'}),
}
# Few short steps from nothing: mean pooling and the larger initial values that narrow models need.
SETTINGS = {"classifier_pooling": "mean", "initializer_std": "0.06", "max_position_embeddings": "2048"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "funnelformer", *map(str, arguments)]


def measured(arguments: list[str], log: Path) -> tuple[float, float]:
    """Seconds and peak memory (MiB) of a process."""
    start = time.perf_counter()
    with log.open("ab") as file:
        process = subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed; see {log}")
    return time.perf_counter() - start, usage.ru_maxrss / 2**10


def run(name: str, length: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    folder = options.out / f"{name}-{length}-{seed}"
    result = folder.with_suffix(".json")
    if result.is_file():
        return json.loads(result.read_text())
    layout, settings = MODELS[name]
    sets = [f"--set.{key}={value}" for key, value in {**SETTINGS, **settings}.items()]
    log = folder.with_suffix(".log")
    training = command("finetune", "--model", layout, "--tokenizer", options.out / "tokenizer")
    training += ["--train", str(options.data / "train.tsv.gz"), "--dev", str(options.data / "dev.tsv.gz")]
    training += ["--max-length", str(length), "--epochs", str(options.epochs), "--batch-size", "8"]
    training += ["--learning-rate", str(options.learning_rate), "--seed", str(seed), "--group-by-length"]
    _, peak = measured([*training, *sets, "--out", str(folder), "--overwrite"], log)
    scores = folder / "test.json"
    measured(command("evaluate", folder, options.data / "test.tsv.gz", "--out", scores), log)
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    values = {
        "model": name,
        "length": length,
        "seed": seed,
        "accuracy": json.loads(scores.read_text())["accuracy"],
        "training_seconds": next(entry["train_runtime"] for entry in entries if "train_runtime" in entry),
        "peak_mib": peak,
    }
    temporary = result.with_suffix(".tmp")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    temporary.replace(result)
    return values


def table(results: list[dict[str, Any]]) -> str:
    """A row a model and length: mean and sd of the accuracy over seeds, time and memory beside the transformer's."""
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["length"], result["model"]), []).append(result)
    lines = [
        "| tokens | model | seeds | test accuracy | training, s | / transformer | peak MiB |",
        "|---" * 7 + "|",
    ]
    for (length, name), group in sorted(groups.items(), key=lambda item: item[0][0]):
        accuracy = [100 * result["accuracy"] for result in group]
        deviation = statistics.stdev(accuracy) if len(group) > 1 else 0.0
        seconds = {result["seed"]: result["training_seconds"] for result in group}
        peers = {r["seed"]: r["training_seconds"] for r in groups.get((length, "transformer"), [])}
        ratios = [seconds[seed] / peers[seed] for seed in seconds if seed in peers]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
        peak = max(result["peak_mib"] for result in group)
        lines.append(
            f"| {length:,} | {name} | {len(group)} | {statistics.mean(accuracy):.1f} ± {deviation:.1f} "
            f"| {statistics.median(seconds.values()):.0f} | {ratio} | {peak:,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not (options.out / "tokenizer").is_dir():
        train = options.data / "train.tsv.gz"
        arguments = ["--train", train, "--out", options.out / "tokenizer", "--vocab-size", 4000]
        subprocess.run(command("tokenizer", *arguments, "--max-length", 2048), check=True)
    results = []
    for seed in range(options.seeds):
        for length in options.lengths:
            for name in options.models:
                results.append(run(name, length, seed, options))
                print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    print(table(results))
    (options.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
