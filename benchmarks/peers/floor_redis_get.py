"""The floor of a cached read: a bare ASGI application that sends one GET to Redis.

It uses the Redis client that chatlab uses. `/api/messages/{userId}` responds with the value of the
key `floor:{userId}`. Setting: REDIS_URL.
"""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from redis.asyncio import Redis

Event = MutableMapping[str, Any]
redis: list[Redis] = []


async def app(
    scope: Event, receive: Callable[[], Awaitable[Event]], send: Callable[[Event], Awaitable[None]]
) -> None:
    """Respond to a request with the value of its key."""
    if scope["type"] == "lifespan":
        await _run_lifespan(receive, send)
        return
    body = await redis[0].get("floor:" + scope["path"].rpartition("/")[2]) or b"{}"
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _run_lifespan(
    receive: Callable[[], Awaitable[Event]], send: Callable[[Event], Awaitable[None]]
) -> None:
    await receive()
    redis.append(Redis.from_url(os.environ["REDIS_URL"]))
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await redis[0].aclose()
    await send({"type": "lifespan.shutdown.complete"})
