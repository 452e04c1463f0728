"""Work that stops at named points: how a race between two of them is made to happen every time, without luck or sleeps.

async def push(name, pause):                   two senders who read, change and write back one list
    have = read()
    await pause("has read")
    write([*have, name])

ann, ben = Walk(push, "ann"), Walk(push, "ben")
await ann.to("has read"); await ben.rest(); await ann.rest()
"""

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Self

PATIENCE = 5.0  # seconds to reach a point

Pause = Callable[[str], Awaitable[None]]


class Walk:
    """`work` is called with what is given, and last with `pause`. It does nothing until `to` or `rest`. Shown, it is its source."""

    def __init__(self, work: Callable[..., Awaitable[Any]], *given: Any) -> None:
        self._work, self._given = work, given
        self._go, self._stands = asyncio.Event(), asyncio.Event()
        self._wanted: str | None = None
        self._task: asyncio.Task[Any] | None = None
        self.passed: list[str] = []  # the points it has come to

    async def to(self, point: str) -> Self:
        """Let it go on until it comes to this point, and stand there. LookupError when it ends without."""
        self._wanted = point
        self._let_go()
        assert self._task
        standing = asyncio.ensure_future(self._stands.wait())
        try:
            await asyncio.wait({self._task, standing}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            standing.cancel()
        if self._task.done():
            self._task.result()  # what went wrong in it
        if not self._stands.is_set():
            raise LookupError(f'It did not come to "{point}". It passed: {", ".join(self.passed) or "nothing"}.')
        return self

    async def rest(self) -> Any:
        """Let it go on to its end; what it returns."""
        self._wanted = None
        self._let_go()
        assert self._task
        return await asyncio.wait_for(self._task, PATIENCE)

    async def drop(self) -> None:
        """It goes no further: as if its process had been killed where it stands."""
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
