"""The application, and what its commands share."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import App, Parameter

from ..errors import printable
from ..training.processes import rank

__all__ = ["Device", "Files", "app", "print_metrics", "show"]


def _is_finite(hint: Any, value: Any) -> None:
    """Of every option: a number that is NaN or infinite is refused before its command begins."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("allowed: a finite number")


app = App(
    name="funnelformer",
    help="Text encoders that shorten the sequence as they deepen.",
    default_parameter=Parameter(negative="", validator=_is_finite),
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # entry.main says what is left of the run
)
app.meta.suppress_keyboard_interrupt = False
app.meta.group_parameters = cyclopts.Group("Common", sort_key=0)
app.register_install_completion_command(help="Let the shell (bash, zsh, fish) complete commands and options.")

Files = Annotated[list[str], Parameter(consume_multiple=True)]
Device = Literal["auto", "cpu"]


def show(line: str) -> None:
    """Print a line of what was done; names in it, of files and tensors, steer no terminal."""
    print(printable(line))


def print_metrics(metrics: dict[str, Any], last_line: str | None = None) -> None:
    """Of the first process alone; tables are for programs."""
    if rank() > 0:
        return
    for key, value in metrics.items():
        if isinstance(value, dict):
            continue
        show(f"{key}: {value:.4f}" if isinstance(value, float) else f"{key}: {value}")
    if last_line:
        show(last_line)
