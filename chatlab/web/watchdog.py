"""Makes a stuck process visible, and ends one that does not stop.

`Watchdog` measures how late the event loop is and how many driver calls hang. `ExitDeadline` ends the process when stopping takes too long;
it is a thread, because the event loop may be what hangs.
"""

import asyncio
import functools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from chatlab.connections.driver_calls import DriverCalls
from chatlab.connections.mongo import PoolUsage
from chatlab.metrics import CALLS_OVERDUE, CALLS_UNDER_WAY, LOOP_LAG_SECONDS, POOL_IN_USE, POOL_WAITING

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
LATE_S = 1.0  # the event loop is reported when it is later than this
LOG_EVERY_S = 60.0  # seconds between two log lines about the same trouble
LOG_LIMIT_S = 1.0  # how long the last log line may take: standard error may be a pipe that nobody reads


class Watchdog:
    """Looks at the event loop, the calls to MongoDB and their connection pool every LOOK_EVERY_S, for metrics and the log."""

    def __init__(self, calls: DriverCalls, pool: PoolUsage) -> None:
        self._calls, self._pool = calls, pool
        self._logged: dict[str, float] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_EVERY_S
            await asyncio.sleep(LOOK_EVERY_S)
            self._look(lag_s=max(0.0, loop.time() - due))

    def _look(self, lag_s: float) -> None:
        LOOP_LAG_SECONDS.observe(lag_s)
        CALLS_UNDER_WAY.set(self._calls.under_way)
        CALLS_OVERDUE.set(self._calls.overdue)
        POOL_IN_USE.set(self._pool.in_use)
        POOL_WAITING.set(self._pool.waiting)
        if lag_s > LATE_S:
            self._warn("The event loop was %.1f s late: something blocked it, or the machine is overloaded", lag_s)
        if self._calls.overdue:
            self._warn(
                "MongoDB driver: %d calls have not returned although their time is up "
                "(%d connections in use, %d operations wait for one). If this does not end, restart the service",
                self._calls.overdue,
                self._pool.in_use,
                self._pool.waiting,
            )

    def _warn(self, line: str, *values: object) -> None:
        """Log a line, at most once in LOG_EVERY_S."""
        now = time.monotonic()
        if now - self._logged.get(line, float("-inf")) >= LOG_EVERY_S:
            self._logged[line] = now
            log.warning(line, *values)


class ExitDeadline:
    """Ends the process `limit_s` after the first SIGTERM or SIGINT, if it has not ended by itself.

    `give_up` is called just before: it does what can still be done without an event loop and returns a description of what is left.
    """

    def __init__(self, limit_s: float, give_up: Callable[[], str], *, on_signal: Callable[[], None] = lambda: None) -> None:
        self._limit_s, self._give_up, self._on_signal = limit_s, give_up, on_signal
        self._timer: threading.Timer | None = None

    def watch_signals(self) -> None:
        """Start the clock when a signal comes, then do what was done for it before. Only possible in the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, functools.partial(self._handle, signal.getsignal(number)))

    def _handle(self, previous: Any, number: int, frame: FrameType | None) -> None:
        if self._timer is None:
            self._timer = threading.Timer(self._limit_s, self._exit)
            self._timer.daemon = True
            self._timer.start()
            self._on_signal()
        if callable(previous):
            previous(number, frame)

    def _exit(self) -> None:
        saying = threading.Thread(target=self._say_what_is_left, daemon=True)
        saying.start()
        saying.join(LOG_LIMIT_S)
        os._exit(1)

    def _say_what_is_left(self) -> None:
        left = self._give_up()
        log.error("Not stopped %g s after the signal; exiting now. Left: %s", self._limit_s, left)
