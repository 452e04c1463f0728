"""How late the event loop is, which tells an overloaded process from a server that is down.

A late process reads replies late, and its own time limits end calls that the server has answered.
"""

import asyncio
import time

from chatlab.metrics import LOOP_LAG_SECONDS

TICK_S = 0.05
# A time limit says nothing about the server if the event loop was late for this share of it.
LATE_SHARE = 0.25


class LoopLag:
    """Adds up how late a small task runs that is due every TICK_S seconds."""

    def __init__(self) -> None:
        self._sum_s, self._worst_s = 0.0, 0.0
        self._due: float | None = None  # when the task runs next

    async def run(self) -> None:
        """Measure until cancelled."""
        try:
            while True:
                self._due = time.monotonic() + TICK_S
                await asyncio.sleep(TICK_S)
                lag_s = self._overdue_s()
                self._sum_s += lag_s
                self._worst_s = max(self._worst_s, lag_s)
                LOOP_LAG_SECONDS.observe(lag_s)
        finally:
            self._due = None

    @property
    def sum_s(self) -> float:
        """The sum of all delays so far, with that of the task if it is overdue now."""
        return self._sum_s + self._overdue_s()

    def was_late(self, sum_before_s: float, limit_s: float) -> bool:
        """Return whether a call with this time limit may have failed because the loop was late.

        `sum_before_s` is `sum_s` when the call began.
        """
        return self.sum_s - sum_before_s >= LATE_SHARE * limit_s

    def take_worst_s(self) -> float:
        """Return the longest delay since this method was called last."""
        worst_s, self._worst_s = self._worst_s, 0.0
        return worst_s

    def _overdue_s(self) -> float:
        return 0.0 if self._due is None else max(0.0, time.monotonic() - self._due)
