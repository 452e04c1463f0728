"""The way to Redis: one connection, on which the commands of many requests go together in one round trip.

Knows nothing of keys. redis-py makes the connection (address, password, TLS); what passes over it is packed and parsed by hiredis at once,
without the library's way for each command and each reply: 11 us of the 56 that a cached read took.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from chatlab.metrics import CACHE_SECONDS
from chatlab.protect.breaker import CircuitBreaker

PATIENCE = 0.2  # seconds that one pipeline may take; a request meets it once at most, then the breaker is open
LARGEST_PIPELINE = 500  # commands
ANSWER = 0.15  # seconds that one answer may take, and a connection
TOGETHER = "MULTI"  # in front of the commands of one step
UNFINISHED = object()  # what the parser says of a reply that is not whole

Command = tuple[Any, ...]


def connect(url: str, *, answer: float | None = ANSWER, connected: float = ANSWER) -> Redis:
    """Return a client that never tries twice: its user decides when to ask again.

    `answer` and `connected` are the seconds that a reply and a new connection may take.
    """
    return Redis.from_url(
        url, socket_timeout=answer, socket_connect_timeout=connected, retry=Retry(NoBackoff(), 0), health_check_interval=0
    )


def together(*commands: Command) -> Command:
    """Commands that Redis does in one step, as one that is answered by the list of their replies."""
    return (TOGETHER, *commands)


class Line:
    """A connection that is made when it is needed, for somebody who asks one thing after the other."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._wire: _Wire | None = None

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to all these commands, sent in one write; an error reply is one of them. TimeoutError after PATIENCE without any."""
        try:
            if self._wire is None or self._wire.is_lost:
                async with asyncio.timeout(PATIENCE):
                    self._wire = await self._made()
            return await self._wire.ask(commands)
        except BaseException:  # replies may be on their way that nobody will read
            await self.close()
            raise

    async def _made(self) -> "_Wire":
        await self.close()
        connection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # the library's types stop here
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return _Wire(connection)

    async def close(self) -> None:
        """Whoever waits for replies gets none."""
        wire, self._wire = self._wire, None
        if wire:
            await wire.close()


class _Wire(asyncio.Protocol):
    """What comes over a connection that redis-py has made and greeted."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        assert connection._writer  # noqa: SLF001 - redis-py gives its stream to nobody
        self._transport = connection._writer.transport  # noqa: SLF001
        self._transport.set_protocol(self)
        self._reader = hiredis.Reader(notEnoughData=UNFINISHED)
        self._replies: list[Any] = []
        self._expected = 0
        self._whole: asyncio.Future[list[Any]] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self.is_lost = False

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Write, and wait for as many replies as that makes."""
        loop = asyncio.get_running_loop()
        self._expected = sum(len(command) + 1 if command[0] is TOGETHER else 1 for command in commands)
        self._whole = loop.create_future()
        self._watch = loop.call_later(PATIENCE, self._look, 0)
        self._transport.write(b"".join(map(hiredis.pack_command, _spelled(commands))))
        return list(_of_each(commands, iter(await self._whole)))

    def data_received(self, data: bytes) -> None:
        """Some replies, or a part of one."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not UNFINISHED:
                self._replies.append(reply)
        except hiredis.HiredisError as error:
            self._lose(error)
            return
        if len(self._replies) > self._expected:
            self._lose(ValueError("an answer that nobody asked for"))
        elif self._whole and len(self._replies) == self._expected:
            self._end().set_result(self._replies)
            self._replies, self._expected = [], 0

    def connection_lost(self, exc: Exception | None) -> None:
        """Redis has gone, or we have."""
        self._lose(exc or ConnectionError("Redis has closed the connection"))

    def _look(self, had: int) -> None:
        """Each reply is a sign of life: long ones take their time, and are no outage."""
        if len(self._replies) > had:
            self._watch = asyncio.get_running_loop().call_later(PATIENCE, self._look, len(self._replies))
        else:
            self._lose(TimeoutError(f"no answer for {PATIENCE:g} s"))

    def _lose(self, error: Exception) -> None:
        self.is_lost = True
        if self._whole and not self._whole.done():
            self._end().set_exception(error)
        self._transport.abort()

    def _end(self) -> "asyncio.Future[list[Any]]":
        """The question that was under way."""
        assert self._whole
        assert self._watch
        self._watch.cancel()
        whole, self._whole = self._whole, None
        return whole

    async def close(self) -> None:
        """Nothing more is written or read."""
        self._lose(ConnectionError("we have closed the connection"))
        await self._connection.disconnect(nowait=True)


