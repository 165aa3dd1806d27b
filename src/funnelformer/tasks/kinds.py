"""The kinds of tasks there are: a new one is a file of this room, and its name here."""

from __future__ import annotations

from . import choices, spans, texts, tokens  # noqa: F401 - each adds its kinds to the table
from .kind import KINDS, Kind
from .task import Task

__all__ = ["kind_of"]


def kind_of(task: Task, stride: int | None = None) -> Kind:
    """The kind of a task; stride: read long texts in windows that begin so many tokens apart.

    Raises UserError for a stride where there is no single text to cut. Questions have theirs in `task.spans`.
    """
    kind = KINDS[task.kind](task)
    return kind if stride is None else kind.in_windows(stride)
