"""Run the `chatlab` command with all time limits of Redis multiplied by FACTOR.

Tests of outages need these limits, and must not reach one because the machine stalls for 0.2 s.
"""

import shard_keys

from chatlab.cache import cache, clock
from chatlab.cache.keys import grace_period_ms
from chatlab.cli import main
from chatlab.connections import redis, resp
from chatlab.protect import loop_lag

FACTOR = 5
CACHE_TTL_S = 5 * FACTOR


def slow_down() -> None:
    """Multiply each limit in the module that reads it."""
    resp.PIPELINE_TIMEOUT_S *= FACTOR
    redis.CONNECT_TIMEOUT_S *= FACTOR
    clock.LATE_REPLY_S *= FACTOR
    cache.HANDSHAKE_TIMEOUT_S *= FACTOR
    loop_lag.LATE_SHARE = 1.0  # a stalled machine does not excuse a timeout
    slow = lambda ttl_ms: FACTOR * grace_period_ms(ttl_ms // FACTOR)  # noqa: E731
    setattr(cache, "grace_period_ms", slow)  # noqa: B010 - the module imports this name


if __name__ == "__main__":
    shard_keys.watch()
    slow_down()
    main()
