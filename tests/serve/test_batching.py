"""The queue by itself: what shares a batch, how long it waits, and what happens when it is full or something fails."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager

import pytest

pytest.importorskip("prometheus_client", reason="needs funnelformer[serve]")

from funnelformer.serve import batching
from funnelformer.serve.batching import Batcher, Work
from funnelformer.serve.metrics import Metrics
from funnelformer.serve.refused import Refused


class Model:
    """Answers each text with its length and remembers the batches; may be held up."""

    def __init__(self):
        self.batches = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.has_begun = threading.Event()

    def __call__(self, features):
        self.has_begun.set()
        assert self.go_on.wait(10)
        lengths = [len(feature["input_ids"]) for feature in features]
        self.batches.append(lengths)
        if 13 in lengths:
            raise ZeroDivisionError("of 13")
        return lengths

    def work(self, *lengths, key="a"):
        return Work(key, [{"input_ids": [0] * length} for length in lengths], self)


@asynccontextmanager
async def batcher(capacity=100, max_delay_s=0.0, most_padding=4, most_tokens=1000):
    async with lanes(["a"], capacity, max_delay_s, most_padding, most_tokens) as (one, (lane,)):
        one.lane = lane
        yield one


@asynccontextmanager
async def lanes(names, capacity=100, max_delay_s=0.0, most_padding=4, most_tokens=1000):
    """A batcher of several models, and the queue of each."""
    one = Batcher(capacity, max_delay_s, Metrics())
    found = [one.add_lane(name, most_padding, most_tokens) for name in names]
    one.start()
    try:
        yield one, found
    finally:
        await asyncio.to_thread(one.close)


async def begun(model):
    """Wait until the model has its first batch."""
    assert await asyncio.to_thread(model.has_begun.wait, 10)


async def waiting(one, number):
    while one.num_waiting != number:
        await asyncio.sleep(0.005)


def test_requests_share_batches_of_near_lengths():
    """Held up by the first text, the others come together: 9 8 8 and 3 2, padded by at most 4; b is another kind."""

    async def run():
        model = Model()
        model.go_on.clear()
        async with batcher() as one:
            first = asyncio.ensure_future(one.lane.run(model.work(5)))
            await begun(model)
            others = [
                asyncio.ensure_future(one.lane.run(work))
                for work in (model.work(8, 2), model.work(3, 9), model.work(8), model.work(8, key="b"))
            ]
            await waiting(one, 6)
            model.go_on.set()
            assert await first == [5]
            assert [await other for other in others] == [[8, 2], [3, 9], [8], [8]]
        return model.batches

    assert asyncio.run(run()) == [[5], [9, 8, 8], [3, 2], [8]]


@pytest.mark.parametrize(("lengths", "batches"), [((6, 6, 6), [[6, 6], [6]]), ((30, 1), [[30], [1]])])
def test_a_batch_has_its_tokens_at_most(lengths, batches):
    async def run():
        model = Model()
        async with batcher(most_tokens=12, most_padding=99) as one:
            assert await one.lane.run(model.work(*lengths)) == list(lengths)
        return model.batches

    assert asyncio.run(run()) == batches


class Clock:
    """Stands still until it is moved."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    perf_counter = monotonic


@pytest.fixture
def clock(monkeypatch):
    one = Clock()
    monkeypatch.setattr(batching, "time", one)
    return one


async def looked_again(one):
    """After this the thread has seen the clock: what it waits for, it still waits for."""
    seen = one.num_looks
    with one._changed:
        one._changed.notify()
    while one.num_looks == seen:
        await asyncio.sleep(0)


@pytest.fixture
def counted(monkeypatch):
    """Counts how often the queue waits for something to change."""

    def init(self, *arguments):
        original(self, *arguments)
        self.num_looks = 0
        wait = self._changed.wait

        def count(timeout=None):
            self.num_looks += 1
            return wait(timeout)

        self._changed.wait = count

    original = Batcher.__init__
    monkeypatch.setattr(Batcher, "__init__", init)


def test_the_oldest_waits_no_longer_than_it_may(clock, counted):
    """Two texts 50 s apart wait until the first has waited 60, and not longer, though the second has waited 10."""

    async def run():
        model = Model()
        async with batcher(max_delay_s=60) as one:
            first = asyncio.ensure_future(one.lane.run(model.work(4)))
            await waiting(one, 1)
            clock.now += 50
            second = asyncio.ensure_future(one.lane.run(model.work(4)))
            await waiting(one, 2)
            clock.now += 9.9
            await looked_again(one)
            assert model.batches == []
            clock.now += 0.1
            with one._changed:
                one._changed.notify()
            assert await asyncio.wait_for(asyncio.gather(first, second), 10) == [[4], [4]]
        return model.batches

    assert asyncio.run(run()) == [[4, 4]]


def test_a_full_batch_does_not_wait(clock):
    """The clock stands still, so nothing but the tokens of a whole batch can have started it."""

    async def run():
        model = Model()
        async with batcher(max_delay_s=60, most_tokens=12) as one:
            first = asyncio.ensure_future(one.lane.run(model.work(6)))
            await waiting(one, 1)
            assert model.batches == []
            second = await asyncio.wait_for(one.lane.run(model.work(6)), 10)
            assert [await first, second] == [[6], [6]]
        return model.batches

    assert asyncio.run(run()) == [[6, 6]]


