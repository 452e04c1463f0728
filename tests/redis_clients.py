"""A client for the keys of a test run, on one Redis or on a cluster."""

from urllib.parse import urlsplit

import redis
from waiting import LIMIT_S

from chatlab.connections.redis import connect_blocking


def open_keys(url: str) -> redis.Redis:
    """Return a client, which the caller closes."""
    return (
        connect_blocking(url, LIMIT_S) if "+" in urlsplit(url).scheme else redis.Redis.from_url(url)
    )
