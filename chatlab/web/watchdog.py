"""Measure how late the event loop is, and how many calls to MongoDB are stuck."""

import asyncio
import logging
import time

from chatlab.connections.driver_calls import DriverCalls
from chatlab.connections.mongo import PoolUsage
from chatlab.metrics import (
    CALLS_OVERDUE,
    CALLS_UNDER_WAY,
    LOOP_LAG_SECONDS,
    POOL_IN_USE,
    POOL_WAITING,
)

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 0.5
LAG_WARNING_S = 1.0  # the event loop is reported when it is later than this
WARNING_INTERVAL_S = 60.0  # the same warning is logged at most once in this time


class Watchdog:
    """Check the event loop, the calls to MongoDB and their connection pool; update the metrics.

    It logs a warning when the event loop is late or a call is overdue.
    """

    def __init__(self, calls: DriverCalls, pool: PoolUsage) -> None:
        self._calls, self._pool = calls, pool
        self._warned_at: dict[str, float] = {}

    async def run(self) -> None:
        """Check every CHECK_INTERVAL_S seconds until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + CHECK_INTERVAL_S
            await asyncio.sleep(CHECK_INTERVAL_S)
            self._check(lag_s=max(0.0, loop.time() - due))

    def _check(self, lag_s: float) -> None:
        LOOP_LAG_SECONDS.observe(lag_s)
        CALLS_UNDER_WAY.set(self._calls.under_way)
        CALLS_OVERDUE.set(self._calls.overdue)
        POOL_IN_USE.set(self._pool.in_use)
        POOL_WAITING.set(self._pool.waiting)
        if lag_s > LAG_WARNING_S:
            self._warn(
                "The event loop was %.1f s late: a call blocked it, or the machine is overloaded",
                lag_s,
            )
        if self._calls.overdue:
            self._warn(
                "MongoDB driver: %d calls have not returned within their time limit "
                "(%d connections in use, %d operations waiting for one). "
                "If this continues, restart the service",
                self._calls.overdue,
                self._pool.in_use,
                self._pool.waiting,
            )

    def _warn(self, line: str, *values: object) -> None:
        """Log a warning, at most once in WARNING_INTERVAL_S seconds for each `line`."""
        now = time.monotonic()
        if now - self._warned_at.get(line, float("-inf")) >= WARNING_INTERVAL_S:
            self._warned_at[line] = now
            log.warning(line, *values)
