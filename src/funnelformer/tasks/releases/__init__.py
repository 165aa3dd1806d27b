"""The tasks of the papers, by name."""

from __future__ import annotations

import re

from ...base.errors import UserError, did_you_mean
from ..task import KindName, Part, Release, Role, Spans, Task, find_part, read_part
from .conll import TOKENS
from .glue import GLUE
from .race import CHOICES
from .reviews_and_news import TEXTS
from .squad import SQUAD

__all__ = [
    "TASKS",
    "KindName",
    "Part",
    "Release",
    "Role",
    "Spans",
    "Task",
    "find_part",
    "find_task",
    "read_part",
]

TASKS = {task.name: task for task in (*GLUE, *TEXTS, *TOKENS, *CHOICES, *SQUAD)}


def find_task(name: str) -> Task:
    """The task of that name, written as one likes (SST-2, sst2); raises UserError for one that is not known."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    if plain not in TASKS:
        hint = did_you_mean(plain, TASKS)
        shown = name if name.isprintable() else ascii(name)
        raise UserError(f"--task {shown} is not known{hint}; known: {', '.join(TASKS)}")
    return TASKS[plain]
