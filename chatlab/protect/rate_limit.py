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
        tokens = self._tokens(key, now)
        allowed = tokens >= 1
        self._store(key, tokens - allowed, now)
        if not allowed:
            self._refuse(1 - tokens)

    def spend(self, key: str, cost: float) -> float:
        """Take tokens of `key`, even those that it does not have yet.

        For work whose cost is known afterwards. Return the seconds until the debt is paid.
        """
        if not self._per_second:
            return 0.0
        now = self._clock()
        tokens = self._tokens(key, now) - cost
        self._store(key, tokens, now)
        return max(0.0, -tokens / self._per_second)

    def require(self, key: str) -> None:
        """Raise RateLimited while `key` is in debt. Takes no token."""
        if self._per_second and (tokens := self._tokens(key, self._clock())) < 0:
            self._refuse(-tokens)

    def reset(self, key: str) -> None:
        """Give `key` a full bucket again."""
        self._buckets.pop(key, None)

    def _tokens(self, key: str, now: float) -> float:
        tokens, filled_at = self._buckets.get(key, (self._burst, now))
        return min(self._burst, tokens + (now - filled_at) * self._per_second)

    def _store(self, key: str, tokens: float, now: float) -> None:
        self._buckets[key] = (tokens, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)

    def _refuse(self, missing: float) -> None:
        retry_after_s = missing / self._per_second
        raise RateLimited("Too many requests. Wait a moment and try again.", retry_after_s)
