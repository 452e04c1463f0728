"""Auto-pipelining: the Redis commands of many requests share one round trip."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio import Redis

from chatlab.connections.resp import TRANSACTION, Command, RedisConnection, is_error, transaction
from chatlab.metrics import CACHE_SECONDS
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
        self._waiting: list[tuple[Command, list[asyncio.Future[Any]]]] = []
        # Who waits for each command of `_waiting` that may be shared.
        self._coalesced: dict[Command, list[asyncio.Future[Any]]] = {}
        self._running: asyncio.Task[None] | None = None

    def register_script(self, digest: str, source: str) -> None:
        """Remember a script, to send it again if Redis has forgotten it."""
        self._scripts[digest] = source

    def execute(self, *command: Any) -> "asyncio.Future[Any]":
        """Return a future for the reply to a command."""
        reply = self._create_future()
        if self._breaker.is_open:
            reply.set_result(None)
        else:
            self._enqueue(command, [reply])
        return reply

    def execute_coalesced(self, *command: Any) -> "asyncio.Future[Any]":
        """Return a future for the reply to a command that changes nothing.

        Identical commands that wait for the same pipeline are sent once and share the reply. It is
        as new as any of the callers may expect, because Redis answers after all of them have asked.
        """
        reply = self._create_future()
        if self._breaker.is_open:
            reply.set_result(None)
        elif command in self._coalesced:
            self._coalesced[command].append(reply)
        else:
            self._enqueue(command, self._coalesced.setdefault(command, [reply]))
        return reply

    def _create_future(self) -> "asyncio.Future[Any]":
        return asyncio.get_running_loop().create_future()

    def _enqueue(self, command: Command, replies: list["asyncio.Future[Any]"]) -> None:
        self._waiting.append((command, replies))
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._waiting:
            batch = self._waiting[:MAX_PIPELINE_COMMANDS]
            self._waiting = self._waiting[MAX_PIPELINE_COMMANDS:]
            self._coalesced.clear()
            replies = await self._send([command for command, _ in batch])
            for (_, waiting), reply in zip(batch, replies, strict=True):
                for future in waiting:
                    if not future.done():
                        future.set_result(reply)

    async def _send(self, commands: list[Command]) -> Sequence[Any]:
        if self._breaker.is_open:
            return [None] * len(commands)
        try:
            started = time.perf_counter()
            replies = await self._send_with_scripts(commands)
            CACHE_SECONDS.observe(time.perf_counter() - started)
            return [self._check(*pair) for pair in zip(commands, replies, strict=True)]
        except Exception as error:  # noqa: BLE001 - every failure is an outage to the caller
            self._breaker.trip(error)
            return [None] * len(commands)

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
        if self._running:
            await asyncio.wait((self._running,))


def _lacks_script(reply: Any) -> bool:
    """Return whether Redis does not know the script of a command, or the first of a transaction."""
    return is_error(reply[0] if type(reply) is list and reply else reply, "NOSCRIPT")
