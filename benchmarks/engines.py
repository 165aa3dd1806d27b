"""Texts to vectors: the engines that run an encoder, full and shortened, beside those of other libraries.

    python benchmarks/engines.py --source runs/demo-sources/all-MiniLM-L6-v2 --work runs/engines
    python benchmarks/engines.py --source ... --work ... --peer-path PACKAGES --out engines.json
    python benchmarks/engines.py --source ... --work ... --threads 1 --shapes 1x32 8x128 --rounds 5

The full encoder (L6), the funnel B2-2-2 and L4, which lacks two layers, each in PyTorch (prepacked), ONNX Runtime and
OpenVINO, in float32, and both engines with dynamic int8. Beside them, with the full encoder, transformers' pipeline and
the backends of sentence-transformers. All take turns, text to vector, with the tokens counted in `--shapes`; ratios are
of one round each. `--peer-path` is a folder of packages in which sentence-transformers finds optimum, for its onnx and
openvino; these need an older transformers, so they run in a process of their own, which takes its turn like the others.
The folders of models in `--work` are made once. A JSON row says one subject at one shape.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from recording import Recording

from funnelformer.base.markdown import markdown_table
from funnelformer.bench.results import spread
from funnelformer.checkpoints.convert import convert
from funnelformer.export.command import export
from funnelformer.inference.embedder import load_embedder

MODELS: dict[str, dict[str, Any]] = {"L6": {}, "B2-2-2": {"layout": "B2-2-2"}, "L4": {"layers": [0, 2, 3, 5]}}
ENGINES = ("torch", "onnx", "openvino", "onnx-int8", "openvino-int8")
PIPELINE = "transformers' pipeline"
OTHERS = ("torch", "onnx", "openvino")
MOST_TOKENS = 512

Call = Callable[[list[str]], float]


def make_models(source: Path, work: Path) -> dict[str, dict[str, Path]]:
    """The folders of each model: of PyTorch, and its float32 and int8 graphs."""
    folders: dict[str, dict[str, Path]] = {}
    for name, changes in MODELS.items():
        weights = work / name
        folders[name] = {"torch": weights, "onnx": work / f"{name}-onnx", "int8": work / f"{name}-int8"}
        if not weights.exists():
            convert(str(source), weights, **changes)
        for form, int8 in (("onnx", None), ("int8", "dynamic")):
            if not folders[name][form].exists():
                export(str(weights), folders[name][form], task="embeddings", int8=int8, check_to=64)
    return folders


def make_texts(tokenizer: Any, batch_size: int, length: int) -> list[str]:
    """Texts of exactly so many tokens: whole words of the vocabulary."""
    generator = random.Random(batch_size * length)
    words = sorted(
        word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha() and len(word) > 2
    )
    texts = [" ".join(generator.choices(words, k=length - 2)) for _ in range(batch_size)]
    assert {len(ids) for ids in tokenizer(texts)["input_ids"]} == {length}
    return texts


def our_call(folders: dict[str, Path], engine: str) -> Call:
    folder = folders["int8" if engine.endswith("int8") else "torch" if engine == "torch" else "onnx"]
    backend: Any = engine.removesuffix("-int8")
    embedder = load_embedder(
        str(folder), backend=backend, device="cpu", max_length=MOST_TOKENS, only_runs=True
    )
    return timed(lambda texts: embedder.vectors(texts, batch_size=len(texts), advance=lambda number: None))


def pipeline_call(source: Path) -> Call:
    """The mean over the tokens of what the pipeline gives, as its users take it."""
    pipeline = transformers.pipeline("feature-extraction", model=str(source), device="cpu")

    def run(texts: list[str]) -> None:
        for states in pipeline(texts, batch_size=len(texts), return_tensors=True):
            states.mean(1)

    return timed(run)


def timed(run: Callable[[list[str]], Any]) -> Call:
    def seconds(texts: list[str]) -> float:
        start = time.perf_counter()
        run(texts)
        return time.perf_counter() - start

    return seconds


class Peer:
    """A backend of sentence-transformers in a process of its own, see `sentence_peer.py`."""

    def __init__(self, source: Path, backend: str, path: Path | None, threads: int) -> None:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": str(path or ""),
            "HF_HUB_OFFLINE": "1",
        }
        script = Path(__file__).with_name("sentence_peer.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(source), backend, str(threads), str(MOST_TOKENS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.versions = self._read()

    def __call__(self, texts: list[str]) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(texts) + "\n")
        self.process.stdin.flush()
        return float(self._read()["seconds"])

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def make_subjects(
    folders: dict[str, dict[str, Path]], source: Path, options: argparse.Namespace
) -> tuple[dict[str, Call], dict[str, Any], list[Peer]]:
    """What is timed, by name; the versions of the peers in their own process, or why one is missing; these peers."""
    subjects = {
        f"{name} {engine}": our_call(folders[name], engine)
        for name in options.models
        for engine in options.engines
    }
    subjects[PIPELINE] = pipeline_call(source)
    notes: dict[str, Any] = {}
    peers: list[Peer] = []
    for backend in options.peers:
        name = f"sentence-transformers {backend}"
        try:
            peer = Peer(source, backend, None if backend == "torch" else options.peer_path, options.threads)
        except RuntimeError:
            notes[name] = "could not be loaded"
            print(f"{name}: could not be loaded in this Python", file=sys.stderr)
            continue
        subjects[name], notes[name] = peer, peer.versions
        peers.append(peer)
    return subjects, notes, peers


def measure(subjects: dict[str, Call], texts: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, in turns; the first two rounds do not count."""
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds + 2):
        for name, call in subjects.items():
            seconds = call(texts)
            if number >= 2:
                samples[name].append(seconds)
    return samples


