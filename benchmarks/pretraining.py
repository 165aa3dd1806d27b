"""What pretraining gives: masked and replaced tokens on a small corpus, then fine-tuning from either and from nothing.

    python benchmarks/pretraining.py --corpus 'corpus/*.txt.zst' --held-out valid.txt.zst --task sst2=sst2 \
        --task reviews=movie_reviews_long --few sst2=500 --few reviews=200 --out runs/pretraining \
        --jobs 2 --adapt-steps 2500

The recipes are `recipes/small-mlm.toml` and `recipes/small-electra.toml`; a task is a folder with train, dev and test
as .tsv or .tsv.gz, the text in the first column. With --adapt-steps pretraining goes on, by the same recipe, on the
texts of the tasks' training parts without their labels (Gururangan et al. 2020, arXiv:2004.10964). Everything is one
`funnelformer` command in a process of its own. What is there already is not made again, so an interrupted benchmark
goes on. Prints tables, writes results.json and curves.png.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from finetuning import (
    finetune_and_test,
    mean_and_deviation,
    measured,
    split_file,
    work_through,
)
from recording import Recording
from transformers import TrainingArguments, set_seed

from funnelformer.base.files import iter_lines
from funnelformer.base.markdown import markdown_table
from funnelformer.corpus.build import rows_from_text
from funnelformer.corpus.masking import MaskedBlocks, Masking
from funnelformer.corpus.row_settings import RowSettings
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.training.pretraining.objectives import OBJECTIVES

RECIPES = Path(__file__).parents[1] / "recipes"
STARTS = ("nothing", "mlm", "electra")
BLOCK_SIZE = 128
# How a task's texts are read, and passes over them; the reviews are read whole, in windows.
READING: dict[str, tuple[list[object], int]] = {
    "sst2": (["--max-length", 64, "--batch-size", 16], 3),
    "reviews": (["--max-length", 128, "--doc-stride", 126, "--batch-size", 32], 2),
}
DEFAULT_READING: tuple[list[object], int] = (["--max-length", 128, "--batch-size", 16], 3)
# Passes over a few labelled texts, for each over all of them.
FEW_PASSES = 3


def prepare(options: argparse.Namespace, log: Path) -> None:
    """A vocabulary, the corpus as rows, and the tasks' texts as rows."""
    out = options.out
    if not (out / "tokenizer").is_dir():
        arguments = ["--train", *options.corpus, "--out", out / "tokenizer", "--vocab-size", 8000]
        measured(["tokenizer", *arguments], log)
    sources = {"data": (options.corpus, 0.005)}
    if options.adapt_steps:
        sources["task-data"] = ([write_task_texts(options)], 0.01)
    for name, (files, fraction) in sources.items():
        if not (out / name / "manifest.json").is_file():
            arguments = ["--train", *files, "--tokenizer", out / "tokenizer", "--out", out / name]
            arguments += ["--block-size", BLOCK_SIZE, "--sentences", "punctuation"]
            measured(["prepare", *arguments, "--validation-fraction", fraction], log)


def write_task_texts(options: argparse.Namespace) -> Path:
    """The training texts: a long one is a document, short ones follow each other in one."""
    path = options.out / "task-texts.txt"
    with path.open("w", encoding="utf-8") as file:
        for folder in options.task.values():
            for _, line in itertools.islice(iter_lines(split_file(folder, "train")), 1, None):
                text = line.partition("\t")[0].strip()
                file.write(text + ("\n\n" if len(text.split()) > BLOCK_SIZE else "\n"))
            file.write("\n")
    return path


def pretrain(objective: str, options: argparse.Namespace) -> dict[str, Path]:
    """Run the small recipe, as far as asked, and then on the tasks' texts; the models they end with."""
    arguments: list[object] = ["--config", RECIPES / f"small-{objective}.toml"]
    arguments += ["--tokenizer", options.out / "tokenizer", "--auto-resume"]
    log = options.out / f"{objective}.log"
    folder = model = options.out / objective
    corpus = ["pretrain", *arguments, "--train", options.out / "data", "--out", folder]
    stop = options.stop_at.get(objective)
    if stop is not None:
        model = folder / "checkpoints" / f"checkpoint-{stop}"
        run_until(model / "complete.json", corpus, log, options.num_threads)
    elif not (folder / "metrics.json").is_file():
        measured(corpus, log, options.num_threads)
    models = {"corpus": model}
    if options.adapt_steps:
        adapted = start_folder(objective, options)
        if not (adapted / "metrics.json").is_file():
            arguments += ["--train", options.out / "task-data", "--out", adapted, "--model", model]
            arguments += ["--steps", options.adapt_steps]
            measured(["pretrain", *arguments], log, options.num_threads)
        models["task_texts"] = adapted
    return models


