"""How the demo runs a user's commands: shown as they are typed, one after the other."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["funnelformer", "heading", "relative"]


def funnelformer(*arguments: str | Path | float) -> float:
    """Run a `funnelformer` command, showing it; return the seconds it took. Ends the demo when it fails."""
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
