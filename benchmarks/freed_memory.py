"""What a training on a CPU gains when the memory it frees stays with the process, and what that costs in memory.

Fine-tunes the bundled `mini` on random words, texts of one length at a time: with freed memory kept, as `finetune` does
it, and as the C library (glibc) has it, in turns and each in a process of its own.

    python benchmarks/freed_memory.py --lengths 64 128 256 512 --threads 1
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from cells import seconds_beside
from recording import Recording

from funnelformer.cli import main as funnelformer
from funnelformer.training.run import trainer

WORDS = ["the", "cat", "dog", "ship", "river", "price", "of", "on", "under", "grew", "slept", "moved"]
STEPS, BATCH_SIZE = 6, 32


def write_table(file: Path, length: int) -> None:
    """Rows for six steps, each with more words than the model reads tokens."""
    generator = random.Random(0)
    with file.open("w") as table:
        table.write("text\tlabel\n")
        for number in range(STEPS * BATCH_SIZE):
            table.write(f"{' '.join(generator.choices(WORDS, k=length))}\t{number % 2}\n")


def train(folder: str, length: int, kept: bool, threads: int) -> None:
    torch.set_num_threads(threads)
    if not kept:
        trainer.freed_memory_kept = contextlib.nullcontext
    table = f"{folder}/{length}.tsv"
    where = ["--train", table, "--dev", f"{folder}/dev.tsv", "--out", f"{folder}/out", "--overwrite"]
    how = ["--max-length", length, "--batch-size", BATCH_SIZE, "--epochs", 1, "--precision", "bf16"]
    funnelformer(["finetune", "--model", "mini", *where, *map(str, how)])


def measured(folder: str, length: int, kept: bool, threads: int) -> tuple[float, int]:
    """Seconds of the steps, and the most memory of the process in bytes."""
    process = multiprocessing.get_context("spawn").Process(target=train, args=(folder, length, kept, threads))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"the training at {length} tokens failed")
    cost = json.loads(Path(folder, "out", "metrics.json").read_text())["cost"]
    return cost["train_seconds"], cost["peak_memory_bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[64, 128, 256, 512], help="tokens of a text"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "freed_memory.json")
    options = parser.parse_args()
    recording = Recording(options)
    rows: list[dict[str, Any]] = []
    lines = ["| tokens | as glibc has it | kept, and over it | MiB, as it is | MiB, kept |", "|---" * 5 + "|"]
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder, "dev.tsv"), 8)
        for length in options.lengths:
            write_table(Path(folder, f"{length}.tsv"), length)
            pairs = [
                [measured(folder, length, kept, options.threads) for kept in (False, True)]
                for _ in range(options.rounds)
            ]
            usual, kept = ([pair[side][0] for pair in pairs] for side in (0, 1))
            memory = [max(pair[side][1] for pair in pairs) for side in (0, 1)]
            seconds = {"as_it_is": usual, "kept": kept}
            rows.append(
                {
                    "tokens": length,
                    "seconds": seconds,
                    "peak_memory_bytes": dict(zip(seconds, memory, strict=True)),
                }
            )
            cells = [str(length), seconds_beside(usual, None, 1), seconds_beside(kept, usual, 1)]
            lines.append("| " + " | ".join([*cells, *(f"{size / 2**20:,.0f}" for size in memory)]) + " |")
    recording.write(options.out, rows=rows)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
