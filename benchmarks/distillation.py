"""A teacher's students, taught alike: how near each comes, what it finds, and how long it takes.

    python benchmarks/distillation.py --texts runs/texts.txt --corpus corpus/*.txt.zst
    from="--teacher runs/demo-sources/all-MiniLM-L6-v2 --data sets --train runs/texts.txt"
    python benchmarks/distillation.py $from --students B2-2-2 L4 --seeds 0 --steps 2000
    python benchmarks/distillation.py $from --time
    python benchmarks/distillation.py $from --time --int8
    python benchmarks/distillation.py $from --overlaps
    python benchmarks/distillation.py --list
    python benchmarks/distillation.py --report

`--texts` makes the texts to learn from: sentences, groups of sentences and passages of up to 180 words; each sentence
of the corpus stands in one text of every one of the `--groupings`. A cell is one student and seed: `funnelformer
distill` trains it in a process of its own, with the same texts, steps and losses for all, and its scores are added to
`--results` as soon as they are there. A cell that has a row is not run again, and one that was killed goes on from its
last checkpoint. The teacher and the students before any training are measured as seed "teacher" and "raw". `--time`
measures the models in turns, prepacked or as int8 graphs in ONNX Runtime. `--overlaps` measures only the overlap with
the teacher's neighbours, of models that are there, among `--neighbours` paragraphs. `--report` prints the tables with
the cells that were not run.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import random
import re
import shlex
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

sys.path.insert(0, str(Path(__file__).parent.parent / "demo"))
from cells import add, read_results, seconds_beside, shown, spread
from finetuning import measured, split_file
from measure import seconds_in_turns

from funnelformer.base.bundled import located
from funnelformer.base.files import atomic_writer
from funnelformer.base.machine import hardware, load_average, versions
from funnelformer.corpus.documents import iter_documents
from funnelformer.inference.embedder import Embedder, load_embedder
from funnelformer.training.distillation.held_out import neighbour_overlap, read_pairs, unit
from funnelformer.training.distillation.linear_heads import LinearHead, read_labelled
from funnelformer.training.distillation.retrieval import read_retrieval

RESULTS = Path(__file__).parent / "results" / "distillation.json"
# What `funnelformer distill` makes of a teacher of six layers.
STUDENTS: dict[str, list[str]] = {
    "B2-2-2": ["--layout", "B2-2-2"],
    "B3-3": ["--layout", "B3-3"],
    "B2-4": ["--layout", "B2-4"],
    "hybrid": ["--layout", "B2-2-2"],
    "L4": ["--layers", "0,2,3,5"],
    "L3": ["--layers", "0,2,5"],
}
# A PoNet block has other parameters than attention, which begin from nothing.
OPTIONS: dict[str, list[str]] = {"hybrid": ["--set.mixer=['ponet','attention','attention']"]}
TEACHER = "teacher"
RAW, TRAINED = "raw", "trained"
# The student that comes with the package: measured, not trained, see recipes/mini.
BUNDLED = "mini"
# The teacher in another library, in the same turns.
PEER = "sentence-transformers"
SEEDS = (0, 1, 2)
ROUNDS = 3
BATCH_SIZE = 32
LENGTHS = (16, 64, 128, 256, 512)
NEIGHBOUR_FILES = ("valid", "brown", "masc_written", "bbc_news_2004-2005", "abc_news_2006")
# Of the texts: what kind each is, how often, and how many words it has at most.
KINDS = (("sentence", 0.4, 0), ("group", 0.35, 60), ("passage", 0.25, 180))
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")


# ---- texts


def make_texts(corpus: Sequence[str], seed: int = 0) -> Iterator[str]:
    """Texts of mixed length, of documents whose paragraphs are lines; a text does not go over the end of a document."""
    generator = random.Random(seed)
    kinds, shares, limits = zip(*KINDS, strict=True)
    limit_of = dict(zip(kinds, limits, strict=True))
    for document in iter_documents(corpus):
        sentences = [
            sentence.strip()
            for paragraph in document.split("\n")
            for sentence in SENTENCE_END.split(paragraph)
            if sentence.strip()
        ]
        place = 0
        while place < len(sentences):
            limit = limit_of[generator.choices(kinds, shares)[0]]
            taken, words = [sentences[place]], len(sentences[place].split())
            place += 1
            while place < len(sentences) and words + len(sentences[place].split()) <= limit:
                taken.append(sentences[place])
                words += len(sentences[place].split())
                place += 1
            yield " ".join(" ".join(taken).split())


def write_texts(corpus: Sequence[str], out: Path, groupings: int) -> None:
    number = num_words = 0
    with atomic_writer(out) as file:
        for seed in range(groupings):
            for text in make_texts(corpus, seed):
                file.write(text + "\n")
                number, num_words = number + 1, num_words + len(text.split())
    print(f"{number:,} texts of {num_words / number:.0f} words on average, in {out}")


# ---- scores


@functools.cache
def held_out_paragraphs(data: Path) -> list[str]:
    """Paragraphs of the reading sets and of parts of the corpus that students had better not be trained on."""
    files = [str(data / "corpus" / f"{name}.txt.zst") for name in NEIGHBOUR_FILES]
    texts = [line for document in iter_documents(files) for line in document.split("\n")]
    for name in ("qa_newwiki", "qa_squad2_small"):
        (reading,) = read_retrieval([str(split_file(data / name, "train", ".json"))])
        texts += reading.passages
    return [text for text in dict.fromkeys(texts) if len(text.split()) >= 10]


def neighbour_vectors(embedder: Embedder, teacher: Embedder, options: argparse.Namespace) -> list[np.ndarray]:
    """Of the same paragraphs with both; the teacher's are kept for the next cell."""
    texts = held_out_paragraphs(options.data)[: options.neighbours]
    file = options.out / f"teacher-{len(texts)}.npy"
    if not file.is_file():
        np.save(file, teacher.vectors(texts))
    return [unit(embedder.vectors(texts)), unit(np.load(file))]


