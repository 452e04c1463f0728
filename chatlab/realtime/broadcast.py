"""Stage "Emit via Socket.IO": deliver events to the sockets of users, in all processes.

Events are hints; MongoDB has the truth. No event is stored or repeated, and a send succeeds when
Redis, which carries events to other processes, is down; `resync` then tells the sockets to read.
Each user has a pub/sub channel, and a process subscribes only to the channels of users who have a
socket in it.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import socketio
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from chatlab.connections.cluster import Cluster
from chatlab.connections.driver_calls import DriverCalls
from chatlab.connections.pipeline import Pipeline
from chatlab.connections.refusals import is_refusal, note_refusal
from chatlab.domain.ids import UserId
from chatlab.realtime.other_processes import OtherProcesses
from chatlab.realtime.owed_events import OwedEvents
from chatlab.realtime.presence import REPORT_INTERVAL_S, SILENCE_S, Presence, PresenceReport
from chatlab.realtime.resync import NOT_READABLE, Resync
from chatlab.realtime.task_set import TaskSet

log = logging.getLogger(__name__)

SUBSCRIBE_TIMEOUT_S = 1.0  # for a connection or a reply; no request waits for a subscription
RETRY_INTERVAL_S = 0.5  # before this process subscribes again after a failure

NEW_MESSAGE = "newMessage"

Envelope = tuple[str, str, msgspec.Raw]  # process id of the sender, event, payload


class Participants(msgspec.Struct):
    """The part of a message that says whose conversation it belongs to."""

    senderId: UserId  # noqa: N815 - as in JSON
    receiverId: UserId  # noqa: N815


class Broadcast:
    """Delivers events.

    `sockets` is the Socket.IO server of this process; `pipe` publishes, `redis` subscribes.
    `distrust_windows` is that of the cache. `owed` is the context of a save and its event.
    """

    def __init__(
        self,
        sockets: socketio.AsyncServer,
        pipe: Pipeline,
        redis: Redis | Cluster,
        presence: Presence,
        prefix: str,
        distrust_windows: Callable[[], Awaitable[None]],
    ) -> None:
        self.presence, self.owed = presence, OwedEvents()
        self._sockets, self._pipe, self._redis = sockets, pipe, redis
        self._prefix = prefix
        self._user_channel = ""  # until the id of the installation is known
        self._pubsub: PubSub | None = None  # while subscribed
        self._calls = DriverCalls(SUBSCRIBE_TIMEOUT_S)
        self._joined, self._subscribed = asyncio.Event(), asyncio.Event()
        self._others = OtherProcesses()
        self._resync = Resync(sockets, presence, self._others, self._publish, distrust_windows)
        self._tasks = TaskSet()

    def join(self, installation: str) -> None:
        """Exchange events with the other processes of this installation, and with no others.

        Redis passes what is published to all its database numbers, so the channels have the id.
        """
        self._user_channel = f"{self._prefix}{installation}:user:"
        self.presence.join(installation)
        self._joined.set()

    async def open(self) -> None:
        """Subscribe before the first client can connect.

        If a server is down, subscribe as soon as it is back.
        """
        self.presence.open()
        self._tasks.start(self._keep_listening())
        self._tasks.start(self._resync.run())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETRY_INTERVAL_S):
                await self._subscribed.wait()

    async def close(self) -> None:
        await self.presence.close()
        await self._tasks.cancel()
        await self._redis.aclose()

    async def say_goodbye(self, is_complete: Callable[[], bool]) -> None:
        """Tell the other processes that they need not make up for the end of this one.

        Call this when nothing will be emitted any more. If an event may be lost, or `is_complete`
        denies it, say nothing: then they do what they do after a crash.
        """
        await self.owed.wait_until_none()
        await self._pipe.drain()
        if is_complete() and not self._resync.has_unpublished:
            await self.presence.say_goodbye()

    async def emit(self, event: str, payload: bytes, users: Sequence[UserId]) -> None:
        """Deliver an event to every socket of these users. `payload` is JSON already."""
        # Without Redis, this process does not know whether there are others.
        is_alone = self._pipe.is_usable and not self._others.may_run
        for user in users:
            if self.presence.is_here(user):
                await self._sockets.emit(event, msgspec.Raw(payload), room=user)
            if not is_alone:
                published = self._publish(user, event, payload)  # not awaited: events are hints
                if event != NOT_READABLE:
                    published.add_done_callback(functools.partial(self._note_unpublished, user))
        if event == NEW_MESSAGE:
            await self.presence.partners.met(users[0], users[-1])

    def _publish(self, user: UserId, event: str, payload: bytes) -> "asyncio.Future[Any]":
        envelope = msgspec.json.encode([self.presence.process_id, event, msgspec.Raw(payload)])
        return self._pipe.execute(self._pipe.publish_command, self._user_channel + user, envelope)

    def _note_unpublished(self, user: UserId, published: "asyncio.Future[Any]") -> None:
        if published.cancelled() or published.result() is None:
            self._resync.note_unpublished(user)

    async def joined(self, user: UserId) -> None:
        """Register a new socket of this user. Returns once events of other processes reach it."""
        if self.presence.add(user):
            await self._update_subscription(user)

    def left(self, user: UserId) -> None:
        """Remove a socket of this user. With the last socket the user goes offline."""
        if self.presence.remove(user):
            self._tasks.start(self._update_subscription(user))

    async def _update_subscription(self, user: UserId) -> None:
        """Subscribe to the user's channel if the user is here, and unsubscribe otherwise."""
        if self._pubsub:
            is_here = self.presence.is_here(user)
            update = self._pubsub.subscribe if is_here else self._pubsub.unsubscribe
            # After a failure the listener subscribes to all channels again.
            with contextlib.suppress(Exception):
                await self._calls.run(update(self._user_channel + user))

    # --- from other processes ---

    async def _keep_listening(self) -> None:
        """Listen to the other processes.

        Start again after a failure, and when no reports arrive, not even our own.
        """
        await self._joined.wait()
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - Redis is down or sends nonsense
                if is_refusal(error):
                    note_refusal("SUBSCRIBE", error)
                log.debug("Subscribing again after %s", type(error).__name__)
            await asyncio.sleep(RETRY_INTERVAL_S)

    async def _listen(self) -> None:
        assert isinstance(self._redis, Redis)  # `ClusterBroadcast` listens in its own way
        async with self._redis.pubsub() as pubsub:
            # Before a user can subscribe: redis-py would make another connection, and listen there.
            await pubsub.connect()
            self._pubsub, resyncing = pubsub, TaskSet()
            try:
                channels = [self._user_channel + user for user in self.presence.users_here()]
                # Redis confirms in this order, so the presence channel is confirmed last.
                await pubsub.subscribe(*channels, self.presence.channel)
                await self._receive_until_silence(pubsub, resyncing)
            finally:
                self._pubsub = None
                await resyncing.cancel()

    async def _receive_until_silence(self, pubsub: PubSub, resyncing: TaskSet) -> None:
        received_at = time.monotonic()
        try:
            while time.monotonic() - received_at < SILENCE_S:
                message = await pubsub.get_message(timeout=REPORT_INTERVAL_S)
                if message:
                    channel = message["channel"].decode()
                    if channel == self.presence.channel:
                        received_at = time.monotonic()
                    if message["type"] == "message":
                        await self._receive(channel, message["data"])
                    elif message["type"] == "subscribe" and channel == self.presence.channel:
                        self.presence.report_new()
                        self._subscribed.set()
                        resyncing.start(self._resync.end_gap())
        finally:
            self._resync.begin_gap(time.monotonic() - received_at)

    async def _receive(self, channel: str, data: bytes) -> None:
        """Handle a message of any process.

        Our own events are ignored: their work is done already.
        """
        if channel == self.presence.channel:
            report = msgspec.json.decode(data, type=PresenceReport)
            if report.process_id == self.presence.process_id:
                self._receive_own_report(report)
            else:
                note = self._others.note_goodbye if report.is_last else self._others.note_report
                note(report.process_id)
                self.presence.receive_report(report)
        else:
            process_id, event, payload = msgspec.json.decode(data, type=Envelope)
            if process_id != self.presence.process_id:
                await self._sockets.emit(
                    event, payload, room=channel.removeprefix(self._user_channel)
                )
                if event == NEW_MESSAGE:
                    message = msgspec.json.decode(payload, type=Participants)
                    await self.presence.partners.met(message.senderId, message.receiverId)

    def _receive_own_report(self, report: PresenceReport) -> None:
        """Find out which other processes have not reported for a while."""
        silent_s = self._others.note_own_report() if report.is_regular else None
        if silent_s is not None:
            log.info("Another process stopped without a goodbye: our clients get a resync")
            self._tasks.start(self._resync.resync_after_lost_process(silent_s))
