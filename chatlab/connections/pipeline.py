"""Auto-pipelining: the Redis commands of many requests share one round trip."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import hiredis
import redis
from redis.asyncio import Redis

from chatlab.connections.refusals import is_refusal, note_refusal
from chatlab.connections.resp import TRANSACTION, Command, RedisConnection, is_error, transaction
from chatlab.metrics import CACHE_SECONDS, OWN_LOAD_TIMEOUTS
from chatlab.protect.batcher import Batcher, Callers, Waiting
from chatlab.protect.breaker import CircuitBreaker
from chatlab.protect.loop_lag import LoopLag

MAX_PIPELINE_COMMANDS = 500
SCRIPTS = ("EVALSHA", TRANSACTION)  # commands without which there is no cache
# What a node of a cluster answers when another one has the key, or is about to have it.
REDIRECTIONS = ("MOVED", "ASK", "TRYAGAIN")

Follow = Callable[[Command, float], Awaitable[Any]]


class Pipeline(Protocol):
    """Sends commands to Redis: to one server, or to the node of a cluster that has the key.

    `publish_command` is the command that publishes to the channel of a user.
    """

    publish_command: str

    @property
    def is_usable(self) -> bool:
        """Return whether Redis is asked at all."""

    def execute(self, *command: Any) -> asyncio.Future[Any]:
        """Return a future for the reply to a command. It is None if there is no reply."""

    async def drain(self) -> None:
        """Wait until every command has its reply."""


class AutoPipeline:
    """Collects the commands that arrive while a pipeline is in flight, and sends them in the next.

    Commands are sent in the order in which they were given. No method raises because of Redis: a
    command that was not answered has the reply None, and the failure opens the breaker. Two
    failures do not open it: a timeout while the event loop was late, and a command that Redis
    refuses to this user.

    `timeout_s` limits the time without any reply. On a new connection another Redis may answer, so
    `on_connection` runs before any command. `follow` returns the reply to a command that a node of
    a cluster has redirected, or None. It gets the command, and the seconds that are left for it.
    """

    publish_command = "PUBLISH"

    def __init__(
        self,
        redis: Redis,
        breaker: CircuitBreaker,
        lag: LoopLag,
        *,
        timeout_s: float,
        on_connection: Callable[[], Awaitable[object]],
        follow: Follow | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self._redis, self._breaker, self._lag = redis, breaker, lag
        self._on_connection, self._follow = on_connection, follow
        self._connection = RedisConnection(redis)
        self._evalsha_is_refused = False
        self._scripts: dict[str, str] = {}  # source of each Lua script, by SHA-1 digest
        self._waiting: list[Waiting[Command, Any]] = []
        self._coalesced: dict[Command, Callers[Any]] = {}  # those of `_waiting` that may be shared
        self._batcher = Batcher(self._take_batch, self._send)

    @property
    def is_usable(self) -> bool:
        """Return whether Redis is asked at all: the breaker is closed."""
        return not self._breaker.is_open

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
        started, lag_before_s = time.perf_counter(), self._lag.sum_s
        try:
            if not self._connection.is_open:
                await self._connect()
            replies = await self._send_with_scripts(self._connection, commands, self.timeout_s)
            CACHE_SECONDS.observe(time.perf_counter() - started)
            if self._follow:
                left_s = self.timeout_s - (time.perf_counter() - started)
                await self._follow_redirections(self._follow, commands, replies, left_s)
            return list(map(self._check, commands, replies))
        except Exception as error:  # noqa: BLE001 - every failure is an outage to the caller
            self._judge(error, lag_before_s)
            return [None] * len(batch)

    async def _follow_redirections(
        self, follow: Follow, commands: list[Command], replies: list[Any], left_s: float
    ) -> None:
        places = [place for place, reply in enumerate(replies) if is_redirection(reply)]
        found = (follow(commands[place], left_s) for place in places)
        for place, reply in zip(places, await asyncio.gather(*found), strict=True):
            replies[place] = reply

    async def _connect(self) -> None:
        async with asyncio.timeout(self.timeout_s):
            await self._connection.open()
            await self._on_connection()

    def _judge(self, error: Exception, lag_before_s: float) -> None:
        """Open the breaker, unless it may be our own fault that no reply arrived in time."""
        is_timeout = isinstance(error, TimeoutError | redis.TimeoutError)
        if is_timeout and self._lag.was_late(lag_before_s, self.timeout_s):
            OWN_LOAD_TIMEOUTS["redis"].inc()
        else:
            self._breaker.trip(error)

    async def ask_on_new_connection(self, *commands: Command, timeout_s: float) -> list[Any]:
        """Return the reply to each command, and raise the first error reply.

        Other commands use the new connection afterwards, so that none gets a late reply to an
        earlier one as its own. The owner of the breaker calls this while it is open.

        Redis gets the scripts before the commands, so that the first request with one needs no
        second round trip. It may refuse them: a script is sent with its source when it is missing.
        """
        await self._connection.close()
        scripts = [("SCRIPT", "LOAD", source) for source in self._scripts.values()]
        connection = RedisConnection(self._redis)
        try:
            await connection.open()
            replies = await self._send_with_scripts(connection, [*scripts, *commands], timeout_s)
            del replies[: len(scripts)]
            _raise_first_error(commands, replies)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        return replies

    async def ask_at_once(self, command: Command, *, timeout_s: float) -> Any:
        """Return the reply to a command, which waits for no other one. Raises an error reply.

        For `on_connection`, and for the owner of the breaker after `ask_on_new_connection`.
        """
        replies = await self._connection.execute([command], timeout_s)
        _raise_first_error([command], replies)
        return replies[0]

    async def _send_with_scripts(
        self, connection: RedisConnection, commands: list[Command], timeout_s: float
    ) -> list[Any]:
        """Return the reply to each command.

        If Redis has forgotten a script (SCRIPT FLUSH), its command is repeated at once with the
        source of the script, so that no write is lost. If Redis refuses EVALSHA, EVAL is used from
        then on.
        """
        if self._evalsha_is_refused:
            commands = list(map(self._with_source, commands))
        replies = await connection.execute(commands, timeout_s)
        lacking = [
            place
            for place, reply in enumerate(replies)
            if _lacks_script(reply) and commands[place][0] in SCRIPTS
        ]
        if lacking:
            repeated = [self._with_source(commands[place]) for place in lacking]
            again = await connection.execute(repeated, timeout_s)
            for place, reply in zip(lacking, again, strict=True):
                self._note_refused_evalsha(refused=replies[place], repeated=reply)
                replies[place] = reply
        return replies

    def _note_refused_evalsha(self, *, refused: Any, repeated: Any) -> None:
        """Use EVAL from now on if Redis refused EVALSHA, but not EVAL."""
        if is_refusal(refused) and not isinstance(repeated, hiredis.ReplyError):
            note_refusal("EVALSHA", refused)
            self._evalsha_is_refused = True

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
        the breaker. WRONGTYPE does not: another program has stored a value under the key. Nor does
        a command that Redis refuses, unless it is a script: without scripts there is no cache.
        """
        if command[0] is TRANSACTION and type(reply) is list:
            return [self._check(*pair) for pair in zip(command[1:], reply, strict=False)]
        if not isinstance(reply, hiredis.ReplyError):
            return reply
        refused = is_refusal(reply)
        if refused:
            note_refusal(command[0], reply)
        if not is_error(reply, "WRONGTYPE") and (command[0] in SCRIPTS or not refused):
            self._breaker.trip(reply)
        return None

    async def disconnect(self) -> None:
        """Close the connection, so that no new command can get a late reply as its own."""
        await self._connection.close()

    async def drain(self) -> None:
        """Wait until every command has its reply. Cancelling the caller does not stop them."""
        await self._batcher.drain()


def _raise_first_error(commands: Sequence[Command], replies: Sequence[Any]) -> None:
    for command, reply in zip(commands, replies, strict=True):
        for one in reply if type(reply) is list else [reply]:
            if isinstance(one, hiredis.ReplyError):
                if is_refusal(one):
                    note_refusal(command[0], one)
                raise one


def is_redirection(reply: Any) -> bool:
    """Return whether another node of the cluster should be asked."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(REDIRECTIONS)


def _lacks_script(reply: Any) -> bool:
    """Return whether Redis does not know the script of a command, or refuses to look it up.

    In a transaction, the script is the first command.
    """
    first = reply[0] if type(reply) is list and reply else reply
    return isinstance(first, hiredis.ReplyError) and (
        is_error(first, "NOSCRIPT") or is_refusal(first)
    )


def no_reply() -> asyncio.Future[Any]:
    """Return the future of a command that is not sent. Its reply is None."""
    reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    reply.set_result(None)
    return reply
