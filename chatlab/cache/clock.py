"""Redis time as this process knows it; outages, steps of the clock of Redis, and its distance."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from chatlab.cache.clock_steps import ClockSteps
from chatlab.connections.pipeline import AutoPipeline
from chatlab.connections.redis_limits import LONGEST_CHECK_INTERVAL_S, RedisLimits
from chatlab.metrics import REDIS_ROUND_TRIP_SECONDS
from chatlab.protect.log_limit import LogLimit

log = logging.getLogger(__name__)

ROUND_TRIPS = 5  # that are remembered; the fastest one shows the distance, however busy we are
NEVER = 1 << 53  # a `trusted_since` that no window reaches. A number in Lua is exact up to here
US_PER_S = 1_000_000

Ask = Callable[[], Awaitable[Any]]  # sends TIME and returns the reply; None if there is none


class RedisClock:
    """Estimate the time of the Redis server, and remember when the last outage ended.

    All times are microseconds. `trusted_since` is the Redis time at which the last outage ended: a
    window that was born before it may lack writes. It is NEVER while this process does not know
    yet which windows it may trust. `is_too_far` says that Redis answers too slowly for a process
    to notice each outage, so no window may be read.

    `peer_timeout_s` returns the shortest `CHATLAB_REDIS_TIMEOUT` of the other processes that write
    to this Redis, or None if there are none. `ttl_ms` returns the TTL of a window. `monotonic_us`
    is a clock that never steps. `clock_difference_us` is by how much the clocks of the servers may
    differ that have had the same window.
    """

    def __init__(
        self,
        pipe: AutoPipeline,
        limits: RedisLimits,
        *,
        peer_timeout_s: Callable[[], float | None],
        ttl_ms: Callable[[], int],
        monotonic_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
        clock_difference_us: int = 0,
    ) -> None:
        self.trusted_since, self.is_too_far = 0, False
        self._pipe, self._limits, self._peer_timeout_s = pipe, limits, peer_timeout_s
        self._ttl_ms, self._monotonic_us = ttl_ms, monotonic_us
        self._clock_difference_us = clock_difference_us
        self._offset_us: int | None = None  # Redis time minus the monotonic clock
        self._steps = ClockSteps()
        self._round_trips_s: deque[float] = deque(maxlen=ROUND_TRIPS)
        self._times_distrusted, self._log_limit = 0, LogLimit()

    def now_us(self) -> int:
        """Return Redis time, or a little less, never more.

        Returns 0 until Redis has been reached once. Every write then counts as late, which is safe.
        """
        return self.from_monotonic(self._monotonic_us())

    def from_monotonic(self, monotonic_us: int) -> int:
        """Return the Redis time, or a little less, when the clock that never steps was here."""
        return 0 if self._offset_us is None else monotonic_us + self._offset_us

    def learn(self, redis_time_us: int) -> None:
        """Take in a time that Redis has just sent."""
        self._offset_us = redis_time_us - self._monotonic_us()

    # --- which windows are trusted -----------------------------------------------------------

    def distrust(self) -> None:
        """Trust no window until `trust_again`: one may lack a write that was made until now."""
        self.trusted_since = NEVER
        self._times_distrusted += 1

    async def trust_again(self) -> bool:
        """Trust the windows that are born from now on.

        Return False if Redis does not answer, or `distrust` was called meanwhile.
        """
        times_before = self._times_distrusted
        redis_time_us = await self.fetch_us()
        if redis_time_us is None or self._times_distrusted != times_before:
            return False
        self._trust_from(redis_time_us)
        return True

    def _trust_from(self, redis_time_us: int) -> None:
        self.trusted_since = redis_time_us + self._clock_difference_us
        self._distrust_times_before_steps(redis_time_us)

    def _distrust_times_before_steps(self, redis_time_us: int) -> None:
        """Trust no window that may be from before the clock of Redis stepped back.

        Such a window looks younger than it is, and lives longer than one TTL.
        """
        repeated_us = self._steps.last_repeated_time(redis_time_us, self._ttl_ms() * 1000)
        self.trusted_since = max(self.trusted_since, repeated_us)

    # --- asking Redis ------------------------------------------------------------------------

    async def fetch_us(self, ask: Ask | None = None) -> int | None:
        """Ask Redis for its time, and learn from it. Returns None if Redis does not answer."""
        sent_us = self._monotonic_us()
        match await (ask() if ask else self._pipe.execute("TIME")):
            case [bytes(seconds), bytes(microseconds)]:
                redis_time_us = int(seconds) * US_PER_S + int(microseconds)
            case _:
                return None
        received_us = self._monotonic_us()
        self._round_trips_s.append((received_us - sent_us) / US_PER_S)
        self.learn(redis_time_us)
        stepped_us = self._steps.observe(sent_us, redis_time_us, received_us)
        if stepped_us:
            log.warning(
                "The clock of Redis stepped back by %.1f s. Conversations that were cached before "
                "are not read from the cache any more",
                stepped_us / US_PER_S,
            )
            self.trusted_since = redis_time_us if self.trusted_since != NEVER else NEVER
        self._distrust_times_before_steps(redis_time_us)
        return redis_time_us

    async def begin(self, ask: Ask) -> None:
        """Start to use a Redis that was away: trust no window that was born before now.

        Raises TimeoutError if it is too far away to be used at all.
        """
        self._round_trips_s.clear()
        while True:
            redis_time_us = await self.fetch_us(ask)
            if redis_time_us is None:
                raise ValueError("Redis sent an unexpected reply")
            near = self._round_trips_s[-1] <= self._limits.farthest_s
            if near or len(self._round_trips_s) == ROUND_TRIPS:
                break
        self._judge_distance()
        if min(self._round_trips_s) >= self._limits.answer_s:
            raise TimeoutError("Redis is too far away")
        self._trust_from(redis_time_us)

    async def reconnect(self, ask: Ask) -> None:
        """Learn the time from a new connection, and trust no window that was born before now.

        It may lead to another server: one that was a replica, and lacks the last writes, or one
        that has restarted, and lacks fences.
        """
        redis_time_us = await self.fetch_us(ask)
        if redis_time_us is not None and self.trusted_since != NEVER:
            self._trust_from(redis_time_us)

    async def watch(self) -> None:
        """Check Redis at every interval, until cancelled."""
        while True:
            has_peers = self._peer_timeout_s() is not None
            interval_s = self._strictest_limits().check_interval_s
            await asyncio.sleep(interval_s if has_peers else LONGEST_CHECK_INTERVAL_S)
            await self.check()

    async def check(self) -> None:
        """Notice an outage: Redis does not tell the time, or tells it late."""
        if self.trusted_since == NEVER:
            await self.trust_again()
            return
        asked_us, asked_at_us = self.now_us(), self._monotonic_us()
        redis_time_us = await self.fetch_us()
        if redis_time_us is None:
            if self._pipe.is_usable:  # otherwise the probe that closes the breaker sets it
                self.distrust()
            return
        # The smaller of two delays: the time until Redis answered, and the time until this process
        # got the answer.
        delay_us = min(redis_time_us - asked_us, self._monotonic_us() - asked_at_us)
        if delay_us > self._strictest_limits().late_reply_s * US_PER_S:
            self._trust_from(redis_time_us)
        self._judge_distance()

    # --- distance ----------------------------------------------------------------------------

    def _strictest_limits(self) -> RedisLimits:
        """Return the limits that hold if other processes have a shorter time limit."""
        peer_timeout_s = self._peer_timeout_s()
        if peer_timeout_s is None or peer_timeout_s >= self._limits.answer_s:
            return self._limits
        return RedisLimits(peer_timeout_s)

    def _judge_distance(self) -> None:
        """Decide if Redis is too far away for the cache.

        A process that is too far away still writes to the windows, for the others. It must not
        give up a write before they can notice, so it has more patience.
        """
        fastest_s, limits = min(self._round_trips_s), self._strictest_limits()
        REDIS_ROUND_TRIP_SECONDS.set(fastest_s)
        self._pipe.timeout_s = max(self._limits.answer_s, 4 * fastest_s)
        self.is_too_far = len(self._round_trips_s) == ROUND_TRIPS and fastest_s > limits.farthest_s
        if self.is_too_far and self._log_limit.allows("too far"):
            log.error(
                "Redis is too far away for the cache: a round trip takes %.0f ms, and "
                "CHATLAB_REDIS_TIMEOUT=%g allows %.0f ms. Reads ask MongoDB instead. Set "
                "CHATLAB_REDIS_TIMEOUT=%g or more in all processes, or run them nearer to Redis",
                fastest_s * 1000,
                limits.answer_s,
                limits.farthest_s * 1000,
                math.ceil(fastest_s * 50) / 10,
            )