def rows_of(shape: str, samples: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A row for each subject: milliseconds, over the pipeline's, and over the full encoder's in the same engine."""
    rows = []
    for name, seconds in samples.items():
        model, _, engine = name.partition(" ")
        row: dict[str, Any] = {
            "subject": name,
            "shape": shape,
            "ms": asdict(spread([1e3 * value for value in seconds])),
        }
        for key, base in (
            ("of_pipeline", PIPELINE),
            ("of_full", f"L6 {engine}" if model in MODELS else None),
        ):
            if base in samples and base != name:
                ratios = [a / b for a, b in zip(seconds, samples[base], strict=True)]
                row[key] = asdict(spread(ratios))
        rows.append(row | {"seconds": seconds})
    return rows


def tables(rows: list[dict[str, Any]], shapes: list[str]) -> str:
    """Milliseconds, and both ratios with quartiles."""
    parts = []
    names = list(dict.fromkeys(row["subject"] for row in rows))
    found = {(row["subject"], row["shape"]): row for row in rows}
    titles = {
        "ms": "milliseconds",
        "of_pipeline": f"over {PIPELINE}",
        "of_full": "over L6 in the same engine",
    }
    for key, title in titles.items():
        digits = 1 if key == "ms" else 2
        lines = []
        for name in names:
            values = [found[name, shape].get(key) for shape in shapes]
            if any(values):
                cells = [
                    f"{v['median']:.{digits}f} ({v['q25']:.{digits}f} to {v['q75']:.{digits}f})" if v else ""
                    for v in values
                ]
                lines.append([name, *cells])
        if lines:
            parts.append(markdown_table([title, *shapes], lines))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--work", type=Path, required=True, help="folder for the models that are made")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--peers", nargs="*", choices=OTHERS, default=list(OTHERS))
    parser.add_argument("--peer-path", type=Path, help="packages for the peers onnx and openvino")
    parser.add_argument("--shapes", nargs="+", default=["1x32", "8x32", "8x128", "4x256", "2x512"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    recording = Recording(options, given=("source", "work", "peer_path"))
    folders = make_models(options.source, options.work)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(options.source))
    subjects, notes, peers = make_subjects(folders, options.source, options)
    rows: list[dict[str, Any]] = []
    try:
        for shape in options.shapes:
            batch_size, length = map(int, shape.split("x"))
            rows += rows_of(
                shape, measure(subjects, make_texts(tokenizer, batch_size, length), options.rounds)
            )
    finally:
        for peer in peers:
            peer.close()
    print(tables(rows, options.shapes))
    recording.write(options.out, peers=notes, rows=rows)


if __name__ == "__main__":
    main()
