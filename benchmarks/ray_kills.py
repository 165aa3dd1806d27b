"""Rows lost or doubled when a machine of a Ray cluster dies: runs with `--engine ray`, each with one node killed.

The cluster is two nodes on this machine, `ray.cluster_utils.Cluster`. In every run the node without the head gets
SIGKILL when a random share of the parts is there, and a new one joins. Afterwards each row of the sources is looked for
in the parts; those of `prepare` and of the teacher's pass of `distill` are compared with what one machine makes. One
more run loses its driver, and goes on.

    python benchmarks/ray_kills.py --job embed --kills 10 --rows 20000 --out benchmarks/results/ray_kills.json
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from recording import Recording
from transformers import AutoTokenizer, BertConfig, BertModel

from funnelformer import FunnelformerConfig, FunnelformerModel
from funnelformer.base.bundled import located

SOURCES = 4
# Of the vectors and states, in half precision: two runs differ by rounding.
TOLERANCE = 4e-3


def make_model(folder: Path) -> None:
    """A model of two layers with random weights, and the tokenizer of mini."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(located("mini"))
    tokenizer.save_pretrained(folder)
    FunnelformerModel(FunnelformerConfig.from_name("B1-1H32", vocab_size=len(tokenizer))).save_pretrained(
        folder
    )


