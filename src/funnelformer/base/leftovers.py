"""What a killed process left behind: its name tells the next process of the same output, which removes it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import secrets
import shutil
import sys
from functools import cache
from pathlib import Path

import psutil

__all__ = ["remove_leftovers", "temporary_name"]


def temporary_name(name: str) -> str:
    """A hidden name for what is to become `name`, which tells whose it is: host, process, and when that began."""
    process = os.getpid()
    began = _began(process)
    assert began is not None  # this one lives
    return f".{name}.{_host()}-{process}-{began}-{secrets.token_hex(4)}.tmp"


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove what dead processes of this host left of `name`, and say so on stderr.

    A process that has the number of an earlier one began later. Of other hosts, and of containers that number their
    processes anew, nothing is touched: whether these live cannot be told from here.
    """
    form = re.compile(rf"\.{re.escape(name)}\.{_host()}-(\d+)-(\d+)-[0-9a-f]{{8}}\.tmp")
    with contextlib.suppress(OSError):  # what may not be listed has nothing of ours
        for found in sorted(os.listdir(folder)):
            match = form.fullmatch(found) if found.startswith(f".{name}.") else None
            if match is None or _began(int(match[1])) == int(match[2]):
                continue
            entry = folder / found
            size = _size(entry)
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
            if not entry.exists():
                print(f"removed {entry}, left by a process that was killed ({size:,} bytes)", file=sys.stderr)


@cache
def _host() -> str:
    """Of this machine, and of the container: the same number is another process in another one."""
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def _began(process: int) -> int | None:
    """When a process began, in the system's smallest steps; None when there is none, or it is dead but not buried."""
    try:
        # In ticks since the machine started, which setting the clock does not change. The name before may have spaces.
        state, *fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        return round(psutil.Process(process).create_time() * 100)
    except psutil.Error:
        return None


def _size(entry: Path) -> int:
    files = [entry, *entry.rglob("*")] if entry.is_dir() else [entry]
    total = 0
    for file in files:
        with contextlib.suppress(OSError):
            total += file.lstat().st_size if not file.is_dir() else 0
    return total
