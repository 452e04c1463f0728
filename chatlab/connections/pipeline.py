"""Auto-pipelining: the Redis commands of many requests share one round trip."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio import Redis

from chatlab.connections.resp import TRANSACTION, Command, RedisConnection, is_error, transaction
from chatlab.metrics import CACHE_SECONDS
from chatlab.protect.batcher import Batcher, Callers, Waiting
from chatlab.protect.breaker import CircuitBreaker

MAX_PIPELINE_COMMANDS = 500


class AutoPipeline:
    """Collects the commands that arrive while a pipeline is in flight, and sends them in the next.

    Commands are sent in the order in which they were given. No method raises because of Redis: a
    command that was not answered has the reply None, and the failure opens the breaker.
    """

    def __init__(self, redis: Redis, breaker: CircuitBreaker) -> None:
        self._connection, self._breaker = RedisConnection(redis), breaker
        self._scripts: dict[str, str] = {}  # source of each Lua script, by SHA-1 digest
        self._waiting: list[Waiting[Command, Any]] = []
        self._coalesced: dict[Command, Callers[Any]] = {}  # those of `_waiting` that may be shared
        self._batcher = Batcher(self._take_batch, self._send)

    def register_script(self, digest: str, source: str) -> None:
        """Remember a script, to send it again if Redis has forgotten it."""
        self._scripts[digest] = source

    def execute(self, *command: Any) -> asyncio.Future[Any]:
        """Return a future for the reply to a command."""
        if self._breaker.is_open:
            return no_reply()
        callers: Callers[Any] = []
        self._waiting.append((command, callers))
        return self._batcher.join(callers)

    def execute_coalesced(self, *command: Any) -> asyncio.Future[Any]:
        """Return a future for the reply to a command that changes nothing.

        Identical commands that wait for the same pipeline are sent once and share the reply. It is
        as new as any of the callers may expect, because Redis answers after all of them have asked.
        """
        if self._breaker.is_open:
            return no_reply()
        callers = self._coalesced.get(command)
        if callers is None:
            callers = self._coalesced[command] = []
            self._waiting.append((command, callers))
        return self._batcher.join(callers)

    def _take_batch(self) -> list[Waiting[Command, Any]]:
        batch = self._waiting[:MAX_PIPELINE_COMMANDS]
        del self._waiting[:MAX_PIPELINE_COMMANDS]
        self._coalesced.clear()
        return batch

    async def _send(self, batch: list[Waiting[Command, Any]]) -> Sequence[Any]:
        if self._breaker.is_open:
            return [None] * len(batch)
        commands = [command for command, _ in batch]
        try:
            started = time.perf_counter()
            replies = await self._send_with_scripts(commands)
            CACHE_SECONDS.observe(time.perf_counter() - started)
            return list(map(self._check, commands, replies))
        except Exception as error:  # noqa: BLE001 - every failure is an outage to the caller
            self._breaker.trip(error)
            return [None] * len(batch)

    async def _send_with_scripts(self, commands: list[Command]) -> list[Any]:
        """Return the reply to each command.

        If Redis has forgotten a script (SCRIPT FLUSH), its command is repeated at once with the
        source of the script, so that no write is lost.
        """
        replies = await self._connection.execute(commands)
        forgotten = [place for place, reply in enumerate(replies) if _lacks_script(reply)]
        if forgotten:
            repeated = [self._with_source(commands[place]) for place in forgotten]
            again = await self._connection.execute(repeated)
            for place, reply in zip(forgotten, again, strict=True):
                replies[place] = reply
        return replies

    def _with_source(self, command: Command) -> Command:
        """Return the command with the source of the script instead of its digest."""
        if command[0] is TRANSACTION:
            return transaction(*map(self._with_source, command[1:]))
        if command[0] == "EVALSHA":
            return ("EVAL", self._scripts[command[1]], *command[2:])
        return command

    def _check(self, command: Command, reply: Any) -> Any:
        """Return the reply, or None for an error reply.

        An error reply (Redis is full or read-only) means that a write did not happen, so it opens
        the breaker. WRONGTYPE does not: another program has stored a value under the key.
        """
        if command[0] is TRANSACTION and type(reply) is list:
            return [self._check(*pair) for pair in zip(command[1:], reply, strict=False)]
        if not isinstance(reply, hiredis.ReplyError):
            return reply
        if not is_error(reply, "WRONGTYPE"):
            self._breaker.trip(reply)
        return None

    async def disconnect(self) -> None:
        """Close the connection, so that no new command can get a late reply as its own."""
        await self._connection.close()

    async def drain(self) -> None:
        """Wait until every command has its reply. Cancelling the caller does not stop them."""
        await self._batcher.drain()


def _lacks_script(reply: Any) -> bool:
    """Return whether Redis does not know the script of a command, or the first of a transaction."""
    return is_error(reply[0] if type(reply) is list and reply else reply, "NOSCRIPT")


def no_reply() -> asyncio.Future[Any]:
    """Return the future of a command that is not sent. Its reply is None."""
    reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    reply.set_result(None)
    return reply
