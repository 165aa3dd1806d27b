"""Kinds of tasks: the table here is the one place where a name picks a class."""

from ..base.errors import UserError
from .choices import Choices
from .kind import Encoded, Kind
from .spans import Questions
from .task import Task
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


def kind_of(task: Task, stride: int | None = None) -> Kind:
    """The kind of a task; stride: read long texts in windows that begin so many tokens apart.

    Raises UserError for a stride where there is no single text to cut. Questions have theirs in `task.spans`.
    """
    if stride is None or task.kind == "span":
        return _KINDS[task.kind](task)
    if _KINDS[task.kind] is not Texts or task.columns.text_pair is not None:
        what = "pairs of texts" if task.kind in ("classification", "multi-label", "regression") else task.kind
        raise UserError(f"--doc-stride makes windows of single texts; this is a task of {what}")
    return Texts(task, stride)
