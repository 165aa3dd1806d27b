"""Processes in which PyTorch and what comes with it cannot be imported."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

# Put before the code of a process: as where these packages are not installed.
BLOCK = """
import importlib.abc, sys
from funnelformer.base.packages import WITH_PYTORCH
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {*WITH_PYTORCH, "sentence_transformers"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
"""
MAIN = (
    "import sys, json\nfrom funnelformer.cli import main\nfor line in json.loads(sys.argv[1]): main(line)\n"
)
EVERY_PYTHON = sys.executable


def commands(
    lines: list[list[str]], environment: dict[str, str], python: str = EVERY_PYTHON, block: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run commands of ours one after another in one process."""
    code = (BLOCK if block else "") + MAIN
    return subprocess.run(
        [python, "-c", code, json.dumps(lines)], capture_output=True, text=True, env=environment, check=False
    )


def serve_once(
    folder: Path, route: str, body: dict[str, object], environment: dict[str, str], python: str, block: bool
) -> dict[str, object]:
    """What the service of a folder answers first; it is told to stop afterwards, and must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = ["serve", str(folder), "--port", str(port)]
    code = (BLOCK if block else "") + MAIN
    process = subprocess.Popen([python, "-c", code, json.dumps([line])], env=environment)
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{route}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(request) as answer:
                    return json.load(answer)
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
    finally:
        process.terminate()
        assert process.wait(60) == 0
