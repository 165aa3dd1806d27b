"""Batches of similar length across requests: a bounded queue, and one thread that runs the model."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from ..inference.batches import cut
from .backend import Feature
from .freed_memory import FreedMemory
from .metrics import Metrics
from .refused import Refused

__all__ = ["Batcher", "Work"]

# Texts of a batch at most. Source: benchmarks/LOG.md, more gain nothing on a CPU.
_BATCH_SIZE = 32
_LONGEST_RETRY_S = 60


@dataclass(frozen=True)
class Work:
    """The texts of one request. They may share a batch with those of the same key, which `run` answers one by one."""

    key: Hashable
    features: list[Feature]
    run: Callable[[list[Feature]], list[Any]]


@dataclass
class _Request:
    """The answers of a request's texts, filled as their batches end."""

    work: Work
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[Any]]
    results: dict[int, Any] = field(default_factory=dict)

    def settle(self, index: int, result: Any) -> None:
        """On the loop's thread: one text has its answer, or the exception that takes its place."""
        if self.future.done():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
            return
        self.results[index] = result
        if len(self.results) == len(self.work.features):
            self.future.set_result([self.results[number] for number in range(len(self.results))])


@dataclass(frozen=True, eq=False)
class _Item:
    """One text in the queue, of `length` tokens, there since `arrived` (s)."""

    request: _Request
    index: int
    length: int
    arrived: float

    @property
    def feature(self) -> Feature:
        return self.request.work.features[self.index]


class Batcher:
    """Takes the work of requests and runs it in batches.

    The oldest text is in the next batch, with those of its key whose length is near its own. A batch starts when its
    oldest text has waited `max_delay_s`, or when all that wait would fill one; under load texts come together while
    another batch is computed, and none waits longer than for that.
    capacity: texts that may wait. most_padding, most_tokens: of a batch, see `inference._cut`.
    """

    def __init__(
        self, capacity: int, max_delay_s: float, most_padding: int, most_tokens: int, metrics: Metrics
    ) -> None:
        self._capacity = capacity
        self._max_delay_s = max_delay_s
        self._most_padding = most_padding
        self._most_tokens = most_tokens
        self._metrics = metrics
        self._waiting: list[_Item] = []
        self._changed = threading.Condition()
        self._closed = False
        self._tokens_per_s = 0.0
        self._memory = FreedMemory()
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    async def run(self, work: Work) -> list[Any]:
        """Return what `work.run` gives for each feature. Cancelled, what still waits is dropped.

        Raises Refused (429) when there is no room, or (422) never could be, and what `work.run` raised.
        """
        if len(work.features) > self._capacity:
            raise Refused(422, f"{len(work.features)} sequences to read; allowed: {self._capacity}")
        loop = asyncio.get_running_loop()
        request = _Request(work, loop, loop.create_future())
        now = time.monotonic()
        with self._changed:
            if self._closed:
                raise Refused(503, "the service is stopping")
            self._waiting = [item for item in self._waiting if not item.request.future.done()]
            if len(self._waiting) + len(work.features) > self._capacity:
                raise Refused(429, "too many texts are waiting", {"Retry-After": str(self._retry_after_s())})
            self._waiting += [
                _Item(request, index, len(feature["input_ids"]), now)
                for index, feature in enumerate(work.features)
            ]
            self._changed.notify()
        try:
            return await request.future
        except asyncio.CancelledError:
            with self._changed:
                self._changed.notify()  # its texts need not wait for their time
            raise

    def close(self) -> None:
        """Finish what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _retry_after_s(self) -> int:
        """Seconds until the queue is done at the speed of late, as far as one can say."""
        waiting = sum(item.length for item in self._waiting)
        if not self._tokens_per_s:
            return 1
        return min(_LONGEST_RETRY_S, max(1, math.ceil(waiting / self._tokens_per_s)))

    def _work(self) -> None:
        while batch := self._next():
            self._run(batch)

    def _next(self) -> list[_Item]:
        """Wait for a batch and take it from the queue; nothing once it is closed and empty."""
        with self._changed:
            while True:
                self._waiting = [item for item in self._waiting if not item.request.future.done()]
                if not self._waiting:
                    if self._closed:
                        return []
                    was_told = self._changed.wait(self._memory.wait_s)
                    if not was_told:
                        self._memory.give_back()
                    continue
                remaining = self._waiting[0].arrived + self._max_delay_s - time.monotonic()
                filled = sum(item.length for item in self._waiting) >= self._most_tokens
                if remaining > 0 and not filled and not self._closed:
                    self._changed.wait(remaining)
                    continue
                batch = self._batch_of_oldest()
                taken = set(batch)
                self._waiting = [item for item in self._waiting if item not in taken]
                return batch

    def _batch_of_oldest(self) -> list[_Item]:
        oldest = self._waiting[0]
        alike = [item for item in self._waiting if item.request.work.key == oldest.request.work.key]
        alike.sort(key=lambda item: -item.length)
        lengths = [item.length for item in alike]
        parts = (alike[part] for part in cut(lengths, _BATCH_SIZE, self._most_padding, self._most_tokens))
        return next(part for part in parts if oldest in part)

    def _run(self, batch: list[_Item]) -> None:
        start = time.perf_counter()
        run = batch[0].request.work.run
        try:
            results = run([item.feature for item in batch])
        except Exception as error:
            # One text must not cost the others their answer: each again by itself.
            results = [error] if len(batch) == 1 else [self._alone(run, item.feature) for item in batch]
        seconds = time.perf_counter() - start
        num_tokens = sum(item.length for item in batch)
        speed = num_tokens / max(seconds, 1e-9)
        self._tokens_per_s = 0.9 * self._tokens_per_s + 0.1 * speed if self._tokens_per_s else speed
        self._metrics.batch_ended(len(batch), num_tokens, len(batch) * batch[0].length, seconds)
        self._memory.batch_ended()
        for item, result in zip(batch, results, strict=True):
            try:
                item.request.loop.call_soon_threadsafe(item.request.settle, item.index, result)
            except RuntimeError:  # the loop is closed: the server was told to leave at once
                return

    @staticmethod
    def _alone(run: Callable[[list[Feature]], list[Any]], feature: Feature) -> Any:
        try:
            return run([feature])[0]
        except Exception as error:
            return error
