"""Users, their log-in sessions, and the users that they have blocked or muted."""

import contextlib
import re
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from pymongo import ReturnDocument, WriteConcern
from pymongo.collation import Collation
from pymongo.errors import DuplicateKeyError

from chatlab.connections.mongo import Document, MongoDatabase
from chatlab.domain.ids import UserId
from chatlab.domain.message import now
from chatlab.errors import Conflict, StoreUnavailable
from chatlab.protect.fair_slots import FairSlots

NAME_IS_TAKEN = "username: this name is taken."
DELETED_NAME = "Deleted user"  # the display name of users who have deleted their account
MAX_LISTED = 1000  # users that one user may block, and as many that one user may mute
MAX_SESSIONS = 200  # of one user; the oldest one ends
USE_STEP = timedelta(minutes=10)  # how exactly it is stored when a session was last used
MAX_RECENT = 50  # changes that a process may miss without forgetting all that it knows
WAITING_CHANGES = 200

CHANGES = "changes"  # the document that counts changes. It is in the collection `sessions`, so that
# the query that checks a token reads it too.

NAME_ORDER = Collation("en", strength=1)  # without accents and capitals
LAST_CHARACTER = "\uffff"  # behind all others, in this order and in that of bytes

UserList = Literal["blocked", "muted"]
_PUBLIC = {"passwordHash": 0, "knownFrom": 0, "blocked": 0, "muted": 0}


class Changes(NamedTuple):
    """How many changes there have been, and the users of the latest ones, the newest last.

    A change is a block or a deleted account: something that other processes must know about a user
    before they accept a message to this user.
    """

    version: int
    recent: list[str]


class FoundSessions(NamedTuple):
    """`users`: the user of each session, by the hash of its token."""

    users: dict[str, UserId]
    changes: Changes


