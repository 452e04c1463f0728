"""The background worker: every second it looks at all keys `message:*` and logs what it finds.

It deletes nothing and keeps nothing consistent: Redis deletes expired keys, and the window protocol
keeps reads exact. It makes expiry punctual, because SCAN deletes the expired keys that it meets. A
key is logged as cleaned once it is gone after its deadline, never because a TTL reads 0: Redis
rounds, and 0 means "alive, with less than half a second left".

Deadlines are times of the clock of Redis, which decides when a key expires. If that clock steps
back, keys would live longer than their TTL, so the sweeper shortens their expiry.
"""

import asyncio
import contextlib
import logging
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from redis.asyncio import Redis

from chatlab import metrics
from chatlab.cache.deadline_tracker import DeadlineTracker, SweepResult
from chatlab.cache.keys import Keys, Ttls
from chatlab.cache.sweeper_connection import KEYS_PER_ROUND_TRIP, SweeperConnection
from chatlab.connections.diagnosis import explain
from chatlab.connections.redis_limits import RedisLimits
from chatlab.domain.trace import EventBus
from chatlab.protect.rate_limit import WINDOW_S
from chatlab.settings import Settings

log = logging.getLogger("chatlab.sweeper")  # the documented name

MANY_KEYS = 20  # above this number per sweep, lines about single keys are DEBUG
LIMITS_MS = WINDOW_S * 1000  # the TTL of a rate limit
CLOCK_ERROR_MS = 100  # a TTL that is too long by less is left as it is


