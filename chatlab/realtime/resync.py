"""The event `resync {since}`: events may have been lost since then, so read by seq.

Events between processes are lost in two ways while Redis is away: this process cannot publish its
own, and it does not receive those of others. Either way the sockets of the users are told, as soon
as Redis is back. A process that dies may have saved messages and not published them. Then the
others tell their sockets. No message whose event was lost is older than `since`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import msgspec
import socketio

from chatlab.domain.ids import UserId
from chatlab.domain.message import now, rfc3339
from chatlab.realtime.other_processes import OtherProcesses
from chatlab.realtime.partners import NOTIFIED_AT_ONCE
from chatlab.realtime.presence import REPORT_INTERVAL_S, SILENCE_S, Presence

EVENT = "resync"
NOT_READABLE = "typing"  # a lost event of this name cannot be read later
NOTICE_DIFFERENCE_S = 2.0  # all processes notice within this time that one is lost
MESSAGE_AGE = timedelta(seconds=5)  # at most, when its event is sent: a save takes 2 s at most


class Resync:
    """Remembers which events were lost, and tells the sockets when Redis is back.

    `publish` sends an event to the sockets of a user in other processes. Its result is None if that
    failed. `distrust_windows` lets reads ask MongoDB for what a cached window may lack.
    """

    def __init__(
        self,
        sockets: socketio.AsyncServer,
        presence: Presence,
        others: OtherProcesses,
        publish: Callable[[UserId, str, bytes], Awaitable[object]],
        distrust_windows: Callable[[], Awaitable[None]],
    ) -> None:
        self._sockets, self._presence, self._publish = sockets, presence, publish
        self._others, self._distrust_windows = others, distrust_windows
        self._unpublished: dict[UserId, str] = {}  # since when
        # Since when events of other processes may be lost. At first this process has no sockets.
        self._gap_since: str | None = rfc3339(now())

    @property
    def has_unpublished(self) -> bool:
        """Return whether sockets in other processes are still to be told."""
        return bool(self._unpublished)

    def note_unpublished(self, user: UserId) -> None:
        """Note that an event was not published for the sockets of this user in other processes."""
        self._unpublished.setdefault(user, _oldest_message(0))

    def begin_gap(self, seconds_ago: float) -> None:
        """Note that this process has received no events of others for this number of seconds."""
        self._gap_since = self._gap_since or _oldest_message(seconds_ago)

    async def end_gap(self) -> None:
        """Tell the sockets of this process, which receives events again, if there are others."""
        users = self._presence.users_here()  # who connects from now on reads afterwards
        # redis-py may have connected again without a word: it was not away for longer than this.
        await self.tell(users, self._gap_since or _oldest_message(SILENCE_S))
        self._gap_since = None

    async def tell(self, users: list[UserId], since: str) -> None:
        """Tell the sockets of these users here, if other processes may have sent them events."""
        if users and not self._others.are_known:
            await asyncio.sleep(SILENCE_S)  # until then each of them has reported
        if self._others.are_known:
            await self._emit(users, since)

    async def resync_after_lost_process(self, silent_s: float) -> None:
        """Tell the sockets of this process after another one has ended without a goodbye.

        That may have been between a save and the update of the window, so the windows of before are
        not trusted when the clients read, whichever process they ask.
        """
        since = _oldest_message(silent_s)
        await self._distrust_windows()
        await asyncio.sleep(NOTICE_DIFFERENCE_S)
        await self._emit(self._presence.users_here(), since)

    async def _emit(self, users: list[UserId], since: str) -> None:
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


def _oldest_message(seconds_ago: float) -> str:
    """Return the time before which no message was created whose event was due since then."""
    return rfc3339(now() - timedelta(seconds=seconds_ago) - MESSAGE_AGE)
