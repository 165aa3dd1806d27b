"""A pretrained encoder as it is, shortened, and with layers left out: scores and seconds of each on eight sets.

    from="--source runs/demo-sources/all-MiniLM-L6-v2 --data sets --ratings runs/demo/ratings"
    python benchmarks/sources.py $from --sets sst2 films --seeds 0
    python benchmarks/sources.py $from --time
    python benchmarks/sources.py --list
    python benchmarks/sources.py --report

A cell is one set, model and seed: `funnelformer convert` makes the model, `finetune` trains it with the set's recipe,
`evaluate` tests it, each in a process of its own. Its row is added to `--results` as soon as it is there, and a cell
that has a row is not run again. "B2-2-2 taught" and "L4 taught" are trained alike, and beside a teacher, the full
encoder that was fine-tuned on the same set (`finetune --teacher`). `--time` measures the models in turns, prepacked, on
the sets' own texts. `--report` prints the tables with the cells that were not run, and draws the picture.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shlex
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "demo"))
from cells import add, read_results, shown, spread
from finetuning import measured, split_file
from measure import seconds_in_turns

from funnelformer.base.figures import save_png
from funnelformer.base.machine import hardware, load_average, versions
from funnelformer.data.tables import read_text_table
from funnelformer.inference.embedder import load_embedder

RESULTS = Path(__file__).parent / "results" / "sources.json"
# What `funnelformer convert` makes of a source of six layers; "nothing" is the funnel from random weights.
MODELS: dict[str, list[str]] = {
    "L6": [],
    "B2-2-2": ["--layout", "B2-2-2H384"],
    "B3-3": ["--layout", "B3-3H384"],
    "B2-4": ["--layout", "B2-4H384"],
    "L4": ["--layers", "0,2,3,5"],
    "L3": ["--layers", "0,2,5"],
}
NOTHING = "nothing"
# Few steps from random weights need a higher rate, and larger initial values for a narrow model.
FROM_NOTHING = {"layout": "B2-2-2H384", "learning_rate": 5e-4, "initializer_std": 0.06}
# Trained beside the full encoder, which was fine-tuned with this seed, on these sets.
TEACHER, TEACHER_SEED = "L6", 0
TAUGHT = {"B2-2-2 taught": "B2-2-2", "L4 taught": "L4"}
TAUGHT_SETS = ("sst2",)
SEEDS = (0, 1, 2)
ROUNDS = 3
BATCH_SIZE = 32


@dataclass(frozen=True)
class Set:
    """One set: its folder, the score that is reported, and how it is trained on.

    also: further tables the model is tested on, by the name of their score.
    """

    folder: str
    score: str
    length: int
    epochs: int
    learning_rate: float = 5e-5
    options: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


SETS = {
    "sst2": Set("sst2", "accuracy", 64, 3),
    "films": Set("films", "accuracy", 64, 2, also=("products", "tweets", "editorials")),
    "banking77": Set("banking77", "accuracy", 64, 5, learning_rate=2e-4),
    "mrpc": Set("mrpc", "accuracy", 128, 3),
    "sts": Set("sts", "pearson", 128, 2, options=("--regression",)),
    "ag": Set("ag_news_small", "accuracy", 128, 2),
    "reviews256": Set("movie_reviews_long", "accuracy", 256, 2),
    "reviews": Set("movie_reviews_long", "accuracy", 512, 2),
}


def files(name: str, options: argparse.Namespace) -> dict[str, Path]:
    """The tables of a set: train, dev, test, and what else its models are tested on."""
    chosen = SETS[name]
    if chosen.folder == "films":
        own = {part: options.ratings / f"films-{part}.tsv" for part in ("train", "dev", "test")}
        return own | {also: options.ratings / f"{also}.tsv" for also in chosen.also}
    folder = options.data / chosen.folder
    return {part: split_file(folder, part) for part in ("train", "dev", "test")}


def make_model(model: str, options: argparse.Namespace) -> tuple[Path, list[object]]:
    """The folder of a model made from the source, and the command that makes it."""
    folder = options.out / "models" / model
    command: list[object] = ["convert", options.source, folder, *MODELS[model]]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        measured(command, folder.with_name(f"{model}.log"), options.threads)
    return folder, command


def make_teacher(name: str, options: argparse.Namespace) -> tuple[Path, list[object]]:
    """The folder of the full encoder fine-tuned on a set, and the command that makes it."""
    folder = options.out / "teachers" / name
    source, _ = make_model(TEACHER, options)
    arguments = ["finetune", "--model", source, *training(name, TEACHER, TEACHER_SEED, options)]
    if not (folder / "metrics.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        tables = files(name, options)
        where = ["--train", tables["train"], "--dev", tables["dev"], "--out", folder, "--overwrite"]
        measured([*arguments, *where], folder.with_name(f"{name}.log"), options.threads)
    return folder, arguments


def training(name: str, model: str, seed: int, options: argparse.Namespace) -> list[object]:
    """The options of `funnelformer finetune` that a cell has, but its folders."""
    chosen = SETS[name]
    rate = chosen.learning_rate
    arguments: list[object] = []
    if model == NOTHING:
        rate = FROM_NOTHING["learning_rate"]
        arguments += [
            "--set.classifier_pooling=mean",
            f"--set.initializer_std={FROM_NOTHING['initializer_std']}",
        ]
    arguments += ["--max-length", chosen.length, "--epochs", chosen.epochs, "--batch-size", BATCH_SIZE]
    arguments += ["--group-by-length", "--learning-rate", rate, "--seed", seed]
    return [*arguments, "--precision", options.precision, "--keep-checkpoints", 1, *chosen.options]


def run_cell(name: str, model: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Make, train and test one model; its row."""
    chosen, tables = SETS[name], files(name, options)
    folder = options.out / f"{name}-{model}-{seed}"
    log = folder.with_name(f"{folder.name}.log")
    made: list[object] | None = None
    teacher: list[object] | None = None
    if model == NOTHING:
        start: list[object] = ["--model", FROM_NOTHING["layout"], "--tokenizer", options.source]
    else:
        source, made = make_model(TAUGHT.get(model, model), options)
        start = ["--model", source]
    where: list[object] = ["--train", tables["train"], "--dev", tables["dev"], "--out", folder, "--overwrite"]
    if model in TAUGHT:
        taught_by, teacher = make_teacher(name, options)
        start += ["--teacher", taught_by]
        where += ["--cache", options.out / "teacher-outputs"]
    arguments = ["finetune", *start, *training(name, model, seed, options)]
    before = load_average()
    peak = measured([*arguments, *where], log, options.threads)
    after = load_average()
    metrics = json.loads((folder / "metrics.json").read_text())
    scores = {}
    for part in ("test", *chosen.also):
        tested = folder / f"{part}.json"
        measured(["evaluate", folder, tables[part], "--out", tested], log, options.threads)
        scores[part] = json.loads(tested.read_text())[chosen.score]
    if not options.keep:
        shutil.rmtree(folder)
    facts = {"hardware": hardware(torch.device("cpu")), "versions": versions()}
    return {
        "set": name,
        "model": model,
        "seed": seed,
        "score": chosen.score,
        "test": scores.pop("test"),
        **({"also": scores} if scores else {}),
        "parameters": metrics["num_parameters"],
        "training_seconds": metrics["cost"]["train_seconds"],
        "training_flops": metrics["cost"]["train_flops"],
        "peak_memory_bytes": peak,
        "threads": options.threads,
        "load_average": [before, after],
        "made_with": None if made is None else shown(made),
        **({} if teacher is None else {"taught_by": shown(teacher)}),
        "command": shown(arguments),
        **facts,
    }