class UserStore:
    """The collections `users` and `sessions`. It stores hashes of tokens, never the tokens."""

    def __init__(self, mongo: MongoDatabase) -> None:
        self._mongo = mongo
        self._users, self._sessions = mongo.database["users"], mongo.database["sessions"]
        # A time that is lost with a crash does no harm, so its write waits for no journal.
        self._uses = self._sessions.with_options(write_concern=WriteConcern(w=1))
        self._changing = FairSlots(1, 1, waiting=WAITING_CHANGES)

    # --- users -------------------------------------------------------------------------------

    async def add(self, user: Document) -> None:
        """Add a user. Raises Conflict when the name is taken."""
        try:
            await self._mongo.execute(self._users.insert_one(user))
        except DuplicateKeyError:
            raise Conflict(NAME_IS_TAKEN) from None

    async def find(self, user_id: str) -> Document | None:
        """Return a user with the password hash, or None."""
        return await self._mongo.execute(self._users.find_one({"_id": user_id}))

    async def find_many(self, user_ids: list[UserId]) -> dict[UserId, Document]:
        """Return those of these users that exist, without what only they themselves need."""
        rows = await self._mongo.find_all(self._users.find({"_id": {"$in": user_ids}}, _PUBLIC))
        return {row["_id"]: row for row in rows}

    async def find_page(
        self, reader: UserId, limit: int, after: str = "", prefix: str = ""
    ) -> list[Document]:
        """Return the next users whose id begins with a prefix, sorted by id.

        The reader, deleted users and those of the page `/lab` are left out, here and in
        `find_by_name`.
        """
        ids = {"$gt": after} if after >= prefix else {"$gte": prefix}
        ids |= {"$lt": prefix + LAST_CHARACTER, "$ne": reader}
        wanted = {"_id": ids, "deletedAt": None, "isOnStage": {"$ne": True}}
        found = self._users.find(wanted, _PUBLIC).sort("_id", 1)
        return await self._mongo.find_all(found.limit(limit).batch_size(limit))

    async def find_by_name(
        self, reader: UserId, limit: int, after: str | None, prefix: str, id_prefix: str
    ) -> list[Document]:
        """Return the next users whose display name begins with a prefix, sorted by this name.

        Those whose id begins with `id_prefix` are left out. `after` is the id of a user.
        """
        top = prefix + LAST_CHARACTER
        wanted: Document = {
            "_id": {"$ne": reader},
            "displayName": {"$gte": prefix, "$lt": top},
            "passwordHash": {"$exists": True},  # as in the index `name`
        }
        if id_prefix:
            wanted["_id"]["$not"] = re.compile(f"^{id_prefix}")
        if after is not None:
            name = (await self.find(after) or {}).get("displayName", top)
            is_behind = {"displayName": {"$gt": name}}, {"_id": {"$gt": after}}
            wanted["$and"] = [{"displayName": {"$gte": name}}, {"$or": is_behind}]
        found = self._users.find(wanted, _PUBLIC).collation(NAME_ORDER)
        found = found.sort([("displayName", 1), ("_id", 1)])
        return await self._mongo.find_all(found.limit(limit).batch_size(limit))

    async def set_known_from(self, user_id: str, hashes: list[str]) -> None:
        """Store the hashes of the devices and addresses from which the user has logged in."""
        change = {"$set": {"knownFrom": hashes}}
        await self._mongo.execute(self._users.update_one({"_id": user_id}, change))

    async def has_password(self, user_id: str, password_hash: str) -> bool:
        """Return whether this is still the password of the user."""
        wanted = {"_id": user_id, "passwordHash": password_hash}
        return await self._mongo.execute(self._users.find_one(wanted, {"_id": 1})) is not None

    async def set_password(self, user_id: str, before: str, after: str) -> bool:
        """Replace a password hash. Return False if `before` is not the current one any more."""
        wanted = {"_id": user_id, "passwordHash": before}
        change = {"$set": {"passwordHash": after}}
        result = await self._mongo.execute(self._users.update_one(wanted, change))
        return bool(result.matched_count)

    async def rename(self, user_id: str, display_name: str) -> Document | None:
        """Change the display name. Return the user, or None for a user who is deleted."""
        return await self._mongo.execute(
            self._users.find_one_and_update(
                {"_id": user_id, "deletedAt": None},
                {"$set": {"displayName": display_name}},
                return_document=ReturnDocument.AFTER,
            )
        )

    async def delete(self, user_id: str, password_hash: str) -> bool:
        """Remove everything of a user but the id, which can never be used again.

        Return False if this is not the current password any more.
        """
        change = {
            "$set": {"displayName": DELETED_NAME, "deletedAt": now()},
            "$unset": dict.fromkeys(_PUBLIC, ""),
        }
        wanted = {"_id": user_id, "passwordHash": password_hash}
        result = await self._mongo.execute(self._users.update_one(wanted, change))
        return bool(result.matched_count)

    # --- blocked and muted users --------------------------------------------------------------

    async def find_lists(self, user_id: UserId) -> tuple[set[str], set[str]]:
        """Return the users that this one has blocked, and those that this one has muted."""
        fields = {"blocked": 1, "muted": 1}
        user = await self._mongo.execute(self._users.find_one({"_id": user_id}, fields)) or {}
        return set(user.get("blocked", ())), set(user.get("muted", ()))

    async def find_blocked(self, receiver: str, sender: str) -> list[str] | None:
        """Return the ids that the receiver has blocked, or None if the sender may not write.

        The reply of MongoDB is the same for a receiver that is missing, is deleted or has blocked
        the sender.
        """
        wanted = {"_id": receiver, "deletedAt": None, "blocked": {"$ne": sender}}
        found = await self._mongo.execute(self._users.find_one(wanted, {"blocked": 1}))
        return None if found is None else found.get("blocked", [])

    async def add_to_list(self, user_id: UserId, name: UserList, other: str) -> None:
        """Add another user to a list. Raises Conflict if the list is full."""
        has_room = {f"{name}.{MAX_LISTED - 1}": {"$exists": False}}
        wanted = {"_id": user_id, "deletedAt": None, "$or": [{name: other}, has_room]}
        change = {"$addToSet": {name: other}}
        result = await self._mongo.execute(self._users.update_one(wanted, change))
        if not result.matched_count:
            raise Conflict(f"You have {name} {MAX_LISTED} users already.")

    async def remove_from_list(self, user_id: UserId, name: UserList, other: str) -> None:
        change = {"$pull": {name: other}}
        await self._mongo.execute(self._users.update_one({"_id": user_id}, change))

    async def note_change(self, user_id: UserId) -> None:
        """Let the other processes know that messages to this user may be refused from now on.

        Raises RateLimited if too many other changes wait.
        """
        recent = {"$each": [user_id], "$slice": -MAX_RECENT}
        change = {"$inc": {"version": 1}, "$push": {"recent": recent}}
        async with self._changing.hold(user_id):
            await self._mongo.execute(
                self._sessions.update_one({"_id": CHANGES}, change, upsert=True)
            )

    # --- sessions ----------------------------------------------------------------------------

    async def add_session(
        self, token_hash: str, user_id: UserId, days: float, user_agent: str
    ) -> None:
        """Add a session that expires after this many days, and end the oldest if there are many."""
        moment = now()
        session = {
            "_id": token_hash,
            "userId": user_id,
            "expiresAt": moment + timedelta(days=days),
            "createdAt": moment,
            "lastUsedAt": moment,
            "userAgent": user_agent,
        }
        await self._mongo.execute(self._sessions.insert_one(session))
        newest_first = self._sessions.find({"userId": user_id}, {"_id": 1}).sort("expiresAt", -1)
        too_many = await self._mongo.find_all(newest_first.skip(MAX_SESSIONS))
        if too_many:
            oldest = {"_id": {"$in": [row["_id"] for row in too_many]}}
            await self._mongo.execute(self._sessions.delete_many(oldest))

    async def find_sessions(self, token_hashes: list[str]) -> FoundSessions:
        """Return those of these sessions that have not expired or ended, and the changes."""
        moment = now()
        is_valid = {"expiresAt": {"$gt": moment}, "userId": {"$type": "string"}}
        wanted = {
            "_id": {"$in": [*token_hashes, CHANGES]},
            "$or": [is_valid, {"_id": CHANGES}],
        }
        # Of each open socket, every few seconds: only the fields that this needs.
        fields = {"userId": 1, "lastUsedAt": 1, "version": 1, "recent": 1}
        found = await self._mongo.find_all(self._sessions.find(wanted, fields))
        rows = {row["_id"]: row for row in found}
        changes = rows.pop(CHANGES, {})
        await self._note_use(rows, moment)
        users = {name: UserId(row["userId"]) for name, row in rows.items()}
        return FoundSessions(users, Changes(changes.get("version", 0), changes.get("recent", [])))

    async def _note_use(self, sessions: dict[str, Document], moment: datetime) -> None:
        unnoted = [
            name
            for name, session in sessions.items()
            if "lastUsedAt" not in session or moment - session["lastUsedAt"] >= USE_STEP
        ]
        if unnoted:
            update = self._uses.update_many(
                {"_id": {"$in": unnoted}}, {"$set": {"lastUsedAt": moment}}
            )
            with contextlib.suppress(StoreUnavailable):
                await self._mongo.execute(update)

    async def list_sessions(self, user_id: UserId) -> list[Document]:
        """Return the sessions of a user, the newest first."""
        found = self._sessions.find({"userId": user_id, "expiresAt": {"$gt": now()}})
        return await self._mongo.find_all(found.sort("expiresAt", -1))

    async def end_session(self, token_hash: str, user_id: UserId) -> bool:
        """End a session of this user. Return whether there was one."""
        wanted = {"_id": token_hash, "userId": user_id}
        result = await self._mongo.execute(self._sessions.delete_one(wanted))
        return bool(result.deleted_count)

    async def end_sessions(self, user_id: UserId, but: str = "") -> list[str]:
        """End all sessions of a user but one. Return the hashes of their tokens."""
        wanted: Document = {"userId": user_id, "_id": {"$ne": but}}
        rows = await self._mongo.find_all(self._sessions.find(wanted, {"_id": 1}))
        hashes = [row["_id"] for row in rows]
        await self._mongo.execute(self._sessions.delete_many({"_id": {"$in": hashes}}))
        return hashes