def make_teacher(folder: Path) -> None:
    """A BERT of four layers with random weights, and the tokenizer of mini."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(located("mini"))
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertModel(config).save_pretrained(folder)


def make_texts(number: int, generator: random.Random) -> list[str]:
    words = ["the", "cat", "dog", "ship", "river", "price", "of", "on", "under", "grew", "slept", "moved"]
    return [
        f"{index} " + " ".join(generator.choices(words, k=generator.randint(3, 9))) for index in range(number)
    ]


def make_sources(folder: Path, rows: int, seed: int, between_texts: str = "\n") -> dict[tuple[str, int], str]:
    """Write short texts to files of four formats; return the text of each (source, row).

    between_texts: in the .txt file, where `prepare` needs an empty line between two documents.
    """
    generator = random.Random(seed)
    made = {}
    folder.mkdir()
    for index in range(SOURCES):
        texts = make_texts(rows // SOURCES, generator)
        source = folder / ("a.jsonl", "b.csv", "c.txt", "d.tsv")[index]
        lines = {
            ".jsonl": [json.dumps({"text": text}) for text in texts],
            ".csv": ["text", *(f'"{text}"' for text in texts)],
            ".txt": [between_texts.join(texts)],
            ".tsv": ["text", *texts],
        }[source.suffix]
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        made.update({(str(source), number): text for number, text in enumerate(texts, start=1)})
    return made


class EmbedRuns:
    """Runs of `embed`: the text of every row is known."""

    resume = ("--resume",)

    def __init__(self, folder: Path, rows: int, seed: int) -> None:
        self.folder, self.num_parts = folder, rows // 200
        make_model(folder / "model")
        self.expected = make_sources(folder / "data", rows, seed)

    def command(self, out: Path) -> list[str]:
        names = [str(self.folder / "model"), str(self.folder / "data"), "--out", str(out)]
        return ["embed", *names, "--rows-per-part", "200", "--device", "cpu"]

    def parts(self, out: Path) -> list[Path]:
        return list((out / "parts").glob("*.parquet"))

    def compare(self, out: Path) -> dict[str, int]:
        """Rows lost, doubled, or with another text than their source has; and rows of the manifest."""
        found: Counter[tuple[str, int]] = Counter()
        wrong = 0
        manifest = json.loads((out / "manifest.json").read_text())
        for path in sorted(self.parts(out)):
            table = pq.read_table(path)
            assert np.isfinite(table["embedding"].combine_chunks().flatten().to_numpy()).all()
            for source, row, text in zip(
                *(table[name].to_pylist() for name in ("source", "row", "text")), strict=True
            ):
                found[source, row] += 1
                wrong += self.expected.get((source, row)) != text
        return {
            "rows": sum(found.values()),
            "manifest_rows": manifest["rows"],
            "lost": len(self.expected.keys() - found.keys()),
            "doubled": sum(count - 1 for count in found.values()),
            "wrong": wrong,
        }


class PrepareRuns:
    """Runs of `prepare`: every file has the bytes that one machine writes."""

    resume = ()

    def __init__(self, folder: Path, rows: int, seed: int) -> None:
        self.folder, self.rows = folder, rows
        make_model(folder / "model")
        make_sources(folder / "data", rows, seed, "\n\n")
        self.reference = folder / "reference"
        subprocess.run([*PROGRAM, *self.command(self.reference), "--workers", "1"], check=True)
        self.num_parts = len(self.parts(self.reference))

    def command(self, out: Path) -> list[str]:
        sources = sorted(str(path) for path in (self.folder / "data").iterdir())
        words = ["prepare", "--train", *sources, "--tokenizer", str(self.folder / "model"), "--out", str(out)]
        return [*words, "--block-size", "32", "--part-chars", "7000"]

    def parts(self, out: Path) -> list[Path]:
        return list((out / "parts").glob("*.json"))

    def compare(self, out: Path) -> dict[str, int]:
        """Documents of the parts; wrong: files, the manifest too, that are not as one machine wrote them."""
        documents = [json.loads(path.read_text())["documents"] for path in self.parts(out)]
        own, right = _files_of(out), _files_of(self.reference)
        return {
            "rows": sum(documents),
            "lost": max(0, self.rows - sum(documents)),
            "doubled": max(0, sum(documents) - self.rows),
            "wrong": sum(own.get(name) != right.get(name) for name in {*own, *right}),
        }


class TeacherRuns:
    """Runs of the teacher's pass of `distill`: vectors and states are those that one machine computes."""

    resume = ()

    def __init__(self, folder: Path, rows: int, seed: int) -> None:
        self.folder, self.rows = folder, rows
        make_teacher(folder / "teacher")
        (folder / "texts.txt").write_text("\n".join(make_texts(rows, random.Random(seed))) + "\n")
        self.reference = folder / "reference"
        subprocess.run([*PROGRAM, *self.command(self.reference)], check=True)
        self.num_parts = len(self.parts(self.reference))

    def command(self, out: Path) -> list[str]:
        teacher, texts = str(self.folder / "teacher"), str(self.folder / "texts.txt")
        words = ["distill", "--teacher", teacher, "--model", teacher, "--layout", "B2-2", "--train", texts]
        words += ["--cache", str(out / "cache"), "--out", str(out / "run"), "--learn", "vectors", "states"]
        words += ["--state-texts", str(self.rows), "--validation-fraction", "0", "--device", "cpu"]
        return [*words, "--steps", "1", "--evaluate-every", "1", "--batch-size", "8"]

    def parts(self, out: Path) -> list[Path]:
        """Of the states; those of the vectors are there before."""
        return list((out / "cache").glob("states-*/*.counts.npy"))

    def compare(self, out: Path) -> dict[str, int]:
        """Texts with states; wrong: files, those of the vectors too, that are not as one machine wrote them."""
        names = sorted(str(path.relative_to(out)) for path in (out / "cache").rglob("*.npy"))
        right = sorted(
            str(path.relative_to(self.reference)) for path in (self.reference / "cache").rglob("*.npy")
        )
        wrong = len({*names} ^ {*right})
        number = 0
        for name in {*names} & {*right}:
            own, other = np.load(out / name), np.load(self.reference / name)
            number += len(own) if name.endswith(".counts.npy") else 0
            wrong += own.shape != other.shape or not np.allclose(own, other, rtol=0, atol=TOLERANCE)
        return {
            "rows": number,
            "lost": max(0, self.rows - number),
            "doubled": max(0, number - self.rows),
            "wrong": wrong,
        }


JOBS = {"embed": EmbedRuns, "prepare": PrepareRuns, "teacher": TeacherRuns}
PROGRAM = [sys.executable, "-m", "funnelformer"]


