"""Long texts read in one piece by a student, and in windows: what the vectors are worth, and what they cost.

    python benchmarks/long_texts.py --texts runs/long.txt --corpus corpus/*.txt.zst
    from="--teacher runs/demo-sources/all-MiniLM-L6-v2 --data sets --train runs/long.txt"
    from="$from --hybrid runs/distillation/hybrid-0 --funnel runs/distillation/B2-2-2-0"
    python benchmarks/long_texts.py $from
    python benchmarks/long_texts.py $from --time
    python benchmarks/long_texts.py --report

`--texts` makes texts of 200 to 1,500 words. `funnelformer distill` teaches a hybrid student (--hybrid, of
`benchmarks/distillation.py`, taught on short texts) to read 2,048 tokens in one piece: the target is the mean of the
teacher's vectors of windows. Every way of reading is a row of `--results`, added when it is measured; those that are
there are not measured again:

- reviews: accuracy of a logistic regression on the vectors, ten parts in turn for the test;
- documents: the first half of a document finds the second among the second halves of all (MRR);
- agreement with the teacher in windows, on the same texts.

No text is longer than 2,048 tokens, so that all but the teacher's first 512 tokens read the same. `--time` measures the
ways in turns, prepacked.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

sys.path.insert(0, str(Path(__file__).parent.parent / "demo"))
from cells import add, read_results, seconds_beside, shown
from finetuning import measured, split_file
from measure import seconds_in_turns

from funnelformer import FunnelformerConfig, FunnelformerModel
from funnelformer.base.bundled import located
from funnelformer.base.files import atomic_writer
from funnelformer.base.machine import hardware, load_average, versions
from funnelformer.base.markdown import markdown_table
from funnelformer.corpus.documents import iter_documents
from funnelformer.inference.embedder import Embedder, load_embedder
from funnelformer.inference.load import ready
from funnelformer.training.distillation.held_out import neighbour_overlap, unit
from funnelformer.training.distillation.linear_heads import read_labelled
from funnelformer.training.distillation.retrieval import ranks

RESULTS = Path(__file__).parent / "results" / "long_texts.json"
LENGTH = 2048
# [CLS] and [SEP].
SPECIAL = 2
LENGTHS = (512, 1024, 2048)
ROUNDS = 3
# Tokens of a batch, in all ways alike.
BATCH_TOKENS = 2048
FEWEST_WORDS, MOST_WORDS = 200, 1500
PARTS = 10
# Files of the corpus that the student is not taught with, and the fewest tokens of a document.
DOCUMENTS = {"brown": 1000, "un_general_debate_2": 2 * (LENGTH - SPECIAL)}


@dataclass(frozen=True)
class Way:
    """A way to read long texts.

    model: whose folder. length: tokens read at once. windows: whether the rest is read, too.
    """

    model: str
    length: int
    windows: bool


TEACHER = "teacher, windows of 256"
TF_IDF = "TF-IDF"
WAYS = {
    TEACHER: Way("teacher", 256, True),
    "teacher, windows of 512": Way("teacher", 512, True),
    "teacher, the first 512": Way("teacher", 512, False),
    "B2-2-2, windows of 256": Way("funnel", 256, True),
    "mini, windows of 256": Way("mini", 256, True),
    "hybrid, windows of 256": Way("hybrid", 256, True),
    "hybrid, one piece": Way("long", LENGTH, False),
}
# Timed with random weights, which seconds do not depend on: attention all along, and PoNet in two blocks of three.
UNTRAINED = {
    "B2-2-2, one piece": "attention",
    "PoNet in two blocks, one piece": ["ponet", "ponet", "attention"],
}


# ---- texts


def make_texts(corpus: Sequence[str], number: int, seed: int = 0) -> list[str]:
    """So many texts of whole paragraphs, each of one document, with a limit of words drawn for each."""
    generator = random.Random(seed)
    found: list[str] = []
    for document in iter_documents(corpus):
        taken: list[str] = []
        limit = generator.randint(FEWEST_WORDS, MOST_WORDS)
        for paragraph in document.split("\n"):
            taken.append(paragraph)
            if len(" ".join(taken).split()) >= limit:
                found.append(" ".join(" ".join(taken).split()))
                taken, limit = [], generator.randint(FEWEST_WORDS, MOST_WORDS)
    return generator.sample(found, min(number, len(found)))


def write_texts(corpus: Sequence[str], out: Path, number: int) -> None:
    texts = make_texts(corpus, number)
    with atomic_writer(out) as file:
        file.writelines(text + "\n" for text in texts)
    words = statistics.mean(len(text.split()) for text in texts)
    print(f"{len(texts):,} texts of {words:.0f} words on average, in {out}")


def cut_texts(tokenizer: Any, texts: Sequence[str], begin: int, end: int) -> list[str]:
    """The texts from one token to another, without the special ones."""
    found = []
    for text in texts:
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        kept = offsets[begin:end]
        found.append(text[kept[0][0] : kept[-1][1]])
    return found


def evenly(values: Sequence[Any], number: int) -> list[Any]:
    """So many of them, in equal distances."""
    return [values[place] for place in np.linspace(0, len(values) - 1, min(number, len(values))).astype(int)]


def halves(tokenizer: Any, name: str, options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The first and the second halves of long documents, each of up to 2,048 tokens with the special ones."""
    first, second = [], []
    for document in iter_documents([str(options.data / "corpus" / f"{name}.txt.zst")]):
        text = " ".join(document.split())
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        if len(offsets) < DOCUMENTS[name]:
            continue
        half = min(len(offsets) // 2, LENGTH - SPECIAL)
        first.append(text[: offsets[half - 1][1]])
        second.append(text[offsets[half][0] : offsets[2 * half - 1][1]])
    return evenly(first, options.documents), evenly(second, options.documents)


@dataclass(frozen=True)
class Texts:
    """What is read: reviews with their labels, and halves of documents by the name of their file."""

    reviews: list[str]
    labels: list[str]
    documents: dict[str, tuple[list[str], list[str]]]


def read_texts(tokenizer: Any, options: argparse.Namespace) -> Texts:
    reviews: list[str] = []
    labels: list[str] = []
    for part in ("train", "dev", "test"):
        texts, found = read_labelled(str(split_file(options.data / "movie_reviews_long", part)))
        reviews, labels = reviews + texts, labels + found
    chosen = evenly(list(zip(reviews, labels, strict=True)), options.reviews)
    return Texts(
        cut_texts(tokenizer, [text for text, _ in chosen], 0, LENGTH - SPECIAL),
        [label for _, label in chosen],
        {name: halves(tokenizer, name, options) for name in DOCUMENTS},
    )


# ---- ways


def train(options: argparse.Namespace) -> tuple[Path, list[object]]:
    """The folder of the hybrid that reads long texts, which may be there, and the command that makes it."""
    folder = options.out / "hybrid-long"
    arguments: list[object] = ["distill", "--teacher", options.teacher, "--model", options.hybrid]
    arguments += ["--train", options.train, "--learn", "vectors", "--max-length", LENGTH]
    arguments += ["--steps", options.steps, "--batch-size", options.batch_size]
    arguments += ["--evaluate-every", options.evaluate_every, "--validation-fraction", 0.03]
    arguments += ["--precision", options.precision, "--keep-checkpoints", 1, "--seed", options.seed]
    if not (folder / "metrics.json").is_file():
        where: list[object] = ["--cache", options.out / "teacher-outputs", "--out", folder, "--auto-resume"]
        measured([*arguments, *where], folder.with_name(f"{folder.name}.log"), options.threads)
    return folder, arguments


def folder_of(model: str, options: argparse.Namespace) -> Path:
    if model == "long":
        return train(options)[0]
    return {
        "teacher": options.teacher,
        "funnel": options.funnel,
        "hybrid": options.hybrid,
        "mini": Path(located("mini")),
    }[model]


def embedder_of(way: Way, options: argparse.Namespace) -> Embedder:
    return load_embedder(
        str(folder_of(way.model, options)),
        max_length=way.length,
        doc_stride=way.length - SPECIAL if way.windows else None,
        only_runs=True,
    )


def untrained(mixer: Any, like: Embedder) -> Embedder:
    """One with random weights, else as another."""
    torch.manual_seed(0)
    config = FunnelformerConfig.from_dict({**like.model.config.to_dict(), "mixer": mixer})
    return replace(like, model=ready(FunnelformerModel(config), "cpu", only_runs=True))


def batch_size(embedder: Embedder, length: int) -> int:
    return max(1, BATCH_TOKENS // min(embedder.max_length, length))


# ---- quality


def accuracy(model: Any, inputs: Any, labels: Sequence[str]) -> float:
    folds = StratifiedKFold(PARTS, shuffle=True, random_state=0)
    found = cross_val_predict(model, inputs, np.array(labels), cv=folds)
    return float(np.mean(found == np.array(labels)))


def mrr(first: np.ndarray, second: np.ndarray) -> float:
    return float((1 / ranks(first, second, np.arange(len(first)))).mean())


def of_words(texts: Texts) -> dict[str, float]:
    """The scores of TF-IDF. Its weights of words are those of the texts it is measured on."""
    words = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=300)
    )
    scores = {"reviews": accuracy(words, texts.reviews, texts.labels)}
    for name, (first, second) in texts.documents.items():
        vectors = TfidfVectorizer(sublinear_tf=True, dtype=np.float32).fit_transform([*first, *second])
        whole = vectors.toarray()
        scores[f"{name}_mrr"] = mrr(whole[: len(first)], whole[len(first) :])
    return scores


