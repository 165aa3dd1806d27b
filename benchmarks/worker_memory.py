"""Memory of a worker that makes one part after another: what Ray starts, called here without Ray.

Texts of mixed lengths give batches of many shapes, and torch would keep kernels for each. `--unbounded` leaves out what
a worker does against that, to show what it is worth.

    python benchmarks/worker_memory.py --parts 400 --rows 60 --longest 40
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

WORDS = ["the", "cat", "dog", "ship", "river", "price", "of", "on", "under", "grew", "slept", "moved"]


def make_parts(
    model: str, parts: int, rows: int, longest: int, every: int, bounded: bool
) -> list[dict[str, Any]]:
    """Parts made, bytes of the process and its seconds of CPU, after the first part and every so many."""
    from funnelformer.inference.config import EmbedConfig
    from funnelformer.inference.part_jobs import EmbedJob
    from funnelformer.spread import ray_engine
    from funnelformer.spread.table_parts import PartMaker, scan_for

    generator = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "texts.jsonl"
        with open(source, "w") as file:
            for number in range(parts * rows):
                text = " ".join(generator.choices(WORDS, k=generator.randint(3, longest)))
                file.write(json.dumps({"text": f"{number} {text}"}) + "\n")
        if not bounded:
            ray_engine.bound_kernel_cache = ray_engine.give_back_memory = lambda: None
        job = EmbedJob(EmbedConfig(model, device="cpu"), column="text")
        scanned = scan_for(job, [], rows, str(source))
        worker = ray_engine.Worker(pickle.dumps(PartMaker(job, scanned.schema, f"{folder}/out")))
        found = []
        for number, item in enumerate(scanned.items, start=1):
            content = np.empty(1, dtype=object)
            content[0] = pickle.dumps(item)
            made = worker({"index": np.array([number]), "item": content})
            assert made["error"] == [""]
            if number == 1 or number % every == 0:
                found.append(
                    {
                        "parts": number,
                        "bytes": made["worker_bytes"][0],
                        "cpu_seconds": round(time.process_time(), 1),
                    }
                )
                print(json.dumps(found[-1]), flush=True)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--parts", type=int, default=400)
    parser.add_argument("--rows", type=int, default=60, help="of a part")
    parser.add_argument("--longest", type=int, default=40, help="words of a text")
    parser.add_argument("--every", type=int, default=20, help="parts between two lines")
    parser.add_argument("--unbounded", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
    found = make_parts(
        arguments.model,
        arguments.parts,
        arguments.rows,
        arguments.longest,
        arguments.every,
        not arguments.unbounded,
    )
    from recording import Recording  # imports torch

    Recording(arguments).write(arguments.out, rows=found)


if __name__ == "__main__":
    main()
