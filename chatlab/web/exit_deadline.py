"""End the process when it does not stop in time after a signal.

The deadline runs in a thread, because the event loop itself may be what does not respond.
"""

import functools
import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)

LOG_LIMIT_S = 1.0  # writing the last log line may block: standard error may be a full pipe


class ExitDeadline:
    """End the process `limit_s` seconds after the first SIGTERM or SIGINT, if it still runs.

    Just before that, it calls `last_resort` and logs the description that this returns. The
    function can do what is still possible without an event loop. `on_signal` is called at the
    first signal.
    """

    def __init__(
        self,
        limit_s: float,
        last_resort: Callable[[], str],
        *,
        on_signal: Callable[[], None] = lambda: None,
    ) -> None:
        self._limit_s, self._last_resort, self._on_signal = limit_s, last_resort, on_signal
        self._timer: threading.Timer | None = None

    def watch_signals(self) -> None:
        """Start the deadline at the first signal, and call the previous signal handler too.

        Python allows signal handlers in the main thread only; in another thread, do nothing.
        """
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                previous = signal.getsignal(number)
                signal.signal(number, functools.partial(self._handle, previous))

    def _handle(self, previous: Any, number: int, frame: FrameType | None) -> None:
        if self._timer is None:
            self._timer = threading.Timer(self._limit_s, self._exit)
            self._timer.daemon = True
            self._timer.start()
            self._on_signal()
        if callable(previous):
            previous(number, frame)

    def _exit(self) -> None:
        logging_thread = threading.Thread(target=self._log_unfinished_work, daemon=True)
        logging_thread.start()
        logging_thread.join(LOG_LIMIT_S)
        os._exit(1)

    def _log_unfinished_work(self) -> None:
        unfinished = self._last_resort()
        log.error(
            "Not stopped %g s after the signal; exiting now. Left: %s", self._limit_s, unfinished
        )
