"""The background worker: every second it looks at all keys `message:*` and logs what it finds.

It deletes nothing and keeps nothing consistent: Redis deletes expired keys, and the window protocol
keeps reads exact. It makes expiry punctual, because SCAN deletes the expired keys that it meets. A
key is logged as cleaned once it is gone after its deadline, never because a TTL reads 0: Redis
rounds, and 0 means "alive, with less than half a second left".
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from redis.asyncio import Redis

from chatlab import metrics
from chatlab.cache.deadline_tracker import DeadlineTracker, SweepResult
from chatlab.cache.keys import Keys
from chatlab.connections.diagnosis import explain
from chatlab.connections.refusals import is_refusal, note_refusal
from chatlab.connections.resp import Command, RedisConnection
from chatlab.domain.trace import EventBus
from chatlab.settings import Settings

log = logging.getLogger("chatlab.sweeper")  # the name that the contract promises

MANY_KEYS = 20  # above this number per sweep, lines about single keys are DEBUG
KEYS_PER_ROUND_TRIP = 500  # few enough that requests of other clients hardly wait
PAUSE_S = 0.002  # between two round trips if there are many keys: 100,000 keys take half a second
# Redis 6.2 does not have PEXPIRE with NX.
EXPIRE_LEAKED = (
    "if redis.call('PTTL', KEYS[1]) == -1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end"
)


class Sweeper:
    """Sweep once per interval, without drift. Of several processes, one sweeps at a time.

    `owns_keys` returns False while another installation uses the keys. Then its sweeper sweeps.
    """

    def __init__(
        self,
        redis: Redis,
        settings: Settings,
        events: EventBus,
        *,
        clock: Callable[[], float] = time.time,
        owns_keys: Callable[[], bool] = lambda: True,
    ) -> None:
        self._connection, self._events, self._clock = RedisConnection(redis), events, clock
        self._keys, self._owns_keys = Keys(settings.key_prefix), owns_keys
        self._interval_s, self._ttl_ms = settings.sweep_interval, settings.ttl_ms
        self._tracker, self._id = DeadlineTracker(), secrets.token_hex(6)
        self._redis_is_away, self._is_sweeping = False, True

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
                log.warning("Cannot sweep: Redis %s. Trying again every second", cause)
            self._redis_is_away = True
            return None
        self._redis_is_away = False
        return result

    def _stand_by(self) -> None:
        """Forget all deadlines: the other process reports these keys."""
        if self._is_sweeping:
            log.info("another process sweeps; waiting for its turn")
        self._tracker, self._is_sweeping = DeadlineTracker(), False

    async def _take_lock(self) -> bool:
        """Take or extend the lock. It expires by itself if this process dies."""
        key, ttl_ms = self._keys.sweep_lock, max(1000, round(self._interval_s * 2500))
        taken, holder = await self._execute(
            [("SET", key, self._id, "PX", ttl_ms, "NX"), ("GET", key)]
        )
        if taken is None and holder == self._id.encode():
            await self._execute([("PEXPIRE", key, ttl_ms)])
        return bool(holder == self._id.encode())

    async def _release_lock(self) -> None:
        if await self._execute([("GET", self._keys.sweep_lock)]) == [self._id.encode()]:
            await self._execute([("DEL", self._keys.sweep_lock)])

    def expect(self, key: str, ttl_ms: int) -> None:
        """Track a key that this process has just written.

        Its TTL may be shorter than the interval between two sweeps.
        """
        if self._is_sweeping:
            self._tracker.expect(key, self._clock() + ttl_ms / 1000)

    async def sweep(self) -> SweepResult:
        """Look at all existing and all tracked keys, give leaked keys a TTL, and report.

        If there are many keys, those whose deadline is known and still to come are not asked about.
        """
        started = time.perf_counter()
        result, tracked, asked = SweepResult(), dict.fromkeys(self._tracker.keys()), set[str]()
        async for names in self._scan():
            for name in names:
                tracked.pop(name, None)
            new = [name for name in names if name not in asked]  # SCAN may return a key twice
            if max(len(names), len(self._tracker)) > MANY_KEYS and not log.isEnabledFor(
                logging.DEBUG
            ):
                new = self._tracker.needing_pttl(new, self._clock())
            asked.update(new)
            await self._look_at(new, result)
        not_found = list(tracked)
        for start in range(0, len(not_found), KEYS_PER_ROUND_TRIP):
            await self._look_at(not_found[start : start + KEYS_PER_ROUND_TRIP], result)
        for key in result.leaked:
            await self._execute([("EVAL", EXPIRE_LEAKED, 1, _as_bytes(key), self._ttl_ms)])
        self._report(result, len(self._tracker), (time.perf_counter() - started) * 1000)
        return result

    async def _scan(self) -> AsyncIterator[list[str]]:
        """Yield all keys of message entries, one SCAN reply at a time.

        KEYS would block Redis until it has found all.
        """
        cursor, many = b"0", len(self._tracker) > MANY_KEYS
        while True:
            command = (
                "SCAN",
                cursor,
                "MATCH",
                self._keys.message_pattern,
                "COUNT",
                KEYS_PER_ROUND_TRIP,
            )
            ((cursor, names),) = await self._execute([command])
            yield [name.decode("utf-8", "surrogateescape") for name in names]
            if cursor == b"0":
                return
            if many:
                await asyncio.sleep(PAUSE_S)

    async def _look_at(self, keys: list[str], result: SweepResult) -> None:
        if keys:
            pttls = await self._execute([("PTTL", _as_bytes(key)) for key in keys])
            self._tracker.record(dict(zip(keys, pttls, strict=True)), self._clock(), result)

    async def _execute(self, commands: list[Command]) -> list[Any]:
        """Return the replies. Raises the first error among them."""
        replies = await self._connection.execute(commands)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, Exception):
                if is_refusal(reply):
                    note_refusal(command[0], reply)
                raise reply
        return replies

    # --- log, events, metrics ----------------------------------------------------------------

    def _report(self, result: SweepResult, live: int, took_ms: float) -> None:
        now = self._clock()
        level = logging.INFO if live + len(result.cleaned) <= MANY_KEYS else logging.DEBUG
        if log.isEnabledFor(level):
            _log_keys(result, level, now)
        for key in result.leaked:
            log.warning(
                "Cache leaked %s had no expiry; it has %d ms now", _on_one_line(key), self._ttl_ms
            )
        counts = {"live": live, "cleaned": len(result.cleaned), "leaked": len(result.leaked)}
        log.info("Sweep: %d live, %d cleaned, %d leaked, %.1f ms", *counts.values(), took_ms)
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


def _as_bytes(key: str) -> bytes:
    """Return the name of the key as Redis has it. Names are bytes, and need not be valid UTF-8."""
    return key.encode("utf-8", "surrogateescape")


def _on_one_line(key: str) -> str:
    """Return the name of the key, with control characters escaped: it must not forge a log line."""
    return key if key.isprintable() else ascii(key)[1:-1]


def _time_of_day(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(moment)) + f".{int(moment * 1000) % 1000:03d}Z"
