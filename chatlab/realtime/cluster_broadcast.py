"""Events to other processes over a Redis Cluster, with sharded pub/sub.

The channel of a user belongs to a slot, and only the node of that slot passes on what is published
there. So this process listens to each primary. Reports of presence go to all nodes, so each
listener hears at least those of its own process, and a node that is silent is noticed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

import socketio
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from chatlab.connections.cluster import Cluster, NodeName, slot_of
from chatlab.connections.driver_calls import DriverCalls
from chatlab.connections.pipeline import Pipeline
from chatlab.connections.refusals import is_refusal, note_refusal
from chatlab.domain.ids import UserId
from chatlab.domain.message import now, rfc3339
from chatlab.realtime.broadcast import RETRY_INTERVAL_S, SUBSCRIBE_TIMEOUT_S, Broadcast
from chatlab.realtime.presence import REPORT_INTERVAL_S, SILENCE_S, Presence
from chatlab.realtime.resync import MESSAGE_AGE

log = logging.getLogger(__name__)

REFRESH_INTERVAL_S = 30.0  # without a reason to look at the topology


class ClusterBroadcast(Broadcast):
    """Delivers events with one listener for each primary."""

    def __init__(
        self,
        sockets: socketio.AsyncServer,
        pipe: Pipeline,
        cluster: Cluster,
        presence: Presence,
        prefix: str,
        distrust_windows: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(sockets, pipe, cluster, presence, prefix, distrust_windows)
        self.cluster = cluster
        self._listeners: dict[NodeName, NodeListener] = {}
        self._leader: NodeListener | None = None  # it passes on the reports of presence
        self._lost_since: dict[UserId, str] = {}  # users whose events may be lost
        self._has_reason = asyncio.Event()  # to look at the topology

    async def close(self) -> None:
        await super().close()
        await asyncio.gather(*(listener.close() for listener in self._listeners.values()))

    async def _update_subscription(self, user: UserId) -> None:
        """Subscribe to the user's channel if the user is here, and unsubscribe otherwise."""
        name = self._node_of(user)
        if name in self._listeners:
            await self._listeners[name].update(user, is_here=self.presence.is_here(user))

    async def _keep_listening(self) -> None:
        """Start and stop listeners as the primaries and their slots change."""
        await self._joined.wait()
        while True:
            self._has_reason.clear()
            try:
                await self.cluster.refresh()
                await self._follow_topology()
            except Exception as error:  # noqa: BLE001 - no node answers; tried again
                log.debug("no topology: %s", error)
                self._has_reason.set()
            await asyncio.sleep(RETRY_INTERVAL_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_INTERVAL_S):
                    await self._has_reason.wait()

    async def _follow_topology(self) -> None:
        names = self.cluster.primaries()
        for name in self._listeners.keys() - set(names):
            await self._listeners.pop(name).close()
        for listener in self._listeners.values():
            listener.note_moved()
        for name in names:
            if name not in self._listeners:
                self._listeners[name] = NodeListener(self, name)
            await self._listeners[name].update_all()

    # --- what the listeners report ---

    def channel_of(self, user: UserId) -> str:
        """Return the channel of a user."""
        return self._user_channel + user

    def users_at(self, name: NodeName) -> set[UserId]:
        """Return the users with a socket in this process whose channel belongs to this node."""
        users = self.presence.users_here()
        return {user for user in users if self._node_of(user) == name}

    def _node_of(self, user: UserId) -> NodeName | None:
        return self.cluster.owner(slot_of(self.channel_of(user)))

    def note_lost(self, users: set[UserId], seconds_ago: float = 0) -> None:
        """Note that these users have had no events of others for this number of seconds."""
        since = rfc3339(now() - timedelta(seconds=seconds_ago) - MESSAGE_AGE)
        for user in users:
            self._lost_since.setdefault(user, since)
        self._has_reason.set()

    def note_subscribed(self, user: UserId) -> None:
        """Tell the sockets of a user who gets events again to read what was lost."""
        if (since := self._lost_since.pop(user, None)) and self.presence.is_here(user):
            self._tasks.start(self._resync.tell([user], since))

    def note_listening(self, listener: "NodeListener") -> None:
        """Take the reports of presence from this listener, if from no other one."""
        if self._leader is None:
            self._leader = listener
            self.presence.report_new()
            self._subscribed.set()

    def note_silent(self, listener: "NodeListener") -> None:
        """Take the reports of presence from another listener."""
        if self._leader is listener:
            self._leader = None
            for other in self._listeners.values():
                if other.is_listening:
                    self.note_listening(other)

    async def receive_from(self, listener: "NodeListener", channel: str, data: bytes) -> None:
        """Handle a message. Each report of presence arrives from each node."""
        if channel != self.presence.channel or listener is self._leader:
            await self._receive(channel, data)


