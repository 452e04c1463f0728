"""Calls to a database driver that a cancellation cannot reach, with a time limit.

A driver holds locks and counters while a call runs. With Python 3.11, a pymongo call that is
cancelled twice while it waits for a connection leaves the lock of the pool held, and every later
call waits forever: `asyncio.wait_for` around `Condition.wait` then returns before the lock is
acquired again. Starlette cancels that way whenever a client closes its connection. Therefore each
call runs in a task of its own. A caller that is cancelled stops waiting; the call continues until
the driver returns or reaches its own timeout.
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

Result = TypeVar("Result")


class CallOverdueError(Exception):
    """The driver did not return within `limit_s`. The call is still running."""


class DriverCalls:
    """The running calls to one server.

    `limit_s` must be longer than the driver's own timeout. It catches a driver that does not
    respect that timeout. None means no limit.
    """

    def __init__(self, limit_s: float | None) -> None:
        self._limit_s = limit_s
        self.answered_at = float("-inf")  # when the server answered a call last, monotonic
        self._under_way: set[asyncio.Task[None]] = set()
        self._overdue: set[asyncio.Task[None]] = set()

    @property
    def under_way(self) -> int:
        """The number of calls that have not returned."""
        return len(self._under_way)

    @property
    def overdue(self) -> int:
        """The number of calls that are past the limit. A positive number means a stuck driver."""
        return len(self._overdue)

    async def run(
        self, call: Awaitable[Result], *, slots: asyncio.Semaphore | None = None
    ) -> Result:
        """Return the result of the call.

        The caller has acquired `slots`, if given. The call releases it when it returns, even if
        the caller was cancelled before that.

        Raises what the call raises, or CallOverdueError.
        """
        loop = asyncio.get_running_loop()
        # A cancelled caller cancels only this. `asyncio.wait` for the task would cost 4 us more.
        outcome: asyncio.Future[Result] = loop.create_future()
        task = loop.create_task(self._deliver(call, outcome))
        self._under_way.add(task)
        task.add_done_callback(self._returned)
        if slots:
            task.add_done_callback(lambda _: slots.release())
        if self._limit_s is None:
            return await outcome
        timer = loop.call_later(self._limit_s, self._give_up, task, outcome)
        try:
            return await outcome
        finally:
            timer.cancel()

    async def _deliver(self, call: Awaitable[Result], outcome: "asyncio.Future[Result]") -> None:
        """Set the outcome to what the call returns or raises, if the caller still waits."""
        try:
            result = await call
        except asyncio.CancelledError:
            outcome.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - the caller gets it
            if not outcome.done():
                outcome.set_exception(error)
        else:
            self.answered_at = time.monotonic()
            if not outcome.done():
                outcome.set_result(result)

    def _give_up(self, task: "asyncio.Task[None]", outcome: "asyncio.Future[Any]") -> None:
        if not outcome.done():
            self._overdue.add(task)
            text = f"the driver did not return within {self._limit_s} s"
            outcome.set_exception(CallOverdueError(text))

    async def drain(self) -> None:
        """Wait until the running calls have returned, for at most `limit_s`."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=self._limit_s)

    def _returned(self, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        self._overdue.discard(task)
