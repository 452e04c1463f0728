"""A task that stops at named points, so that a race between two tasks happens on every run.

    async def push(name, pause):  # two senders read, change and write back one list
        have = read()
        await pause("has read")
        write([*have, name])

    ann, ben = SteppedTask(push, "ann"), SteppedTask(push, "ben")
    await ann.run_until("has read"); await ben.finish(); await ann.finish()

It needs neither luck nor sleeps.
"""

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Self

from chatlab.lab.sentences import PremiseGone

STEP_TIMEOUT_S = 5.0  # to reach the next point, or the end

Pause = Callable[[str], Awaitable[None]]
Work = Callable[..., Awaitable[Any]]


class SteppedTask:
    """Call `work` with the given arguments and, as the last one, `pause`.

    The task does not start before `run_until` or `finish`. A notebook shows it as the source of
    `work`. `on_stop` is called with each point where it stops.
    """

    def __init__(
        self, work: Work, *arguments: Any, on_stop: Callable[[str], None] = lambda _: None
    ) -> None:
        self._work, self._arguments, self._on_stop = work, arguments, on_stop
        self._may_run, self._has_stopped = asyncio.Event(), asyncio.Event()
        self._stop_at: str | None = None
        self._task: asyncio.Task[Any] | None = None
        self.passed: list[str] = []  # the points that it has reached

    async def run_until(self, point: str) -> Self:
        """Run until this point and stop there. Raises PremiseGone if the work ends before it."""
        task = self._resume(point)
        stopped = asyncio.ensure_future(self._has_stopped.wait())
        try:
            await asyncio.wait(
                {task, stopped}, timeout=STEP_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stopped.cancel()
        if task.done():
            task.result()  # raises the error of the work
        if not self._has_stopped.is_set():
            raise PremiseGone(
                f'The task did not reach "{point}". It passed: {", ".join(self.passed) or "no point"}.',
                "run the cell that prepares it and this one, one right after the other",
            )
        return self

    async def finish(self) -> Any:
        """Run to the end, and return the result of the work."""
        return await asyncio.wait_for(self._resume(None), STEP_TIMEOUT_S)

    async def cancel(self) -> None:
        """Cancel the work where it has stopped, as if its process had been killed there."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def __repr__(self) -> str:
        return inspect.getsource(self._work).rstrip()

    def _resume(self, stop_at: str | None) -> "asyncio.Future[Any]":
        self._stop_at = stop_at
        self._has_stopped.clear()
        self._may_run.set()
        if self._task is None:
            self._task = asyncio.ensure_future(self._work(*self._arguments, self._pause))
        return self._task

    async def _pause(self, point: str) -> None:
        self.passed.append(point)
        if point == self._stop_at:
            self._may_run.clear()
            self._has_stopped.set()
            self._on_stop(point)
            await self._may_run.wait()
