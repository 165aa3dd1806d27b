"""What the benchmarks that time calls leave in a JSON file: not a script of its own."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from funnelformer.base.files import atomic_writer
from funnelformer.base.machine import hardware, load_average, versions

__all__ = ["Recording", "command_line"]


class Recording:
    """Command, settings, hardware, versions, and how busy the machine was before and after.

    given: options that name the user's own files; only whether they were given is kept.
    """

    def __init__(self, options: argparse.Namespace, device: str = "cpu", given: tuple[str, ...] = ()) -> None:
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        self.settings = settings | {name: bool(settings[name]) for name in given}
        self.command = command_line(sys.argv, given)
        self.device = torch.device(device)
        self.before = load_average()

    def write(self, file: Path | None, **results: Any) -> None:
        """All of it with the results, where a file is named."""
        if file is None:
            return
        facts = {
            "command": self.command,
            "settings": self.settings,
            "hardware": hardware(self.device),
            "versions": versions(),
            "load_average": [self.before, load_average()],
            **results,
        }
        with atomic_writer(file) as stream:
            stream.write(json.dumps(facts, indent=2) + "\n")


def command_line(words: list[str], given: tuple[str, ...] = ()) -> str:
    """The command of a script as it is typed, with names in capitals for the values of `given` options and --out."""
    hidden = {f"--{name.replace('_', '-')}" for name in (*given, "out")}
    shown = ["python", f"benchmarks/{Path(words[0]).name}"]
    hides = False
    for word in words[1:]:
        if not word.startswith("--"):
            if not hides:
                shown.append(word)
            continue
        option, has_value, _ = word.partition("=")
        hides = option in hidden
        if not hides:
            shown.append(word)
            continue
        shown += [option, option[2:].upper().replace("-", "_")]
        hides = not has_value
    return shlex.join(shown)
