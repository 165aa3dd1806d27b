"""The kinds of tasks there are: a new one is a file of this room, and its name here."""

from __future__ import annotations

from . import choices, spans, texts, tokens  # noqa: F401 - each adds its kinds to the table
from .kind import KINDS, Kind
from .task import Task
from .windowing import Windowing

__all__ = ["kind_of"]


def kind_of(task: Task, windowing: Windowing | None = None) -> Kind:
    """The kind of a task; windowing: read long texts so.

    Raises UserError where there is no single text to cut. Questions have their windows in `task.spans`.
    """
    kind = KINDS[task.kind](task)
    return kind if windowing is None else kind.in_windows(windowing)
