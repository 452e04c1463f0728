"""The background worker: every second it looks at `message:*` and tells what it finds.

It does not keep the caches right (versions and the window do that) and it does not delete: Redis does. It tells the story of each key,
and makes it come on time, since a SCAN deletes the expired keys it passes. A key is told as cleaned once it is gone after its deadline,
never because a TTL reads 0: Redis rounds, and 0 there means "less than half a second, and alive".
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, NamedTuple

from redis.asyncio import Redis

from chatlab import metrics
from chatlab.cache.cache import Keys
from chatlab.connections.pipeline import Command, Line
from chatlab.domain.trace import EventBus
from chatlab.settings import Settings

log = logging.getLogger(__name__)

GONE, NO_EXPIRY = -2, -1  # what PTTL answers for a key that is not there, and for one that would live for ever
MANY = 20  # keys in a sweep above which each is told at DEBUG only
AT_ONCE = 500  # keys looked at in one round trip: others have their turn in between


class Told(NamedTuple):
    """What one sweep found. `late_by_ms`: for each cleaned key, from its deadline to now."""

    live: dict[str, int]
    cleaned: dict[str, float]
    lost: list[str]
    leaked: list[str]


class Ledger:
    """The deadline of every key that has been seen and not yet told as gone. Times are in seconds of one clock, given by the caller."""

    def __init__(self) -> None:
        self._deadlines: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def copy(self) -> dict[str, float]:
        """All keys with their deadlines, as they are now."""
        return self._deadlines.copy()

    def expect(self, key: str, deadline: float) -> None:
        """A key that is known to live until then, before anybody has looked at it."""
        self._deadlines[key] = deadline

    def doubtful(self, keys: Iterable[str], now: float) -> list[str]:
        """Those of these living keys that only Redis can tell of: new ones, and those whose time is up."""
        return [key for key in keys if self._deadlines.get(key, 0.0) <= now]

    def note(self, pttls: dict[str, int], now: float, told: Told | None = None) -> Told:
        """Take in what PTTL answered for each key, and tell (or add to `told`) what follows from it. A key is told as gone once."""
        told = told or Told({}, {}, [], [])
        for key, pttl in pttls.items():
            if pttl == GONE:
                self._gone(key, now, told)
            elif pttl == NO_EXPIRY:
                told.leaked.append(key)
            else:
                told.live[key] = pttl
                self._deadlines[key] = now + pttl / 1000
        return told

    def _gone(self, key: str, now: float, told: Told) -> None:
        deadline = self._deadlines.pop(key, None)
        if deadline is None:  # expired between SCAN and PTTL, never seen alive
            deadline = now
        if now >= deadline - CLOCK_ERROR:
            told.cleaned[key] = max(0.0, now - deadline) * 1000
        else:
            told.lost.append(key)


REST = 0.002  # seconds between two stretches of many keys: 100,000 take half of a beat, and nobody waits for more than a stretch
CLOCK_ERROR = 0.05  # seconds: a PTTL is read a round trip after Redis wrote it


class Sweeper:
    """One beat every `interval` seconds, without drift. Of several processes one sweeps at a time."""

    def __init__(self, redis: Redis, settings: Settings, flow: EventBus, *, clock: Callable[[], float] = time.time) -> None:
        self._line, self._flow, self._clock = Line(redis), flow, clock
        self._keys = Keys(settings.key_prefix)
        self._interval, self._ttl_ms = settings.sweep_interval, settings.ttl_ms
        self._ledger, self._me = Ledger(), secrets.token_hex(6)
        self._away, self._sweeps = False, True

    async def run(self) -> None:
        """Sweep until cancelled; then let another process take over at once."""
        began, beat = time.monotonic(), 0
        try:
            while True:
                await self.beat()
                beat = max(beat + 1, int((time.monotonic() - began) / self._interval))  # a beat that was missed is not made up for
                await asyncio.sleep(max(0.0, began + beat * self._interval - time.monotonic()))
        finally:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._hand_over())
            await self._line.close()

    async def beat(self) -> Told | None:
        """One sweep, if it is this process's turn and Redis answers."""
        try:
            if not await self._is_my_turn():
                if self._sweeps:  # until now, or at the start
                    log.info("another process sweeps; waiting for its turn")
                self._ledger, self._sweeps = Ledger(), False  # another process tells the rest of these stories
                return None
            self._sweeps = True
            told = await self.sweep()
        except Exception as error:  # noqa: BLE001 - refused, silent, or talking nonsense: the worker goes on
            if not self._away:
                log.warning("Redis does not answer (%s); sweeping again when it does", type(error).__name__)
            self._away = True
            return None
        self._away = False
        return told

    async def _is_my_turn(self) -> bool:
        """Hold the lock, which ends by itself if this process dies."""
        life = max(1000, round(self._interval * 2500))
        taken, holder = await self._ask([("SET", self._keys.sweeping, self._me, "PX", life, "NX"), ("GET", self._keys.sweeping)])
        if taken is None and holder == self._me.encode():
            await self._ask([("PEXPIRE", self._keys.sweeping, life)])
        return bool(holder == self._me.encode())

    async def _hand_over(self) -> None:
        if await self._ask([("GET", self._keys.sweeping)]) == [self._me.encode()]:
            await self._ask([("DEL", self._keys.sweeping)])

    def expect(self, key: str, ttl_ms: int) -> None:
        """A key has begun its life in this process. Without this, one that lives for less than a beat would never be met."""
        if self._sweeps:
            self._ledger.expect(key, self._clock() + ttl_ms / 1000)

    async def sweep(self) -> Told:
        """Look at every key there is and every key there was; tell; mend those without an expiry.

        Of many keys only the doubtful ones are asked about: the others live to the deadline in the ledger.
        """
        started = time.perf_counter()
        told, unnamed, asked = Told({}, {}, [], []), self._ledger.copy(), set[str]()
        async for names in self._names():
            for name in names:
                unnamed.pop(name, None)
            fresh = [name for name in names if name not in asked]  # a SCAN may name a key twice
            if max(len(names), len(self._ledger)) > MANY and not log.isEnabledFor(logging.DEBUG):
                fresh = self._ledger.doubtful(fresh, self._clock())
            asked.update(fresh)
            await self._look_at(fresh, told)
        rest = list(unnamed)
        for start in range(0, len(rest), AT_ONCE):
            await self._look_at(rest[start : start + AT_ONCE], told)
        for key in told.leaked:
            await self._ask([("PEXPIRE", _raw(key), self._ttl_ms, "NX")])
        self._tell(told, len(self._ledger), (time.perf_counter() - started) * 1000)
        return told

    async def _names(self) -> AsyncIterator[list[str]]:
        """Every key of a message. SCAN, a stretch at a time: KEYS would stop Redis for everyone, and all names at once this process."""
        cursor, many = b"0", len(self._ledger) > MANY
        while True:
            (answer,) = await self._ask([("SCAN", cursor, "MATCH", self._keys.all_messages, "COUNT", AT_ONCE)])
            yield [name.decode("utf-8", "surrogateescape") for name in answer[1]]
            if (cursor := answer[0]) == b"0":
                return
            if many:
                await asyncio.sleep(REST)

    async def _look_at(self, keys: list[str], told: Told) -> None:
        """Ask about these, and take in what follows."""
        self._ledger.note(await self._pttls(keys), self._clock(), told)

    async def _pttls(self, keys: list[str]) -> dict[str, int]:
        """Milliseconds each key has left, or GONE, or NO_EXPIRY."""
        if not keys:
            return {}
        return dict(zip(keys, await self._ask([("PTTL", _raw(key)) for key in keys]), strict=True))

    async def _ask(self, commands: list[Command]) -> list[Any]:
        replies = await self._line.ask(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    # --- telling -------------------------------------------------------------------------------------------------------------

    def _tell(self, told: Told, live: int, took_ms: float) -> None:
        now = self._clock()
        level = logging.INFO if live + len(told.cleaned) <= MANY else logging.DEBUG
        if log.isEnabledFor(level):
            self._tell_each(told, level, now)
        for key in told.leaked:
            log.warning("Cache leaked %s had no expiry; it has %d ms now", _plain(key), self._ttl_ms)
        log.info("Sweep: %d live, %d cleaned, %d leaked, %.1f ms", live, len(told.cleaned), len(told.leaked), took_ms)
        if self._flow:
            self._tell_flow(told, live, now, took_ms)
        self._count(told, live, took_ms)

    def _tell_each(self, told: Told, level: int, now: float) -> None:
        for key, pttl in told.live.items():
            log.log(level, "Cache hit %s remaining=%dms", _plain(key), pttl)
        for key, lag in told.cleaned.items():
            log.log(level, "Cache cleaned %s deadline=%s lag=%.0fms", _plain(key), _clock_time(now - lag / 1000), lag)
        for key in told.lost:
            log.log(level, "Cache lost %s before its deadline (deleted or evicted by someone)", _plain(key))

    def _tell_flow(self, told: Told, live: int, now: float, took_ms: float) -> None:
        for key, lag in told.cleaned.items():
            message_id = _plain(key).rpartition(":")[2]
            about: dict[str, Any] = {"key": _plain(key), "messageId": message_id}
            self._flow.publish(message_id, "cache", "expired", deadline=round(now * 1000 - lag, 3), **about)
            self._flow.publish(message_id, "cache", "cleaned", lagMs=round(lag, 3), **about)
        counts = {"live": live, "cleaned": len(told.cleaned), "leaked": len(told.leaked)}
        self._flow.publish(secrets.token_hex(6), "worker", "sweep", took_ms, **counts)

    def _count(self, told: Told, live: int, took_ms: float) -> None:
        metrics.SWEEPS.inc()
        metrics.SWEEP_SECONDS.observe(took_ms / 1000)
        metrics.SWEPT.inc(live)
        metrics.CLEANED.inc(len(told.cleaned))
        metrics.LEAKED.inc(len(told.leaked))
        for lag in told.cleaned.values():
            metrics.CLEAN_LAG_SECONDS.observe(lag / 1000)


def _raw(key: str) -> bytes:
    """The key as Redis has it: names are bytes, not all of them text."""
    return key.encode("utf-8", "surrogateescape")


def _plain(key: str) -> str:
    """The key on one line, whatever somebody has put into its name."""
    return key if key.isprintable() else ascii(key)[1:-1]


def _clock_time(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(moment)) + f".{int(moment * 1000) % 1000:03d}Z"
