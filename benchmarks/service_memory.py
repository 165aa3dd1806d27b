"""Memory of `funnelformer serve` under mixed load, minute by minute.

    python benchmarks/service_memory.py --minutes 30 --out runs/service_memory.json

Every minute has four parts of 15 seconds: short texts of many clients, a burst of texts as long as a request may hold,
short and long ones together, and a pause. The service's resident memory is noted once a second. A row is a minute: the
most, and the mean of the last seconds of its pause, which is what stays. What stays should not rise with the minutes.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import transformers
from mixed_lengths import make_texts
from recording import Recording
from serve_load import MemoryWatch, make_models, put_under_load, started

from funnelformer.base.markdown import markdown_table

PART_S = 15.0
_SETTLED_S = 5.0
# As --max-text-chars of the service allows.
LONG_CHARS = (20_000, 90_000)


def long_texts(words: list[str], number: int, seed: int = 1) -> list[str]:
    generator = random.Random(seed)
    texts = []
    for _ in range(number):
        most, parts, size = generator.randint(*LONG_CHARS), [], 0
        while size < most:
            parts.append(generator.choice(words))
            size += len(parts[-1]) + 1
        texts.append(" ".join(parts))
    return texts


def row(
    minute: int, samples: list[tuple[float, int]], statuses: Counter[str], requests: int
) -> dict[str, Any]:
    """Of one minute of samples, the last seconds of which are a pause."""
    end = samples[-1][0]
    return {
        "minute": minute,
        "most_bytes": max(value for _, value in samples),
        "settled_bytes": round(statistics.fmean(value for at, value in samples if at > end - _SETTLED_S)),
        "requests": requests,
        "errors": dict(statuses),
    }


def table(rows: list[dict[str, Any]]) -> str:
    figures = [
        (
            entry["minute"],
            f"{entry['most_bytes'] / 1e6:.0f}",
            f"{entry['settled_bytes'] / 1e6:.0f}",
            entry["requests"],
            sum(entry["errors"].values()),
        )
        for entry in rows
    ]
    titles = ["minute", "most, MB", "after the pause, MB", "requests", "errors"]
    return markdown_table(titles, [[str(figure) for figure in row] for row in figures])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--layout", default="B4-4-4H768", help="of the funnel with random weights")
    parser.add_argument("--max-length", type=int, default=512, help="tokens at which the service cuts")
    parser.add_argument("--serve-options", default="", help="more options of funnelformer serve, in quotes")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    short = make_texts("sst2", 300)
    long = long_texts(sorted({word for text in short for word in text.split()}), 24)
    recording = Recording(options)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        model, _ = make_models(Path(temporary), options.layout, "same", short)
        command = [
            sys.executable,
            "-m",
            "funnelformer",
            "serve",
            str(model),
            "--port",
            "0",
            "--device",
            "cpu",
        ]
        command += ["--max-length", str(options.max_length), *options.serve_options.split()]
        with started(command) as (process, port):
            put_under_load(port, short, 2, 2.0, seed=99)
            memory = MemoryWatch(process.pid)
            memory.start()
            for minute in range(1, options.minutes + 1):
                begin, statuses, requests = len(memory.samples), Counter[str](), 0
                for texts in (short, long, [*short[:24], *long]):
                    load = put_under_load(port, texts, options.clients, PART_S, seed=minute)
                    statuses += load.errors
                    requests += len(load.latencies_s)
                time.sleep(PART_S)
                rows.append(row(minute, memory.samples[begin:], statuses, requests))
                print(table(rows[-1:]).splitlines()[-1], flush=True)
            memory.done.set()
            memory.join()
    settled = [entry["settled_bytes"] for entry in rows]
    half = len(settled) // 2 or 1
    growth = statistics.fmean(settled[-half:]) / statistics.fmean(settled[:half]) - 1
    print(table(rows))
    print(f"\nWhat stays, mean of the second half of the minutes over that of the first: {growth:+.1%}")
    recording.write(options.out, minutes=rows, growth=growth)


if __name__ == "__main__":
    main()
