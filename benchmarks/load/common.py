"""What all loads share: connecting, waiting for the last replies, and the figures."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from chatlab.bench.samples import percentile

LAST_REPLIES_TIMEOUT_S = 30.0  # for the replies that are missing when the time is up

Spec = dict[str, Any]
Protocol = TypeVar("Protocol", bound=asyncio.Protocol)


async def connect(spec: Spec, protocol: Callable[[], Protocol]) -> Protocol:
    """Open a connection to the server of the spec."""
    parts = urlsplit(spec["url"])
    assert parts.hostname
    assert parts.port
    loop = asyncio.get_running_loop()
    return (await loop.create_connection(protocol, parts.hostname, parts.port))[1]


async def wait_for_last_replies(done: asyncio.Event) -> None:
    """Wait for the event, but not longer than the timeout."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), LAST_REPLIES_TIMEOUT_S)


def make_figures(latencies_ms: list[float], seconds: float, failed: int) -> dict[str, float]:
    """Return the same figures as `requests.lua` prints for wrk."""
    samples = latencies_ms or [0.0]
    percentiles = {f"p{percent}": percentile(samples, percent) for percent in (50, 95, 99)}
    return {"requests": len(latencies_ms), "seconds": seconds, "failed": failed} | percentiles