def test_a_full_queue_refuses_and_says_when_to_come_again():
    async def run():
        model = Model()
        async with batcher(capacity=3) as one:
            await one.lane.run(model.work(4))  # tells the speed
            model.go_on.clear()
            held = asyncio.ensure_future(one.lane.run(model.work(4)))
            await waiting(one, 0)
            await asyncio.sleep(0.02)
            kept = asyncio.ensure_future(one.lane.run(model.work(4, 4)))
            await waiting(one, 2)
            with pytest.raises(Refused) as refusal:
                await one.lane.run(model.work(4, 4))
            last = asyncio.ensure_future(one.lane.run(model.work(5)))  # one has room
            await waiting(one, 3)
            model.go_on.set()
            assert [await held, await kept, await last] == [[4], [4, 4], [5]]
        return refusal.value

    refusal = asyncio.run(run())
    assert refusal.status == 429
    assert 1 <= int(refusal.headers["Retry-After"]) <= 60


def test_a_cancelled_request_leaves_the_queue():
    async def run():
        model = Model()
        async with batcher(max_delay_s=60) as one:
            gone = asyncio.ensure_future(one.lane.run(model.work(4, 4)))
            await waiting(one, 2)
            gone.cancel()
            await waiting(one, 0)
        return model.batches

    assert asyncio.run(run()) == []


def test_one_text_that_fails_costs_no_other_its_answer():
    async def run():
        model = Model()
        model.go_on.clear()
        async with batcher(most_padding=99) as one:
            first = asyncio.ensure_future(one.lane.run(model.work(1)))
            await waiting(one, 0)
            await asyncio.sleep(0.02)
            good, bad = (asyncio.ensure_future(one.lane.run(model.work(n))) for n in (12, 13))
            await waiting(one, 2)
            model.go_on.set()
            assert (await first, await good) == ([1], [12])
            with pytest.raises(ZeroDivisionError, match="of 13"):
                await bad
            assert one.is_alive
        return model.batches

    assert asyncio.run(run()) == [[1], [13, 12], [13], [12]]


def test_closing_answers_what_waits():
    async def run():
        model = Model()
        async with batcher(max_delay_s=60) as one:
            last = asyncio.ensure_future(one.lane.run(model.work(4, 5)))
            await waiting(one, 2)
            closing = asyncio.to_thread(one.close)
            assert await asyncio.gather(last, closing) == [[4, 5], None]
            assert not one.is_alive
            with pytest.raises(Refused, match="stopping"):
                await one.lane.run(model.work(4))

    asyncio.run(run())


class Costly:
    """A model whose texts take `seconds` each on a clock that nothing else moves; it notes its name for each."""

    def __init__(self, name, seconds, clock, order):
        self.name, self.seconds, self.clock, self.order = name, seconds, clock, order

    def __call__(self, features):
        self.clock.now += self.seconds * len(features)
        self.order.append(self.name)
        return [self.name] * len(features)

    def work(self, number):
        return Work("key", [{"input_ids": [0] * 10}] * number, self)


async def flooded(clock, seconds, numbers, most_tokens=10):
    """The order of batches (by default of one text) when all lanes have been filled before the first begins."""
    order = []
    held = Model()
    held.go_on.clear()
    async with lanes([*seconds, "held"], capacity=1000, most_tokens=most_tokens) as (one, found):
        last = asyncio.ensure_future(found[-1].run(held.work(1)))
        await begun(held)
        asked = [
            asyncio.ensure_future(lane.run(Costly(name, seconds[name], clock, order).work(numbers[name])))
            for name, lane in zip(seconds, found, strict=False)
        ]
        await waiting(one, sum(numbers.values()))
        held.go_on.set()
        await asyncio.gather(last, *asked)
    return order


def test_models_share_the_time(clock):
    """A has 100 texts and B 4, of the same cost: B's come every second turn, and are not behind A's."""
    order = asyncio.run(flooded(clock, {"a": 1, "b": 1}, {"a": 100, "b": 4}))
    assert "".join(order[:9]) == "abababab" + "a"
    assert order[9:] == ["a"] * 95


def test_a_costly_model_has_as_many_seconds_and_not_as_many_texts(clock):
    """A text of A takes 3 s, one of B 1 s: as long as both have texts, three of B follow each of A."""
    order = "".join(asyncio.run(flooded(clock, {"a": 3, "b": 1}, {"a": 20, "b": 21})))
    assert order.startswith("abbb" * 7)
    assert order[28:] == "a" * 13


def test_time_is_not_saved_up(clock):
    """B comes when A has had 50 s: from there on both have turns, and A does not wait until B has had 50, too."""

    async def run():
        order = []
        async with lanes(["a", "b"], most_tokens=10) as (one, (first, second)):
            await first.run(Costly("a", 1, clock, order).work(50))
            held = Model()
            held.go_on.clear()
            before = asyncio.ensure_future(first.run(held.work(1)))
            await begun(held)
            asked = [
                asyncio.ensure_future(lane.run(Costly(name, 1, clock, order).work(10)))
                for name, lane in (("b", second), ("a", first))
            ]
            await waiting(one, 20)
            held.go_on.set()
            await asyncio.gather(before, *asked)
        return "".join(order[50:])

    assert asyncio.run(run()) == "ab" * 10


def test_a_full_queue_of_one_model_leaves_room_for_another():
    async def run():
        model = Model()
        model.go_on.clear()
        async with lanes(["a", "b"], capacity=3) as (one, (first, second)):
            held = asyncio.ensure_future(first.run(model.work(4)))
            await begun(model)
            kept = asyncio.ensure_future(first.run(model.work(4, 4, 4)))
            await waiting(one, 3)
            with pytest.raises(Refused) as refusal:
                await first.run(model.work(4))
            other = asyncio.ensure_future(second.run(model.work(7)))
            await waiting(one, 4)
            model.go_on.set()
            assert [await held, await kept, await other] == [[4], [4, 4, 4], [7]]
        return refusal.value.status, model.batches

    status, batches = asyncio.run(run())
    assert status == 429
    assert sorted(batches) == [[4], [4, 4, 4], [7]]  # no batch has texts of both