def texts_of(file: Path, number: int) -> list[str]:
    """Texts of a table, those of a pair joined: evenly spaced ones, so that all kinds of a table are among them."""
    columns = read_text_table(file).columns
    labels = {"label", "labels"}
    rows = zip(*(values for column, values in columns.items() if column not in labels), strict=True)
    texts = [" ".join(str(text) for text in row) for row in rows]
    return texts[:: max(1, len(texts) // number)][:number]


def time_models(name: str, models: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Seconds for 1,000 texts of a set with each model, prepacked, in turns."""
    chosen = SETS[name]
    texts = texts_of(files(name, options)["test"], options.texts * 64 // chosen.length)
    embedders = {
        model: load_embedder(str(make_model(model, options)[0]), max_length=chosen.length, only_runs=True)
        for model in models
    }
    before = load_average()
    work = {
        model: functools.partial(embedder.vectors, batch_size=BATCH_SIZE, advance=lambda number: None)
        for model, embedder in embedders.items()
    }
    seconds = seconds_in_turns(work, texts, ROUNDS)
    tokens = embedders[models[0]].tokenizer(texts, truncation=True, max_length=chosen.length)["input_ids"]
    return {
        "set": name,
        "length": chosen.length,
        "texts": len(texts),
        "tokens": statistics.mean(len(ids) for ids in tokens),
        "batch_size": BATCH_SIZE,
        "seconds_per_1000": seconds,
        "threads": torch.get_num_threads(),
        "load_average": [before, load_average()],
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
        "command": shlex.join(["python", "benchmarks/sources.py", "--time", "--sets", name]),
    }


def cell_of(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["set"], row["model"], row["seed"]


def score_table(results: dict[str, list[dict[str, Any]]]) -> str:
    """A row a set and model: test score of the seeds, fastest training, seconds of use. What was not run says so."""
    times = {entry["set"]: entry["seconds_per_1000"] for entry in results["times"]}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in results["cells"]:
        groups.setdefault((row["set"], row["model"]), []).append(row)
    lines = [
        "| set | model | seeds | test score, % (min to max) | training, s | s / 1,000 texts | over L6's |",
        "|---" * 7 + "|",
    ]
    for name in SETS:
        for model in [*MODELS, NOTHING]:
            group = groups.get((name, model), [])
            if not group:
                lines.append(f"| {name} | {model} | 0 | not run | | | |")
                continue
            found = times.get(name, {})
            # The funnel from nothing has the layout of the shortened one, but relative positions.
            own = [] if model == NOTHING else found.get(model, [])
            took, share = "", ""
            if own:
                took = f"{statistics.median(own):.2f}"
                share = f"{statistics.median(a / b for a, b in zip(own, found['L6'], strict=True)):.2f}"
            seconds = min(row["training_seconds"] for row in group)  # what else ran can only add to it
            lines.append(
                f"| {name} | {model} | {len(group)} | {spread([100 * row['test'] for row in group])} "
                f"| {seconds:.0f} | {took} | {share} |"
            )
    return "\n".join(lines)


def also_table(results: dict[str, list[dict[str, Any]]], name: str = "films") -> str:
    """What models that were trained on one kind of text score on kinds they never saw."""
    also = SETS[name].also
    lines = ["| model | seeds | " + " | ".join((name, *also)) + " |", "|---" * (3 + len(also)) + "|"]
    for model in [*MODELS, NOTHING]:
        group = [row for row in results["cells"] if row["set"] == name and row["model"] == model]
        if group:
            scores = [spread([100 * row["test"] for row in group])]
            scores += [spread([100 * row["also"][kind] for row in group]) for kind in also]
            lines.append(f"| {model} | {len(group)} | " + " | ".join(scores) + " |")
    return "\n".join(lines)


def taught_table(results: dict[str, list[dict[str, Any]]]) -> str:
    """What a teacher adds to the labels: test scores of both, and their difference seed by seed."""
    scores = {cell_of(row): 100 * row["test"] for row in results["cells"]}
    lines = ["| set | model | seeds | labels | labels and teacher | teacher | gain |", "|---" * 7 + "|"]
    for name in TAUGHT_SETS:
        for taught, alone in TAUGHT.items():
            seeds = [s for s in SEEDS if (name, taught, s) in scores and (name, alone, s) in scores]
            if not seeds:
                lines.append(f"| {name} | {alone} | 0 | not run | | | |")
                continue
            both = [[scores[name, model, seed] for seed in seeds] for model in (alone, taught)]
            gains = [with_teacher - without for without, with_teacher in zip(*both, strict=True)]
            teacher = scores.get((name, TEACHER, TEACHER_SEED))
            known = "" if teacher is None else f"{teacher:.1f}"
            cells = [name, alone, str(len(seeds)), *map(spread, both), known, spread(gains)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(results: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Score against seconds, a panel a set, in the order of their lengths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    times = {entry["set"]: entry["seconds_per_1000"] for entry in results["times"]}
    names = [
        name
        for name in sorted(SETS, key=lambda name: SETS[name].length)
        if name in times and any(row["set"] == name for row in results["cells"])
    ]
    if not names:
        return
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 3.1 * rows), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(names) :]:
        axes.axis("off")
    for axes, name in zip(grid.flat, names, strict=False):
        for model in MODELS:
            scores = [
                100 * row["test"] for row in results["cells"] if row["set"] == name and row["model"] == model
            ]
            if not scores or model not in times[name]:
                continue
            took, middle = statistics.median(times[name][model]), statistics.mean(scores)
            axes.errorbar(
                took,
                middle,
                yerr=[[middle - min(scores)], [max(scores) - middle]],
                fmt="o" if model.startswith("B") else "s",
                color="C0" if model.startswith("B") else "C1",
                capsize=3,
            )
            axes.annotate(model, (took, middle), xytext=(5, 4), textcoords="offset points", fontsize=8)
        axes.set_title(f"{name}, {SETS[name].length} tokens at most", fontsize=9)
        axes.set(xlabel="seconds for 1,000 texts", ylabel=f"test {SETS[name].score}, %")
        axes.margins(x=0.25, y=0.2)
        axes.grid(alpha=0.3)
    save_png(figure, file)
    plt.close(figure)


def report(file: Path) -> None:
    results = read_results(file)
    print(score_table(results))
    print()
    print(also_table(results))
    print()
    print(taught_table(results))
    missing = [cell for cell in every_cell() if cell not in {cell_of(row) for row in results["cells"]}]
    print(f"\n{len(results['cells'])} cells are there, {len(missing)} are not.")
    if missing:
        print("The rest: python benchmarks/sources.py --source SOURCE --data SETS --ratings RATINGS")
    draw(results, file.with_suffix(".png"))


def every_cell() -> list[tuple[str, str, int]]:
    """All cells, one seed of everything before the next."""
    cells = [(name, model, seed) for seed in SEEDS for name in SETS for model in [*MODELS, NOTHING]]
    return cells + [(name, model, seed) for seed in SEEDS for name in TAUGHT_SETS for model in TAUGHT]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, help="folder of the encoder that all start from")
    parser.add_argument("--data", type=Path, help="folder with a folder for each set")
    parser.add_argument("--ratings", type=Path, help="folder of the demo's tables")
    parser.add_argument("--out", type=Path, default=Path("runs/sources"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    models = [*MODELS, NOTHING, *TAUGHT]
    parser.add_argument("--models", nargs="+", default=models, choices=models)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--texts", type=int, default=512, help="to time at 64 tokens; fewer of longer ones")
    parser.add_argument("--keep", action="store_true", help="keep the trained models")
    parser.add_argument("--time", action="store_true", help="time the models, train none")
    parser.add_argument("--list", action="store_true", help="say which cells are there and which are not")
    parser.add_argument("--report", action="store_true", help="print the tables, draw the picture")
    options = parser.parse_args()
    if options.report:
        return report(options.results)
    wanted = [
        cell
        for cell in every_cell()
        if cell[0] in options.sets and cell[1] in options.models and cell[2] in options.seeds
    ]
    if options.list:
        there = {cell_of(row) for row in read_results(options.results)["cells"]}
        for cell in wanted:
            print("done" if cell in there else "  - ", *cell)
        return None
    if options.source is None or options.data is None or options.ratings is None:
        parser.error("--source, --data and --ratings are needed to run anything")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.time:
        torch.set_num_threads(options.threads)
        for name in options.sets:
            models = [model for model in MODELS if model in options.models]
            add(options.results, "times", time_models(name, models, options), lambda row: row["set"])
        return report(options.results)
    for cell in wanted:
        if cell in {cell_of(row) for row in read_results(options.results)["cells"]}:
            continue
        row = run_cell(*cell, options)
        print(json.dumps({key: row[key] for key in ("set", "model", "seed", "test")}), file=sys.stderr)
        add(options.results, "cells", row, cell_of)
    return report(options.results)


if __name__ == "__main__":
    main()
