"""Calls to a database driver, out of reach of cancellation and limited in time.

A driver holds locks and counts while a call is under way. pymongo leaves them wrong for good when a call is cancelled while
it waits for a connection: the lock of the pool stays held, and every later call waits for ever. Requests are cancelled all
the time (a client closes its connection, the service stops), so each call runs in a task of its own. A caller that is
cancelled stops waiting; the call itself runs on, to its end or to the driver's own timeout.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

Result = TypeVar("Result")


class CallOverdueError(Exception):
    """The driver did not return within `limit_s`, although its own timeout is shorter. The call is still under way."""


class DriverCalls:
    """The calls to one server. `limit_s` is longer than the driver's own timeout: it is for a driver that does not keep to it."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._under_way: set[asyncio.Future[Any]] = set()
        self._overdue: set[asyncio.Future[Any]] = set()

    @property
    def under_way(self) -> int:
        """The number of calls that have not returned."""
        return len(self._under_way)

    @property
    def overdue(self) -> int:
        """The number of calls that have not returned within the limit. More than zero means a driver that is stuck."""
        return len(self._overdue)

    async def run(self, call: Awaitable[Result], *, slots: asyncio.Semaphore | None = None) -> Result:
        """Return the result of the call. Raises what the call raises, or CallOverdueError.

        `slots`: the caller has acquired one, and the call releases it when it returns, even if the caller has gone by then.
        """
        task = asyncio.ensure_future(call)
        self._under_way.add(task)
        task.add_done_callback(self._returned)
        if slots:
            task.add_done_callback(lambda _: slots.release())
        done, _ = await asyncio.wait((task,), timeout=self._limit_s)  # unlike wait_for, it leaves the task alone when it ends early
        if not done:
            self._overdue.add(task)
            raise CallOverdueError(f"no answer and no error within {self._limit_s:g} s")
        return task.result()

    async def drain(self) -> None:
        """Wait for the calls that are under way, at most `limit_s`."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=self._limit_s)

    def _returned(self, task: "asyncio.Future[Any]") -> None:
        self._under_way.discard(task)
        self._overdue.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: the caller may be gone
