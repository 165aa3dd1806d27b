"""A few labelled texts a class: our --few-shot and --frozen beside setfit, full fine-tuning, and TF-IDF.

    from="--source runs/demo-sources/all-MiniLM-L6-v2 --data sets --peer-python setfit-env/bin/python"
    python benchmarks/few_shot.py $from --sets sst2 --shots 8 16 --seeds 0 1 2
    python benchmarks/few_shot.py --report

A cell is one set, number of texts a class, seed and method; all methods have the same training texts, drawn by the
seed, and the same test texts. Seconds are those of the processor, on one thread, from the texts to the score: training,
what a run writes, and scoring. `few_shot` and `setfit` read the encoder `--passes` times a text: of setfit these are
its iterations times four, as each draws a pair of one class and a pair of two. A cell's row is added to `--results` as
soon as it is there, and a cell that has a row is not run again; `--report` prints the table, with what was not run.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from finetuning import write_json
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from funnelformer.base.machine import hardware, load_average, versions
from funnelformer.training.finetuning.config import FinetuneConfig
from funnelformer.training.finetuning.finetune import finetune

RESULTS = Path(__file__).parent / "results" / "few_shot.json"
SETS = ("sst2", "banking77")
SHOTS, SEEDS = (8, 16, 64), (0, 1, 2)
MAX_LENGTH, BATCH_SIZE = 64, 16
FULL_PASSES = 20

Row = tuple[str, str]


@dataclass(frozen=True)
class Cell:
    """train, test: texts with their labels."""

    train: list[Row]
    test: list[Row]
    seed: int
    options: argparse.Namespace


def read_rows(folder: Path, part: str) -> list[Row]:
    """The rows of a tab-separated file without quoting, text and label first."""
    with (folder / f"{part}.tsv").open(encoding="utf-8", newline="") as file:
        rows = [row[:2] for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    return [(text, label) for text, label in rows[1:]]


def draw(rows: list[Row], shots: int, seed: int) -> list[Row]:
    """So many rows of every class."""
    generator = np.random.default_rng(seed)
    labels = np.array([label for _, label in rows])
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:shots]
        for label in sorted(set(labels.tolist()))
    ]
    return [rows[index] for index in np.concatenate(chosen)]


def ours(cell: Cell, **settings: Any) -> dict[str, Any]:
    """One `funnelformer finetune`, whose dev part is the test set, and chooses nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, rows in (("train", cell.train), ("test", cell.test)):
            text = "".join(f"{text}\t{label}\n" for text, label in [("text", "label"), *rows])
            (folder / f"{part}.tsv").write_text(text, encoding="utf-8")
        metrics = finetune(
            FinetuneConfig(
                model=str(cell.options.source),
                train=str(folder / "train.tsv"),
                dev=str(folder / "test.tsv"),
                out=folder / "run",
                max_length=MAX_LENGTH,
                batch_size=BATCH_SIZE,
                seed=cell.seed,
                device="cpu",
                **settings,
            )
        )
    return {"accuracy": metrics["dev_accuracy"]}


def full(cell: Cell) -> dict[str, Any]:
    """Encoder and head together, scored once, at the end."""
    steps = FULL_PASSES * -(-len(cell.train) // BATCH_SIZE)
    return ours(cell, steps=steps, evaluate_every=steps)


def tf_idf(cell: Cell) -> dict[str, Any]:
    texts, labels = zip(*cell.train, strict=True)
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    ).fit(texts, labels)
    tested, right = zip(*cell.test, strict=True)
    return {"accuracy": float(np.mean(model.predict(tested) == np.array(right)))}


def peer(cell: Cell) -> dict[str, Any]:
    """setfit, in its own environment, with as many texts through the encoder as ours."""
    if cell.options.passes % 4:
        raise SystemExit("--passes: allowed are multiples of 4, so that setfit can make as many")
    asked = {
        "source": str(cell.options.source),
        "threads": torch.get_num_threads(),
        "max_length": MAX_LENGTH,
        "batch_size": BATCH_SIZE,
        "iterations": cell.options.passes // 4,
        "seed": cell.seed,
    }
    for name, rows in (("train", cell.train), ("test", cell.test)):
        asked[name] = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    command = [str(cell.options.peer_python), str(Path(__file__).with_name("setfit_peer.py"))]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"setfit failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


