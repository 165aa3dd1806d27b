"""Documents a second of encoders that end in one vector, beside BERT's, and what TITE's authors published.

    python benchmarks/one_vector.py [--threads 1] [--rounds 7] [--out one_vector.json]

Random weights, token ids in, one vector a document out; all take turns, and a ratio is of one round. As TITE's paper
(Schlatt et al. 2025, SIGIR), which reads 2.3 to 4.2 times as many documents a second as BERT on a GPU, and says that
transformers' Funnel reads 0.4 of them there.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import torch
from recording import Recording

from funnelformer.base.markdown import markdown_table
from funnelformer.bench.measure import Case, make_call, make_ids, seconds_of
from funnelformer.bench.results import Spread, spread
from funnelformer.bench.subjects import Subject, find_subject

BERT = "BERT-base"
PUBLISHED = {"one-vector-base": "2.3 to 4.2 (TITE, GPU)", "transformers' Funnel": "0.4 (GPU)"}


def make_subjects() -> dict[str, Subject]:
    """By the names of the table; ours prepacked, as the commands run them, and BERT both ways."""
    return {
        BERT: find_subject("bert", "--peers"),
        f"{BERT}, prepacked": find_subject("bert", "--peers", "prepacked"),
        "transformers' Funnel": find_subject("funnel", "--peers"),
        "B4-4-4H768": find_subject("B4-4-4H768", "--models", "prepacked"),
        "one-vector-base": find_subject("one-vector-base", "--models", "prepacked"),
    }


def rates(samples: dict[str, list[float]], num_documents: int) -> dict[str, dict[str, Spread]]:
    """Of each: documents a second, and those over BERT's in the same round."""
    return {
        name: {
            "documents_per_s": spread([num_documents / value for value in seconds]),
            "of_bert": spread([b / a for a, b in zip(seconds, samples[BERT], strict=True)]),
        }
        for name, seconds in samples.items()
    }


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    """Seconds of each subject in turns, after one round that does not count."""
    device, vocabulary = torch.device("cpu"), 30522
    ids = make_ids(case, vocabulary)
    calls = {
        name: make_call(subject.build(case.length, vocabulary), ids, case)
        for name, subject in make_subjects().items()
    }
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            seconds = seconds_of(call, device)
            if number:
                samples[name].append(seconds)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=["32x32", "8x128", "4x256", "2x512"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recording = Recording(options)
    rows, cells = [], {name: [name] for name in make_subjects()}
    for shape in options.shapes:
        batch_size, length = map(int, shape.split("x"))
        case = Case(batch_size=batch_size, length=length, dtype="float32", mode="inference")
        samples = measure(case, options.rounds)
        for name, found in rates(samples, batch_size).items():
            ratio = found["of_bert"]
            cells[name] += [
                f"{found['documents_per_s'].median:.1f}",
                f"{ratio.median:.2f} ({ratio.q25:.2f} to {ratio.q75:.2f})",
            ]
            numbers = {key: asdict(value) for key, value in found.items()}
            rows.append({"model": name, "shape": shape, **numbers, "seconds": samples[name]})
    heads = [head for shape in options.shapes for head in (f"{shape}: documents/s", f"over {BERT}")]
    lines = [[*row, PUBLISHED.get(name, "")] for name, row in cells.items()]
    print(markdown_table(["", *heads, "published"], lines))
    recording.write(options.out, rows=rows)


if __name__ == "__main__":
    main()
