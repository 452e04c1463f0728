"""Box "Emit via Socket.io": events to the sockets of a user, here and in other processes, and who is online.

Events are hints, MongoDB is the truth: none is kept, none is repeated, and a send succeeds when the hub is down.
Processes tell each other over Redis pub/sub, on one channel a user, so that each hears only of the users whose sockets it has.
Who is online is gossip: each process says every second whom it has; one that falls silent (a crash) is forgotten after SILENCE.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
import socketio
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from chatlab.connections.driver_calls import DriverCalls
from chatlab.connections.pipeline import Pipe
from chatlab.domain.ids import UserId

log = logging.getLogger(__name__)

BEAT = 1.0  # seconds between two tellings of who is here
SUBSCRIBED_WITHIN = 1.0  # seconds for a connection or a reply: no request waits for the subscriptions
REMEMBERED = 60.0  # seconds for which another process counts for the cache's clock: its word may have been lost with Redis
SILENCE = 3.0  # seconds after which a process that says nothing is taken for dead
CALM = 0.1  # seconds that changes of who is online are gathered


class _Json:
    """What Socket.IO packets are written and read with: strict, fast, and able to carry bytes that are JSON already."""

    @staticmethod
    def dumps(value: object, **_: object) -> str:
        return msgspec.json.encode(value).decode()

    @staticmethod
    def loads(text: str) -> Any:
        try:
            return msgspec.json.decode(text)
        except RecursionError:
            raise ValueError("nested too deeply") from None


class TextPacket(socketio.packet.Packet):  # type: ignore[misc]  # the library has no types
    """A packet without binary attachments: chatlab has none, and waiting for them would let a client fill the memory."""

    uses_binary_events = False
    json = _Json

    def decode(self, encoded_packet: str) -> int:
        if encoded_packet[:1] in ("5", "6"):
            raise ValueError("binary events are not accepted")
        attachments = super().decode(encoded_packet) or 0
        if self.packet_type == socketio.packet.EVENT and self.data[0] in ("connect", "disconnect"):
            self.data[0] = "reserved"  # the library would take a client's event of such a name for its own
        return attachments


class Hub:
    """`sockets` is the Socket.IO server of this process; `pipe` and `redis` reach the other processes."""

    def __init__(self, sockets: socketio.AsyncServer, pipe: Pipe, redis: Redis, prefix: str) -> None:
        self._sockets, self._pipe, self._redis = sockets, pipe, redis
        self._presence, self._user_channel = f"{prefix}presence", f"{prefix}user:"
        self._process = secrets.token_hex(6)
        self._here: Counter[UserId] = Counter()  # sockets of each user in this process
        self._peers: dict[str, tuple[float, frozenset[UserId]]] = {}  # process -> when heard, whom it has
        self._met_at = float("-inf")  # when another process was last heard
        self._told: list[UserId] = []
        self._changed = asyncio.Event()
        self._pubsub: PubSub | None = None
        self._calls = DriverCalls(SUBSCRIBED_WITHIN)
        self._listening = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._following: set[asyncio.Task[None]] = set()

    # --- life ----------------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Hear the other processes, before anybody can connect; without Redis, as soon as it is there."""
        self._tasks = [asyncio.create_task(work()) for work in (self._beat, self._listen, self._tell_changes)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEAT / 2):
                await self._listening.wait()

    async def close(self) -> None:
        """Say goodbye, so that the users of this process are gone at once for the others."""
        self._here.clear()
        self._say_who_is_here()
        await self._pipe.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()

    # --- events --------------------------------------------------------------------------------------------------------------

    async def emit(self, event: str, payload: bytes, users: Iterable[UserId]) -> None:
        """To every socket of these users. `payload` is JSON already."""
        for user in users:
            if user in self._here:
                await self._sockets.emit(event, msgspec.Raw(payload), room=user)
            if self._peers:
                envelope = msgspec.json.encode([self._process, event, msgspec.Raw(payload)])
                self._pipe.ask("PUBLISH", self._user_channel + user, envelope)  # not waited for: a hint

    # --- who is online -------------------------------------------------------------------------------------------------------

    def has_peers(self) -> bool:
        """True when another process has been heard within REMEMBERED seconds.

        This is longer than SILENCE: while Redis is away no process hears another, and the cache must notice the next outage quickly too.
        """
        return time.monotonic() - self._met_at < REMEMBERED

    def online(self) -> list[UserId]:
        """All users with a socket anywhere, sorted."""
        everywhere = set(self._here).union(*(users for _, users in self._peers.values()))
        return sorted(everywhere)

    async def joined(self, user: UserId) -> None:
        """One more socket of this user is here. What other processes emit from now on is heard."""
        self._here[user] += 1
        if self._here[user] == 1:
            await self._follow(user)
            self._changed_here()

    def left(self, user: UserId) -> None:
        """One socket less; the user is gone with the last one."""
        self._here[user] -= 1
        if self._here[user] <= 0:
            del self._here[user]
            self._changed_here()
            task = asyncio.get_running_loop().create_task(self._follow(user))
            self._following.add(task)
            task.add_done_callback(self._following.discard)

    def _changed_here(self) -> None:
        self._changed.set()
        self._say_who_is_here()

    async def _follow(self, user: UserId) -> None:
        """Hear the user's channel exactly while the user is here."""
        if self._pubsub:
            work = self._pubsub.subscribe if user in self._here else self._pubsub.unsubscribe
            with contextlib.suppress(Exception):  # the listener notices, and subscribes to all again
                await self._calls.run(work(self._user_channel + user))

    def _say_who_is_here(self, *, hello: bool = False) -> None:
        self._pipe.ask("PUBLISH", self._presence, msgspec.json.encode([self._process, sorted(self._here), hello]))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            self._say_who_is_here()
            silent = [process for process, (heard, _) in self._peers.items() if time.monotonic() - heard > SILENCE]
            for process in silent:
                del self._peers[process]
            if silent:
                self._changed.set()

    async def _tell_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if (online := self.online()) != self._told:
                self._told = online
                await self._sockets.emit("onlineUsers", online)
            await asyncio.sleep(CALM)

    # --- the other processes -------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Hear the others; after any failure, or when not even our own beat is heard, begin again."""
        while True:
            try:
                await self._hear()
            except Exception as error:  # noqa: BLE001 - Redis is away or talks nonsense
                log.debug("listening again after %s", type(error).__name__)
            await asyncio.sleep(BEAT / 2)

    async def _hear(self) -> None:
        async with self._redis.pubsub() as pubsub:
            self._pubsub = pubsub
            try:
                await pubsub.subscribe(self._presence, *(self._user_channel + user for user in self._here))
                self._say_who_is_here(hello=True)
                self._listening.set()
                heard = time.monotonic()
                while time.monotonic() - heard < SILENCE:
                    message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=BEAT)
                    if message:
                        heard = time.monotonic()
                        await self._heard(message["channel"].decode(), message["data"])
            finally:
                self._pubsub = None

    async def _heard(self, channel: str, data: bytes) -> None:
        process, *rest = msgspec.json.decode(data, type=tuple[str, Any, Any] if channel == self._presence else tuple[str, str, msgspec.Raw])
        if process == self._process:
            return
        if channel == self._presence:
            self._meet(process, rest[0])
            if rest[1]:  # a newcomer: let it know us now
                self._say_who_is_here()
        else:
            await self._sockets.emit(rest[0], rest[1], room=channel.removeprefix(self._user_channel))

    def _meet(self, process: str, users: list[UserId]) -> None:
        before = self._peers.get(process, (0.0, frozenset()))[1]
        self._met_at = time.monotonic()
        self._peers[process] = (self._met_at, frozenset(users))
        if before != self._peers[process][1]:
            self._changed.set()
