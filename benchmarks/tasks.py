"""Every kind of task on small real sets: a funnel and the transformer of equal FLOPs, from nothing and pretrained.

    python benchmarks/tasks.py --data sets --tokenizer runs/tokenizer --out runs/tasks --jobs 2 \
        --pretrained funnel=runs/funnel-mlm transformer=runs/transformer-mlm

`--data` holds a folder for each of `SETS`, with train, dev and test. Every run is one `funnelformer finetune` and, of a
table, one `evaluate`, in processes of their own; a run that is there already is not made again, one seed of everything
comes before the next. Prints a table, writes results.json.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetuning import finetune_and_test, mean_and_deviation, work_through
from recording import Recording

# Of equal FLOPs a token without decoder; where tokens are tagged or found, the funnel has its decoder as well.
MODELS = {"funnel": "B1-1-1H128", "transformer": "L2H128"}
DECODER = {"funnel": ["--set.decoder_layers=1"], "transformer": []}
# Few steps from narrow random weights, see LOG.md.
FROM_NOTHING = ["--set.initializer_std=0.06"]


@dataclass(frozen=True)
class Set:
    """One set: its folder, the score that is reported, and how it is trained on.

    task: of `--task`, whose release has a test part; None for a table. reads_tokens: whether the head does.
    """

    folder: str
    score: str
    length: int
    epochs: int
    task: str | None = None
    options: tuple[str, ...] = ()
    reads_tokens: bool = False


SETS = {
    "sst2": Set("sst2", "accuracy", 64, 3),
    "mrpc": Set("mrpc", "accuracy", 128, 3),
    "sts": Set("sts", "pearson", 128, 2, options=("--regression",)),
    "ag": Set("ag_news_small", "accuracy", 128, 2),
    "reviews": Set("movie_reviews_long", "accuracy", 512, 2),
    "ner": Set("wnut17_ner", "f1", 128, 5, task="ner", reads_tokens=True),
    "squad": Set("qa_newwiki", "f1", 256, 1, task="squad", reads_tokens=True),
    "squad2": Set("qa_squad2_small", "f1", 256, 1, task="squad2", reads_tokens=True),
    "dream": Set("mc_dream", "accuracy", 128, 1, task="choice"),
    "mctest": Set("mc_mctest", "accuracy", 128, 1, task="choice"),
}


def run(name: str, start: str, model: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune and test, see `finetune_and_test`."""
    chosen = SETS[name]
    arguments: list[object] = ["--model", MODELS[model], "--tokenizer", options.tokenizer, *FROM_NOTHING]
    if start == "pretrained":
        arguments = ["--model", options.pretrained[model]]
    elif chosen.reads_tokens:
        arguments += DECODER[model]
    arguments += ["--set.hidden_dropout=0.1", "--set.attention_dropout=0.1", "--set.classifier_pooling=mean"]
    arguments += ["--max-length", chosen.length, "--epochs", chosen.epochs, "--batch-size", 16]
    arguments += ["--group-by-length", *chosen.options]
    arguments += ["--learning-rate", options.learning_rate, "--seed", seed]
    return finetune_and_test(
        options.out / f"{name}-{start}-{model}-{seed}",
        options.data / chosen.folder,
        arguments,
        {"set": name, "start": start, "model": model, "seed": seed},
        max(1, (os.cpu_count() or 1) // options.jobs),
        task=chosen.task,
        score=chosen.score,
    )


def scores_of(group: list[dict[str, Any]]) -> dict[int, float]:
    """The test scores of one set's runs, in percent, by seed."""
    if not group:
        return {}
    chosen = SETS[group[0]["set"]]
    factor = 1 if chosen.task in ("squad", "squad2") else 100  # the official scripts' are in percent
    return {result["seed"]: factor * result[chosen.score] for result in group}


def table(results: list[dict[str, Any]]) -> str:
    """A row a set, start and model: mean and sd of the test score over seeds, and what a training costs."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["set"], result["start"], result["model"]), []).append(result)
    lines = [
        "| set | start | model | seeds | test score | less the transformer's, each seed | TFLOPs | seconds | MiB |",
        "|---" * 9 + "|",
    ]
    for (name, start, model), group in groups.items():
        scores = scores_of(group)
        peers = {} if model == "transformer" else scores_of(groups.get((name, start, "transformer"), []))
        gains = ", ".join(f"{scores[seed] - peers[seed]:+.1f}" for seed in scores if seed in peers)
        flops, peak = (
            statistics.median(result[key] for result in group)
            for key in ("training_flops", "peak_memory_bytes")
        )
        seconds = min(result["training_seconds"] for result in group)  # what else ran can only add to it
        lines.append(
            f"| {name} | {start} | {model} | {len(group)} | {mean_and_deviation(scores.values())} "
            f"| {gains} | {flops / 1e12:.1f} | {seconds:.0f} | {peak / 2**20:,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pretrained", nargs="*", default=[], metavar="MODEL=FOLDER")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    recording = Recording(options, given=("data", "tokenizer", "pretrained"))
    options.pretrained = dict(text.split("=", 1) for text in options.pretrained)
    options.out.mkdir(parents=True, exist_ok=True)
    pairs = [("nothing", model) for model in options.models]
    pairs += [("pretrained", model) for model in options.models if model in options.pretrained]
    jobs = [
        functools.partial(run, name, start, model, seed, options)
        for seed in range(options.seeds)
        for name in options.sets
        for start, model in pairs
    ]
    results = work_through(jobs, options.jobs)
    print(table(results))
    recording.write(options.out / "results.json", rows=results)


if __name__ == "__main__":
    main()
