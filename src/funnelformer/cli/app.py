"""The application, and what its commands share.

The modules of commands import configurations alone; a command imports what it does when it is called.
"""

from __future__ import annotations

import math
from typing import Any

import cyclopts
from cyclopts import App, Parameter

from ..base.errors import printable
from ..base.processes import rank as process_rank
from ..base.version import __version__

__all__ = ["app", "print_metrics", "process_rank", "show"]


def _is_finite(hint: Any, value: Any) -> None:
    """Of every option: a number that is NaN or infinite is refused before its command begins."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("allowed: a finite number")


app = App(
    name="funnelformer",
    help="Text encoders that shorten the sequence as they deepen.",
    version=__version__,
    default_parameter=Parameter(negative="", validator=_is_finite),
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # entry.main says what is left of the run
)
app.meta.suppress_keyboard_interrupt = False
app.meta.group_parameters = cyclopts.Group("Common", sort_key=10)


def show(line: str) -> None:
    """Print a line of what was done; names in it, of files and tensors, steer no terminal."""
    print(printable(line))


def print_metrics(metrics: dict[str, Any], last_line: str | None = None) -> None:
    """Print the metrics, in the first process alone; tables among them are for programs, and left out."""
    if process_rank() > 0:
        return
    for key, value in metrics.items():
        if isinstance(value, dict):
            continue
        show(f"{key}: {value:.4f}" if isinstance(value, float) else f"{key}: {value}")
    if last_line:
        show(last_line)
