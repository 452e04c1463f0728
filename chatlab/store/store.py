"""The store: everything that the service keeps in MongoDB, in three parts."""

from collections.abc import Callable

from chatlab.connections.mongo import MongoDatabase
from chatlab.protect.loop_lag import LoopLag
from chatlab.store.conversations import ConversationStore
from chatlab.store.installation import Installation, OnInstallation
from chatlab.store.messages import MessageStore
from chatlab.store.migrations import migrate_until_done
from chatlab.store.reconcile import OnFound
from chatlab.store.users import UserStore


class Store:
    """Creates the parts, and opens and closes them together.

    `clock` is the cache's clock: a save reads it when it begins. `on_found` is called for each
    message that was saved or changed although its request was answered with an error (see
    `reconcile`).
    `on_installation` gets the id of the installation whenever MongoDB has become reachable.

    With `stale_reads`, `stale_messages` reads the secondaries of a replica set; otherwise it is
    None.

    Every method of every part raises StoreUnavailable when MongoDB does not answer within two
    seconds, and at once while the circuit breaker is open.
    """

    def __init__(
        self,
        url: str,
        database: str,
        clock: Callable[[], int],
        on_found: OnFound,
        lag: LoopLag | None = None,
        on_installation: OnInstallation | None = None,
        *,
        stale_reads: bool = False,
    ) -> None:
        self._installation = Installation(on_installation)
        self.mongo = MongoDatabase(url, database, self._prepare, lag)
        self.stale_messages: MessageStore | None = None
        self._secondaries: MongoDatabase | None = None
        if stale_reads:
            self._secondaries = MongoDatabase(url, database, _ready, lag, secondaries=True)
            self.stale_messages = MessageStore(self._secondaries, clock, on_found)
        self.messages = MessageStore(self.mongo, clock, on_found)
        self.conversations = ConversationStore(self.mongo, self.messages)
        self.users = UserStore(self.mongo)

    async def _prepare(self, mongo: MongoDatabase) -> None:
        await migrate_until_done(mongo)
        await self._installation.learn(mongo)

    async def open(self) -> None:
        """Migrate the database, now or as soon as MongoDB is reachable.

        Until that is done, all parts raise StoreUnavailable.
        """
        await self.mongo.open()
        if self._secondaries:
            await self._secondaries.open()

    async def close(self) -> None:
        """Save the messages that wait, wait for the running calls, and close the connections."""
        await self.messages.close()
        await self.mongo.close()
        if self._secondaries:
            await self._secondaries.close()


async def _ready(_mongo: MongoDatabase) -> None:
    """Migrate nothing: only the primary can be migrated."""