class Sweeper:
    """Sweep once per interval, without drift. Of several processes, one sweeps at a time.

    `wall_clock` returns the seconds since 1970 that the log lines show. `owns_keys` returns False
    while another installation uses the keys. Then its sweeper sweeps. `node` is the name of a node
    of a cluster, for the log.
    """

    def __init__(
        self,
        redis: Redis,
        settings: Settings,
        events: EventBus,
        *,
        wall_clock: Callable[[], float] = time.time,
        owns_keys: Callable[[], bool] = lambda: True,
        node: str = "",
    ) -> None:
        self._of_node = f" of {node}" if node else ""
        limits, self._wall_clock = RedisLimits(settings.redis_timeout), wall_clock
        self._connection, self._events = SweeperConnection(redis, limits.connect_s), events
        self._keys, self._owns_keys = Keys(settings.key_prefix), owns_keys
        self._own_entry = re.compile(re.escape(self._keys.message("")) + "[0-9a-f]{24}")
        self._interval_s, self._ttls = settings.sweep_interval, Ttls.of(settings.ttl_ms)
        self._tracker, self._id = DeadlineTracker(), f"{os.getpid()}_{secrets.token_hex(6)}"
        self._holder = b""  # of the lock
        self._redis_is_away, self._is_sweeping, self._is_new = False, True, True

    async def run(self) -> None:
        """Sweep until cancelled, then let another process take over at once."""
        started, tick = time.monotonic(), 0
        try:
            while True:
                await self.tick()
                elapsed_ticks = int((time.monotonic() - started) / self._interval_s)
                tick = max(tick + 1, elapsed_ticks)  # a tick that was missed is skipped
                await asyncio.sleep(max(0.0, started + tick * self._interval_s - time.monotonic()))
        finally:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._release_lock())
            await self._connection.close()

    async def tick(self) -> SweepResult | None:
        """Sweep once. Returns None if another process sweeps or Redis does not answer."""
        try:
            if not self._owns_keys() or not await self._take_lock():
                self._stand_by()
                return None
            self._is_sweeping = True
            result = await self.sweep()
        except Exception as error:  # noqa: BLE001 - refused, silent or nonsense: try again at the next tick
            if not self._redis_is_away:
                cause = explain("Redis", error)[1]
                text = "Cannot sweep: Redis%s %s. Trying again every second"
                log.warning(text, self._of_node, cause)
            self._redis_is_away = True
            return None
        self._redis_is_away = False
        return result

    def _stand_by(self) -> None:
        """Forget all deadlines: the other process reports these keys."""
        if self._is_sweeping:
            log.info("another process sweeps%s; waiting for its turn", self._of_node)
        self._tracker, self._is_sweeping, self._is_new = DeadlineTracker(), False, True

    @property
    def other_process(self) -> str | None:
        """Return the number of the process that sweeps instead of this one, or None."""
        return None if self._is_sweeping else self._holder.partition(b"_")[0].decode() or "?"

    @property
    def has_lost_its_node(self) -> bool:
        """Return whether another node of the cluster may have keys of this one now."""
        return self._redis_is_away or self._connection.was_redirected

    def use_keys(self, keys: Keys) -> None:
        """Use another key for the lock, which this node has."""
        self._keys, self._connection.was_redirected = keys, False

    async def _take_lock(self) -> bool:
        """Take or extend the lock. It expires by itself if this process dies.

        Its value begins with the number of the process, and says how long the lock may live, in
        case the clock of Redis steps back.
        """
        key, ttl_ms = self._keys.sweep_lock, max(1000, round(self._interval_s * 2500))
        own = f"{self._id} {ttl_ms}".encode()
        taken, holder = await self._connection.ask(
            ("SET", key, own, "PX", ttl_ms, "NX"), ("GET", key)
        )
        self._holder = holder or b""
        if taken is None and holder == own:
            await self._connection.execute(("PEXPIRE", key, ttl_ms))
        elif match := re.fullmatch(rb"\w+ (\d+)", holder or b""):
            await self._connection.limit_ttl(key, int(match[1]))
        return bool(holder == own)

    async def _release_lock(self) -> None:
        key = self._keys.sweep_lock
        (holder,) = await self._connection.execute(("GET", key))
        if holder and holder.startswith(self._id.encode()):
            await self._connection.execute(("DEL", key))

    def expect(self, key: str, ttls: Ttls) -> None:
        """Track a message entry that this process has just written.

        Its TTL may be shorter than the interval between two sweeps.
        """
        self._ttls = max(self._ttls, ttls)  # the lab page can change them
        if self._is_sweeping and self._connection.has_answered:
            self._tracker.expect(key, self._connection.now_s() + ttls.entry_ms / 1000)

    async def sweep(self) -> SweepResult:
        """Look at all existing and all tracked keys, give them a TTL if necessary, and report.

        If there are many keys, those whose deadline is known and still to come are not asked about.
        """
        started = time.perf_counter()
        result, tracked, asked = SweepResult(), dict.fromkeys(self._tracker.keys()), set[str]()
        async for names in self._scan(self._keys.message_pattern):
            for name in names:
                tracked.pop(name, None)
            new = [name for name in names if name not in asked]  # SCAN may return a key twice
            if max(len(names), len(self._tracker)) > MANY_KEYS and not log.isEnabledFor(
                logging.DEBUG
            ):
                new = self._tracker.needing_pttl(new, self._connection.now_s(), self._ttls.entry_ms)
            asked.update(new)
            await self._look_at(new, result)
        not_found = list(tracked)
        for start in range(0, len(not_found), KEYS_PER_ROUND_TRIP):
            await self._look_at(not_found[start : start + KEYS_PER_ROUND_TRIP], result)
        for key in result.leaked:
            await self._connection.limit_ttl(key, self._ttls.entry_ms)
        await self._shorten_ttls(result)
        self._report(result, len(self._tracker), (time.perf_counter() - started) * 1000)
        return result

    def _scan(self, pattern: str) -> AsyncIterator[list[str]]:
        return self._connection.scan(pattern, with_pauses=len(self._tracker) > MANY_KEYS)

    async def _look_at(self, names: list[str], result: SweepResult) -> None:
        if names:
            pttls = await self._connection.pttls(names)
            if len(pttls) < len(names):  # the others have moved to another node of the cluster
                self._tracker.forget(set(names) - pttls.keys())
            self._tracker.record(pttls, self._connection.now_s(), result)

    async def _shorten_ttls(self, result: SweepResult) -> None:
        """Shorten each TTL of our keys that is longer than we have given them.

        The clock of Redis has then stepped back. The sweeper does not track windows and rate
        limits, so it looks at them only after a step, and before its first sweep.
        """
        pttls = {key: left for key, left in result.live.items() if self._own_entry.fullmatch(key)}
        count = await self._shorten(pttls, self._ttls.entry_ms)
        if self._is_new or self._connection.has_stepped_back:
            windows = self._keys.window_pattern, self._ttls.window_ms
            for pattern, ttl_ms in (windows, (self._keys.limit_pattern, LIMITS_MS)):
                async for keys in self._scan(pattern):
                    count += await self._shorten(await self._connection.pttls(keys), ttl_ms)
            await self._connection.limit_ttl(self._keys.probe, self._ttls.window_ms)
            self._is_new = self._connection.has_stepped_back = False
        if count:
            log.warning("Shortened %d TTLs, because the clock of Redis has stepped back", count)

    async def _shorten(self, pttls: dict[str, int], ttl_ms: int) -> int:
        """Shorten the TTLs that are too long. Return how many these are."""
        too_long = [key for key, left in pttls.items() if left > ttl_ms + CLOCK_ERROR_MS]
        for key in too_long:
            await self._connection.limit_ttl(key, ttl_ms)
            self._tracker.shorten(key, self._connection.now_s() + ttl_ms / 1000)
        return len(too_long)

    # --- log, events, metrics ----------------------------------------------------------------

    def _report(self, result: SweepResult, live: int, took_ms: float) -> None:
        now = self._wall_clock()
        level = logging.INFO if live + len(result.cleaned) <= MANY_KEYS else logging.DEBUG
        if log.isEnabledFor(level):
            _log_keys(result, level, now)
        for key in result.leaked:
            text, ttl_ms = "Cache leaked %s had no expiry; it has %d ms now", self._ttls.entry_ms
            log.warning(text, _on_one_line(key), ttl_ms)
        counts = {"live": live, "cleaned": len(result.cleaned), "leaked": len(result.leaked)}
        text = "Sweep%s: %d live, %d cleaned, %d leaked, %.1f ms"
        log.info(text, self._of_node, *counts.values(), took_ms)
        if self._events:
            self._publish_cleaned(result, now)
            self._events.publish(secrets.token_hex(6), "worker", "sweep", took_ms, **counts)
        _count(result, live, took_ms)

    def _publish_cleaned(self, result: SweepResult, now: float) -> None:
        for key, lag_ms in result.cleaned.items():
            message_id = _on_one_line(key).rpartition(":")[2]
            about: dict[str, Any] = {"key": _on_one_line(key), "messageId": message_id}
            self._events.publish(
                message_id, "cache", "expired", deadline=round(now * 1000 - lag_ms, 3), **about
            )
            self._events.publish(message_id, "cache", "cleaned", lagMs=round(lag_ms, 3), **about)


