"""Rate limits. `TokenBucket` counts in one process, `SharedLimit` in all processes together.

Both remember a bounded number of keys.
"""

import asyncio
import hashlib
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from chatlab.errors import RateLimited

MAX_KEYS = 100_000  # in the memory of a process
WINDOW_S = 60  # in which a SharedLimit counts

Execute = Callable[..., Awaitable[Any]]  # sends one command to Redis; None if it was not answered


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
        max_keys: int = MAX_KEYS,
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


# Return 0 if another attempt is allowed, otherwise the ms until the next one is. ARGV: the limit,
# the length of the window in ms, and how many attempts to count now, 0 or 1. If the clock of Redis
# has stepped back, the window would be longer.
TAKE = """
local taken = tonumber(redis.call('GET', KEYS[1]) or 0)
if redis.call('PTTL', KEYS[1]) > tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if taken >= tonumber(ARGV[1]) then return math.max(redis.call('PTTL', KEYS[1]), 1) end
if ARGV[3] == '0' then return 0 end
redis.call('INCR', KEYS[1])
if taken == 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""
# DECR alone would create a key without an expiry if the window has ended meanwhile.
GIVE_BACK = """
if tonumber(redis.call('GET', KEYS[1]) or 0) > 1 then return redis.call('DECR', KEYS[1]) end
return redis.call('DEL', KEYS[1])
"""


class SharedLimit:
    """Allows `per_minute` attempts of each subject, such as an address. 0 means no limit.

    The first attempt starts a window of WINDOW_S seconds. Redis counts, so the limit holds across
    processes; while Redis is away, each process counts for itself. The names of the keys contain
    hashes of the subjects. `refusal` is the first sentence of the error. A forgiving limit forgets
    all attempts of a subject that succeeds, not only the last one. `clock` returns seconds.
    """

    def __init__(
        self,
        key: str,
        per_minute: int,
        refusal: str,
        execute: Execute,
        *,
        is_forgiving: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key, self._per_minute, self._refusal = key, per_minute, refusal
        self._execute, self._is_forgiving, self._clock = execute, is_forgiving, clock
        self._here: OrderedDict[str, tuple[int, float]] = OrderedDict()  # key: attempts, end

    async def take(self, subject: str) -> None:
        """Count one attempt. Raises RateLimited with the seconds until the next one is allowed."""
        await self._take(subject, 1)

    async def check(self, subject: str) -> None:
        """Raise RateLimited if `take` would. Counts nothing."""
        await self._take(subject, 0)

    async def _take(self, subject: str, attempts: int) -> None:
        if not self._per_minute:
            return
        key = self._key_of(subject)
        window_ms = WINDOW_S * 1000
        wait_ms = await self._execute("EVAL", TAKE, 1, key, self._per_minute, window_ms, attempts)
        wait_s = wait_ms / 1000 if isinstance(wait_ms, int) else self._take_here(key, attempts)
        if wait_s:
            seconds = max(1, math.ceil(wait_s))
            raise RateLimited(f"{self._refusal} Try again in {seconds} s.", seconds)

    async def give_back(self, subject: str) -> None:
        """Do not count an attempt after all, because it has succeeded."""
        if not self._per_minute:
            return
        key = self._key_of(subject)
        command = ("DEL", key) if self._is_forgiving else ("EVAL", GIVE_BACK, 1, key)
        if await self._execute(*command) is None and key in self._here:
            taken, ends_at = self._here[key]
            self._here[key] = (0 if self._is_forgiving else taken - 1, ends_at)

    def _key_of(self, subject: str) -> str:
        return f"{self._key}:{short_hash(subject)}"

    def _take_here(self, key: str, attempts: int) -> float:
        """Do in this process what the script TAKE does in Redis. Return seconds."""
        now = self._clock()
        taken, ends_at = self._here.pop(key, (0, 0.0))
        if taken <= 0 or ends_at <= now:
            taken, ends_at = 0, now + WINDOW_S
        is_allowed = taken < self._per_minute
        self._here[key] = (taken + attempts if is_allowed else taken, ends_at)
        if len(self._here) > MAX_KEYS:
            self._here.popitem(last=False)
        return 0 if is_allowed else ends_at - now


Attempt = Sequence[tuple[SharedLimit, str]]  # the limits it counts for, each with the subject


async def check_all(attempt: Attempt) -> None:
    """Raise RateLimited if `take_all` would. Counts nothing."""
    await asyncio.gather(*(limit.check(subject) for limit, subject in attempt))


async def take_all(attempt: Attempt) -> None:
    """Count an attempt for each of its limits, or for none if one of them raises RateLimited."""
    for place, (limit, subject) in enumerate(attempt):
        try:
            await limit.take(subject)
        except RateLimited:
            await give_back_all(attempt[:place])
            raise


async def give_back_all(attempt: Attempt) -> None:
    """Do not count an attempt after all, because it has succeeded."""
    await asyncio.gather(*(limit.give_back(subject) for limit, subject in attempt))


def short_hash(text: str) -> str:
    """Return 128 bits of the SHA-256 hash, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def address_group(address: str) -> str:
    """Return what a limit by address counts as one: an IPv4 address, or the /64 of an IPv6 address.

    A client can use every address of its /64, which is the smallest network that providers assign.
    Other texts stay as they are.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped:  # an IPv4 client of a socket that listens on both
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(ip), 64), strict=False))
