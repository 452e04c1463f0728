"""One Redis server as the cache uses it: whether it can be used, its time, and what it missed."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from redis.asyncio import Redis

from chatlab.cache import window
from chatlab.cache.claim import Claim
from chatlab.cache.clock import RedisClock
from chatlab.cache.keys import Keys, Ttls
from chatlab.cache.missed_windows import MissedWindows
from chatlab.cache.scripts import Scripts
from chatlab.cache.window import CommonArguments, ScriptCall
from chatlab.connections.diagnosis import explain
from chatlab.connections.pipeline import AutoPipeline, Follow
from chatlab.connections.redis_limits import RedisLimits
from chatlab.connections.resp import transaction
from chatlab.domain.requests import Page
from chatlab.protect.breaker import CircuitBreaker
from chatlab.protect.loop_lag import LoopLag

REPAIR_INTERVAL_S = 0.25  # between two attempts to fence the windows that missed a write


class Common(NamedTuple):
    """What all servers of a cache have in common.

    `arguments` returns those of every script, for windows that are trusted since this time.
    """

    limits: RedisLimits
    lag: LoopLag
    peer_timeout_s: Callable[[], float | None]
    ttls: Callable[[], Ttls]
    arguments: Callable[[int], CommonArguments]
    source: str  # of the scripts


class CacheNode:
    """The only server, or one node of a cluster: its pipeline, circuit breaker, clock and claim.

    A write that did not reach a window is repaired here: the window is fenced as soon as possible.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        common: Common,
        name: str = "Redis",
        *,
        clock_difference_us: int = 0,
        follow: Follow | None = None,
    ) -> None:
        self.keys, self._common, self._redis = keys, common, redis
        limits = common.limits
        self.breaker = CircuitBreaker(
            name,
            self.probe,
            part="redis",
            on_recovery=self._recover,
            probe_timeout_s=limits.connect_s,
            explain=functools.partial(explain, "Redis"),
        )
        self.pipe = AutoPipeline(
            redis,
            self.breaker,
            common.lag,
            timeout_s=limits.answer_s,
            on_connection=lambda: self.clock.reconnect(self._ask_time),
            follow=follow,
        )
        self.clock = RedisClock(
            self.pipe,
            limits,
            peer_timeout_s=common.peer_timeout_s,
            ttl_ms=lambda: common.ttls().window_ms,
            clock_difference_us=clock_difference_us,
        )
        self.scripts = Scripts(self.pipe, common.source)
        self.claim = Claim(self.pipe, keys.claim, lambda: max(common.ttls()))
        self._missed = MissedWindows()
        self._repairing: asyncio.Task[None] | None = None

    async def watch(self) -> None:
        """Check the server at every interval, until cancelled."""
        await self.clock.watch()

    async def close(self) -> None:
        """Wait for the commands that were already given, and close the connections."""
        if self._repairing:
            self._repairing.cancel()
        await self.breaker.close()
        await self.pipe.drain()
        await self.pipe.disconnect()
        await self._redis.aclose()

    # --- what differs between the only server and a node of a cluster -------------------------

    def to_own_time(self, began: int) -> int:
        """Convert a time of `Servers.now_us` to the clock of this server.

        It is 0 if the time of the server is not known yet. Every write then counts as late.
        """
        return began

    def trusted_since(self, key: str) -> int:
        """Return since when this window is trusted, in the time of this server."""
        del key
        return self.clock.trusted_since

    def may_fill(self, key: str, token: int) -> bool:
        """Return whether the fill token is a time of the clock that this server has now."""
        del key, token
        return True

    def use_keys(self, keys: Keys) -> None:
        """Use other keys for the probe and the claim. The installation stays."""
        self.keys, self.claim.key = keys, keys.claim

    # --- commands -----------------------------------------------------------------------------

    def command(self, call: ScriptCall) -> tuple[Any, ...]:
        """Return the command of a call."""
        return self.scripts.command(call, self._common.arguments(self.trusted_since(call.key)))

    def run(self, call: ScriptCall) -> "asyncio.Future[Any]":
        """Return the reply to come. It is None if the server does not answer."""
        return self.pipe.execute(*self.command(call))

    def write(self, call: ScriptCall) -> "asyncio.Future[Any]":
        """Run a write to a window.

        If the write does not reach the window, remember the window as missed.
        """
        reply = self.run(call)
        reply.add_done_callback(lambda done: self._note_missed(call.key, done))
        return reply

    # --- outages ------------------------------------------------------------------------------

    async def probe(self) -> None:
        """Check that Redis accepts the commands of requests, on a new connection.

        Windows from before this moment are not trusted.

        A full or read-only Redis still answers reads, and a fence needs no memory if it replaces
        the key of the probe before, so this writes a key as well.
        """
        key, limits = self.keys.probe, self._common.limits
        read = self.command(window.read(key, Page()))
        written, fenced, _, *claimed = await self.pipe.ask_on_new_connection(
            ("SET", key, 1, "PX", 1000),
            self.command(window.fence(key)),
            transaction(read, ("LRANGE", key, 1, -1)),
            *self.claim.commands(),
            timeout_s=limits.connect_s,
        )
        self.claim.check(claimed)
        if (written, fenced) != (b"OK", b"fence"):
            raise ValueError("Redis sent an unexpected reply")
        await self.clock.begin(self._ask_time)

    async def _ask_time(self) -> Any:
        return await self.pipe.ask_at_once(("TIME",), timeout_s=self._common.limits.connect_s)

    def _recover(self) -> None:
        self.fence_missed_windows()

    def fence_missed_windows(self) -> None:
        """Fence off the windows that lack a write of this process.

        Other processes may still trust them.
        """
        for key in self._missed.take_all():
            self.write(window.fence(key))

    @property
    def has_missed_windows(self) -> bool:
        """Return whether a window that missed a write is not fenced yet."""
        return bool(self._missed)

    def take_missed(self) -> list[str]:
        """Return the keys of the windows that missed a write, and forget them."""
        return self._missed.take_all()

    def _note_missed(self, key: str, reply: "asyncio.Future[Any]") -> None:
        answer = None if reply.cancelled() else reply.result()
        if answer in window.WRITTEN:
            return
        if answer is not None:
            self.breaker.trip(ValueError("Redis sent an unexpected reply"))
        self.remember_missed(key)

    def remember_missed(self, key: str) -> None:
        """Remember that a write to this window was missed, and fence it as soon as possible."""
        self._missed.add(key, self._common.ttls().window_ms)
        if not self.breaker.is_open:  # otherwise the windows are fenced when it closes
            self.clock.distrust()
            if self._repairing is None or self._repairing.done():
                self.fence_missed_windows()
                self._repairing = asyncio.get_running_loop().create_task(self._repair())

    async def _repair(self) -> None:
        """Finish after a missed write what the end of an outage does, while the breaker is closed.

        A write is missed with a closed breaker if the event loop was late, or if the breaker has
        just closed.
        """
        while not await self.clock.trust_again() or self._missed:
            await asyncio.sleep(REPAIR_INTERVAL_S)
            if self.breaker.is_open:  # the probe that closes it does the rest
                return
            self.fence_missed_windows()
