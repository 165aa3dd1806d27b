"""The four models on two tasks of the Long Range Arena's form that a CPU can train in minutes.

    python benchmarks/lra_small.py --out runs/lra_small

ListOps: generated expressions of 16 to 64 tokens. Text: which of two libraries, pandas or scipy, a piece of 256 bytes
documents; the test pieces are from other functions than those of training. Every run is one `funnelformer lra`; a run
that is there already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "demo"))
from documentation import read_documentation, sample
from recording import Recording

MODELS = ("transformer", "funnel", "ponet", "hybrid")
LIBRARIES = {"pandas": "neg", "scipy": "pos"}
NUM_ENTRIES = 400  # of each library
PIECE = 256
TASKS = {
    "listops": ["--generate", "20000", "--length", "64", "--steps", "3000", "--learning-rate", "1e-3"],
    "text": ["--length", str(PIECE), "--steps", "1000", "--learning-rate", "1e-3", "--warmup", "0.1"],
}


def write_pieces(folder: Path) -> None:
    """Pieces of documentation in the folders of the Text task: train and test, each pos and neg."""
    for library, label in LIBRARIES.items():
        for number, entry in enumerate(sample(read_documentation([library]), NUM_ENTRIES)):
            target = folder / ("test" if number % 4 == 0 else "train") / label
            target.mkdir(parents=True, exist_ok=True)
            data = entry.body.encode()
            for start in range(0, len(data) - PIECE + 1, PIECE):
                (target / f"{number}_{start}.txt").write_bytes(data[start : start + PIECE])


def most_frequent(task: str, pieces: Path) -> float:
    """Accuracy of always giving the most frequent answer of the test part."""
    if task == "text":
        counts = [len(list((pieces / "test" / label).iterdir())) for label in ("pos", "neg")]
    else:
        from funnelformer.lra.arena_tasks import find_task
        from funnelformer.lra.readers import generate_data

        settings = dict(zip(TASKS[task][::2], TASKS[task][1::2], strict=True))
        data = generate_data(find_task(task), int(settings["--generate"]), int(settings["--length"]), 0)
        counts = list(Counter(data.test.labels.tolist()).values())
    return max(counts) / sum(counts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    options = parser.parse_args()
    record = Recording(options)
    options.out.mkdir(parents=True, exist_ok=True)
    pieces = options.out / "text_data"
    if "text" in options.tasks and not pieces.exists():
        write_pieces(pieces)
    results = []
    for task in options.tasks:
        data = ["--data", str(pieces)] if task == "text" else []
        for model in options.models:
            run = options.out / f"{task}-{model}"
            if not (run / "metrics.json").is_file():
                command = [
                    sys.executable,
                    "-m",
                    "funnelformer",
                    "lra",
                    task,
                    "--model",
                    model,
                    "--out",
                    str(run),
                ]
                command += [*TASKS[task], *data, "--batch-size", "32", "--overwrite"]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            results.append(json.loads((run / "metrics.json").read_text()))
            print(f"{task} {model}: {results[-1]['accuracy']:.3f}", file=sys.stderr, flush=True)
    print("| task | model | test accuracy | steps/s | / transformer | examples/s | peak MiB |")
    print("|---" * 7 + "|")
    for result in results:
        peers = [r for r in results if (r["task"], r["model"]) == (result["task"], "transformer")]
        ratio = f"{result['steps_per_s'] / peers[0]['steps_per_s']:.2f}" if peers else ""
        speed = f"{result['steps_per_s']:.1f} | {ratio} | {result['examples_per_s']:.0f}"
        cells = f"{result['task']} | {result['model']} | {result['accuracy']:.1%} | {speed}"
        print(f"| {cells} | {result['peak_memory_bytes'] / 2**20:,.0f} |")
    for task in options.tasks:
        print(f"\n{task}: always the most frequent answer: {most_frequent(task, pieces):.1%}")
    record.write(options.out / "results.json", rows=results)


if __name__ == "__main__":
    main()
