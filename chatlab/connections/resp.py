"""The Redis protocol (RESP) on one connection: write some commands, read their replies.

redis-py makes the connection, with address, password and TLS. After that, hiredis packs the
commands and parses the replies directly. This saves 11 us of the 56 us that a cached read took
with redis-py's own path for each command and reply.
"""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

TRANSACTION = "MULTI"  # the first element of a command that is a transaction
INCOMPLETE = object()  # what the parser returns while a reply has not arrived completely

Command = tuple[Any, ...]


def transaction(*commands: Command) -> Command:
    """Return commands that Redis runs as one step. Their reply is the list of their replies."""
    return (TRANSACTION, *commands)


def is_error(reply: Any, code: str) -> bool:
    """Return whether a reply is an error with this code, such as `NOSCRIPT`."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(code)


class RedisConnection:
    """One connection. Its owner opens it.

    The timeouts of `redis` limit the time for making it.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._protocol: _RespProtocol | None = None
        # Replies have no ids, so one caller's commands are sent when another one has its replies.
        self._turn = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Return whether the connection has been made and not been lost."""
        return self._protocol is not None and not self._protocol.is_lost

    async def execute(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """Send all these commands in one write, and return the reply to each.

        An error reply is returned, not raised. Raises TimeoutError when no reply has arrived for
        `timeout_s`, and OSError when the connection is not open or fails.
        """
        async with self._turn:
            if self._protocol is None or self._protocol.is_lost:
                raise ConnectionError("the connection to Redis is closed")
            try:
                return await self._protocol.execute(commands, timeout_s)
            except BaseException:
                # The replies may still arrive. The next command must not read them as its own.
                await self.close()
                raise

    async def open(self) -> None:
        """Make the connection. Raises what redis-py raises."""
        await self.close()
        # redis-py has no types here.
        connection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()
            _check_cancelled()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._protocol = _RespProtocol(connection)

    async def close(self) -> None:
        """Close the connection. A caller that waits for replies gets ConnectionError."""
        protocol, self._protocol = self._protocol, None
        if protocol:
            await protocol.close()


def _check_cancelled() -> None:
    """Raise CancelledError if `wait_for` in redis-py has swallowed it, as in Python 3.11."""
    if (task := asyncio.current_task()) and task.cancelling():
        raise asyncio.CancelledError


class _RespProtocol(asyncio.Protocol):
    """The asyncio protocol of a connection that redis-py has made and authenticated."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        # redis-py has no public way to its stream, so pyproject.toml limits its version.
        # test_redis_py_gives_us_its_stream fails if the attribute changes.
        assert connection._writer  # noqa: SLF001
        self._transport = connection._writer.transport  # noqa: SLF001
        self._transport.set_protocol(self)
        self._parser = hiredis.Reader(notEnoughData=INCOMPLETE)
        self._replies: list[Any] = []
        self._expected = 0
        self._all_replies: asyncio.Future[list[Any]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.is_lost = False

    async def execute(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """Write the commands, and return the reply to each."""
        loop = asyncio.get_running_loop()
        self._expected = sum(
            len(command) + 1 if command[0] is TRANSACTION else 1 for command in commands
        )
        self._all_replies = loop.create_future()
        self._timer = loop.call_later(timeout_s, self._check_progress, timeout_s, 0)
        self._transport.write(b"".join(map(hiredis.pack_command, _flatten(commands))))
        return list(_pick_replies(commands, iter(await self._all_replies)))

    def data_received(self, data: bytes) -> None:
        """Parse the replies, of which the last may be incomplete."""
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not INCOMPLETE:
                self._replies.append(reply)
        except hiredis.HiredisError as error:
            self._fail(error)
            return
        if len(self._replies) > self._expected:
            self._fail(ValueError("Redis sent more replies than there were commands"))
        elif self._all_replies and len(self._replies) == self._expected:
            if waiting := self._finish():
                waiting.set_result(self._replies)
            self._replies, self._expected = [], 0

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the connection, whichever side has closed it."""
        self._fail(exc or ConnectionError("Redis closed the connection"))

    def _check_progress(self, timeout_s: float, seen: int) -> None:
        """Fail when no reply has arrived since the last check.

        A large reply takes its time and is no outage, so each new reply restarts the timer.
        """
        count = len(self._replies)
        if count > seen:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(timeout_s, self._check_progress, timeout_s, count)
        else:
            self._fail(TimeoutError(f"no reply for {timeout_s:g} s"))

    def _fail(self, error: Exception) -> None:
        self.is_lost = True
        if waiting := self._finish():
            waiting.set_exception(error)
        self._transport.abort()

    def _finish(self) -> "asyncio.Future[list[Any]] | None":
        """Stop the timer, and return the future of the caller.

        Returns None if none waits: a caller that was cancelled closes the connection in a moment.
        """
        if self._timer:
            self._timer.cancel()
        replies, self._all_replies = self._all_replies, None
        return replies if replies and not replies.done() else None

    async def close(self) -> None:
        """Close the connection. Nothing is written or read after this."""
        self._fail(ConnectionError("chatlab closed the connection"))
        await self._connection.disconnect(nowait=True)


def _flatten(commands: Sequence[Command]) -> Iterator[Command]:
    """Yield the commands as they are written: each transaction between MULTI and EXEC."""
    for command in commands:
        if command[0] is TRANSACTION:
            yield ("MULTI",)
            yield from command[1:]
            yield ("EXEC",)
        else:
            yield command


def _pick_replies(commands: Sequence[Command], replies: Iterator[Any]) -> Iterator[Any]:
    """Yield the reply to each command.

    The reply to a transaction is the one to EXEC. Before it come OK, and QUEUED for each command.
    If Redis has refused one of the commands, EXEC fails, and the reply is the first error.
    """
    for command in commands:
        if command[0] is TRANSACTION:
            *before, executed = itertools.islice(replies, len(command) + 1)
            yield executed if type(executed) is list else _first_error(before) or executed
        else:
            yield next(replies)


def _first_error(replies: list[Any]) -> Any:
    return next((reply for reply in replies if isinstance(reply, hiredis.ReplyError)), None)
