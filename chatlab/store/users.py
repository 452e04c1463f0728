"""Users and their log-in sessions."""

from datetime import timedelta

from pymongo.errors import DuplicateKeyError

from chatlab.connections.mongo import Document, MongoDatabase
from chatlab.domain.ids import UserId
from chatlab.domain.message import now
from chatlab.errors import Conflict

NAME_IS_TAKEN = "username: this name is taken."


class UserStore:
    """The collections `users` and `sessions`. It stores hashes of tokens, never the tokens."""

    def __init__(self, mongo: MongoDatabase) -> None:
        self._mongo = mongo
        self._users, self._sessions = mongo.database["users"], mongo.database["sessions"]

    async def add(self, user: Document) -> None:
        """Add a user. Raises Conflict when the name is taken."""
        try:
            await self._mongo.execute(self._users.insert_one(user))
        except DuplicateKeyError:
            raise Conflict(NAME_IS_TAKEN) from None

    async def find(self, user_id: str) -> Document | None:
        """Return a user with the password hash, or None."""
        return await self._mongo.execute(self._users.find_one({"_id": user_id}))

    async def find_all(self) -> list[Document]:
        """Return all users without what only their log-in needs, sorted by id."""
        public = {"passwordHash": 0, "knownFrom": 0}
        return await self._mongo.find_all(self._users.find({}, public).sort("_id", 1))

    async def set_known_from(self, user_id: str, hashes: list[str]) -> None:
        """Store the hashes of the devices and addresses from which the user has logged in."""
        change = {"$set": {"knownFrom": hashes}}
        await self._mongo.execute(self._users.update_one({"_id": user_id}, change))

    async def add_session(self, token_hash: str, user_id: UserId, days: float) -> None:
        """Add a session that expires after this many days."""
        session = {
            "_id": token_hash,
            "userId": user_id,
            "expiresAt": now() + timedelta(days=days),
        }
        await self._mongo.execute(self._sessions.insert_one(session))

    async def find_sessions(self, token_hashes: list[str]) -> dict[str, UserId]:
        """Return the user of each of these sessions that has not expired or ended."""
        wanted = {"_id": {"$in": token_hashes}, "expiresAt": {"$gt": now()}}
        rows = await self._mongo.find_all(self._sessions.find(wanted))
        return {row["_id"]: row["userId"] for row in rows}

    async def end_session(self, token_hash: str) -> None:
        """End a session. It is no error if there is no such session."""
        await self._mongo.execute(self._sessions.delete_one({"_id": token_hash}))
