"""Run the `chatlab` command with limits that a slow machine does not exceed.

A service with its usual limits goes on without Redis after 0.2 s, and answers 503 after 2 s without MongoDB. Both are right, and both
change an answer when the machine stalls. Tests that are not about these limits start the service with this program instead.
"""

import chatlab.accounts
import chatlab.cache.cache
import chatlab.connections.redis
import chatlab.connections.resp
import chatlab.store.store
from chatlab.cli import main

LIMIT_S = 600.0  # longer than any test may take
GRACE_MS = 60_000  # a save that takes longer is not cached


def raise_limits() -> None:
    """Replace each limit in the module that reads it."""
    for module, name, limit in (
        (chatlab.connections.resp, "PIPELINE_TIMEOUT_S", LIMIT_S),
        (chatlab.connections.redis, "CONNECT_TIMEOUT_S", LIMIT_S),
        (chatlab.cache.cache, "LATE", LIMIT_S),
        (chatlab.store.store, "PATIENCE_MS", LIMIT_S * 1000),
        (chatlab.store.store, "CALL_LIMIT_S", LIMIT_S),
        (chatlab.accounts, "TOKEN_CACHE_S", LIMIT_S),
    ):
        assert hasattr(module, name), f"{module.__name__}.{name} has a new name; change it here too"
        setattr(module, name, type(getattr(module, name))(limit))
    assert callable(chatlab.cache.cache.grace_ms)
    chatlab.cache.cache.grace_ms = lambda ttl_ms: GRACE_MS  # noqa: ARG005 - the signature of the original


if __name__ == "__main__":
    raise_limits()
    main()
