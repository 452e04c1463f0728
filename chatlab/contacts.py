"""The lists of a user: conversations, the newest first, and other users.

They are read page by page. A page costs the same with a thousand users and with a million.
"""

import asyncio
import re
import unicodedata
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import NamedTuple, TypeVar

from chatlab.accounts import is_deleted, public_profile
from chatlab.connections.mongo import Document
from chatlab.domain.ids import Conversation, UserId, conversation_of, other_of
from chatlab.domain.message import EPOCH
from chatlab.domain.requests import ConversationsPage, UsersPage
from chatlab.store.conversations import Place, State
from chatlab.store.store import Store

MIN_CHUNK = 50  # users in one query for those who are no partners

List = TypeVar("List")


class _Found(NamedTuple):
    """What a list shows of these users. `are_right`: whether their summaries were right."""

    states: dict[UserId, State]
    are_right: bool
    blocked: set[str]
    muted: set[str]


class Contacts:
    """Reads the lists. `is_online` returns whether a user has a socket in any process."""

    def __init__(self, store: Store, is_online: Callable[[UserId], bool]) -> None:
        self._users, self._conversations = store.users, store.conversations
        self._is_online = is_online

    async def conversations(self, user: UserId, page: ConversationsPage) -> Document:
        """Return a page of the user's conversations, and the cursor for the next one."""
        before = _from_cursor(page.before) if page.before else None

        async def read() -> tuple[Document, bool]:
            places = await self._conversations.find_places(user, page.limit + 1, before)
            has_more, places = len(places) > page.limit, places[: page.limit]
            rows, are_right = await self._rows_of_places(user, places)
            items = [
                _item(place.conversation, row)
                for place, row in zip(places, rows, strict=True)
                if row["lastMessage"]
            ]
            return {"items": items, "next": _cursor(places[-1]) if has_more else None}, are_right

        return await self._read_settled(user, read)

    async def users(self, user: UserId, page: UsersPage) -> list[Document]:
        """Return a page of the other users, with the state of the conversation with each of them.

        Without a query, the partners of this user come first, the most recent conversation first,
        and all others follow by id. Users who are deleted are only among the partners.
        """
        if page.query:
            found = await self._search(user, page.query, page.limit, page.after)
            return (await self._rows(user, found))[0]
        return await self._read_settled(user, lambda: self._everybody(user, page.limit, page.after))

    async def _read_settled(
        self, user: UserId, read: Callable[[], Awaitable[tuple[List, bool]]]
    ) -> List:
        """Return the list that `read` returns, in the right order.

        `read` also returns whether all summaries were right. If not, it has noted the right ones.
        """
        await self._conversations.settle(user)
        found, are_right = await read()
        if not are_right:
            await self._conversations.settle(user)
            found, _ = await read()
        return found

    # --- users -------------------------------------------------------------------------------

    async def _everybody(
        self, user: UserId, limit: int, after: str | None
    ) -> tuple[list[Document], bool]:
        place = await self._place_of(user, after) if after else None
        rows, are_right = list[Document](), True
        if not after or place:
            # One more, because the conversation with oneself is left out.
            places = await self._conversations.find_places(user, limit + 1, place)
            others = [place for place in places if other_of(user, place.conversation) != user]
            rows, are_right = await self._rows_of_places(user, others[:limit])
        if len(rows) < limit:
            after = "" if place or not after else after
            strangers = await self._strangers(user, limit - len(rows), after)
            more, are_right_too = await self._rows(user, strangers)
            rows, are_right = rows + more, are_right and are_right_too
        return rows, are_right

    async def _place_of(self, user: UserId, other: str) -> Place | None:
        places = await self._conversations.find_own_places(user, [conversation_of(user, other)])
        return next(iter(places), None)

    async def _strangers(self, user: UserId, limit: int, after: str) -> list[Document]:
        """Return the next users, by id, who have no conversation with this one."""
        found: list[Document] = []
        chunk = max(limit, MIN_CHUNK)
        while len(found) < limit:
            users = await self._users.find_page(user, chunk, after)
            names = [conversation_of(user, other["_id"]) for other in users]
            places = await self._conversations.find_own_places(user, names)
            partners = {other_of(user, place.conversation) for place in places}
            found += [other for other in users if other["_id"] not in partners]
            if len(users) < chunk:
                break
            after = users[-1]["_id"]
        return found[:limit]

    async def _search(
        self, user: UserId, query: str, limit: int, after: str | None
    ) -> list[Document]:
        """Return the next users whose id begins with the query, and then those by display name."""
        id_prefix = _as_id(query)
        found: list[Document] = []
        if id_prefix and (after is None or after.startswith(id_prefix)):
            found = await self._users.find_page(user, limit, after or "", id_prefix)
            after = None
        if len(found) < limit:
            left = limit - len(found)
            found += await self._users.find_by_name(user, left, after, query, id_prefix)
        return found

    # --- rows --------------------------------------------------------------------------------

    async def _rows_of_places(
        self, user: UserId, places: list[Place]
    ) -> tuple[list[Document], bool]:
        others = [other_of(user, place.conversation) for place in places]
        known, found = await asyncio.gather(
            self._users.find_many(others), self._find_states(user, others)
        )
        gone = {"deletedAt": EPOCH}  # the operator has removed the user from MongoDB
        profiles = [known.get(other, {"_id": other} | gone) for other in others]
        return self._join(profiles, found), found.are_right

    async def _rows(self, user: UserId, others: list[Document]) -> tuple[list[Document], bool]:
        """Return the rows of these users, and whether their summaries were right."""
        found = await self._find_states(user, [other["_id"] for other in others])
        return self._join(others, found), found.are_right

    async def _find_states(self, user: UserId, others: list[UserId]) -> _Found:
        names = {other: conversation_of(user, other) for other in others}
        (states, are_right), (blocked, muted) = await asyncio.gather(
            self._conversations.find_states(user, names), self._users.find_lists(user)
        )
        of_users = {other: states[name] for other, name in names.items()}
        return _Found(of_users, are_right, blocked, muted)

    def _join(self, others: list[Document], found: _Found) -> list[Document]:
        return [
            public_profile(other)
            | self._state(other, found.states[other["_id"]])
            | {
                "muted": other["_id"] in found.muted,
                "blocked": other["_id"] in found.blocked,
                "deleted": is_deleted(other),
            }
            for other in others
        ]

    def _state(self, other: Document, state: State) -> Document:
        return {
            "online": self._is_online(other["_id"]),
            "unread": state.unread,
            "lastMessage": state.last,
            "readUpTo": state.read_up_to,
        }


def _item(conversation: Conversation, row: Document) -> Document:
    """Return a row of the list of conversations: the profile of the other user is an object."""
    user = {name: row[name] for name in ("id", "displayName", "createdAt")}
    return {"user": user, "conversation": conversation} | row


def _as_id(query: str) -> str:
    """Return the beginning of a user id that is meant, or an empty string if none can be."""
    letters = unicodedata.normalize("NFKD", query.removeprefix("@")).lower()
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return plain if re.fullmatch("[a-z0-9_-]+", plain) else ""


def _cursor(place: Place) -> str:
    milliseconds = (place.at - EPOCH) // timedelta(milliseconds=1)
    return f"{milliseconds}.{place.conversation}"


def _from_cursor(cursor: str) -> Place:
    milliseconds, _, conversation = cursor.partition(".")
    at = EPOCH + timedelta(milliseconds=int(milliseconds))
    return Place(at, Conversation(conversation))
