"""The main job from beginning to end, on bundled data: who wrote this passage?

Runs the commands a user would run, each shown as it starts, for a small funnel and for the standard Transformer
of equal cost; then a bag of words on the same passages, a table, a picture, and predictions for passages.txt.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import json
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DEMO = Path(__file__).resolve().parent
AUTHORS = DEMO / "authors"
FUNNEL, TRANSFORMER = "B1-1-2H64", "L2H64"
ROUNDS = 3


@dataclass
class Row:
    """One line of the table. FLOPs are of one passage; times, per 1,000 passages, are those of the rounds."""

    name: str
    accuracy: float
    parameters: int
    flops: int | None
    seconds: list[float]
    training_s: float

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)


def command(*arguments: str | Path) -> float:
    """Run a `funnelformer` command, showing it; return the seconds it took. Stops the demo when it fails."""
    words = [str(argument) for argument in arguments]
    print(f"\n\033[1m$ funnelformer {shlex.join(words)}\033[0m", flush=True)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "funnelformer", *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return time.perf_counter() - start


def heading(text: str) -> None:
    print(f"\n\033[1m== {text}\033[0m", flush=True)


def relative(path: Path) -> Path:
    """The shorter way to write a path below the current folder."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


def read_rows(name: str) -> tuple[list[str], list[str]]:
    with bz2.open(AUTHORS / name, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def train(name: str, out: Path, tokenizer: Path) -> float:
    """Pretrain, fine-tune and evaluate one model; return the seconds that took."""
    layout = ["--set.decoder_layers=1"] if name.startswith("B") else []
    data = relative(AUTHORS)
    pretrained, tuned = out / f"{name}-pretrained", out / name
    config = relative(DEMO)
    return sum(
        (
            command(
                *("pretrain", "--config", config / "pretrain.toml", "--train", data / "books.txt.bz2"),
                *("--tokenizer", tokenizer, "--model", name, *layout, "--out", pretrained),
            ),
            command(
                *("finetune", "--config", config / "finetune.toml", "--model", pretrained),
                *("--train", data / "train.tsv.bz2", "--dev", data / "dev.tsv.bz2", "--out", tuned),
            ),
            command("evaluate", tuned, data / "test.tsv.bz2", "--out", tuned / "test.json"),
        )
    )


def measure(models: dict[str, Path], training_s: dict[str, float]) -> list[Row]:
    """Accuracy from the runs, cost from the models: both timed in turns, in one process."""
    from funnelformer.flops import forward_flops
    from funnelformer.inference import load_predictor

    texts, _ = read_rows("test.tsv.bz2")
    predictors = {name: load_predictor(str(folder)) for name, folder in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, predictor in predictors.items():
            start = time.perf_counter()
            predictor.logits(texts)
            seconds[name].append((time.perf_counter() - start) / len(texts) * 1000)
    rows = []
    for name, folder in models.items():
        predictor = predictors[name]
        length = predictor.task["max_length"]
        rows.append(
            Row(
                name=name,
                accuracy=json.loads((folder / "test.json").read_text())["accuracy"],
                parameters=predictor.model.num_parameters(),
                flops=forward_flops(predictor.model.config, length, head="classification").total,
                seconds=seconds[name],
                training_s=training_s[name],
            )
        )
    return rows


def bag_of_words() -> Row:
    """TF-IDF of words and pairs of words with logistic regression, on the whole passages."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    start = time.perf_counter()
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), max_features=100_000, sublinear_tf=True)
    model = make_pipeline(vectorizer, LogisticRegression(C=30, max_iter=300))
    model.fit(*read_rows("train.tsv.bz2"))
    training_s = time.perf_counter() - start
    texts, labels = read_rows("test.tsv.bz2")
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        accuracy = float(model.score(texts, labels))
        seconds.append((time.perf_counter() - start) / len(texts) * 1000)
    coefficients = model[-1].coef_
    return Row("TF-IDF + logistic regression", accuracy, coefficients.size, None, seconds, training_s)


def table(rows: list[Row]) -> str:
    lines = [
        "| model | test accuracy | parameters | MFLOPs a passage | s / 1,000 passages (min to max) | training, s |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        flops = f"{row.flops / 1e6:.1f}" if row.flops else ""
        spread = f"{row.median_s:.2f} ({min(row.seconds):.2f} to {max(row.seconds):.2f})"
        lines.append(
            f"| {row.name} | {row.accuracy:.1%} | {row.parameters:,} | {flops} | {spread} | {row.training_s:.0f} |"
        )
    return "\n".join(lines)


def draw(rows: list[Row], path: Path) -> None:
    """Quality against cost."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for i, row in enumerate(rows):
        low, high = row.median_s - min(row.seconds), max(row.seconds) - row.median_s
        axes.errorbar(row.median_s, 100 * row.accuracy, xerr=[[low], [high]], fmt="o", capsize=3)
        axes.annotate(
            row.name,
            (row.median_s, 100 * row.accuracy),
            xytext=(7, -15 if i == 0 else 7),  # the first two are close to each other
            textcoords="offset points",
            fontsize=9,
        )
    axes.axhline(10, color="grey", linestyle=":", linewidth=1)
    axes.annotate(
        "chance", (0.02, 10), xycoords=("axes fraction", "data"), va="bottom", color="grey", fontsize=9
    )
    axes.set(
        xlabel="seconds for 1,000 passages (median of 3 rounds)", ylabel="test accuracy, %", ylim=(0, 100)
    )
    axes.set_xlim(0, 1.35 * max(row.median_s for row in rows))
    axes.set_title("Who wrote this passage? Ten novelists, novels unseen in training", fontsize=10)
    axes.grid(alpha=0.3)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=150)
    temporary.replace(path)


def show_predictions(file: Path) -> None:
    for line in file.read_text(encoding="utf-8").splitlines():
        answer: dict[str, Any] = json.loads(line)
        print(f"  {answer['prediction']:<12} {answer['probability']:.0%}   {answer['text'][:80]}...")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="folder of the results (replaced)"
    )
    out: Path = parser.parse_args().out
    begin = time.perf_counter()
    if out.exists():
        if not (out / "demo.json").exists() and any(out.iterdir()):
            sys.exit(f"error: {out} is not empty and not of this demo; choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / "demo.json").write_text("{}\n")

    heading("1. A WordPiece tokenizer from the text of 20 novels")
    tokenizer = out / "tokenizer"
    command(
        *(
            "tokenizer",
            "--train",
            relative(AUTHORS) / "books.txt.bz2",
            "--out",
            tokenizer,
            "--vocab-size",
            "4000",
        )
    )
    heading(f"2. The funnel {FUNNEL}: pretrain, fine-tune, evaluate on novels it has not seen")
    training_s = {FUNNEL: train(FUNNEL, out, tokenizer)}
    heading(f"3. The standard Transformer of equal cost, {TRANSFORMER}: same data, same steps")
    training_s[TRANSFORMER] = train(TRANSFORMER, out, tokenizer)
    heading("4. Use it: passages.txt, one passage a line, yours to change")
    predictions = out / "predictions.jsonl"
    command("predict", out / FUNNEL, relative(DEMO) / "passages.txt", "--out", predictions)
    show_predictions(predictions)
    heading("5. Quality against cost")
    rows = [*measure({name: out / name for name in (FUNNEL, TRANSFORMER)}, training_s), bag_of_words()]
    draw(rows, out / "quality_against_cost.png")
    text = table(rows)
    (out / "table.md").write_text(text + "\n")
    (out / "demo.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    minutes = (time.perf_counter() - begin) / 60
    print(f"""
{text}

Chance is 10%. A bag of words wins here, and that is no accident: a minute of pretraining reads a third of
20 novels once. Who has read so little takes the characters of one novel for its author's style, and the test
novels have other characters. What would beat it: long pretraining on many more books (pretrain --train
--steps), a larger model (--model B4-4-4H256), or a released checkpoint, which has read thousands of times as
much (finetune --model FOLDER takes transformers' Funnel and the original release).

Results: {out}/table.md, {out}/quality_against_cost.png, {out}/{FUNNEL} (the model). {minutes:.1f} minutes in all.
What to type next:
  .venv/bin/funnelformer predict {out}/{FUNNEL} demo/passages.txt
  .venv/bin/funnelformer info {out}/{FUNNEL}
  .venv/bin/funnelformer finetune --model {out}/{FUNNEL}-pretrained --train YOUR.tsv --out runs/mine""")


if __name__ == "__main__":
    main()
