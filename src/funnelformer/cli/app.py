"""The application, and what its commands share.

The modules of commands import configurations alone; a command imports what it does when it is called.
"""

from __future__ import annotations

from typing import Any

import cyclopts
from cyclopts import App, Parameter

from ..training.processes import rank as process_rank
from ..version import __version__

__all__ = ["app", "print_metrics", "process_rank"]

app = App(
    name="funnelformer",
    help="Text encoders that shorten the sequence as they deepen.",
    version=__version__,
    default_parameter=Parameter(negative=""),
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # entry.main says what is left of the run
)
app.meta.suppress_keyboard_interrupt = False
app.meta.group_parameters = cyclopts.Group("Common", sort_key=10)


def print_metrics(metrics: dict[str, Any], last_line: str | None = None) -> None:
    """Of the first process alone; tables are for programs."""
    if process_rank() > 0:
        return
    for key, value in metrics.items():
        if isinstance(value, dict):
            continue
        print(f"{key}: {value:.4f}" if isinstance(value, float) else f"{key}: {value}")
    if last_line:
        print(last_line)
