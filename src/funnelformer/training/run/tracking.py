"""Where the log of a run goes beside its own file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...base.errors import UserError
from ...base.options import Tracker

__all__ = ["choose_tracker", "tracker_settings"]


def choose_tracker(name: Tracker | None) -> Tracker:
    """The tracker to use: the one you asked for, or TensorBoard if it is installed.

    Raises UserError if the one you asked for is not installed.
    """
    if name is None:
        return "tensorboard" if find_spec("tensorboard") else "none"
    if name != "none" and find_spec(name) is None:
        raise UserError(f"--report-to {name}: {name} is not installed; pip install {name}")
    return name


def tracker_settings(name: Tracker, out: Path) -> tuple[str, list[Any]]:
    """The Trainer's argument `report_to`, and callbacks: TensorBoard's files belong into the run's folder."""
    if name != "tensorboard":
        return name, []
    from transformers.integrations import TensorBoardCallback

    callback = TensorBoardCallback()
    callback.logging_dir = str(out / "tensorboard")
    return "none", [callback]
