"""Redis: the client of redis-py with its options."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

CONNECT_TIMEOUT_S = 0.15  # for a connection that a request waits for


def connect(
    url: str, *, reply_timeout_s: float | None, connect_timeout_s: float | None = None
) -> Redis:
    """Return a client that never retries: its caller decides when to try again.

    `reply_timeout_s` limits the time until a reply arrives; None means no limit. Without
    `connect_timeout_s`, a new connection may take CONNECT_TIMEOUT_S.
    """
    return Redis.from_url(
        url,
        socket_timeout=reply_timeout_s,
        socket_connect_timeout=connect_timeout_s or CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
