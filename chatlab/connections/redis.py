"""Redis: the client of redis-py with its options."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def connect(url: str, timeout_s: float) -> Redis:
    """Return a client that never retries: its caller decides when to try again.

    `timeout_s` limits the time until a connection is made, and until a reply arrives.
    """
    return Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
