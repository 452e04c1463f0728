"""The id of this installation: which service the data in MongoDB belongs to.

Several installations may share a Redis server. Its channels know no database numbers, so the id is
a part of each channel. It is stored when the first process starts.
"""

import secrets
from collections.abc import Awaitable, Callable

from pymongo.errors import DuplicateKeyError

from chatlab.connections.diagnosis import MisconfiguredError
from chatlab.connections.mongo import MongoDatabase

OnInstallation = Callable[[str], Awaitable[None]]


class OtherInstallationError(MisconfiguredError):
    """MongoDB has the data of another installation than when this process started."""


class Installation:
    """Learns the id each time MongoDB has become reachable, and passes it to `on_known`."""

    def __init__(self, on_known: OnInstallation | None = None) -> None:
        self.id: str | None = None
        self._on_known = on_known

    async def learn(self, mongo: MongoDatabase) -> None:
        """Read the id, or store one. Raises PyMongoError, CallOverdueError and
        OtherInstallationError.

        It runs while the circuit breaker is open, so it does not use `MongoDatabase.execute`.
        """
        collection = mongo.database["installation"]
        found = await mongo.calls.run(collection.find_one({"_id": "installation"}))
        if found is None:
            own = {"_id": "installation", "id": self.id or secrets.token_hex(6)}
            try:
                await mongo.calls.run(collection.insert_one(own))
            except DuplicateKeyError:  # another process starts at the same time
                await self.learn(mongo)
                return
            found = own
        if self.id not in (None, found["id"]):
            raise OtherInstallationError(
                f"has the data of another installation, {found['id']}, than before, {self.id}",
                "check where the host name in CHATLAB_MONGO_URL leads, and restart chatlab",
            )
        self.id = str(found["id"])
        if self._on_known:
            await self._on_known(self.id)
