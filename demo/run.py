"""The main job from beginning to end: take an encoder that people use, shorten it, and put it to work.

Reviews: learn from sentences about films; label films, products, tweets and editorials that it has not seen.
Search: find a function in the documentation of installed libraries by saying what it should do.

It runs the commands a user would run, and shows each as it starts. Then come a table, a picture, and answers to
sentences.txt and questions.txt, which are yours to change. `make demo` fetches what it needs first (demo/fetch.py).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import transformers
from commands import funnelformer, heading, relative
from controls import Labeller, bag_of_words, lexicon
from documentation import Entry, read_documentation, sample, write_documents
from fetch import ENCODER, PACKAGE
from measure import seconds_in_turns
from ratings import read_table, write_tables
from search import VECTOR_WEIGHT, WordIndex, added, best, reciprocal_rank, similarities
from table import Row, draw, read_control, remarks, table

DEMO = Path(__file__).resolve().parent
RESULTS = DEMO.parent / "benchmarks" / "results" / "sources.json"
FUNNEL, FULL, FEWER = "B2-2-2H384", "L6H384", "L4H384"
# Of the untrained funnels that are about as fast as L4, the one that finds most; search alone uses it.
SEARCH_FUNNEL = "B2-4H384"
ENCODERS = (FUNNEL, SEARCH_FUNNEL, FULL, FEWER)
WORDS, LEXICON = "TF-IDF", "VADER"
# What `funnelformer convert` is told; the encoder as it is needs no conversion.
CONVERSIONS = {
    FUNNEL: ("--layout", "B2-2-2"),
    SEARCH_FUNNEL: ("--layout", "B2-4"),
    FEWER: ("--layers", "0,2,3,5"),
}
# Libraries to search in.
LIBRARIES = ("scipy", "pandas", "sklearn")
NUM_DOCUMENTS = 500
DOCUMENT_TOKENS = 512
TIMED_SENTENCES, TIMED_DOCUMENTS = 256, 64


class Demo:
    """One run, with its folder of results and what was found so far."""

    def __init__(self, out: Path, sources: Path, full: bool) -> None:
        self.out, self.sources = out, sources
        # The models that are trained here; figures of the others come from the benchmark.
        self.trained = [FUNNEL, FULL, FEWER] if full else [FUNNEL]
        self.rows = {name: Row(name) for name in (*ENCODERS, WORDS, LEXICON)}
        self.ratings, self.documentation = out / "ratings", out / "documentation"

    def model(self, name: str) -> Path:
        """The folder of the encoder, before any training."""
        return self.sources / ENCODER if name == FULL else self.out / name

    def tuned(self, name: str) -> Path:
        """The folder of the encoder that learned from the films."""
        return self.out / f"{name}-films"

    # ---- reviews

    def read_reviews(self) -> None:
        numbers = write_tables((self.sources / PACKAGE).read_bytes(), self.ratings)
        print(", ".join(f"{name} {number:,}" for name, number in numbers.items()))

    def tables(self) -> dict[str, Path]:
        """What the models are tested on."""
        return {
            "films": self.ratings / "films-test.tsv",
            **{kind: self.ratings / f"{kind}.tsv" for kind in ("products", "tweets", "editorials")},
        }

    def shorten(self) -> None:
        for name, options in CONVERSIONS.items():
            funnelformer("convert", self.model(FULL), self.model(name), *options)

    def learn_reviews(self, name: str) -> None:
        row, tuned = self.rows[name], self.tuned(name)
        funnelformer(
            *("finetune", "--config", relative(DEMO) / "finetune.toml", "--model", self.model(name)),
            *("--train", self.ratings / "films-train.tsv", "--dev", self.ratings / "films-dev.tsv"),
            *("--precision", precision(), "--out", tuned),
        )
        metrics = json.loads((tuned / "metrics.json").read_text())
        row.training_s = metrics["cost"]["train_seconds"]
        for kind, file in self.tables().items():
            scores = tuned / f"{kind}.json"
            funnelformer("evaluate", tuned, file, "--out", scores)
            row.accuracy[kind] = json.loads(scores.read_text())["accuracy"]

    def compare_reviews(self) -> None:
        """The controls: those that take seconds are made here, of the others the benchmark's figures are read."""
        self.labellers: dict[str, Labeller] = {
            WORDS: bag_of_words(self.ratings / "films-train.tsv"),
            LEXICON: lexicon(),
        }
        for name, labeller in self.labellers.items():
            row = self.rows[name]
            row.accuracy = labeller.accuracy(self.tables())
            row.training_s, row.parameters = labeller.training_s, labeller.parameters
        for name in (FULL, FEWER):
            if name not in self.trained:
                row, found = self.rows[name], read_control(RESULTS, name.removesuffix("H384"))
                if found is None:
                    print(f"{RESULTS.name} has no {name} trained on the films; make demo-full trains it")
                else:
                    row.accuracy, row.training_s, row.recorded = found

    # ---- search

    def read_documents(self) -> None:
        """Write the entries to search in: their bodies, what is asked for, and the user's questions."""
        entries = read_documentation(LIBRARIES)
        self.entries: list[Entry] = sample(entries, NUM_DOCUMENTS)
        write_documents(self.entries, self.documentation)
        words = statistics.median(len(entry.body.split()) for entry in self.entries)
        print(
            f"{len(self.entries)} of the {len(entries):,} entries of {', '.join(LIBRARIES)}, "
            f"half of them with {words:.0f} words or more"
        )

    def search(self) -> None:
        """Summary to body with every encoder as it is, none trained for it, and with words."""
        bodies = [entry.body for entry in self.entries]
        self.index = WordIndex.of(bodies)
        words = self.index.scores([entry.summary for entry in self.entries])
        self.rows[WORDS].mrr = reciprocal_rank(words)
        for name in ENCODERS:
            nearness = similarities(
                self._embed(name, "summaries.txt", 64), self._embed(name, "bodies.jsonl", DOCUMENT_TOKENS)
            )
            self.rows[name].mrr = reciprocal_rank(nearness)
            self.rows[name].mrr_added = reciprocal_rank(added(words, nearness))

    def _embed(self, name: str, file: str, max_length: int) -> np.ndarray:
        vectors = self.documentation / f"{Path(file).stem}-{name}.npy"
        texts = relative(DEMO) / file if (DEMO / file).is_file() else self.documentation / file
        funnelformer("embed", self.model(name), texts, "--max-length", max_length, "--out", vectors)
        return np.load(vectors)

    # ---- cost

    def measure(self) -> None:
        """Seconds of everything, in turns in one process, and the sizes of the models."""
        from funnelformer import load_embedder

        transformers.logging.disable_progress_bar()
        texts, _ = read_table(self.ratings / "films-test.tsv")
        short, long = (
            {
                name: load_embedder(str(self.model(name)), max_length=tokens, only_runs=True)
                for name in ENCODERS
            }
            for tokens in (64, DOCUMENT_TOKENS)
        )
        for name, embedder in short.items():
            self.rows[name].parameters = embedder.weights.num_parameters()
        labelling = {name: labeller.label for name, labeller in self.labellers.items()}
        vectors = {name: embedder.vectors for name, embedder in short.items()}
        took = seconds_in_turns({**labelling, **vectors}, texts[:TIMED_SENTENCES])
        for name, seconds in took.items():
            self.rows[name].sentences_s = seconds
        took = seconds_in_turns(
            {
                WORDS: self.index.vectorizer.transform,
                **{name: embedder.vectors for name, embedder in long.items()},
            },
            [entry.body for entry in self.entries[:TIMED_DOCUMENTS]],
        )
        for name, seconds in took.items():
            self.rows[name].documents_s = seconds

    # ---- what the user asks

    def answer(self) -> None:
        predictions = self.out / "sentences.jsonl"
        funnelformer("predict", self.tuned(FUNNEL), relative(DEMO) / "sentences.txt", "--out", predictions)
        for line in predictions.read_text(encoding="utf-8").splitlines():
            said = json.loads(line)
            print(f"  {said['prediction']:<8} {said['probability']:>4.0%}   {said['text']}")
        questions = [
            line.strip()
            for line in (DEMO / "questions.txt").read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
        vectors = np.load(self.documentation / f"bodies-{SEARCH_FUNNEL}.npy")
        nearness = similarities(self._embed(SEARCH_FUNNEL, "questions.txt", 64), vectors)
        scores = added(self.index.scores(questions), nearness)
        for question, found in zip(questions, best(scores, 3), strict=True):
            print(f"  {question}")
            for number in found:
                print(f"    {self.entries[number].name}: {self.entries[number].summary[:90]}")


def precision() -> str:
    """bfloat16 where the processor multiplies it: a step then takes less than half of the time."""
    import torch

    can = torch.cpu.get_capabilities()
    return "bf16" if can.get("avx512_bf16") or can.get("amx_bf16") else "fp32"


def prepare(out: Path) -> None:
    """An empty folder for the results; one of an earlier demo is replaced."""
    mark = out / "demo.json"
    if out.exists():
        if any(out.iterdir()) and not mark.exists():
            sys.exit(f"error: {out} is not empty and not of this demo; choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    mark.write_text("[]\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="folder of the results (replaced)"
    )
    parser.add_argument(
        "--sources", type=Path, default=Path("runs/demo-sources"), help="what demo/fetch.py fetched"
    )
    parser.add_argument(
        "--full", action="store_true", help="train the controls too, in place of recorded figures"
    )
    options = parser.parse_args()
    for name in (PACKAGE, ENCODER):
        if not (options.sources / name).exists():
            sys.exit(
                f"error: {options.sources / name} is not there; run demo/fetch.py --out {options.sources}"
            )
    begin = time.perf_counter()
    prepare(options.out)
    demo = Demo(options.out, options.sources, options.full)
    heading(
        "1. A pretrained encoder, shortened: the same layers, in blocks between which the sequence is halved"
    )
    demo.shorten()
    heading("2. Reviews: learn from films, then label films, products, tweets and editorials it has not seen")
    demo.read_reviews()
    for name in demo.trained:
        demo.learn_reviews(name)
    demo.compare_reviews()
    heading("3. Search: find the documentation of a function by its summary; no encoder was trained for it")
    demo.read_documents()
    demo.search()
    heading("4. Seconds, in turns")
    demo.measure()
    heading("5. Labels and answers for demo/sentences.txt and demo/questions.txt, which are yours to change")
    demo.answer()
    heading("6. Quality beside seconds")
    rows = list(demo.rows.values())
    draw(rows, options.out / "quality_against_seconds.png")
    text = table(rows)
    controls = [demo.rows[FULL], demo.rows[FEWER]]
    said = "\n".join(
        sentence for name in (FUNNEL, SEARCH_FUNNEL) for sentence in remarks(demo.rows[name], controls)
    )
    (options.out / "table.md").write_text(f"{text}\n\n{said}\n", encoding="utf-8")
    (options.out / "demo.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    minutes = (time.perf_counter() - begin) / 60
    tuned = demo.tuned(FUNNEL)
    print(f"""
{text}

Search reads {DOCUMENT_TOKENS} tokens at most. Added: the cosine of TF-IDF and {VECTOR_WEIGHT} times that of vectors.
{said}

Results: {options.out}/table.md, {options.out}/quality_against_seconds.png. {minutes:.1f} minutes in all.
What to type next:
  .venv/bin/funnelformer serve {tuned}
  .venv/bin/funnelformer export {tuned} runs/small --int8 dynamic
  .venv/bin/funnelformer finetune --model {demo.model(FUNNEL)} --train YOUR.csv --out runs/mine""")


if __name__ == "__main__":
    main()