def scores_of(embedder: Embedder, teacher: Embedder, options: argparse.Namespace) -> dict[str, float]:
    """All scores of an embedder; `teacher` is the one whose neighbours count."""
    found: dict[str, float] = {}
    for part, years in (("train", "2012-2014"), ("test", "2015"), ("dev", "2016")):
        (pairs,) = read_pairs([str(split_file(options.data / "sts", part))])
        sources = (options.data / "sts" / f"{part}.sources.txt").read_text().split()
        for year in years.split("-") if part != "train" else ("2012", "2013", "2014"):
            rows = [index for index, source in enumerate(sources) if source.startswith(year)]
            of_year = dataclasses.replace(
                pairs,
                name=year,
                first=[pairs.first[row] for row in rows],
                second=[pairs.second[row] for row in rows],
                amounts=pairs.amounts[rows],
            )
            found[f"sts{year}"] = of_year.measure(embedder)[f"spearman_{year}"]
    found["sts"] = statistics.mean(found[f"sts{year}"] for year in range(2012, 2017))
    for name in ("qa_newwiki", "qa_squad2_small"):
        (retrieval,) = read_retrieval([str(split_file(options.data / name, "test", ".json"))])
        scores = dataclasses.replace(retrieval, name="").measure(embedder)
        found[f"{name}_mrr"], found[f"{name}_recall@10"] = scores["mrr_"], scores["recall@10_"]
    for name in ("sst2", "ag_news_small", "banking77"):
        train, test = (
            read_labelled(str(split_file(options.data / name, part))) for part in ("train", "test")
        )
        found[name] = LinearHead("", train, test).measure(embedder)["accuracy_"]
    ours, theirs = neighbour_vectors(embedder, teacher, options)
    found["overlap@10"] = neighbour_overlap(ours, theirs)
    found["overlap_texts"] = len(ours)
    return found


# ---- cells


def training(student: str, seed: int, options: argparse.Namespace) -> list[object]:
    """The options of `funnelformer distill` that a cell has, but its folders."""
    arguments: list[object] = [*STUDENTS[student], *OPTIONS.get(student, [])]
    arguments += ["--learn", "vectors", "states"] if student != "hybrid" else ["--learn", "vectors"]
    arguments += ["--steps", options.steps, "--batch-size", options.batch_size, "--max-length", 256]
    arguments += ["--evaluate-every", options.evaluate_every, "--state-texts", options.state_texts]
    return [*arguments, "--precision", options.precision, "--keep-checkpoints", 1, "--seed", seed]


