"""Stop the service: after the drain period, when its parent process ends, and always in time."""

import asyncio
import logging
import multiprocessing
import signal
from collections.abc import Awaitable, Callable
from types import FrameType

from chatlab.store.store import Store
from chatlab.web.exit_deadline import Handler, watch_stop_signals

log = logging.getLogger(__name__)


class Drain:
    """The time between a signal to stop and the stop. The service still answers all requests.

    `/readyz` answers 503 from the signal on, so that load balancers send their requests elsewhere
    before the port closes. A second SIGINT (Ctrl-C) ends the drain period.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self.has_begun = seconds, False

    def watch_signals(self) -> None:
        """Call the previous handlers of the signals only at the end of the drain period."""
        self._loop = asyncio.get_running_loop()
        watch_stop_signals(self._handle)

    def skip(self) -> None:
        """Stop at once at the next signal."""
        self._seconds = 0

    def _handle(self, previous: Handler, number: int, frame: FrameType | None) -> None:
        if self._seconds == 0 or (self.has_begun and number == signal.SIGINT):
            self.has_begun = True
            previous(number, frame)
        elif not self.has_begun:
            self.has_begun = True
            self._loop.call_soon_threadsafe(self._begin, previous, number)

    def _begin(self, previous: Handler, number: int) -> None:
        log.info("Stopping in %g s; /readyz answers 503 from now on", self._seconds)
        self._loop.call_later(self._seconds, previous, number, None)


async def close_within(limit_s: float, close: Callable[[], Awaitable[None]]) -> None:
    """Call `close`, and give up with a warning if it has not finished after `limit_s` seconds.

    A part may wait for a server that does not answer. That must not keep the service from stopping.
    """
    closing = asyncio.ensure_future(close())
    done, _ = await asyncio.wait([closing], timeout=limit_s)
    if done:
        closing.result()
    else:
        name = getattr(close, "__qualname__", "a part of the service")
        log.warning("%s did not finish within %g s; stopping without it", name, limit_s)
        closing.cancel()


def stop_with_parent(drain: Drain) -> None:
    """Stop this worker process when its parent ends, at once, so that it does not keep the port.

    Do nothing in a process that is not a worker.
    """
    parent = multiprocessing.parent_process()
    if parent:
        asyncio.get_running_loop().add_reader(parent.sentinel, _stop_once, parent.sentinel, drain)


def _stop_once(sentinel: int, drain: Drain) -> None:
    asyncio.get_running_loop().remove_reader(sentinel)
    drain.skip()
    signal.raise_signal(signal.SIGTERM)


def unfinished_work(loop: asyncio.AbstractEventLoop, store: Store | None) -> str:
    """Describe what a service that does not stop is still doing, for the log."""
    tasks = sorted(task.get_coro().__qualname__ for task in asyncio.all_tasks(loop))  # type: ignore[union-attr]  # coroutines have names
    running = f"{len(tasks)} tasks ({', '.join(dict.fromkeys(tasks))})"
    if store is None:
        return running
    unsaved, calls = store.messages.unsaved, store.mongo.calls.under_way
    return f"{unsaved} messages not saved, {calls} calls to MongoDB, {running}"