class NodeListener:
    """Listens to one primary, and starts again after a failure."""

    def __init__(self, broadcast: ClusterBroadcast, name: NodeName) -> None:
        self._broadcast, self._name = broadcast, name
        self._redis = broadcast.cluster.connect(name, SUBSCRIBE_TIMEOUT_S)
        self._calls = DriverCalls(SUBSCRIBE_TIMEOUT_S)
        self._pubsub: PubSub | None = None  # while subscribed
        self._users = set[UserId]()  # to whose channels it has subscribed
        self.is_listening = False
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._redis.aclose()

    async def update(self, user: UserId, *, is_here: bool) -> None:
        """Subscribe to the channel of a user, or unsubscribe."""
        if self._pubsub is None:
            return  # the listener subscribes to all channels when it starts again
        (self._users.add if is_here else self._users.discard)(user)
        command = self._pubsub.ssubscribe if is_here else self._pubsub.sunsubscribe
        # After a failure the listener subscribes to all channels again.
        with contextlib.suppress(Exception):
            await self._calls.run(command(self._broadcast.channel_of(user)))

    def note_moved(self) -> None:
        """Note that the users whose channel has moved to another node may lose events."""
        here = set(self._broadcast.presence.users_here())
        if moved := (self._users & here) - self._broadcast.users_at(self._name):
            self._broadcast.note_lost(moved)

    async def update_all(self) -> None:
        """Subscribe to the channels that this node has now, and to no others."""
        wanted = self._broadcast.users_at(self._name)
        for user in wanted - self._users:
            await self.update(user, is_here=True)
        for user in self._users - wanted:
            await self.update(user, is_here=False)

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - the node is down or sends nonsense
                if is_refusal(error):
                    note_refusal("SSUBSCRIBE", error)
                log.debug("Subscribing again after %s", type(error).__name__)
            await asyncio.sleep(RETRY_INTERVAL_S)

    async def _listen(self) -> None:
        async with self._redis.pubsub() as pubsub:
            received_at = time.monotonic()
            try:
                await pubsub.subscribe(self._broadcast.presence.channel)
                self._pubsub = pubsub
                await self.update_all()
                while time.monotonic() - received_at < SILENCE_S:
                    message = await pubsub.get_message(timeout=REPORT_INTERVAL_S)
                    if message:
                        received_at = time.monotonic()
                        await self._handle(message["type"], message["channel"].decode(), message)
            finally:
                users = self._users | self._broadcast.users_at(self._name)
                self._pubsub, self._users, self.is_listening = None, set(), False
                self._broadcast.note_lost(users, time.monotonic() - received_at)
                self._broadcast.note_silent(self)

    async def _handle(self, kind: str, channel: str, message: dict[str, bytes]) -> None:
        user = UserId(channel.removeprefix(self._broadcast.channel_of(UserId(""))))
        if kind in ("message", "smessage"):
            await self._broadcast.receive_from(self, channel, message["data"])
        elif kind == "subscribe":
            self.is_listening = True
            self._broadcast.note_listening(self)
        elif kind == "ssubscribe":
            self._broadcast.note_subscribed(user)
        elif kind == "sunsubscribe" and user in self._users:  # its slot has moved
            self._users.discard(user)
            self._broadcast.note_lost({user})


def create_broadcast(
    sockets: socketio.AsyncServer,
    pipe: Pipeline,
    redis: Redis | Cluster,
    presence: Presence,
    prefix: str,
    distrust_windows: Callable[[], Awaitable[None]],
) -> Broadcast:
    """Return what delivers events over this server or cluster."""
    if isinstance(redis, Cluster):
        return ClusterBroadcast(sockets, pipe, redis, presence, prefix, distrust_windows)
    return Broadcast(sockets, pipe, redis, presence, prefix, distrust_windows)
