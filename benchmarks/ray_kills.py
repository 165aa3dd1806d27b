"""Rows lost or doubled when a machine of a Ray cluster dies: runs of `embed --engine ray`, each with one node killed.

The cluster is two nodes on this machine, `ray.cluster_utils.Cluster`. In every run the node without the head gets
SIGKILL when a random share of the parts is there, and a new one joins. Afterwards each row of the sources is looked for
in the parts. One more run loses its driver, and goes on with --resume.

    python benchmarks/ray_kills.py --kills 10 --rows 20000 --out benchmarks/results/ray_kills.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from recording import Recording
from transformers import AutoTokenizer

from funnelformer import FunnelformerConfig, FunnelformerModel
from funnelformer.base.bundled import located

SOURCES = 4


def make_model(folder: Path) -> None:
    """A model of two layers with random weights, and the tokenizer of mini."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(located("mini"))
    tokenizer.save_pretrained(folder)
    FunnelformerModel(FunnelformerConfig.from_name("B1-1H32", vocab_size=len(tokenizer))).save_pretrained(
        folder
    )


def make_sources(folder: Path, rows: int, seed: int) -> dict[tuple[str, int], str]:
    """Write short texts to files of four formats; return the text of each (source, row)."""
    generator = random.Random(seed)
    words = ["the", "cat", "dog", "ship", "river", "price", "of", "on", "under", "grew", "slept", "moved"]
    made = {}
    folder.mkdir()
    for index in range(SOURCES):
        texts = [
            f"{number} " + " ".join(generator.choices(words, k=generator.randint(3, 9)))
            for number in range(rows // SOURCES)
        ]
        source = folder / ("a.jsonl", "b.csv", "c.txt", "d.tsv")[index]
        lines = {
            ".jsonl": [json.dumps({"text": text}) for text in texts],
            ".csv": ["text", *(f'"{text}"' for text in texts)],
            ".txt": texts,
            ".tsv": ["text", *texts],
        }[source.suffix]
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        made.update({(str(source), number): text for number, text in enumerate(texts, start=1)})
    return made


def compare(out: Path, expected: dict[tuple[str, int], str]) -> dict[str, int]:
    """Rows lost, doubled, or with another text than their source has; and rows of the manifest."""
    found: Counter[tuple[str, int]] = Counter()
    wrong = 0
    manifest = json.loads((out / "manifest.json").read_text())
    for path in sorted((out / "parts").iterdir()):
        table = pq.read_table(path)
        assert np.isfinite(table["embedding"].combine_chunks().flatten().to_numpy()).all()
        for source, row, text in zip(
            *(table[name].to_pylist() for name in ("source", "row", "text")), strict=True
        ):
            found[source, row] += 1
            wrong += expected.get((source, row)) != text
    return {
        "rows": sum(found.values()),
        "manifest_rows": manifest["rows"],
        "lost": len(expected.keys() - found.keys()),
        "doubled": sum(count - 1 for count in found.values()),
        "wrong": wrong,
    }


def start(address: str, model: Path, data: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "funnelformer", "embed", str(model), str(data), "--out", str(out)]
    options = [
        "--engine",
        "ray",
        "--ray-address",
        address,
        "--rows-per-part",
        "200",
        "--device",
        "cpu",
        *more,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def num_parts(out: Path) -> int:
    return len(list((out / "parts").glob("*.parquet")))


def wait_for_parts(process: subprocess.Popen[str], out: Path, number: int) -> None:
    while num_parts(out) < number:
        if process.poll() is not None:
            raise RuntimeError(f"the run ended before its {number} parts: {process.communicate()[1]}")
        time.sleep(0.02)


def finish(process: subprocess.Popen[str]) -> None:
    error = process.communicate(timeout=540)[1]
    if process.returncode:
        raise RuntimeError(f"the run failed: {error[-3000:]}")


def node_kill(
    cluster: Any, node: Any, folder: Path, expected: dict[tuple[str, int], str], share: float
) -> Any:
    """One run whose second node dies when `share` of its parts is there; return what was found, and the new node."""
    out, parts = folder / f"out-{share:.4f}", len(expected) // 200
    begin = time.monotonic()
    process = start(cluster.address, folder / "model", folder / "data", out)
    wait_for_parts(process, out, max(1, round(share * parts)))
    at_kill = num_parts(out)
    cluster.remove_node(node, allow_graceful=False)
    node = cluster.add_node(num_cpus=1)
    finish(process)
    seconds = round(time.monotonic() - begin, 1)
    return {"killed": "node", "parts_at_kill": at_kill, "parts": parts, "seconds": seconds} | compare(
        out, expected
    ), node


def driver_kill(
    cluster: Any, folder: Path, expected: dict[tuple[str, int], str], share: float
) -> dict[str, Any]:
    """A run whose driver dies, and goes on: what was there stays as it was, and no more than the rest is made."""
    out, parts = folder / "out-driver", len(expected) // 200
    process = start(cluster.address, folder / "model", folder / "data", out)
    wait_for_parts(process, out, max(1, round(share * parts)))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(5)  # its workers end
    before = {path.name: path.stat().st_mtime_ns for path in (out / "parts").glob("*.parquet")}
    finish(start(cluster.address, folder / "model", folder / "data", out, "--resume"))
    after = {path.name: path.stat().st_mtime_ns for path in (out / "parts").glob("*.parquet")}
    made_again = sum(after[name] != changed for name, changed in before.items())
    return {
        "killed": "driver",
        "parts_at_kill": len(before),
        "parts": parts,
        "made_again": made_again,
        "made_by_resume": len(after) - len(before),
    } | compare(out, expected)


def run(kills: int, rows: int, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """`kills` runs that lose a node, and one that loses its driver, on one cluster: what was found, run by run."""
    import ray
    from ray.cluster_utils import Cluster

    generator = random.Random(seed)
    make_model(folder / "model")
    expected = make_sources(folder / "data", rows, seed)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        for _ in range(kills):
            row, node = node_kill(cluster, node, folder, expected, generator.uniform(0.02, 0.9))
            yield row
        yield driver_kill(cluster, folder, expected, generator.uniform(0.1, 0.7))
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    recording = Recording(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for row in run(arguments.kills, arguments.rows, arguments.seed, Path(folder)):
            print(json.dumps(row), flush=True)
            rows.append(row)
            recording.write(arguments.out, rows=rows)


if __name__ == "__main__":
    main()