def folder_of(student: str, seed: int | str, options: argparse.Namespace) -> Path:
    return options.out / f"{student}-{seed}"


def train(student: str, seed: int, options: argparse.Namespace) -> list[object]:
    """Train a student that is not there yet; the command that makes it."""
    folder = folder_of(student, seed, options)
    arguments: list[object] = ["distill", "--teacher", options.teacher, "--model", options.teacher]
    arguments += ["--train", options.train, *training(student, seed, options)]
    if not (folder / "metrics.json").is_file():
        where = ["--cache", options.out / "teacher-outputs", "--out", folder, "--auto-resume"]
        measured([*arguments, *where], folder.with_name(f"{folder.name}.log"), options.threads)
    return arguments


def raw_folder(student: str, options: argparse.Namespace) -> Path:
    folder = folder_of(student, RAW, options)
    if not folder.is_dir():
        command: list[object] = ["convert", options.teacher, folder, *STUDENTS[student]]
        measured(command, folder.with_name(f"{folder.name}.log"), options.threads)
    return folder


def run_cell(student: str, seed: int | str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one student; its row."""
    before = load_average()
    metrics: dict[str, Any] = {}
    # Of what is not trained: how it is measured.
    command = shlex.join(
        ["python", "benchmarks/distillation.py", "--students", student, "--seeds", str(seed)]
    )
    folder = model_of(student, seed, options)
    if isinstance(seed, int):
        arguments = train(student, seed, options)
        metrics = json.loads((folder / "metrics.json").read_text())
        command = shown(arguments)
    torch.set_num_threads(options.threads)
    teacher = load_embedder(str(options.teacher), max_length=256, only_runs=True)
    scores = scores_of(load_embedder(str(folder), max_length=256, only_runs=True), teacher, options)
    if seed not in (RAW, TRAINED, TEACHER, BUNDLED) and not options.keep:
        shutil.rmtree(folder / "checkpoints")
    return {
        "student": student,
        "seed": seed,
        "scores": scores,
        "steps": metrics.get("steps", 0),
        "texts": metrics.get("texts"),
        "parameters": metrics.get("num_parameters"),
        "training_seconds": metrics.get("cost", {}).get("train_seconds"),
        "threads": options.threads,
        "load_average": [before, load_average()],
        "command": command,
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
    }


def model_of(student: str, seed: int | str, options: argparse.Namespace) -> Path:
    """The folder of a model that needs no training or has it behind it."""
    if student == TEACHER:
        return options.teacher
    if student == BUNDLED:
        return Path(located(student))
    return raw_folder(student, options) if seed == RAW else folder_of(student, seed, options)


def measure_overlap(student: str, seed: int | str, options: argparse.Namespace) -> dict[str, Any]:
    """The overlap alone, among `options.neighbours` paragraphs: its row."""
    torch.set_num_threads(options.threads)
    teacher = load_embedder(str(options.teacher), max_length=256, only_runs=True)
    embedder = load_embedder(str(model_of(student, seed, options)), max_length=256, only_runs=True)
    ours, theirs = neighbour_vectors(embedder, teacher, options)
    return {
        "student": student,
        "seed": seed,
        "texts": len(ours),
        "overlap@10": neighbour_overlap(ours, theirs),
        "command": shlex.join(
            ["python", "benchmarks/distillation.py", "--overlaps", "--neighbours", str(options.neighbours)]
        ),
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
    }


# ---- seconds


def time_models(students: Sequence[str], length: int, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds for 1,000 texts of so many tokens with each model, in turns. None is trained: weights do not matter."""
    folders = {
        TEACHER: options.teacher,
        **{name: raw_folder(name, options) for name in students if name not in ("hybrid", BUNDLED)},
        BUNDLED: Path(located(BUNDLED)),
    }
    if options.int8:
        folders = {name: int8_of(folder, name, options) for name, folder in folders.items()}
    embedders = {
        name: load_embedder(
            str(folder), max_length=length, only_runs=True, backend="onnx" if options.int8 else "torch"
        )
        for name, folder in folders.items()
    }
    words = " ".join(held_out_paragraphs(options.data)).split()
    number = max(BATCH_SIZE, options.texts * 64 // length)
    texts = [" ".join(words[place * length : (place + 1) * length]) for place in range(number)]
    before = load_average()
    work = {
        name: functools.partial(embedder.vectors, batch_size=BATCH_SIZE, advance=lambda done: None)
        for name, embedder in embedders.items()
    }
    if not options.int8:  # the teacher as its users run it
        peer = SentenceTransformer(str(options.teacher), device="cpu", trust_remote_code=False)
        peer.max_seq_length = length
        work[PEER] = functools.partial(peer.encode, batch_size=BATCH_SIZE, show_progress_bar=False)
    return {
        "runs_on": "onnx int8" if options.int8 else "torch prepacked",
        "length": length,
        "texts": len(texts),
        "batch_size": BATCH_SIZE,
        "seconds_per_1000": seconds_in_turns(work, texts, ROUNDS),
        "threads": torch.get_num_threads(),
        "load_average": [before, load_average()],
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
        "command": shlex.join(
            ["python", "benchmarks/distillation.py", "--time", *(["--int8"] if options.int8 else [])]
        ),
    }


def int8_of(folder: Path, name: str, options: argparse.Namespace) -> Path:
    out = options.out / f"{name}-int8"
    if not out.is_dir():
        command: list[object] = ["export", folder, out, "--task", "embeddings", "--int8", "dynamic"]
        measured(command, out.with_name(f"{out.name}.log"), options.threads)
    return out


# ---- report


def every_cell() -> list[tuple[str, int | str]]:
    """The teacher, the students before training, then one seed of everything before the next."""
    cells: list[tuple[str, int | str]] = [(TEACHER, TEACHER)]
    cells += [(student, RAW) for student in STUDENTS if student != "hybrid"] + [(BUNDLED, BUNDLED)]
    return cells + [(student, seed) for seed in SEEDS for student in STUDENTS]


SHOWN = (
    "sts2012",
    "sts2013",
    "sts2014",
    "sts2015",
    "sts2016",
    "qa_newwiki_mrr",
    "qa_squad2_small_mrr",
    "sst2",
)
SHOWN += ("ag_news_small", "banking77", "overlap@10")
# Of the published table of static embeddings, for readers to see where all this stands.
STATIC = (
    "potion-base-8M, a static embedding: STS mean 72.9 (as its publisher gives it; other sets, not run here)"
)


def score_table(results: dict[str, list[dict[str, Any]]]) -> str:
    """A row a student: the mean over seeds, with the lowest and highest where there are several."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in results["cells"]:
        kind = TRAINED if isinstance(row["seed"], int) else row["seed"]
        groups.setdefault((row["student"], kind), []).append(row)
    lines = ["| model | seeds | steps | " + " | ".join(SHOWN) + " |", "|---" * (3 + len(SHOWN)) + "|"]
    wanted = [(TEACHER, TEACHER)]
    for student in STUDENTS:
        wanted += [(student, RAW), (student, TRAINED)] if student != "hybrid" else [(student, TRAINED)]
    for student, kind in [*wanted, (BUNDLED, BUNDLED)]:
        group = groups.get((student, kind), [])
        name = student if kind == student else f"{student} {kind}"
        if not group:
            lines.append(f"| {name} | 0 | not run |" + " |" * len(SHOWN))
            continue
        cells = [spread([100 * row["scores"][score] for row in group]) for score in SHOWN]
        seeds = len(group) if kind == TRAINED else ""
        lines.append(f"| {name} | {seeds} | {group[0]['steps'] or ''} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", STATIC])


def time_table(results: dict[str, list[dict[str, Any]]], runs_on: str) -> str:
    """Seconds for 1,000 texts, and over the teacher's of the same turns."""
    entries = sorted((e for e in results["times"] if e["runs_on"] == runs_on), key=lambda e: e["length"])
    if not entries:
        return f"{runs_on}: not run"
    names = list(entries[0]["seconds_per_1000"])
    lines = [f"| {runs_on}, tokens | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for entry in entries:
        seconds = entry["seconds_per_1000"]
        cells = [
            seconds_beside(seconds[name], None if name == TEACHER else seconds[TEACHER], 2) for name in names
        ]
        lines.append(f"| {entry['length']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def overlap_table(results: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["| overlap@10 | seed | paragraphs | % |", "|---" * 4 + "|"]
    for row in sorted(results.get("overlaps", []), key=lambda row: -row["overlap@10"]):
        lines.append(
            f"| {row['student']} | {row['seed']} | {row['texts']:,} | {100 * row['overlap@10']:.1f} |"
        )
    return "\n".join(lines)


def report(file: Path) -> None:
    results = read_results(file)
    print(score_table(results))
    if results.get("overlaps"):
        print()
        print(overlap_table(results))
    for runs_on in ("torch prepacked", "onnx int8"):
        print()
        print(time_table(results, runs_on))
    there = {(row["student"], row["seed"]) for row in results["cells"]}
    print(f"\n{len(there)} cells are there, {len([c for c in every_cell() if c not in there])} are not.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", type=Path, help="folder of the encoder that teaches, of six layers")
    parser.add_argument("--data", type=Path, help="folder with a folder for each set, and the corpus")
    parser.add_argument("--train", type=Path, help="texts to learn from, see --texts")
    parser.add_argument("--texts", type=Path, help="file of texts to make from --corpus")
    parser.add_argument("--corpus", nargs="+", help="files of documents, see --texts")
    parser.add_argument("--groupings", type=int, default=1, help="see --texts")
    parser.add_argument("--out", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--students", nargs="+", default=[TEACHER, *STUDENTS, BUNDLED], choices=[TEACHER, *STUDENTS, BUNDLED]
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        default=[TEACHER, RAW, BUNDLED, *map(str, SEEDS)],
        help="teacher, raw, mini, 0, 1, 2",
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--evaluate-every", type=int, default=250)
    parser.add_argument("--state-texts", type=int, default=10_000)
    parser.add_argument(
        "--neighbours", type=int, default=20_000, help="paragraphs whose neighbours are compared"
    )
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--timed-texts", type=int, default=512, help="to time at 64 tokens; fewer of longer ones"
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints")
    parser.add_argument("--time", action="store_true", help="time the models, train none")
    parser.add_argument("--int8", action="store_true", help="time int8 graphs in ONNX Runtime")
    parser.add_argument("--overlaps", action="store_true", help="measure the overlap alone")
    parser.add_argument("--list", action="store_true", help="say which cells are there and which are not")
    parser.add_argument("--report", action="store_true", help="print the tables")
    options = parser.parse_args()
    if options.report:
        return report(options.results)
    if options.texts is not None:
        if not options.corpus:
            parser.error("--texts needs --corpus")
        return write_texts(options.corpus, options.texts, options.groupings)
    wanted = [c for c in every_cell() if c[0] in options.students and str(c[1]) in options.seeds]
    there = {(row["student"], row["seed"]) for row in read_results(options.results)["cells"]}
    if options.list:
        for cell in wanted:
            print("done" if cell in there else "  - ", *cell)
        return None
    if options.teacher is None or options.data is None or options.train is None:
        parser.error("--teacher, --data and --train are needed to run anything")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.time:
        options.texts = options.timed_texts
        torch.set_num_threads(options.threads)
        for length in options.lengths:
            row = time_models([s for s in STUDENTS if s in options.students], length, options)
            add(options.results, "times", row, lambda row: (row["runs_on"], row["length"]))
        return report(options.results)
    if options.overlaps:
        for cell in (cell for cell in wanted if cell in there):
            row = measure_overlap(*cell, options)
            print(json.dumps({key: row[key] for key in ("student", "seed", "overlap@10")}), file=sys.stderr)
            add(options.results, "overlaps", row, lambda row: (row["student"], row["seed"], row["texts"]))
        return report(options.results)
    for cell in wanted:
        if cell not in there:
            row = run_cell(*cell, options)
            print(json.dumps({key: row[key] for key in ("student", "seed", "scores")}), file=sys.stderr)
            add(options.results, "cells", row, lambda row: (row["student"], row["seed"]))
    return report(options.results)


if __name__ == "__main__":
    main()
