"""The users of the page `/lab`: two who chat, two for bursts, and two whose reads are compared.

They are ordinary users, except that they have no password, so that no one can log in to them, and
that they are in no list of users. They are the same for every page of the service, so everybody who
opens the page sees the same conversation.
"""

import contextlib

from chatlab.accounts import public_profile
from chatlab.connections.mongo import Document
from chatlab.domain.ids import UserId
from chatlab.domain.message import now
from chatlab.errors import Conflict
from chatlab.sessions import Sessions
from chatlab.store.users import UserStore

NAMES = {
    "ada": "Ada",
    "ben": "Ben",
    "crowd-1": "Crowd 1",
    "crowd-2": "Crowd 2",
    "reader-1": "Reader 1",
    "reader-2": "Reader 2",
}
MAX_NUMBER = 1_000  # of a name that others have signed up with
USER_AGENT = "the page /lab"


class StageUsers:
    """Creates these users when they are needed first, and starts sessions of them."""

    def __init__(self, store: UserStore, sessions: Sessions) -> None:
        self._store, self._sessions = store, sessions
        self._users: list[Document] = []

    async def profiles(self) -> list[Document]:
        """Return their public profiles, in the order of NAMES."""
        if not self._users:
            self._users = [await self._find(name) for name in NAMES]
        return [public_profile(user) for user in self._users]

    async def open(self) -> list[Document]:
        """Return each user with the token of a new session."""
        return [
            {"user": user, "token": await self._sessions.start(UserId(user["id"]), USER_AGENT)}
            for user in await self.profiles()
        ]

    async def _find(self, name: str) -> Document:
        """Return the user, or one with a number if somebody else has signed up with this name."""
        for number in range(1, MAX_NUMBER):
            user_id = name if number == 1 else f"{name}-{number}"
            user = await self._store.find(user_id)
            if user is None:
                user = {"_id": user_id, "displayName": NAMES[name], "createdAt": now()}
                user |= {"isOnStage": True}
                with contextlib.suppress(Conflict):  # another process adds it at the same time
                    await self._store.add(dict(user))
            if user.get("isOnStage"):
                return user
        raise Conflict(f"All names like {name} are taken.")
