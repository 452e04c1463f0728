"""Waiting for something that another task or process does: one helper, one generous limit.

A test that passes does not wait for the limit. A test that fails says what it waited for and what it saw last.
"""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

LIMIT_S = (
    180.0  # long enough for a machine that is ten times slower, or has ten times as much to do
)
MONGODB_LIMIT = "MONGODB_LIMIT_S"  # tells services how long to wait for MongoDB (generous.py)
POLL_S = 0.02  # seconds between two looks


async def wait_until(
    look: Callable[[], Any], what: str, *, is_reached: Callable[[Any], object] = bool
) -> Any:
    """Call `look` until `is_reached` accepts its value, and return that value.

    `look` may be a coroutine function. `what` completes the sentence "waited for ...".
    """
    deadline = time.monotonic() + LIMIT_S
    while True:
        seen = look()
        if inspect.isawaitable(seen):
            seen = await seen
        if _is_true(is_reached(seen)):
            return seen
        _fail_after(deadline, what, seen)
        await asyncio.sleep(POLL_S)


def block_until(
    look: Callable[[], Any], what: str, *, is_reached: Callable[[Any], object] = bool
) -> Any:
    """Do the same in a test without an event loop."""
    deadline = time.monotonic() + LIMIT_S
    while not _is_true(is_reached(seen := look())):
        _fail_after(deadline, what, seen)
        time.sleep(POLL_S)
    return seen


def _is_true(reached: object) -> bool:
    """Return the truth of a value; `x.__eq__` answers NotImplemented for a value of another type."""
    return reached is not NotImplemented and bool(reached)


def _fail_after(deadline: float, what: str, seen: object) -> None:
    assert time.monotonic() < deadline, f"waited {LIMIT_S:g} s for {what}; last seen: {seen!r}"
