"""Report a late event loop and calls to MongoDB that are stuck."""

import asyncio
import logging

from chatlab.connections.driver_calls import DriverCalls
from chatlab.connections.mongo import PoolUsage
from chatlab.metrics import (
    CALLS_OVERDUE,
    CALLS_UNDER_WAY,
    POOL_IN_USE,
    POOL_WAITING,
    flush,
)
from chatlab.protect.log_limit import LogLimit
from chatlab.protect.loop_lag import LoopLag

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 0.5
LAG_WARNING_S = 1.0  # the event loop is reported when it is later than this


class Watchdog:
    """Check the event loop, the calls to MongoDB and their connection pool; update the metrics.

    It logs a warning when the event loop is late or a call is overdue.
    """

    def __init__(self, calls: DriverCalls, pool: PoolUsage, lag: LoopLag) -> None:
        self._calls, self._pool, self._lag = calls, pool, lag
        self._log_limit = LogLimit()

    async def run(self) -> None:
        """Check every CHECK_INTERVAL_S seconds until cancelled."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            self._check(self._lag.take_worst_s())

    def _check(self, lag_s: float) -> None:
        flush()
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
        """Log a warning, at most once a minute for each `line`."""
        if self._log_limit.allows(line):
            log.warning(line, *values)
