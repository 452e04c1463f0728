"""Run the `chatlab` command with limits that a slow machine does not exceed.

With its usual limits, the service stops waiting for Redis after 0.2 s, and answers 503 when MongoDB does not reply within 2 s. On a machine
that stalls, both change the result of a request. Tests that are not about these limits start the service with this program instead.
"""

import chatlab.run.server_only  # noqa: I001 - before python-socketio is imported
import chatlab.accounts
import chatlab.cache.cache
import chatlab.cache.clock
import chatlab.connections.mongo
import chatlab.connections.redis
import chatlab.connections.resp
import chatlab.protect.rate_limit
import chatlab.web.socket_server
import shard_keys
from chatlab.cli import main

LIMIT_S = 600.0  # longer than any test may take
GRACE_MS = 60_000  # a save that takes longer is not cached


def raise_limits() -> None:
    """Replace each limit in the module that reads it."""
    for module, name, limit in (
        (chatlab.connections.resp, "PIPELINE_TIMEOUT_S", LIMIT_S),
        (chatlab.connections.redis, "CONNECT_TIMEOUT_S", LIMIT_S),
        (chatlab.cache.clock, "LATE_REPLY_S", LIMIT_S),
        (chatlab.connections.mongo, "REQUEST_TIMEOUT_MS", LIMIT_S * 1000),
        (chatlab.connections.mongo, "CALL_LIMIT_S", LIMIT_S),
        (chatlab.accounts, "TOKEN_CACHE_S", LIMIT_S),
        (chatlab.protect.rate_limit, "WINDOW_S", LIMIT_S),
        (chatlab.web.socket_server, "PING_TIMEOUT_S", LIMIT_S),
    ):
        assert hasattr(module, name), f"{module.__name__}.{name} has a new name; change it here too"
        setattr(module, name, type(getattr(module, name))(limit))
    assert hasattr(chatlab.cache.cache, "grace_period_ms")
    setattr(chatlab.cache.cache, "grace_period_ms", lambda _ttl_ms: GRACE_MS)  # noqa: B010 - the module imports this name


if __name__ == "__main__":
    shard_keys.watch()
    raise_limits()
    main()