def _spelled(commands: Sequence[Command]) -> Iterator[Command]:
    for command in commands:
        if command[0] is TOGETHER:
            yield ("MULTI",)
            yield from command[1:]
            yield ("EXEC",)
        else:
            yield command


def _of_each(commands: Sequence[Command], replies: Iterator[Any]) -> Iterator[Any]:
    """The reply to each command. Of those together it is the last: before it come OK and, for each of them, QUEUED."""
    for command in commands:
        yield next(itertools.islice(replies, len(command), None) if command[0] is TOGETHER else replies)


def _is_error(reply: Any, code: str) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(code)


class Pipe:
    """Commands that are given while a pipeline is under way go together in the next one: one round trip, in their order."""

    def __init__(self, redis: Redis, breaker: CircuitBreaker) -> None:
        self._line, self._breaker = Line(redis), breaker
        self._waiting: list[tuple[Command, list[asyncio.Future[Any]]]] = []
        self.sources: dict[str, str] = {}  # scripts by their digest
        self._questions: dict[Command, list[asyncio.Future[Any]]] = {}  # who waits for those of them that change nothing
        self._running: asyncio.Task[None] | None = None

    def ask(self, *command: Any) -> "asyncio.Future[Any]":
        """The reply to come; None when Redis does not give one."""
        reply = self._reply()
        if self._breaker.is_open:
            reply.set_result(None)
        else:
            self._give(command, [reply])
        return reply

    def ask_once(self, *command: Any) -> "asyncio.Future[Any]":
        """The same for a command that changes nothing: all who ask before it has left share one reply, as new as any of them may expect."""
        reply = self._reply()
        if self._breaker.is_open:
            reply.set_result(None)
        elif command in self._questions:
            self._questions[command].append(reply)
        else:
            self._give(command, self._questions.setdefault(command, [reply]))
        return reply

    def _reply(self) -> "asyncio.Future[Any]":
        return asyncio.get_running_loop().create_future()

    def _give(self, command: Command, replies: list["asyncio.Future[Any]"]) -> None:
        self._waiting.append((command, replies))
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:LARGEST_PIPELINE], self._waiting[LARGEST_PIPELINE:]
            self._questions.clear()
            replies = await self._replies([command for command, _ in batch])
            for (_, waiting), reply in zip(batch, replies, strict=True):
                for future in waiting:
                    if not future.done():
                        future.set_result(reply)

    async def _replies(self, commands: list[Command]) -> Sequence[Any]:
        if self._breaker.is_open:
            return [None] * len(commands)
        try:
            started = time.perf_counter()
            replies = await self._with_scripts(commands)
            CACHE_SECONDS.observe(time.perf_counter() - started)
            return [self._checked(command, reply) for command, reply in zip(commands, replies, strict=True)]
        except Exception as error:  # noqa: BLE001 - refused, silent, or talking nonsense: all the same to a request
            self._breaker.trip(error)
            return [None] * len(commands)

    async def _with_scripts(self, commands: list[Command]) -> list[Any]:
        """The replies; a script that Redis has forgotten (SCRIPT FLUSH) is told to it again at once, so that no write is missed."""
        replies = await self._line.ask(commands)
        forgotten = [
            place for place, reply in enumerate(replies) if _is_error(reply[0] if type(reply) is list and reply else reply, "NOSCRIPT")
        ]
        if forgotten:
            again = [self._in_full(commands[place]) for place in forgotten]
            for place, reply in zip(forgotten, await self._line.ask(again), strict=True):
                replies[place] = reply
        return replies

    def _in_full(self, command: Command) -> Command:
        """With the script itself in place of its digest."""
        if command[0] is TOGETHER:
            return together(*(self._in_full(one) for one in command[1:]))
        return ("EVAL", self.sources[command[1]], *command[2:]) if command[0] == "EVALSHA" else command

    def _checked(self, command: Command, reply: Any) -> Any:
        """An error reply (full, read-only) is a write that did not happen: an outage like any other."""
        if command[0] is TOGETHER and type(reply) is list:
            return [self._checked(*pair) for pair in zip(command[1:], reply, strict=False)]
        if not isinstance(reply, hiredis.ReplyError):
            return reply
        if not _is_error(reply, "WRONGTYPE"):  # somebody else's value under our key: no outage
            self._breaker.trip(reply)
        return None

    async def hang_up(self) -> None:
        """No reply that is still on its way is taken for one of now."""
        await self._line.close()

    async def drain(self) -> None:
        """Wait until every command has its reply. A caller that gives up leaves the pipeline alone."""
        if self._running:
            await asyncio.wait((self._running,))