def of_vectors(name: str, texts: Texts, options: argparse.Namespace) -> dict[str, float]:
    vectors = vectors_of(name, texts, options)
    target = vectors if name == TEACHER else vectors_of(TEACHER, texts, options)
    scores = {"reviews": accuracy(LogisticRegression(max_iter=1000), vectors["reviews"], texts.labels)}
    for part in DOCUMENTS:
        number = len(texts.documents[part][0])
        scores[f"{part}_mrr"] = mrr(vectors[part][:number], vectors[part][number:])
    for part, found in vectors.items():
        scores[f"{part}_cosine"] = float((found * target[part]).sum(1).mean())
        scores[f"{part}_overlap@10"] = neighbour_overlap(found, target[part])
    return scores


def vectors_of(name: str, texts: Texts, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """By part, of length 1; kept, so that an interrupted measurement goes on, and the teacher's serve all."""
    parts = {
        "reviews": texts.reviews,
        **{name: [*first, *second] for name, (first, second) in texts.documents.items()},
    }
    found = {}
    embedder = None
    for part, of_part in parts.items():
        file = options.out / f"{name} {part} {len(of_part)}.npy"
        if not file.is_file():
            embedder = embedder or embedder_of(WAYS[name], options)
            np.save(file, embedder.vectors(of_part, batch_size(embedder, LENGTH)))
        found[part] = unit(np.load(file))
    return found


def run_cell(name: str, texts: Texts, options: argparse.Namespace) -> dict[str, Any]:
    before = load_average()
    command = shlex.join(["python", "benchmarks/long_texts.py", "--ways", name])
    metrics: dict[str, Any] = {}
    scores = of_words(texts) if name == TF_IDF else of_vectors(name, texts, options)
    if name != TF_IDF and WAYS[name].model == "long":
        folder, arguments = train(options)
        metrics = json.loads((folder / "metrics.json").read_text())
        command = shown(arguments)
    return {
        "way": name,
        "scores": scores,
        "reviews": len(texts.reviews),
        "documents": {part: len(first) for part, (first, _) in texts.documents.items()},
        "steps": metrics.get("steps"),
        "training_texts": metrics.get("texts"),
        "training_seconds": metrics.get("cost", {}).get("train_seconds"),
        "threads": options.threads,
        "load_average": [before, load_average()],
        "command": command,
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
    }


# ---- seconds


def time_ways(length: int, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds for 1,000 documents of so many tokens, in turns."""
    embedders = {name: embedder_of(way, options) for name, way in WAYS.items()}
    like = embedders["hybrid, one piece"]
    embedders |= {name: untrained(mixer, like) for name, mixer in UNTRAINED.items()}
    (part,) = (name for name in DOCUMENTS if DOCUMENTS[name] >= LENGTH)
    whole, _ = halves(like.tokenizer, part, options)
    number = options.timed_tokens // length
    texts = cut_texts(like.tokenizer, whole[:number], 0, length - SPECIAL)
    before = load_average()
    work: dict[str, Callable[[Sequence[str]], object]] = {
        name: functools.partial(
            embedder.vectors, batch_size=batch_size(embedder, length), advance=lambda done: None
        )
        for name, embedder in embedders.items()
    }
    return {
        "length": length,
        "texts": len(texts),
        "batch_tokens": BATCH_TOKENS,
        "seconds_per_1000": seconds_in_turns(work, texts, ROUNDS),
        "threads": torch.get_num_threads(),
        "load_average": [before, load_average()],
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
        "command": "python benchmarks/long_texts.py --time",
    }


# ---- report


def score_names() -> Iterator[tuple[str, str]]:
    """Of each column its score and title."""
    yield "reviews", "reviews, accuracy"
    for part in DOCUMENTS:
        yield f"{part}_mrr", f"{part}, MRR"
    for score in ("cosine", "overlap@10"):
        for part in ("reviews", *DOCUMENTS):
            yield f"{part}_{score}", f"{part}, {score}"


def score_table(results: dict[str, list[dict[str, Any]]]) -> str:
    rows = {row["way"]: row["scores"] for row in results["cells"]}
    columns = list(score_names())
    lines = []
    for name in (*WAYS, TF_IDF):
        scores = rows.get(name)
        cells = [
            "not run" if scores is None else f"{100 * scores[score]:.1f}" if score in scores else ""
            for score, _ in columns
        ]
        lines.append([name, *cells])
    return markdown_table(["read by", *(title for _, title in columns)], lines)


def time_table(results: dict[str, list[dict[str, Any]]]) -> str:
    entries = sorted(results["times"], key=lambda entry: entry["length"])
    lines = []
    for name in (*WAYS, *UNTRAINED):
        timed = [entry["seconds_per_1000"] for entry in entries]
        cells = [
            seconds_beside(seconds[name], None if name == TEACHER else seconds[TEACHER], 1)
            for seconds in timed
        ]
        lines.append([name, *cells])
    titles = [f"{entry['length']:,} tokens" for entry in entries]
    return markdown_table(["seconds for 1,000 documents, read by", *titles], lines)


def report(file: Path) -> None:
    results = read_results(file)
    print(score_table(results))
    print()
    print(time_table(results))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", type=Path, help="folder of the encoder that teaches")
    parser.add_argument("--hybrid", type=Path, help="folder of a hybrid student of short texts")
    parser.add_argument("--funnel", type=Path, help="folder of a B2-2-2 student of short texts")
    parser.add_argument("--data", type=Path, help="folder with the reviews and the corpus")
    parser.add_argument("--train", type=Path, help="texts to learn from, see --texts")
    parser.add_argument("--texts", type=Path, help="file of texts to make from --corpus")
    parser.add_argument("--corpus", nargs="+", help="files of documents, see --texts")
    parser.add_argument("--number", type=int, default=2400, help="of the texts to make")
    parser.add_argument("--out", type=Path, default=Path("runs/long-texts"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--ways", nargs="+", default=[*WAYS, TF_IDF], choices=[*WAYS, TF_IDF])
    parser.add_argument("--steps", type=int, default=145)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--evaluate-every", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--reviews", type=int, default=800, help="reviews that are read")
    parser.add_argument("--documents", type=int, default=150, help="documents of each file that are read")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--timed-tokens", type=int, default=32_768, help="tokens of the documents of a turn")
    parser.add_argument("--time", action="store_true", help="time the ways")
    parser.add_argument("--report", action="store_true", help="print the tables")
    options = parser.parse_args()
    if options.report:
        return report(options.results)
    if options.texts is not None:
        if not options.corpus:
            parser.error("--texts needs --corpus")
        return write_texts(options.corpus, options.texts, options.number)
    if None in (options.teacher, options.hybrid, options.funnel, options.data, options.train):
        parser.error("--teacher, --hybrid, --funnel, --data and --train are needed to run anything")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    if options.time:
        for length in options.lengths:
            add(options.results, "times", time_ways(length, options), lambda row: row["length"])
        return report(options.results)
    there = {row["way"] for row in read_results(options.results)["cells"]}
    wanted = [name for name in options.ways if name not in there]
    texts = read_texts(load_embedder(str(options.teacher)).tokenizer, options) if wanted else None
    for name in wanted:
        assert texts is not None
        row = run_cell(name, texts, options)
        print(json.dumps({key: row[key] for key in ("way", "scores")}), file=sys.stderr)
        add(options.results, "cells", row, lambda row: row["way"])
    return report(options.results)


if __name__ == "__main__":
    main()
