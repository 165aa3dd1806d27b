"""Connections with a time limit: on a request's head, on the rest of a refused body, and on a client that reads."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["TimedConnection"]


class TimedConnection(H11Protocol):
    """uvicorn's connection, closed after `timeout_s` of waiting for its client. (gate.py limits the time of a body.)"""

    timeout_s: ClassVar[float]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_reading()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._reading, self._writing):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self.loop.call_later(self.timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()

    def _watch_reading(self) -> None:
        """The time runs while a head is incomplete, or while a body arrives whose request was already answered."""
        waits = self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE
        if waits and self._reading is None:
            self._reading = self.loop.call_later(self.timeout_s, self.transport.abort)
        elif not waits and self._reading is not None:
            self._reading.cancel()
            self._reading = None
