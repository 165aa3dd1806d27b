"""What to do with a row that cannot be used: refuse it, or leave it out and count it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..base.errors import UserError

__all__ = ["BadRows", "OnBadRow", "refuse"]

# Is called with one line that says what is wrong with which row; if it returns, the row is left out.
OnBadRow = Callable[[str], None]


def refuse(problem: str) -> None:
    """Raise UserError with the problem: no row may be left out."""
    raise UserError(problem)


@dataclass
class BadRows:
    """A callable for bad rows: it raises UserError at the first one, or with `skip` notes the problem of each."""

    skip: bool = False
    problems: list[str] = field(default_factory=list)

    def __call__(self, problem: str) -> None:
        if not self.skip:
            refuse(problem)
        self.problems.append(problem)

    def report(self) -> str | None:
        """Say how many rows were left out, and why the first one was; None if all were used."""
        if not self.problems:
            return None
        number = len(self.problems)
        return f"{number:,} bad row{'s' if number > 1 else ''} left out; the first: {self.problems[0]}"
