"""Who learns of whose presence: the partners of a user, as long as they have a socket.

So a user who comes or goes costs one event for each connected partner, however many users are
online. A *partner* is a user who has a conversation with this one.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Collection

import socketio

from chatlab.domain.ids import UserId
from chatlab.errors import StoreUnavailable

MAX_PARTNERS = 1000  # of a user: their changes are reported to the user, and the user's to them
FOUND_AT_ONCE = 8  # users whose partners are looked for; others wait when many connect
RETRY_INTERVAL_S = 1.0  # while MongoDB is unavailable
NOTIFIED_AT_ONCE = 50  # users; more would keep the event loop busy for too long

FindPartners = Callable[[UserId, int], Awaitable[Collection[UserId]]]


class Partners:
    """Knows the partners of the users with a socket in this process.

    `find` returns the newest partners of a user from MongoDB. `will_notify` says whether `notify`
    will be called for a user soon.
    """

    def __init__(
        self,
        sockets: socketio.AsyncServer,
        is_online: Callable[[UserId], bool],
        will_notify: Callable[[UserId], bool],
        find: FindPartners,
    ) -> None:
        self._sockets, self._find = sockets, find
        self._is_online, self._will_notify = is_online, will_notify
        self._of: dict[UserId, set[UserId]] = {}
        self._watchers: dict[UserId, set[UserId]] = {}  # the other direction
        self._loading: dict[UserId, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(FOUND_AT_ONCE)

    def open(self, user: UserId) -> None:
        """Learn the partners of a user who has connected."""
        self._of[user] = set()
        self._loading[user] = asyncio.get_running_loop().create_task(self._load(user))

    def close(self, user: UserId) -> None:
        """Forget the partners of a user who has no socket here any more."""
        if user in self._loading:
            self._loading.pop(user).cancel()
        for partner in self._of.pop(user, ()):
            watchers = self._watchers[partner]
            watchers.remove(user)
            if not watchers:
                del self._watchers[partner]

    async def _load(self, user: UserId) -> None:
        for partner in await self._find_until_found(user):
            self._watch(user, partner)

    async def _find_until_found(self, user: UserId) -> Collection[UserId]:
        while True:
            try:
                async with self._slots:
                    return await self._find(user, MAX_PARTNERS)
            except StoreUnavailable:
                await asyncio.sleep(RETRY_INTERVAL_S)

    def _watch(self, user: UserId, partner: UserId) -> None:
        if partner != user:
            self._of[user].add(partner)
            self._watchers.setdefault(partner, set()).add(user)

    async def introduce(self, user: UserId, sid: str) -> None:
        """Send a new socket the online partners of its user, and the user's own id."""
        if user in self._loading:
            await asyncio.wait([self._loading[user]])
        online = [user, *filter(self._is_online, self._of.get(user, ()))]
        await self._sockets.emit("onlineUsers", sorted(online), to=sid)

    async def met(self, one: UserId, other: UserId) -> None:
        """Note that two users have a conversation, perhaps since now."""
        for user, partner in ((one, other), (other, one)):
            if user != partner and partner not in self._of.get(user, (partner,)):
                self._watch(user, partner)
                if self._is_online(partner) and not self._will_notify(partner):
                    await self._emit([user], partner, online=True)

    async def notify(self, user: UserId, *, online: bool) -> None:
        """Tell the partners of a user who has come or gone. Other tasks run in between."""
        watchers = list(itertools.islice(self._watchers.get(user, ()), MAX_PARTNERS))
        for start in range(0, len(watchers), NOTIFIED_AT_ONCE):
            await self._emit(watchers[start : start + NOTIFIED_AT_ONCE], user, online=online)
            await asyncio.sleep(0)

    async def _emit(self, to: list[UserId], user: UserId, *, online: bool) -> None:
        await self._sockets.emit("presence", {"userId": user, "online": online}, room=to)
