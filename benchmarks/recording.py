"""What the benchmarks that time calls leave in a JSON file: not a script of its own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from funnelformer.base.files import atomic_writer
from funnelformer.base.machine import hardware, load_average, versions

__all__ = ["Recording"]


class Recording:
    """Settings, hardware, versions and how busy the machine was when it was made and when the results were there.

    given: options that name the user's own files; only whether they were given is kept.
    """

    def __init__(self, options: argparse.Namespace, device: str = "cpu", given: tuple[str, ...] = ()) -> None:
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        self.settings = settings | {name: bool(settings[name]) for name in given}
        self.device = torch.device(device)
        self.before = load_average()

    def write(self, file: Path | None, **results: Any) -> None:
        """All of it with the results, where a file is named."""
        if file is None:
            return
        facts = {
            "settings": self.settings,
            "hardware": hardware(self.device),
            "versions": versions(),
            "load_average": [self.before, load_average()],
            **results,
        }
        with atomic_writer(file) as stream:
            stream.write(json.dumps(facts, indent=2) + "\n")
