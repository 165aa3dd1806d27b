"""What happens to a row that cannot be used: it is refused, or left out and counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..base.errors import UserError

__all__ = ["BadRows", "OnBadRow", "refuse"]

# Told in one line what is wrong with which row; when it returns, the row is left out.
OnBadRow = Callable[[str], None]


def refuse(problem: str) -> None:
    """Raise UserError: no row may be lost."""
    raise UserError(problem)


@dataclass
class BadRows:
    """Refuses the first bad row, or with `skip` notes what is wrong with each, so that none is lost in silence."""

    skip: bool = False
    problems: list[str] = field(default_factory=list)

    def __call__(self, problem: str) -> None:
        if not self.skip:
            refuse(problem)
        self.problems.append(problem)

    def report(self) -> str | None:
        """How many rows were left out, and why the first one was; None if none was."""
        if not self.problems:
            return None
        number = len(self.problems)
        return f"{number:,} bad row{'s' if number > 1 else ''} left out; the first: {self.problems[0]}"