def _files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def begun(begin: Callable[[], Any]) -> Any:
    """A cluster or a node of one: Ray waits for it for 30 s, too few where other work has the cores."""
    for _ in range(4):
        try:
            return begin()
        except Exception as error:  # Ray raises no more special one
            if "timed out during startup" not in str(error):
                raise
    return begin()


def start_head() -> Any:
    """A cluster of Ray on this machine that has a head of one CPU."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False}
    return begun(lambda: Cluster(initialize_head=True, head_node_args=head))


def start_node(cluster: Any) -> Any:
    return begun(lambda: cluster.add_node(num_cpus=1))


def start(runs: Any, address: str, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [*PROGRAM, *runs.command(out), "--engine", "ray", "--ray-address", address, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def wait_for_parts(process: subprocess.Popen[str], runs: Any, out: Path, number: int) -> None:
    while len(runs.parts(out)) < number:
        if process.poll() is not None:
            raise RuntimeError(f"the run ended before its {number} parts: {process.communicate()[1]}")
        time.sleep(0.02)


def finish(process: subprocess.Popen[str]) -> None:
    error = process.communicate(timeout=900)[1]
    if process.returncode:
        raise RuntimeError(f"the run failed: {error[-3000:]}")


def node_kill(cluster: Any, node: Any, runs: Any, share: float) -> Any:
    """One run whose second node dies when `share` of its parts is there; return what was found, and the new node."""
    out = runs.folder / f"out-{share:.4f}"
    begin = time.monotonic()
    process = start(runs, cluster.address, out)
    wait_for_parts(process, runs, out, max(1, round(share * runs.num_parts)))
    at_kill = len(runs.parts(out))
    cluster.remove_node(node, allow_graceful=False)
    node = start_node(cluster)
    finish(process)
    seconds = round(time.monotonic() - begin, 1)
    return {
        "killed": "node",
        "parts_at_kill": at_kill,
        "parts": runs.num_parts,
        "seconds": seconds,
    } | runs.compare(out), node


def driver_kill(cluster: Any, runs: Any, share: float) -> dict[str, Any]:
    """A run whose driver dies, and goes on: what was there stays as it was, and no more than the rest is made."""
    out = runs.folder / "out-driver"
    process = start(runs, cluster.address, out)
    wait_for_parts(process, runs, out, max(1, round(share * runs.num_parts)))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(5)  # its workers end
    before = {path.name: path.stat().st_mtime_ns for path in runs.parts(out)}
    finish(start(runs, cluster.address, out, *runs.resume))
    after = {path.name: path.stat().st_mtime_ns for path in runs.parts(out)}
    made_again = sum(after[name] != changed for name, changed in before.items())
    return {
        "killed": "driver",
        "parts_at_kill": len(before),
        "parts": runs.num_parts,
        "made_again": made_again,
        "made_by_resume": len(after) - len(before),
    } | runs.compare(out)


def run(
    job: str, kills: int, rows: int, seed: int, folder: Path, cluster: Any = None
) -> Iterator[dict[str, Any]]:
    """`kills` runs that lose a node, and one that loses its driver: what was found, run by run.

    cluster: with a head and a node, which dies, and has another in its place; by default it is started here.
    """
    import ray

    generator = random.Random(seed)
    runs = JOBS[job](folder, rows, seed)
    own = cluster or start_head()
    try:
        node = next(iter(own.worker_nodes), None) or start_node(own)
        for _ in range(kills):
            row, node = node_kill(own, node, runs, generator.uniform(0.02, 0.9))
            yield {"job": job, **row}
        yield {"job": job, **driver_kill(own, runs, generator.uniform(0.1, 0.7))}
    finally:
        if cluster is None:
            ray.shutdown()
            own.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--job", nargs="+", choices=JOBS, default=["embed"])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    recording = Recording(arguments)
    rows = []
    for job in arguments.job:
        with tempfile.TemporaryDirectory() as folder:
            for row in run(job, arguments.kills, arguments.rows, arguments.seed, Path(folder)):
                print(json.dumps(row), flush=True)
                rows.append(row)
                recording.write(arguments.out, rows=rows)


if __name__ == "__main__":
    main()
