"""Redis time as this process knows it, and the outages that a late reply reveals."""

import asyncio
import time
from collections.abc import Callable

from chatlab.connections.pipeline import AutoPipeline

CHECK_INTERVAL_S = 1.0  # also how an idle process notices an outage
CHECK_INTERVAL_WITH_PEERS_S = 0.05
# A reply to a check that takes longer counts as an outage. The interval with peers plus this limit
# (0.13 s) must stay below the time after which a process gives up on Redis (0.15 s). So no process
# gives up unless all others notice.
LATE_REPLY_S = 0.08
NEVER = 1 << 53  # a `trusted_since` that no window reaches. A number in Lua is exact up to here


class RedisClock:
    """Estimate the time of the Redis server, and remember when the last outage ended.

    All times are microseconds. `trusted_since` is the Redis time at which the last outage ended: a
    window that was born before it may lack writes. It is NEVER while this process does not know
    yet which windows it may trust. `has_peers` says if other processes write to
    this Redis.
    """

    def __init__(self, pipe: AutoPipeline, has_peers: Callable[[], bool]) -> None:
        self.trusted_since = 0
        self._pipe, self._has_peers = pipe, has_peers
        self._offset_us: int | None = None  # Redis time minus the monotonic clock of this process
        self._times_distrusted = 0

    def now_us(self) -> int:
        """Return Redis time, or a little less, never more.

        Returns 0 until Redis has been reached once. Every write then counts as late, which is safe.
        """
        return 0 if self._offset_us is None else time.monotonic_ns() // 1000 + self._offset_us

    def learn(self, redis_time_us: int) -> None:
        """Take in a time that Redis has just sent."""
        self._offset_us = redis_time_us - time.monotonic_ns() // 1000

    def restart(self, redis_time_us: int) -> None:
        """Trust no window that was born before this time, which Redis has just sent."""
        self.trusted_since = redis_time_us
        self.learn(redis_time_us)

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
        self.restart(redis_time_us)
        return True

    async def fetch_us(self) -> int | None:
        """Ask Redis for its time. Returns None if Redis does not answer."""
        match await self._pipe.execute("TIME"):
            case [bytes(seconds), bytes(microseconds)]:
                return int(seconds) * 1_000_000 + int(microseconds)
        return None

    async def watch(self) -> None:
        """Compare the clocks at every interval, until cancelled."""
        while True:
            await asyncio.sleep(
                CHECK_INTERVAL_WITH_PEERS_S if self._has_peers() else CHECK_INTERVAL_S
            )
            await self._check()

    async def _check(self) -> None:
        if self.trusted_since == NEVER:
            await self.trust_again()
            return
        asked_us, asked_at = self.now_us(), time.monotonic()
        redis_time_us = await self.fetch_us()
        if redis_time_us is None:
            if self._pipe.is_usable:  # otherwise the probe that closes the breaker sets it
                self.distrust()
            return
        # The smaller of two delays: the time until Redis answered, and the time until this process
        # got the answer.
        delay_us = min(redis_time_us - asked_us, (time.monotonic() - asked_at) * 1_000_000)
        if delay_us > LATE_REPLY_S * 1_000_000:
            self.trusted_since = redis_time_us
        self.learn(redis_time_us)
