"""Stop the service in time: when its parent process ends, and whatever a part waits for."""

import asyncio
import logging
import multiprocessing
import signal
from collections.abc import Awaitable, Callable

from chatlab.store.store import Store

log = logging.getLogger(__name__)


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


def stop_with_parent() -> None:
    """Stop this worker process when its parent ends, so that it does not keep the port.

    Do nothing in a process that is not a worker.
    """
    parent = multiprocessing.parent_process()
    if parent:
        asyncio.get_running_loop().add_reader(parent.sentinel, _stop_once, parent.sentinel)


def _stop_once(sentinel: int) -> None:
    asyncio.get_running_loop().remove_reader(sentinel)
    signal.raise_signal(signal.SIGTERM)


def unfinished_work(loop: asyncio.AbstractEventLoop, store: Store | None) -> str:
    """Describe what a service that does not stop is still doing, for the log."""
    tasks = sorted(task.get_coro().__qualname__ for task in asyncio.all_tasks(loop))  # type: ignore[union-attr]  # coroutines have names
    running = f"{len(tasks)} tasks ({', '.join(dict.fromkeys(tasks))})"
    if store is None:
        return running
    unsaved, calls = store.messages.unsaved, store.mongo.calls.under_way
    return f"{unsaved} messages not saved, {calls} calls to MongoDB, {running}"
