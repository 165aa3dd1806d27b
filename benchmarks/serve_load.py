"""`funnelformer serve` under load, beside a transformers pipeline that answers one request at a time.

    python benchmarks/serve_load.py --seconds 60 --clients 64 --out runs/serve_load.json
    python benchmarks/serve_load.py --data texts.txt --model runs/tuned --peer-model runs/bert

Both stand on FastAPI and uvicorn, in a process each, on this machine's loopback. The clients keep their connections
and send one text after another, each when the last is answered; in every round they load ours, then the pipeline, for
the same seconds, and the ratio is taken round by round. Without models both have random weights: a funnel, and
BERT-base (or with `--peer same` the same funnel). Without --data the lengths of the texts are spread as those of
SST-2's and AG News' test parts. Answers are counted, their times and the service's memory noted. It takes twice
`--seconds`, and the models' start.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import transformers
from mixed_lengths import VOCABULARY, make_texts, make_tokenizer
from recording import Recording

from funnelformer import FunnelformerConfig, FunnelformerForSequenceClassification
from funnelformer.bench.results import spread


@dataclass
class Load:
    """What the clients saw in some seconds; `errors` counts statuses that are not 200, and broken connections."""

    seconds: float
    latencies_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        return len(self.latencies_s) / self.seconds

    def summary(self) -> dict[str, Any]:
        milliseconds = [1000 * value for value in self.latencies_s] or [float("nan")]
        p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99]).tolist()
        return {
            "requests": len(self.latencies_s),
            "requests_per_s": self.rate,
            "errors": dict(self.errors),
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
        }


def client(port: int, texts: list[str], seed: int, end: float, load: Load, lock: threading.Lock) -> None:
    generator = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    latencies, errors = [], Counter[str]()
    while time.perf_counter() < end:
        body = json.dumps({"texts": [generator.choice(texts)]})
        start = time.perf_counter()
        try:
            connection.request("POST", "/classify", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            if response.status == 200 and len(json.loads(answer)["results"]) == 1:
                latencies.append(time.perf_counter() - start)
            else:
                errors[str(response.status)] += 1
        except (OSError, http.client.HTTPException, ValueError) as error:
            errors[type(error).__name__] += 1
            connection.close()
    connection.close()
    with lock:
        load.latencies_s += latencies
        load.errors += errors


def put_under_load(port: int, texts: list[str], num_clients: int, seconds: float, seed: int) -> Load:
    load, lock, start = Load(seconds), threading.Lock(), time.perf_counter()
    threads = [
        threading.Thread(target=client, args=(port, texts, 1000 * seed + i, start + seconds, load, lock))
        for i in range(num_clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds = time.perf_counter() - start  # the last answers came after the time
    return load


@contextmanager
def started(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server in another process, and its port, the last number of the first line it prints."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(command)} did not start")
        yield process, int(line.rpartition("http://127.0.0.1:")[2].split()[0])
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class MemoryWatch(threading.Thread):
    """Notes a process's resident memory once a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process(pid)
        self.start_s = time.perf_counter()
        self.samples: list[tuple[float, int]] = []
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(1.0):
            self.samples.append((time.perf_counter() - self.start_s, self.process.memory_info().rss))

    def summary(self) -> dict[str, Any]:
        """The mean of the first and the last fifth: whether it grows."""
        values = [value for _, value in self.samples]
        fifth = max(1, len(values) // 5)
        return {
            "samples_s_bytes": self.samples,
            "early_bytes": statistics.fmean(values[:fifth]),
            "late_bytes": statistics.fmean(values[-fifth:]),
            "most_bytes": max(values),
        }


def serve_pipeline(folder: str) -> None:
    """The peer: transformers' pipeline behind FastAPI, one request at a time."""
    import socket

    import uvicorn
    from fastapi import Body, FastAPI

    import funnelformer  # noqa: F401 - its models too

    pipeline = transformers.pipeline("text-classification", model=folder, device="cpu")
    lock = threading.Lock()
    app = FastAPI()

    @app.post("/classify")
    def classify(texts: list[str] = Body(embed=True)) -> dict[str, Any]:  # noqa: B008 - FastAPI's way
        with lock:
            return {"results": [pipeline(text, truncation=True)[0] for text in texts]}

    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(app, log_level="error", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


def make_models(folder: Path, layout: str, peer: str, texts: list[str]) -> tuple[Path, Path]:
    tokenizer = make_tokenizer(texts)
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    ours = FunnelformerForSequenceClassification(
        FunnelformerConfig.from_name(layout, decoder_layers=0, vocab_size=VOCABULARY)
    )
    theirs = ours if peer == "same" else transformers.BertForSequenceClassification(transformers.BertConfig())
    for model, name in ((ours, "ours"), (theirs, "peer")):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder / "ours", folder / "peer"


def table(facts: dict[str, Any]) -> str:
    lines = [
        "| | requests/s | p50, ms | p95, ms | p99, ms | requests | errors |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ("service", "pipeline"):
        row = facts[name]
        times = " | ".join(f"{row[key]:.0f}" for key in ("p50_ms", "p95_ms", "p99_ms"))
        lines.append(
            f"| {name} | {row['requests_per_s']:.1f} | {times} | {row['requests']} | {sum(row['errors'].values())} |"
        )
    memory, gain = facts["memory"], facts["gain"]
    lines.append("")
    lines.append(
        f"Requests/s, service / pipeline: {gain['median']:.2f} ({gain['q25']:.2f} to {gain['q75']:.2f})."
    )
    lines.append(
        f"Memory of the service: {memory['early_bytes'] / 1e6:.0f} MB in the first fifth of the time, "
        f"{memory['late_bytes'] / 1e6:.0f} MB in the last, {memory['most_bytes'] / 1e6:.0f} MB at most."
    )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=60, help="of load on each of the two, over all rounds"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--data", type=Path, help="texts, one a line")
    parser.add_argument("--layout", default="B4-4-4H768", help="of the funnel with random weights")
    parser.add_argument("--peer", choices=["bert", "same"], default="bert")
    parser.add_argument("--model", type=Path, help="folder to serve, in place of random weights")
    parser.add_argument("--peer-model", type=Path, help="folder for the pipeline")
    parser.add_argument("--serve-options", default="", help="more options of funnelformer serve, in quotes")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--pipeline-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if bool(options.model) != bool(options.peer_model):
        parser.error("--model and --peer-model go together")
    return options


def main() -> None:
    options = parse()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if options.pipeline_of:
        serve_pipeline(options.pipeline_of)
        return
    texts = make_texts("sst2", 300) + make_texts("ag_news", 300)
    if options.data:
        texts = [line for line in options.data.read_text().splitlines() if line.strip()]
    recording = Recording(options, given=("data", "model", "peer_model", "pipeline_of"))
    with tempfile.TemporaryDirectory() as temporary:
        models = options.model, options.peer_model
        if options.model is None:
            models = make_models(Path(temporary), options.layout, options.peer, texts)
        own = [
            sys.executable,
            "-m",
            "funnelformer",
            "serve",
            str(models[0]),
            "--port",
            "0",
            "--device",
            "cpu",
        ]
        peer = [sys.executable, __file__, "--pipeline-of", str(models[1])]
        with (
            started([*own, *options.serve_options.split()]) as (process, port),
            started(peer) as (_, peer_port),
        ):
            for number in (port, peer_port):
                put_under_load(number, texts, 4, min(5.0, options.seconds / 10), seed=99)
            memory = MemoryWatch(process.pid)
            memory.start()
            loads: dict[str, list[Load]] = {"service": [], "pipeline": []}
            for number in range(options.rounds):
                for name, at in (("service", port), ("pipeline", peer_port)):
                    seconds = options.seconds / options.rounds
                    loads[name].append(put_under_load(at, texts, options.clients, seconds, number))
            memory.done.set()
            memory.join()
    together = {name: Load(sum(part.seconds for part in parts)) for name, parts in loads.items()}
    for name, parts in loads.items():
        for part in parts:
            together[name].latencies_s += part.latencies_s
            together[name].errors += part.errors
    rates = [(ours.rate, max(theirs.rate, 1e-9)) for ours, theirs in zip(*loads.values(), strict=True)]
    results: dict[str, Any] = {
        **{name: load.summary() for name, load in together.items()},
        "requests_per_s_by_round": rates,
        "gain": asdict(spread([ours / theirs for ours, theirs in rates])),
        "memory": memory.summary(),
    }
    print(table(results))
    recording.write(options.out, **results)


if __name__ == "__main__":
    main()
