"""Batching: what arrives while a batch is in flight goes together in the next one.

When nothing is in flight, the first item is sent at once. There is no timer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from chatlab.errors import ChatlabError, StoreUnavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

Callers = list[asyncio.Future[Result]]  # who waits for the result of one item
Waiting = tuple[Item, Callers[Result]]

PUT_BACK: Any = object()  # instead of the result of an item that `send` has put back in its queue


class Batcher(Generic[Item, Result]):
    """Sends one batch after the other, at most `max_in_flight` at the same time.

    `take` removes the next batch from the queue of the owner, and returns an empty list if nothing
    waits. `send` returns the result of each item. If it raises, every caller of the batch gets the
    error, so it may put items back only if it does not raise after that.

    The queue stays with the owner, because each owner chooses its batches by another rule and
    needs another collection for it. With one queue for all, each choice would have to search the
    whole queue.

    Callers with identical items that still wait may share one item. Each caller has a future of
    its own: cancelling one caller stops neither the batch nor the other callers.
    """

    def __init__(
        self,
        take: Callable[[], list[Waiting[Item, Result]]],
        send: Callable[[list[Waiting[Item, Result]]], Awaitable[Sequence[Result]]],
        *,
        max_in_flight: int = 1,
    ) -> None:
        self._take, self._send, self._max_in_flight = take, send, max_in_flight
        self._tasks: set[asyncio.Task[Any]] = set()  # each has one batch in flight

    def join(self, callers: Callers[Result]) -> asyncio.Future[Result]:
        """Add a caller to an item in the queue, and return the future for its result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        callers.append(future)
        if len(self._tasks) < self._max_in_flight:
            self._tasks.add(loop.create_task(self._run()))
        return future

    async def drain(self) -> None:
        """Wait until nothing waits. Cancelling the caller stops no batch."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task
        try:
            while batch := self._take():
                try:
                    _answer(batch, await self._send(batch))
                except Exception as error:  # noqa: BLE001 - no caller may wait forever
                    _fail(batch, error)
        finally:
            # Not in a callback of the task: an item could arrive before that is called.
            self._tasks.discard(task)


def _answer(batch: Iterable[Waiting[Item, Result]], results: Sequence[Result]) -> None:
    for (_, callers), result in zip(batch, results, strict=True):
        if result is not PUT_BACK:
            for future in callers:
                if not future.done():
                    future.set_result(result)


def _fail(batch: Iterable[Waiting[Item, Result]], error: Exception) -> None:
    failure = error if isinstance(error, ChatlabError) else StoreUnavailable()
    for _, callers in batch:
        for future in callers:
            if not future.done():
                future.set_exception(failure)
