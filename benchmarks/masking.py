"""Throughput of hiding tokens: collated tokens a second on one core, by strategy.

    python benchmarks/masking.py [--out benchmarks/results/masking.json]

Rows come from memory-mapped Arrow, are stacked, and become the tensors of a training step: all that a loader's worker
does. Synthetic ids with words of 1 to 4 tokens, full rows.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import torch
from recording import Recording

from funnelformer.corpus.masking import STRATEGIES, MaskedBlocks, Masking
from funnelformer.corpus.parts import write_arrow
from funnelformer.corpus.rows import NO_LABEL, Rows

VOCABULARY = 30522


class Tokenizer(SimpleNamespace):
    def __len__(self) -> int:
        return VOCABULARY

    def get_vocab(self) -> dict[str, int]:
        return {str(number): number for number in range(VOCABULARY)}


def make_rows(num_rows: int, length: int) -> Rows:
    generator = np.random.default_rng(0)
    ids = generator.integers(5, VOCABULARY, (num_rows, length)).astype(np.int32)
    ids[:, 0], ids[:, -1] = 2, 3
    starts = generator.random((num_rows, length)) < 0.8
    starts[:, [0, 1, -1]] = True
    full = np.full(num_rows, length, dtype=np.int32)
    return Rows(ids, starts, full, full.copy(), np.full(num_rows, NO_LABEL, dtype=np.int16))


def measure(data: MaskedBlocks, batch_size: int, repeats: int) -> list[float]:
    """Tokens a second of each repeat, over shuffled batches."""
    generator = np.random.default_rng(0)
    rates = []
    for _ in range(repeats):
        order = generator.permutation(len(data))
        start = time.perf_counter()
        for first in range(0, len(order), batch_size):
            data.collate(data.__getitems__(order[first : first + batch_size].tolist()))
        rates.append(len(data) * data.length / (time.perf_counter() - start))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recording = Recording(arguments)
    tokenizer = Tokenizer(all_special_ids=[0, 1, 2, 3, 4], mask_token_id=4)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.arrow"
        write_arrow(file, make_rows(arguments.rows, arguments.length))
        blocks = datasets.Dataset.from_file(str(file))
        print("| strategy | tokens/s, p20 | p50 | p80 |\n|---|---|---|---|")
        for strategy in STRATEGIES:
            data = MaskedBlocks(blocks, tokenizer, Masking(strategy), seed=1)
            measure(data, arguments.batch_size, 1)
            p20, p50, p80 = np.percentile(
                measure(data, arguments.batch_size, arguments.repeats), [20, 50, 80]
            )
            print(f"| {strategy} | {p20:,.0f} | {p50:,.0f} | {p80:,.0f} |")
            results.append({"strategy": strategy, "tokens_per_s": {"p20": p20, "p50": p50, "p80": p80}})
        del blocks, data
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
    libraries = {"numpy": np.__version__, "datasets": datasets.__version__}
    recording.write(arguments.out, libraries=libraries, results=results)


if __name__ == "__main__":
    main()