def _log_keys(result: SweepResult, level: int, now: float) -> None:
    for key, pttl in result.live.items():
        log.log(level, "Cache hit %s remaining=%dms", _on_one_line(key), pttl)
    for key, lag_ms in result.cleaned.items():
        deadline = _time_of_day(now - lag_ms / 1000)
        log.log(
            level, "Cache cleaned %s deadline=%s lag=%.0fms", _on_one_line(key), deadline, lag_ms
        )
    for key in result.lost:
        log.log(
            level,
            "Cache lost %s before its deadline (deleted or evicted by someone)",
            _on_one_line(key),
        )


def _count(result: SweepResult, live: int, took_ms: float) -> None:
    metrics.SWEEPS.inc()
    metrics.SWEEP_SECONDS.observe(took_ms / 1000)
    metrics.SWEPT.inc(live)
    metrics.CLEANED.inc(len(result.cleaned))
    metrics.LEAKED.inc(len(result.leaked))
    for lag_ms in result.cleaned.values():
        metrics.CLEAN_LAG_SECONDS.observe(lag_ms / 1000)


def _on_one_line(key: str) -> str:
    """Return the name of the key, with control characters escaped: it must not forge a log line."""
    return key if key.isprintable() else ascii(key)[1:-1]


def _time_of_day(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(moment)) + f".{int(moment * 1000) % 1000:03d}Z"