def start_folder(objective: str, options: argparse.Namespace) -> Path:
    """The pretrained model that fine-tuning starts from."""
    return options.out / (f"{objective}-adapted" if options.adapt_steps else objective)


def run_until(made: Path, arguments: list[object], log: Path, num_threads: int) -> None:
    """Run a command of funnelformer until a file is there, and end it."""
    if made.is_file():
        return
    command = [sys.executable, "-m", "funnelformer", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": str(num_threads)}
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    while not made.is_file():
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(command)} ended before {made} was there; see {log}")
        time.sleep(1)
    process.terminate()
    process.wait()


def run_facts(objective: str, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Speed and cost of the run that ended with a model, and the model's losses on the held-out text."""
    folder = model.parents[1] if model.parent.name == "checkpoints" else model
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = json.loads((model / "trainer_state.json").read_text())["global_step"] if model != folder else None
    speeds = [entry for entry in log if "tokens_per_second" in entry and entry["step"] <= (steps or math.inf)]
    return {
        "steps": steps or speeds[-1]["step"],
        "tokens_per_second": statistics.median(entry["tokens_per_second"] for entry in speeds),
        "mfu": statistics.median(entry["mfu"] for entry in speeds),
        "peak_memory_bytes": max(entry["peak_memory_bytes"] for entry in speeds),
        "held_out": held_out(objective, model, options),
    }


def held_out(objective: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Losses and accuracies over all targets of a text that no model saw, hidden as in training."""
    tokenizer = load_tokenizer(options.out / "tokenizer")
    settings = RowSettings(BLOCK_SIZE, sentences="punctuation")
    rows = rows_from_text([str(options.held_out)], tokenizer, settings)["train"]
    blocks = MaskedBlocks(rows, tokenizer, Masking(), seed=0)
    kind = OBJECTIVES[objective]
    arguments = TrainingArguments(
        output_dir=str(options.out / "held-out"),
        per_device_eval_batch_size=32,
        prediction_loss_only=True,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = kind.trainer_class(
        model=kind.model_class.from_pretrained(folder),
        args=arguments,
        eval_dataset=blocks,
        data_collator=blocks.collate,
        logged=kind.logged,
        out=options.out,
    )
    set_seed(0)  # ELECTRA's generator samples
    measured = trainer.evaluate()
    names = ("loss", *kind.logged, "masked_accuracy", "perplexity")
    return {name: measured[f"eval_{name}"] for name in names}


def few_labels(task: str, count: int, options: argparse.Namespace) -> Path:
    """A folder with the first so many labelled texts of a task to train on, and its whole dev and test parts."""
    folder = options.out / f"{task}-{count}-labels"
    folder.mkdir(exist_ok=True)
    lines = itertools.islice(iter_lines(split_file(options.task[task], "train")), count + 1)
    (folder / "train.tsv").write_text("".join(f"{line}\n" for _, line in lines), encoding="utf-8")
    for split in ("dev", "test"):
        whole = split_file(options.task[task], split)
        shutil.copyfile(whole, folder / whole.name)
    return folder


class Setting(NamedTuple):
    """A task with all of its labels or a few: where its parts are, and the options that read them."""

    name: str
    data: Path
    reading: list[object]


def settings(options: argparse.Namespace) -> list[Setting]:
    """Tasks with a few labels, whose runs are short, and then every task with all of them."""
    result = []
    for task, labels in options.few + [(name, None) for name in options.task]:
        reading, epochs = READING.get(task, DEFAULT_READING)
        if labels is None:
            result.append(Setting(task, options.task[task], [*reading, "--epochs", epochs]))
        else:
            data = few_labels(task, labels, options)
            result.append(Setting(data.name, data, [*reading, "--epochs", epochs * FEW_PASSES]))
    return result


def finetune(start: str, setting: Setting, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    recipe = tomllib.loads((RECIPES / "small-mlm.toml").read_text())
    if start == "nothing":
        arguments: list[object] = ["--model", recipe["model"], "--tokenizer", options.out / "tokenizer"]
        arguments += [f"--set.initializer_std={recipe['set']['initializer_std']}"]
    else:
        arguments = ["--model", start_folder(start, options)]
    # The small ELECTRA was pretrained without dropout.
    arguments += ["--set.hidden_dropout=0.1", "--set.attention_dropout=0.1", "--set.classifier_pooling=mean"]
    arguments += [*setting.reading, "--learning-rate", options.learning_rate, "--seed", seed]
    what = {"task": setting.name, "start": start, "seed": seed}
    folder = options.out / f"{setting.name}-{start}-{seed}"
    return finetune_and_test(folder, setting.data, arguments, what, options.num_threads)


def table(results: list[dict[str, Any]]) -> str:
    """A row a task and start: mean and sd of the test accuracy over seeds, and the gain over no pretraining."""
    groups: dict[tuple[str, str], dict[int, float]] = {}
    for result in results:
        scores = groups.setdefault((result["task"], result["start"]), {})
        scores[result["seed"]] = 100 * result["accuracy"]
    rows = []
    for (task, start), scores in groups.items():
        base = groups[task, "nothing"]
        gains = "" if start == "nothing" else ", ".join(f"{scores[i] - base[i]:+.1f}" for i in scores)
        rows.append([task, start, str(len(scores)), mean_and_deviation(scores.values()), gains])
    return markdown_table(["task", "start", "seeds", "test accuracy", "gain, each seed"], rows)


def draw(out: Path) -> None:
    """Both runs' losses on the corpus, in training and on the documents that `prepare` held out."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    curves = (
        ("mlm", "loss", "masked tokens, MLM", 0),
        ("electra", "generator_loss", "masked tokens, ELECTRA's generator", 0),
        ("electra", "discriminator_loss", "replaced tokens, ELECTRA (times 50)", 1),
    )
    for objective, name, label, side in curves:
        log = [json.loads(line) for line in (out / objective / "log.jsonl").read_text().splitlines()]
        for key, style, suffix in ((name, "-", ""), (f"eval_{name}", "o--", ", held out")):
            points = [(entry["step"], entry[key]) for entry in log if key in entry]
            axes[side].plot(*zip(*points, strict=True), style, markersize=3, label=label + suffix)
    for axis in axes:
        axis.set(xlabel="step", ylabel="loss")
        axis.legend()
    figure.savefig(out / "curves.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", nargs="+", required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--task", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--adapt-steps", type=int, default=0, help="on the tasks' texts, after the corpus")
    parser.add_argument(
        "--stop-at",
        action="append",
        default=[],
        metavar="OBJECTIVE=STEP",
        help="end a run on the corpus at this checkpoint of its recipe",
    )
    parser.add_argument(
        "--few",
        action="append",
        default=[],
        metavar="NAME=LABELS",
        help="fine-tune for a task on its first so many labelled texts, too",
    )
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="of fine-tuning, from any start")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    recording = Recording(options, given=("corpus", "held_out", "task"))
    options.task = {name: Path(folder) for name, folder in (text.split("=", 1) for text in options.task)}
    options.few = [(name, int(count)) for name, count in (text.split("=", 1) for text in options.few)]
    options.stop_at = {name: int(step) for name, step in (text.split("=", 1) for text in options.stop_at)}
    options.num_threads = max(1, (os.cpu_count() or 1) // options.jobs)
    options.out.mkdir(parents=True, exist_ok=True)
    prepare(options, options.out / "prepare.log")
    objectives = STARTS[1:]
    models = work_through([functools.partial(pretrain, name, options) for name in objectives], options.jobs)
    # One after another: a Trainer's state is the process's.
    runs = [
        {"objective": objective}
        | {texts: run_facts(objective, model, options) for texts, model in of_objective.items()}
        for objective, of_objective in zip(objectives, models, strict=True)
    ]
    draw(options.out)
    jobs = [
        functools.partial(finetune, start, setting, seed, options)
        for setting in settings(options)
        for seed in range(options.seeds)
        for start in STARTS
    ]
    results = work_through(jobs, options.jobs)
    print(json.dumps(runs, indent=2))
    print(table(results))
    recording.write(options.out / "results.json", pretraining=runs, finetuning=results)


if __name__ == "__main__":
    main()
