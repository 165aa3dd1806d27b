"""Kinds of tasks: the table here is the one place where a name picks a class."""

from ..data.tasks import Task
from .choices import Choices
from .kind import Encoded, Kind
from .questions import Questions
from .texts import Texts
from .tokens import Tokens

__all__ = ["Encoded", "Kind", "kind_of"]

_KINDS: dict[str, type[Kind]] = {
    "classification": Texts,
    "multi-label": Texts,
    "regression": Texts,
    "tokens": Tokens,
    "choice": Choices,
    "span": Questions,
}


def kind_of(task: Task) -> Kind:
    return _KINDS[task.kind](task)
