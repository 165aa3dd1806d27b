"""Batches of similar length across requests: a bounded queue for each model, and one thread that runs them in turn."""

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

__all__ = ["Batcher", "Lane", "Work"]

# Most texts in a batch. More do not help on a CPU (measured in benchmarks/LOG.md).
_BATCH_SIZE = 32
_LONGEST_RETRY_S = 60


@dataclass(frozen=True)
class Work:
    """The texts of one request. Texts with the same key may share a batch; `run` returns a result for each of them."""

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
        """Note one text's answer, or the exception in its place. Call it on the loop's thread."""
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


class Lane:
    """The queue of one model. Models never share a batch.

    most_padding, most_tokens: limits of a batch in tokens, see `inference.batches.cut`.
    """

    def __init__(self, batcher: Batcher, name: str, most_padding: int, most_tokens: int) -> None:
        self.name = name
        self.most_tokens = most_tokens
        self._batcher = batcher
        self._most_padding = most_padding
        self._tokens_per_s = 0.0
        self.waiting: list[_Item] = []
        self.turn_s = 0.0  # seconds of computation so far, see `Batcher.run`

    @property
    def num_waiting(self) -> int:
        return len(self.waiting)

    async def run(self, work: Work) -> list[Any]:
        """Return what `work.run` gives for each feature. If it is cancelled, the texts that still wait are dropped.

        Raises Refused (429) if the queue has no room, Refused (422) if the request exceeds the whole queue, Refused
        (503) if the service is stopping, and whatever `work.run` raised.
        """
        return await self._batcher.run(self, work)

    def drop_settled(self) -> None:
        """Drop the texts of requests that have failed, or whose client has left."""
        self.waiting = [item for item in self.waiting if not item.request.future.done()]

    def wait_s(self, max_delay_s: float) -> float:
        """Seconds that the next batch may still wait for more texts; it is due at 0 or less."""
        if sum(item.length for item in self.waiting) >= self.most_tokens:
            return 0.0
        return self.waiting[0].arrived + max_delay_s - time.monotonic()

    def take_batch(self) -> list[_Item]:
        """Take the oldest text, and those with its key whose length is near its own."""
        oldest = self.waiting[0]
        alike = [item for item in self.waiting if item.request.work.key == oldest.request.work.key]
        alike.sort(key=lambda item: -item.length)
        lengths = [item.length for item in alike]
        parts = (alike[part] for part in cut(lengths, _BATCH_SIZE, self._most_padding, self.most_tokens))
        batch = next(part for part in parts if oldest in part)
        taken = set(batch)
        self.waiting = [item for item in self.waiting if item not in taken]
        return batch

    def batch_ended(self, num_tokens: int, seconds: float) -> None:
        self.turn_s += seconds
        speed = num_tokens / max(seconds, 1e-9)
        self._tokens_per_s = 0.9 * self._tokens_per_s + 0.1 * speed if self._tokens_per_s else speed

    def retry_after_s(self, num_busy: int) -> int:
        """An estimate of the seconds until all waiting texts are done, at the recent speed, with `num_busy` lanes."""
        if not self._tokens_per_s:
            return 1
        seconds = num_busy * sum(item.length for item in self.waiting) / self._tokens_per_s
        return min(_LONGEST_RETRY_S, max(1, math.ceil(seconds)))


class Batcher:
    """Takes the work of requests and runs it in batches, on one thread for all models.

    A lane's next batch always has its oldest text. A batch is due when its oldest text has waited `max_delay_s`, or
    when the waiting texts of the lane would fill it; under load, texts gather while another batch is computed. If
    several lanes have a batch that is due, the lane with the fewest seconds of computation so far goes first. So the
    models share the time evenly, however many requests one of them gets.
    capacity: most texts that may wait in a lane. Source of the order: start-time fair queueing, Goyal et al. 1996.
    """

    def __init__(self, capacity: int, max_delay_s: float, metrics: Metrics) -> None:
        self._capacity = capacity
        self._max_delay_s = max_delay_s
        self._metrics = metrics
        self._lanes: list[Lane] = []
        self._turn_s = 0.0  # that of the lane which was served last
        self._changed = threading.Condition()
        self._closed = False
        self._memory = FreedMemory()
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)

    def add_lane(self, name: str, most_padding: int, most_tokens: int) -> Lane:
        """Add the lane of a further model. Call it before `start`."""
        lane = Lane(self, name, most_padding, most_tokens)
        self._lanes.append(lane)
        return lane

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def num_waiting(self) -> int:
        return sum(lane.num_waiting for lane in self._lanes)

    async def run(self, lane: Lane, work: Work) -> list[Any]:
        """See `Lane.run`."""
        if len(work.features) > self._capacity:
            raise Refused(422, f"{len(work.features)} sequences to read; allowed: {self._capacity}")
        loop = asyncio.get_running_loop()
        request = _Request(work, loop, loop.create_future())
        now = time.monotonic()
        with self._changed:
            if self._closed:
                raise Refused(503, "the service is stopping")
            lane.drop_settled()
            if lane.num_waiting + len(work.features) > self._capacity:
                num_busy = len(self._busy())
                raise Refused(
                    429, "too many texts are waiting", {"Retry-After": str(lane.retry_after_s(num_busy))}
                )
            if (
                not lane.waiting
            ):  # an idle lane saves up no time: it is put level with the lane that was served last
                lane.turn_s = max(lane.turn_s, self._turn_s)
            lane.waiting += [
                _Item(request, index, len(feature["input_ids"]), now)
                for index, feature in enumerate(work.features)
            ]
            self._changed.notify()
        try:
            return await request.future
        except asyncio.CancelledError:
            with self._changed:
                self._changed.notify()  # a full batch is due at once
            raise

    def close(self) -> None:
        """Finish the waiting texts, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _busy(self) -> list[Lane]:
        return [lane for lane in self._lanes if lane.waiting]

    def _work(self) -> None:
        while (found := self._next()) is not None:
            self._run(*found)

    def _next(self) -> tuple[Lane, list[_Item]] | None:
        """Wait for a batch and take it from its lane; None once all is closed and empty."""
        with self._changed:
            while True:
                for lane in self._lanes:
                    lane.drop_settled()
                busy = self._busy()
                if not busy:
                    if self._closed:
                        return None
                    was_told = self._changed.wait(self._memory.wait_s)
                    if not was_told:
                        self._memory.give_back()
                    continue
                waits_s = {lane: 0.0 if self._closed else lane.wait_s(self._max_delay_s) for lane in busy}
                due = [lane for lane in busy if waits_s[lane] <= 0]
                if not due:
                    self._changed.wait(min(waits_s.values()))
                    continue
                lane = min(due, key=lambda lane: (lane.turn_s, lane.waiting[0].arrived))
                self._turn_s = max(self._turn_s, lane.turn_s)
                return lane, lane.take_batch()

    def _run(self, lane: Lane, batch: list[_Item]) -> None:
        start = time.perf_counter()
        run = batch[0].request.work.run
        try:
            results = run([item.feature for item in batch])
        except Exception as error:
            # One bad text must not cost the others their answers: run each again by itself.
            results = [error] if len(batch) == 1 else [self._alone(run, item.feature) for item in batch]
        seconds = time.perf_counter() - start
        num_tokens = sum(item.length for item in batch)
        with self._changed:
            lane.batch_ended(num_tokens, seconds)
        self._metrics.batch_ended(lane.name, len(batch), num_tokens, len(batch) * batch[0].length, seconds)
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
