"""The queue for expensive work: who is next, and who loses a place when it is full."""

import asyncio

import pytest

from chatlab.errors import RateLimited
from chatlab.protect.fair_queue import FairQueue


class Worker:
    """Callers of a queue. `done` has those that got a turn, in order."""

    def __init__(self, slots: int, places: int) -> None:
        self.queue, self.done = FairQueue(slots, places), list[str]()
        self.may_work = asyncio.Event()
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def call(self, *callers: str) -> None:
        """Start callers: `a1` is a caller with the key `a`."""
        for caller in callers:
            self.tasks[caller] = asyncio.create_task(self._work(caller))
            await asyncio.sleep(0)  # it runs until it works or waits

    async def _work(self, caller: str) -> None:
        async with self.queue.turn(caller[0]):
            self.done.append(caller)
            await self.may_work.wait()

    async def finish(self) -> list[str]:
        """Let all callers work. Return those without a place."""
        self.may_work.set()
        results = await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        return [
            caller
            for caller, result in zip(self.tasks, results, strict=True)
            if isinstance(result, RateLimited)
        ]


async def test_keys_take_turns() -> None:
    """A key with one caller does not wait for all callers of a key with many."""
    worker = Worker(slots=1, places=10)
    await worker.call("a1", "a2", "a3", "a4", "b1", "c1", "c2")
    assert await worker.finish() == []
    assert worker.done == ["a1", "a2", "b1", "c1", "a3", "c2", "a4"]


async def test_as_many_callers_work_as_there_are_slots() -> None:
    """The others wait."""
    worker = Worker(slots=2, places=10)
    await worker.call("a1", "a2", "a3", "b1")
    assert worker.done == ["a1", "a2"]
    assert await worker.finish() == []
    assert sorted(worker.done) == ["a1", "a2", "a3", "b1"]


async def test_one_key_cannot_fill_the_queue() -> None:
    """In a full queue, the key with the most callers loses the newest ones to other keys."""
    worker = Worker(slots=1, places=4)
    await worker.call("a1", "a2", "a3", "a4", "a5", "a6")  # a1 works, the queue is full with a5
    await worker.call("b1", "b2", "b3")
    assert await worker.finish() == ["a4", "a5", "a6", "b3"]
    assert worker.done == ["a1", "a2", "b1", "a3", "b2"]


@pytest.mark.parametrize("cancelled", ["a1", "a2", "b1"])
async def test_a_cancelled_caller_gives_its_place_and_its_slot_away(cancelled: str) -> None:
    """It does not matter whether the caller works or waits."""
    worker = Worker(slots=1, places=3)
    await worker.call("a1", "a2", "b1", "b2")
    worker.tasks[cancelled].cancel()
    await asyncio.wait([worker.tasks[cancelled]])
    await worker.call("c1")
    assert await worker.finish() == []
    assert set(worker.done) | {cancelled} == {"a1", "a2", "b1", "b2", "c1"}


async def test_a_caller_that_is_cancelled_with_its_turn_passes_it_on() -> None:
    """The slot is not lost if the cancellation arrives after the slot was given."""
    worker = Worker(slots=1, places=3)
    await worker.call("a1", "b1", "c1")
    worker.tasks["a1"].cancel()
    await asyncio.wait([worker.tasks["a1"]])  # b1 has the slot, but has not run yet
    worker.tasks["b1"].cancel()
    assert await worker.finish() == []
    assert worker.done[-1] == "c1"
