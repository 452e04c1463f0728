"""A task that stops at named points, so that a race between two tasks happens on every run.

    async def push(name, pause):  # two senders read, change and write back one list
        have = read()
        await pause("has read")
        write([*have, name])

    ann, ben = Walk(push, "ann"), Walk(push, "ben")
    await ann.to("has read"); await ben.rest(); await ann.rest()

It needs neither luck nor sleeps.
"""

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Self

PATIENCE = 5.0  # seconds to reach a point

Pause = Callable[[str], Awaitable[None]]


class Walk:
    """Call `work` with the given arguments and, as the last one, `pause`.

    The task does not start before `to` or `rest`. A notebook shows the source of `work` for it.
    """

    def __init__(self, work: Callable[..., Awaitable[Any]], *given: Any) -> None:
        self._work, self._given = work, given
        self._go, self._stands = asyncio.Event(), asyncio.Event()
        self._wanted: str | None = None
        self._task: asyncio.Task[Any] | None = None
        self.passed: list[str] = []  # the points that it has reached

    async def to(self, point: str) -> Self:
        """Run until this point and stop there. Raises LookupError if the work ends before it."""
        self._wanted = point
        self._let_go()
        assert self._task
        standing = asyncio.ensure_future(self._stands.wait())
        try:
            await asyncio.wait(
                {self._task, standing}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            standing.cancel()
        if self._task.done():
            self._task.result()  # raises the error of the work
        if not self._stands.is_set():
            raise LookupError(
                f'It did not come to "{point}". It passed: {", ".join(self.passed) or "nothing"}.'
            )
        return self

    async def rest(self) -> Any:
        """Run to the end, and return the result of the work."""
        self._wanted = None
        self._let_go()
        assert self._task
        return await asyncio.wait_for(self._task, PATIENCE)

    async def drop(self) -> None:
        """Cancel the work where it has stopped, as if its process had been killed there."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def __repr__(self) -> str:
        return inspect.getsource(self._work).rstrip()

    def _let_go(self) -> None:
        self._stands.clear()
        self._go.set()
        if self._task is None:
            self._task = asyncio.ensure_future(self._work(*self._given, self._pause))

    async def _pause(self, point: str) -> None:
        self.passed.append(point)
        if point == self._wanted:
            self._go.clear()
            self._stands.set()
            await self._go.wait()
