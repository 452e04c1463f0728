"""The event `resync {since}`: events may have been lost since then, so read by seq.

Events between processes are lost in two ways while Redis is away: this process cannot publish its
own, and it does not receive those of others. Either way the sockets of the users are told, as soon
as Redis is back. No message whose event was lost is older than `since`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import msgspec
import socketio

from chatlab.domain.ids import UserId
from chatlab.domain.message import now, rfc3339
from chatlab.realtime.partners import NOTIFIED_AT_ONCE
from chatlab.realtime.presence import REPORT_INTERVAL_S, SILENCE_S, Presence

EVENT = "resync"
NOT_READABLE = "typing"  # a lost event of this name cannot be read later
MESSAGE_AGE = timedelta(seconds=5)  # at most, when its event is sent: a save takes 2 s at most


class Resync:
    """Remembers which events were lost, and tells the sockets when Redis is back.

    `publish` sends an event to the sockets of a user in other processes. Its result is None if that
    failed.
    """

    def __init__(
        self,
        sockets: socketio.AsyncServer,
        presence: Presence,
        publish: Callable[[UserId, str, bytes], Awaitable[object]],
    ) -> None:
        self._sockets, self._presence, self._publish = sockets, presence, publish
        self._unpublished: dict[UserId, str] = {}  # since when
        # Since when events of other processes may be lost. At first this process has no sockets.
        self._gap_since: str | None = rfc3339(now())

    def note_unpublished(self, user: UserId) -> None:
        """Note that an event was not published for the sockets of this user in other processes."""
        self._unpublished.setdefault(user, rfc3339(now() - MESSAGE_AGE))

    def begin_gap(self, seconds_ago: float) -> None:
        """Note that this process has received no events of others for this number of seconds."""
        began = now() - timedelta(seconds=seconds_ago) - MESSAGE_AGE
        self._gap_since = self._gap_since or rfc3339(began)

    async def end_gap(self) -> None:
        """Tell the sockets of this process, which receives events again, if there are others."""
        users = self._presence.users_here()  # who connects from now on reads afterwards
        await self.tell(users, self._gap_since)
        self._gap_since = None

    async def tell(self, users: list[UserId], since: str | None) -> None:
        """Tell the sockets of these users here, if other processes may have sent them events."""
        if users and not self._presence.had_peers_recently():
            await asyncio.sleep(SILENCE_S)  # until then each of them has reported
        if self._presence.had_peers_recently():
            for start in range(0, len(users), NOTIFIED_AT_ONCE):
                group = users[start : start + NOTIFIED_AT_ONCE]
                await self._sockets.emit(EVENT, {"since": since}, room=group)
                await asyncio.sleep(0)

    async def run(self) -> None:
        """Tell the sockets in other processes, for each user whose events were not published."""
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            while self._unpublished:
                user, since = self._unpublished.popitem()
                payload = msgspec.json.encode({"since": since})
                if await self._publish(user, EVENT, payload) is None:
                    self._unpublished[user] = since
                    break
