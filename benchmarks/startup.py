"""What it costs until the command line answers: seconds of CPU time and memory of a fresh process.

    python benchmarks/startup.py --out benchmarks/results/startup.json
    PYTHONPATH=src python benchmarks/startup.py --peer ../before/src    # beside another copy of the package

    python benchmarks/startup.py --export runs/sst2-onnx --runtime ENVIRONMENT/bin/python

The last one times first answers of an export, `predict` of one line and `serve` until its first answer, in an
environment without torch (see docs/deployment.md) and in this one, with their sizes; CPU of `serve` has its end, too.

Each command runs `--rounds` times in turn with the others, beside a Python that imports nothing, and one that
imports torch and transformers. CPU time, user and system, is what a busy machine does not stretch much.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

PYTHON = {
    "python -c pass": ["-c", "pass"],
    "import torch, transformers": ["-c", "import torch, transformers"],
}
COMMANDS = ("--version", "--help", "finetune --help", "serve --help")


def cost(arguments: list[str], source: Path | None = None) -> tuple[float, int]:
    """CPU seconds and largest resident bytes of one process that must end well; its output goes nowhere.

    source: the folder that Python imports the package from, where it is not the usual one.
    """
    environment = os.environ if source is None else os.environ | {"PYTHONPATH": str(source)}
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    process = os.posix_spawn(sys.executable, [sys.executable, *arguments], environment, file_actions=silent)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} ended with status {status}")
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit


def first_answers(
    python: str, folder: str, source: Path, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds by the clock and of CPU of fresh processes until `predict` and `serve` have answered one line."""
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONSAFEPATH": "1"}
    found: dict[str, list[tuple[float, float]]] = {"predict": [], "serve": []}
    for number in range(rounds + 1):
        for name, run in (("predict", _predict_once), ("serve", _serve_once)):
            start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            end = run([python, "-m", "funnelformer", name, folder], environment)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            if number:  # at first files are read and compiled
                found[name].append((end - start, cpu))
    return found


def _predict_once(command: list[str], environment: dict[str, str]) -> float:
    subprocess.run(command, input=b"a good film\n", stdout=subprocess.DEVNULL, env=environment, check=True)
    return time.perf_counter()


def _serve_once(command: list[str], environment: dict[str, str]) -> float:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    silent = subprocess.DEVNULL
    process = subprocess.Popen([*command, "--port", str(port)], env=environment, stdout=silent)
    body = json.dumps({"texts": ["a good film"]}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/classify", body, {"Content-Type": "application/json"}
    )
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(request).read()
                return time.perf_counter()
            except OSError:
                time.sleep(0.01)
        raise SystemExit("serve ended before it answered")
    finally:
        process.terminate()
        process.wait()


def environment_bytes(python: str) -> int:
    """Bytes of what is installed in the environment of an interpreter."""
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    folder = Path(
        subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    )
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def compare_first_answers(options: argparse.Namespace) -> None:
    """The table of an export's first answers: without torch, with it installed, and by an older copy of the package."""
    here = Path(__file__).parents[1] / "src"
    cases = {
        "environment without torch": (options.runtime, here),
        "environment with torch": (sys.executable, here),
    }
    if options.peer is not None:
        cases["environment with torch, peer's source"] = (sys.executable, options.peer.resolve())
    rows: list[dict[str, Any]] = []
    lines: list[list[str]] = []
    for name, (python, source) in cases.items():
        size = environment_bytes(python)
        for command, pairs in first_answers(python, options.export, source, options.rounds).items():
            row: dict[str, Any] = {"environment": name, "bytes": size, "command": command}
            for label, values in zip(("wall_s", "cpu_s"), map(sorted, zip(*pairs, strict=True)), strict=True):
                row[label] = {"median": statistics.median(values), "least": values[0], "most": values[-1]}
            rows.append(row)
            shown = [
                f"{row[k]['median']:.2f} ({row[k]['least']:.2f} to {row[k]['most']:.2f})"
                for k in ("wall_s", "cpu_s")
            ]
            lines.append([name, f"{size / 1e6:,.0f}", f"`{command}`", *shown])
    from recording import Recording

    from funnelformer.base.markdown import markdown_table

    titles = ["process", "packages, MB", "first answer of", "clock, s: median (least to most)", "CPU, s"]
    print(markdown_table(titles, lines))
    Recording(options, given=("peer", "export", "runtime")).write(options.out, rows=rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--peer", type=Path, help="src folder of another copy, timed in turn with this one")
    parser.add_argument("--export", help="folder of an exported classifier: time first answers")
    parser.add_argument("--runtime", help="interpreter of an environment without torch, for --export")
    options = parser.parse_args()
    if (options.export is None) != (options.runtime is None):
        parser.error("--export and --runtime go together")
    if options.export is not None:
        compare_first_answers(options)
        return
    cases: dict[str, tuple[list[str], Path | None]] = {name: (given, None) for name, given in PYTHON.items()}
    for text in COMMANDS:
        arguments = ["-m", "funnelformer", *text.split()]
        cases[f"funnelformer {text}"] = arguments, None
        if options.peer is not None:
            cases[f"peer's funnelformer {text}"] = arguments, options.peer.resolve()
    for case in cases.values():  # files are read and compiled once
        cost(*case)
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, case in cases.items():
            found[name].append(cost(*case))
    rows: list[dict[str, Any]] = []
    lines: list[list[str]] = []
    for name, costs in found.items():
        seconds = sorted(value for value, _ in costs)
        entry = {
            "process": name,
            "cpu_s": {"median": statistics.median(seconds), "least": seconds[0], "most": seconds[-1]},
            "memory_bytes": max(value for _, value in costs),
        }
        rows.append(entry)
        spread = f"{entry['cpu_s']['median']:.2f} ({seconds[0]:.2f} to {seconds[-1]:.2f})"
        lines.append([f"`{name}`", spread, f"{entry['memory_bytes'] / 1e6:.0f}"])
    # Its libraries come last: a process's largest memory counts from that of the one that started it.
    from recording import Recording

    from funnelformer.base.markdown import markdown_table

    print(markdown_table(["process", "CPU, s: median (least to most)", "memory, MB"], lines))

    Recording(options, given=("peer",)).write(options.out, rows=rows)


if __name__ == "__main__":
    main()
