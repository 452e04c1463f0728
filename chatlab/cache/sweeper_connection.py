"""The connection of the sweeper, which also tells the time of Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from redis.asyncio import Redis

from chatlab.cache.clock_steps import ClockSteps
from chatlab.connections.pipeline import is_redirection
from chatlab.connections.refusals import is_refusal, note_refusal
from chatlab.connections.resp import Command, RedisConnection, is_error

KEYS_PER_ROUND_TRIP = 500  # few enough that requests of other clients hardly wait
PAUSE_S = 0.002  # between two round trips if there are many keys: 100,000 keys take half a second
# Give a key this TTL in ms if it has none, or a longer one. Redis 6.2 lacks PEXPIRE with NX and LT.
LIMIT_TTL = """
local left, ttl = redis.call('PTTL', KEYS[1]), tonumber(ARGV[1])
if left == -1 or left > ttl then redis.call('PEXPIRE', KEYS[1], ttl) end
"""


class SweeperConnection:
    """Asks Redis about keys, with a time limit for each reply.

    Deadlines are times of the clock of Redis, which decides when a key expires. `has_stepped_back`
    is set when that clock steps back, and `was_redirected` when a key has moved to another node of
    a cluster. The caller resets them.
    """

    def __init__(self, redis: Redis, timeout_s: float) -> None:
        self._connection, self._timeout_s = RedisConnection(redis), timeout_s
        self._steps, self._offset_s = ClockSteps(), 0.0  # Redis time minus the monotonic clock
        self.has_stepped_back = self.was_redirected = False

    @property
    def has_answered(self) -> bool:
        """Return whether the time of Redis is known."""
        return self._offset_s != 0.0

    def now_s(self) -> float:
        """Return Redis time in seconds: that of the last reply, and the time since then."""
        return time.monotonic() + self._offset_s

    async def execute(self, *commands: Command, may_move: bool = False) -> list[Any]:
        """Return the replies. Raises the first error among them.

        With `may_move`, the reply is None for a key that is on another node of the cluster.
        """
        if not self._connection.is_open:
            await self._connection.open()
        replies = await self._connection.execute(commands, self._timeout_s)
        for place, (command, reply) in enumerate(zip(commands, replies, strict=True)):
            if may_move and is_redirection(reply):
                self.was_redirected, replies[place] = True, None
            elif isinstance(reply, Exception):
                if is_refusal(reply):
                    note_refusal(command[0], reply)
                if is_error(reply, "READONLY"):  # no primary any more; the next one is elsewhere
                    await self._connection.close()
                raise reply
        return replies

    async def ask(self, *commands: Command, may_move: bool = False) -> list[Any]:
        """Return the replies, and learn the time at which Redis has sent them."""
        sent_s = time.monotonic()
        (seconds, microseconds), *replies = await self.execute(
            ("TIME",), *commands, may_move=may_move
        )
        received_s, redis_us = time.monotonic(), int(seconds) * 1_000_000 + int(microseconds)
        self._offset_s = redis_us / 1_000_000 - received_s
        if self._steps.observe(int(sent_s * 1_000_000), redis_us, int(received_s * 1_000_000)):
            self.has_stepped_back = True
        return replies

    async def pttls(self, keys: Sequence[str]) -> dict[str, int]:
        """Return the reply of PTTL for each key that this node has."""
        commands = (("PTTL", _as_bytes(key)) for key in keys)
        replies = await self.ask(*commands, may_move=True)
        return {key: pttl for key, pttl in zip(keys, replies, strict=True) if pttl is not None}

    async def limit_ttl(self, key: str, ttl_ms: int) -> None:
        """Give a key this TTL if it has none, or a longer one."""
        await self.execute(("EVAL", LIMIT_TTL, 1, _as_bytes(key), ttl_ms), may_move=True)

    async def scan(self, pattern: str, *, with_pauses: bool) -> AsyncIterator[list[str]]:
        """Yield all keys that match, one SCAN reply at a time.

        KEYS would block Redis until it has found all.
        """
        cursor = b"0"
        while True:
            command = ("SCAN", cursor, "MATCH", pattern, "COUNT", KEYS_PER_ROUND_TRIP)
            ((cursor, names),) = await self.execute(command)
            yield [name.decode("utf-8", "surrogateescape") for name in names]
            if cursor == b"0":
                return
            if with_pauses:
                await asyncio.sleep(PAUSE_S)

    async def close(self) -> None:
        """Close the connection. The next command makes a new one."""
        await self._connection.close()


def _as_bytes(key: str) -> bytes:
    """Return the name of the key as Redis has it. Names are bytes, and need not be valid UTF-8."""
    return key.encode("utf-8", "surrogateescape")