METHODS: dict[str, Callable[[Cell], dict[str, Any]]] = {
    "tf_idf": tf_idf,
    "frozen": lambda cell: ours(cell, frozen=True),
    "few_shot": lambda cell: ours(cell, few_shot=True, contrastive_epochs=float(cell.options.passes)),
    "setfit": peer,
    "full": full,
}


def measure(name: str, shots: int, seed: int, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """The row of one cell."""
    folder = options.data / name
    tested = read_rows(folder, "test")
    tested = [tested[index] for index in np.random.default_rng(0).permutation(len(tested))[: options.test]]
    cell = Cell(draw(read_rows(folder, "train"), shots, seed), tested, seed, options)
    before, begin, begin_cpu = load_average(), time.perf_counter(), time.process_time()
    found = METHODS[method](cell)
    taken = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - begin_cpu}
    return {
        "set": name,
        "shots": shots,
        "seed": seed,
        "method": method,
        "passes": options.passes if method in ("few_shot", "setfit") else None,
        "test_texts": len(tested),
        **taken,
        **found,
        "threads": torch.get_num_threads(),
        "load_average": [before, load_average()],
        "command": command_of(name, shots, seed, method, options),
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
    }


def command_of(name: str, shots: int, seed: int, method: str, options: argparse.Namespace) -> str:
    """What makes this cell alone, with names in capitals for this machine's folders."""
    words = [
        "python",
        "benchmarks/few_shot.py",
        "--source",
        "SOURCE",
        "--data",
        "DATA",
        "--peer-python",
        "PYTHON",
    ]
    own = ["--sets", name, "--shots", shots, "--seeds", seed, "--methods", method]
    return shlex.join(map(str, [*words, *own, "--passes", options.passes, "--test", options.test]))


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["set"], row["shots"], row["seed"], row["method"]


def table(rows: list[dict[str, Any]]) -> str:
    """A row a set, number of texts and method: mean accuracy and spread, seconds, and their ratio to setfit's."""
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["set"], row["shots"], row["method"]), []).append(row)
    lines = [
        "| set | texts a class | method | passes | seeds | accuracy, % (min to max) | CPU s (same) | over setfit's |",
        "|---" * 8 + "|",
    ]
    for name in SETS:
        for shots in SHOTS:
            for method in METHODS:
                group = groups.get((name, shots, method), [])
                if not group:
                    lines.append(f"| {name} | {shots} | {method} |  | 0 | not run |  |  |")
                    continue
                peers = {row["seed"]: row["cpu_seconds"] for row in groups.get((name, shots, "setfit"), [])}
                ratios = [row["cpu_seconds"] / peers[row["seed"]] for row in group if row["seed"] in peers]
                cells = [
                    *(name, str(shots), method, str(group[0]["passes"] or ""), str(len(group))),
                    spread([100 * row["accuracy"] for row in group], 1),
                    spread([row["cpu_seconds"] for row in group], 1),
                    spread(ratios, 2) if ratios and method != "setfit" else "",
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, help="folder of a pretrained encoder")
    parser.add_argument("--data", type=Path, help="folder with the folders of the sets")
    parser.add_argument("--peer-python", type=Path, help="python of an environment that has setfit")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--shots", nargs="+", type=int, choices=SHOTS, default=list(SHOTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--passes", type=int, default=20, help="of each text in contrastive training")
    parser.add_argument("--test", type=int, default=600, help="test texts, drawn once")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="only print the table")
    options = parser.parse_args()
    rows = json.loads(options.results.read_text())["rows"] if options.results.is_file() else []
    if not options.report:
        if options.source is None or options.data is None:
            parser.error("--source and --data are needed")
        if "setfit" in options.methods and options.peer_python is None:
            parser.error("--peer-python is needed for setfit")
        torch.set_num_threads(1)
        done = {key(row) for row in rows}
        cells = [
            (name, shots, seed, method)
            for name in options.sets
            for shots in options.shots
            for seed in options.seeds
            for method in options.methods
        ]
        for cell in cells:
            if cell in done:
                continue
            row = measure(*cell, options)
            rows.append(row)
            write_json(options.results, {"rows": rows})
            print(*cell, f"{row['accuracy']:.4f} {row['cpu_seconds']:.1f} CPU s", file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
