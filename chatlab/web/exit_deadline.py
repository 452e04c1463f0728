"""Signals that stop the process, and its end when it does not stop in time after one.

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

Handler = Callable[[int, FrameType | None], Any]


def watch_stop_signals(handle: Callable[[Handler, int, FrameType | None], None]) -> None:
    """Call `handle` at SIGTERM and SIGINT, with the previous signal handler as first argument.

    Python allows signal handlers in the main thread only; in another thread, do nothing.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            previous = signal.getsignal(number)
            after: Handler = previous if callable(previous) else lambda *_: None
            signal.signal(number, functools.partial(handle, after))


def stop_at_hang_up() -> None:
    """Let SIGHUP stop the process like SIGTERM, unless it is ignored (`nohup`).

    A terminal sends it when it is closed. Without this, it kills the process.
    """
    number = getattr(signal, "SIGHUP", None)  # Windows has none
    is_main = threading.current_thread() is threading.main_thread()
    if number and is_main and signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGTERM))


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
        """Start the deadline at the first signal, and call the previous signal handler too."""
        watch_stop_signals(self._handle)

    def _handle(self, previous: Handler, number: int, frame: FrameType | None) -> None:
        if self._timer is None:
            self._timer = threading.Timer(self._limit_s, self._exit)
            self._timer.daemon = True
            self._timer.start()
            self._on_signal()
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
