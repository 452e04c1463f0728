"""Rate limits by the token bucket algorithm. Each process counts for itself, in bounded memory."""

import time
from collections import OrderedDict
from collections.abc import Callable

from chatlab.errors import RateLimited


class TokenBucket:
    """One bucket of tokens for each key, such as a user id.

    A bucket holds at most `burst` tokens and gains `per_second` of them each second. A rate of 0
    disables the limit. Only the `max_keys` most recently used keys are remembered. `clock` returns
    seconds.
    """

    def __init__(
        self,
        per_second: float,
        burst: float,
        *,
        max_keys: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_second, self._burst = per_second, burst
        self._max_keys, self._clock = max_keys, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key: tokens, time

    def take(self, key: str) -> None:
        """Take one token of `key`. Raises RateLimited with the seconds until the next token."""
        if not self._per_second:
            return
        now = self._clock()
        tokens, filled_at = self._buckets.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - filled_at) * self._per_second)
        allowed = tokens >= 1
        self._buckets[key] = (tokens - allowed, now)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        if not allowed:
            retry_after_s = (1 - tokens) / self._per_second
            raise RateLimited("Too many requests. Wait a moment and try again.", retry_after_s)

    def reset(self, key: str) -> None:
        """Give `key` a full bucket again."""
        self._buckets.pop(key, None)
