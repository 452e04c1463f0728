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
PATIENT_LIMIT_S = 600.0  # of services whose limits must not matter: longer than any test may take
MONGODB_LIMIT = "MONGODB_LIMIT_S"  # tells services how long to wait for MongoDB (generous.py)
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.25  # between two looks


async def wait_until(
    look: Callable[[], Any], what: str, *, is_reached: Callable[[Any], object] = bool
) -> Any:
    """Call `look` until `is_reached` accepts its value, and return that value.

    `look` may be a coroutine function. `what` completes the sentence "waited for ...".
    """
    started = time.monotonic()
    while True:
        seen = look()
        if inspect.isawaitable(seen):
            seen = await seen
        if _is_true(is_reached(seen)):
            return seen
        await asyncio.sleep(_pause_s(started, what, seen))


def block_until(
    look: Callable[[], Any], what: str, *, is_reached: Callable[[Any], object] = bool
) -> Any:
    """Do the same in a test without an event loop."""
    started = time.monotonic()
    while not _is_true(is_reached(seen := look())):
        time.sleep(_pause_s(started, what, seen))
    return seen


def _is_true(reached: object) -> bool:
    """Return the truth of a value; `x.__eq__` answers NotImplemented for a value of another type."""
    return reached is not NotImplemented and bool(reached)


def _pause_s(started: float, what: str, seen: object) -> float:
    """Return how long to wait before the next look, a tenth of the time so far. Fail at the limit.

    A look may cost a request. What takes long is looked at less often.
    """
    waited_s = time.monotonic() - started
    assert waited_s < LIMIT_S, f"waited {LIMIT_S:g} s for {what}; last seen: {seen!r}"
    return min(max(SHORTEST_PAUSE_S, waited_s / 10), LONGEST_PAUSE_S)
