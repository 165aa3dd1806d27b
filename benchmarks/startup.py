"""What it costs until the command line answers: seconds of CPU time and memory of a fresh process.

    python benchmarks/startup.py --out benchmarks/results/startup.json
    PYTHONPATH=src python benchmarks/startup.py --peer ../before/src    # beside another copy of the package

Each command runs `--rounds` times in turn with the others, beside a Python that imports nothing, and one that
imports torch and transformers. CPU time, user and system, is what a busy machine does not stretch much.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--peer", type=Path, help="src folder of another copy, timed in turn with this one")
    options = parser.parse_args()
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
