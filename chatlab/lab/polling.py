"""Wait for a condition that no event reports."""

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from typing import Any


async def poll_until(
    condition: Callable[[], Any], timeout_s: float, interval_s: float = 0.01
) -> bool:
    """Call `condition` until it returns something true; return False if that takes too long.

    `condition` may also return an awaitable.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not (await seen if inspect.isawaitable(seen := condition()) else seen):  # noqa: ASYNC110 - see above
                await asyncio.sleep(interval_s)
            return True
    return False
