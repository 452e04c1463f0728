"""TokenBucket limits: a bucket of tokens for each key, refilled with time. Held by a process for itself, in bounded memory."""

import time
from collections import OrderedDict
from collections.abc import Callable

from chatlab.errors import RateLimited


class TokenBucket:
    """`per_second` uses of a key, `burst` at once; 0 a second is no limit. `clock` gives seconds."""

    def __init__(self, per_second: float, burst: float, *, keys: int = 100_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._keys, self._clock = per_second, burst, keys, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> tokens, when

    def take(self, key: str) -> None:
        """Use one token of this key. Raises RateLimited with the seconds until there is one."""
        if not self._per_second:
            return
        now = self._clock()
        tokens, then = self._buckets.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._per_second)
        allowed = tokens >= 1
        self._buckets[key] = (tokens - allowed, now)
        if len(self._buckets) > self._keys:
            self._buckets.popitem(last=False)
        if not allowed:
            raise RateLimited("Too many requests at once; wait a little and try again.", (1 - tokens) / self._per_second)

    def reset(self, key: str) -> None:
        """Let a key begin anew."""
        self._buckets.pop(key, None)
