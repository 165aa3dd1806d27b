"""The error that a client gets in place of an answer."""

from __future__ import annotations

from typing import Literal

__all__ = ["Reason", "Refused"]

# Reasons for which some protocols have a separate status or code.
Reason = Literal["empty", "too_many", "too_long", "no_such_model"]


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """A request that cannot be answered: HTTP status, one line, and headers that go with it.

    The status is that of our own routes; `protocols` translates it for the others.
    field: the field of the body that is wrong.
    """

    def __init__(
        self,
        status: int,
        message: str,
        headers: dict[str, str] | None = None,
        *,
        field: str | None = None,
        reason: Reason | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}
        self.field = field
        self.reason = reason
