"""Accuracy, time and memory of four kinds of encoder on long documents, against the length they may read.

    python benchmarks/long_reviews.py --data movie_reviews_long --out runs/long_reviews --jobs 2

The data: a folder with train, dev and test as .tsv or .tsv.gz of columns text and label. Every run is one `funnelformer
finetune` from random weights and one `funnelformer evaluate`, in processes of their own. A run that is there already is
not repeated, so an interrupted benchmark goes on; one seed of everything comes before the next. With --jobs, so many
runs share the processor, each on its part of the cores.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
from pathlib import Path
from typing import Any

from finetuning import finetune_and_test, mean_and_deviation, measured, split_file, work_through
from recording import Recording

from funnelformer.base.markdown import markdown_table

# Equal numbers of layers and widths; the funnels halve the sequence after the first block.
MODELS: dict[str, tuple[str, dict[str, str]]] = {
    "transformer": ("L2H64", {}),
    "funnel": ("B1-1H64", {}),
    "ponet": ("L2H64", {"mixer": "ponet", "position": "absolute"}),
    "hybrid": ("B1-1H64", {"mixer": '["ponet", "attention"]'}),
}
# Few short steps from nothing: mean pooling and the larger initial values that narrow models need. Attention without
# dropout, so that all have the kernels they have at inference.
SETTINGS = {
    "classifier_pooling": "mean",
    "initializer_std": "0.06",
    "max_position_embeddings": "2048",
    "attention_dropout": "0",
}


def run(name: str, length: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    layout, settings = MODELS[name]
    arguments: list[object] = ["--model", layout, "--tokenizer", options.out / "tokenizer"]
    arguments += [f"--set.{key}={value}" for key, value in {**SETTINGS, **settings}.items()]
    arguments += ["--max-length", length, "--epochs", options.epochs, "--batch-size", options.batch_size]
    arguments += ["--learning-rate", options.learning_rate, "--seed", seed, "--group-by-length"]
    what = {"model": name, "length": length, "seed": seed}
    folder = options.out / f"{name}-{length}-{seed}"
    num_threads = max(1, (os.cpu_count() or 1) // options.jobs)
    return finetune_and_test(folder, options.data, arguments, what, num_threads)


def table(results: list[dict[str, Any]]) -> str:
    """A row a model and length: mean and sd of the accuracy over seeds, time and memory beside the transformer's."""
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["length"], result["model"]), []).append(result)
    titles = ["tokens", "model", "seeds", "test accuracy", "training, s", "/ transformer", "peak MiB"]
    rows = []
    for (length, name), group in sorted(groups.items(), key=lambda item: item[0][0]):
        accuracy = [100 * result["accuracy"] for result in group]
        seconds = {result["seed"]: result["training_seconds"] for result in group}
        peers = {r["seed"]: r["training_seconds"] for r in groups.get((length, "transformer"), [])}
        ratios = [seconds[seed] / peers[seed] for seed in seconds if seed in peers]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
        peak = max(result["peak_memory_bytes"] for result in group) / 2**20
        spent = f"{statistics.median(seconds.values()):.0f}"
        counted = [f"{length:,}", name, str(len(group)), mean_and_deviation(accuracy)]
        rows.append([*counted, spent, ratio, f"{peak:,.0f}"])
    return markdown_table(titles, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    recording = Recording(options, given=("data",))
    options.out.mkdir(parents=True, exist_ok=True)
    if not (options.out / "tokenizer").is_dir():
        arguments = ["--train", split_file(options.data, "train"), "--out", options.out / "tokenizer"]
        arguments += ["--vocab-size", 4000, "--max-length", 2048]
        measured(["tokenizer", *arguments], options.out / "tokenizer.log")
    jobs = [
        functools.partial(run, name, length, seed, options)
        for seed in range(options.seeds)
        for length in options.lengths
        for name in options.models
    ]
    results = work_through(jobs, options.jobs)
    print(table(results))
    recording.write(options.out / "results.json", rows=results)


if __name__ == "__main__":
    main()
