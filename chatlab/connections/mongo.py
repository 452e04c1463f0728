"""MongoDB: the client with its options, and the only way in which the store calls the driver."""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pymongo import AsyncMongoClient, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.command_cursor import AsyncCommandCursor
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DuplicateKeyError,
    NotPrimaryError,
    PyMongoError,
)
from pymongo.monitoring import (
    ConnectionCheckedInEvent,
    ConnectionCheckedOutEvent,
    ConnectionCheckOutFailedEvent,
    ConnectionCheckOutStartedEvent,
    ConnectionPoolListener,
    ServerClosedEvent,
    ServerDescriptionChangedEvent,
    ServerListener,
    ServerOpeningEvent,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import Primary, Secondary

from chatlab.connections.diagnosis import MisconfiguredError, diagnose, explain
from chatlab.connections.driver_calls import CallOverdueError, DriverCalls
from chatlab.errors import StoreUnavailable
from chatlab.metrics import OWN_LOAD_TIMEOUTS
from chatlab.protect.breaker import CircuitBreaker
from chatlab.protect.log_limit import LogLimit
from chatlab.protect.loop_lag import LoopLag
from chatlab.server_urls import option_names

log = logging.getLogger(__name__)

Document = dict[str, Any]
Result = TypeVar("Result")

REQUEST_TIMEOUT_MS = 2000  # the longest time that one request waits for MongoDB
CALL_LIMIT_S = REQUEST_TIMEOUT_MS / 1000 + 1  # for a driver that does not respect its own timeout


START_WAIT_S = 2.0  # for a migration before the service starts without it
PROBE_WAIT_S = 0.5

MAX_CONNECTIONS = 100
DEFAULTS: dict[str, Any] = {"appname": "chatlab", "maxpoolsize": MAX_CONNECTIONS}  # see the URL
MAX_STALENESS_S = 90  # a secondary further behind is not read; drivers allow no smaller limit
MAX_CONNECTING = 2  # connections that the driver makes at the same time


class MigratingError(MisconfiguredError):
    """The database is being migrated. No request may use it before."""

    def __init__(self) -> None:
        super().__init__("is being migrated: its indexes are being built", "")


class PoolUsage(ConnectionPoolListener):
    """Counts the connections of a client that are in use, and the operations that wait for one.

    `queued_at` is the last time (monotonic) at which an operation had to wait for another one.
    """

    max_connections: float = MAX_CONNECTIONS

    def __init__(self) -> None:
        self.in_use = self.waiting = 0
        self.queued_at = float("-inf")

    def connection_check_out_started(self, _event: ConnectionCheckOutStartedEvent) -> None:
        self.waiting += 1
        if self.waiting > MAX_CONNECTING or self.in_use >= self.max_connections:
            self.queued_at = time.monotonic()

    def connection_check_out_failed(self, _event: ConnectionCheckOutFailedEvent) -> None:
        self.waiting -= 1

    def connection_checked_out(self, _event: ConnectionCheckedOutEvent) -> None:
        self.waiting -= 1
        self.in_use += 1

    def connection_checked_in(self, _event: ConnectionCheckedInEvent) -> None:
        self.in_use -= 1

    def _ignore(self, event: Any) -> None:
        """Ignore an event that does not change the usage."""

    connection_created = connection_ready = connection_closed = _ignore
    pool_created = pool_ready = pool_cleared = pool_closed = _ignore


class DirectConnection(ServerListener):
    """Notices when the only server of a URL with `directConnection` stops being the primary.

    The driver would keep reading from it, and miss what the new primary saves.
    """

    def __init__(self, on_secondary: Callable[[], None]) -> None:
        self._on_secondary = on_secondary

    def description_changed(self, event: ServerDescriptionChangedEvent) -> None:
        if event.new_description.server_type_name == "RSSecondary":
            self._on_secondary()

    def opened(self, event: ServerOpeningEvent) -> None:
        """Ignore a new server."""

    def closed(self, event: ServerClosedEvent) -> None:
        """Ignore a server that is removed."""


class MongoDatabase:
    """One MongoDB database, with a time limit and a circuit breaker for every call.

    With `secondaries`, it is read from the secondaries of a replica set, without what a failover
    may remove.

    `migrate` runs each time MongoDB has become reachable, before the breaker closes. It may take
    any time. It raises PyMongoError if MongoDB does not answer, and is then tried again.
    """

    def __init__(
        self,
        url: str,
        name: str,
        migrate: Callable[["MongoDatabase"], Coroutine[Any, Any, None]],
        lag: LoopLag | None = None,
        *,
        secondaries: bool = False,
    ) -> None:
        self.calls, self.pool = DriverCalls(CALL_LIMIT_S), PoolUsage()
        self.long_calls = DriverCalls(None)  # of a migration
        self._lag, self._log_limit = lag or LoopLag(), LogLimit()
        direct = DirectConnection(self._note_secondary)
        self._client: AsyncMongoClient[Document] = AsyncMongoClient(
            url,
            timeoutMS=REQUEST_TIMEOUT_MS,
            serverSelectionTimeoutMS=REQUEST_TIMEOUT_MS,
            connectTimeoutMS=REQUEST_TIMEOUT_MS,
            maxConnecting=MAX_CONNECTING,
            event_listeners=[self.pool] if secondaries else [self.pool, direct],
            socketTimeoutMS=0,  # one in the URL would end a migration
            # One damaged date or text must not make the other documents unreadable.
            datetime_conversion="DATETIME_AUTO",
            unicode_decode_error_handler="replace",
            **{name: DEFAULTS[name] for name in DEFAULTS.keys() - option_names(url)},
        )
        self.pool.max_connections = self._client.options.pool_options.max_pool_size
        # A write is confirmed when a majority of the replica set has it in its journal. A read
        # asks the primary or the secondaries, whatever the defaults of the cluster are.
        self.database: AsyncDatabase[Document] = self._client.get_database(
            name,
            write_concern=WriteConcern(w="majority", j=True),
            read_preference=Secondary(max_staleness=MAX_STALENESS_S) if secondaries else Primary(),
            read_concern=ReadConcern("majority") if secondaries else ReadConcern("local"),
        )
        self._migrate = migrate
        self._migrating: asyncio.Task[None] | None = None
        label = "MongoDB secondaries" if secondaries else "MongoDB"
        self.breaker = CircuitBreaker(
            label, self._probe, explain=functools.partial(explain, "MongoDB")
        )

    async def open(self) -> None:
        """Migrate the database now, or in the background if that takes long or MongoDB is away."""
        try:
            await self._probe(START_WAIT_S)
        except (PyMongoError, CallOverdueError, MigratingError) as error:
            self.breaker.trip(error)

    def _note_secondary(self) -> None:
        if self._client.options.direct_connection:
            self.breaker.trip(NotPrimaryError("not primary"))

    async def _probe(self, wait_s: float = PROBE_WAIT_S) -> None:
        """Raise if MongoDB does not answer or its migration takes longer than `wait_s`."""
        hello = await self.calls.run(self._ask("hello"))
        if not hello["isWritablePrimary"] and self.database.read_preference == Primary():
            raise NotPrimaryError("not primary")
        if self._migrating is None:
            self._migrating = asyncio.create_task(self._migrate(self))
        done, _ = await asyncio.wait([self._migrating], timeout=wait_s)
        if not done:
            raise MigratingError
        finished, self._migrating = self._migrating, None
        finished.result()

    @property
    def is_migrating(self) -> bool:
        return self._migrating is not None

    async def close(self) -> None:
        """Wait for the running calls, and close the connections."""
        await self.breaker.close()
        if self._migrating:
            self._migrating.cancel()
            await asyncio.gather(self._migrating, return_exceptions=True)
        await self.calls.drain()
        await self.calls.run(self._client.close())

    async def ping(self) -> None:
        """Raise StoreUnavailable if MongoDB does not answer."""
        await self.execute(self._ask("ping"))

    def _ask(self, command: str) -> Coroutine[Any, Any, Document]:
        preference = self.database.read_preference  # commands do not take it from the database
        return self._client.admin.command(command, read_preference=preference)

    async def execute(
        self, call: Coroutine[Any, Any, Result], *, slots: asyncio.Semaphore | None = None
    ) -> Result:
        """Return the result of one call of the driver.

        The caller has acquired `slots`, if given. It is released when the call has returned.

        Raises StoreUnavailable, at once while the breaker is open. DuplicateKeyError and
        BulkWriteError are raised as they are: they are answers of a MongoDB that works.
        """
        if self.breaker.is_open:
            call.close()
            if slots:
                slots.release()
            raise StoreUnavailable
        began, lag_before_s = time.monotonic(), self._lag.sum_s
        try:
            return await self.calls.run(call, slots=slots)
        except (DuplicateKeyError, BulkWriteError):
            raise
        except (PyMongoError, CallOverdueError) as error:
            if _is_timeout(error) and self._was_overloaded(began, lag_before_s):
                OWN_LOAD_TIMEOUTS["mongodb"].inc()
                raise StoreUnavailable from error
            raise self.unavailable(error) from error

    def _was_overloaded(self, began: float, lag_before_s: float) -> bool:
        """Return whether a call may have timed out because of this process, not of MongoDB.

        The event loop was late, or operations waited for a connection while MongoDB answered
        others.
        """
        queued = self.pool.queued_at >= began and self.calls.answered_at > began
        return queued or self._lag.was_late(lag_before_s, REQUEST_TIMEOUT_MS / 1000)

    async def find_all(
        self, cursor: AsyncCursor[Document], *, slots: asyncio.Semaphore | None = None
    ) -> list[Document]:
        """Return all documents of a cursor. Raises StoreUnavailable."""
        return await self.execute(_read_all(cursor), slots=slots)

    async def aggregate_all(
        self,
        source: AsyncCollection[Document] | AsyncDatabase[Document],
        pipeline: list[Document],
    ) -> list[Document]:
        """Return all documents that an aggregation pipeline produces. Raises StoreUnavailable."""
        return await self.execute(_aggregate(source, pipeline))

    def unavailable(self, error: PyMongoError | CallOverdueError) -> StoreUnavailable:
        """Return the error for the caller. A connection failure or a timeout opens the breaker."""
        if isinstance(error, ConnectionFailure) or _is_timeout(error):
            self.breaker.trip(error)
        elif self._log_limit.allows((type(error), getattr(error, "code", None))):
            found = diagnose("MongoDB", error)
            trace = None if found and found.fix else error
            log.error(
                "MongoDB rejected a call: it %s", explain("MongoDB", error)[1], exc_info=trace
            )
        return StoreUnavailable()


def _is_timeout(error: PyMongoError | CallOverdueError) -> bool:
    return isinstance(error, CallOverdueError) or error.timeout


async def _read_all(
    cursor: AsyncCursor[Document] | AsyncCommandCursor[Document],
) -> list[Document]:
    async with cursor:
        return await cursor.to_list()


async def _aggregate(
    source: AsyncCollection[Document] | AsyncDatabase[Document], pipeline: list[Document]
) -> list[Document]:
    return await _read_all(await source.aggregate(pipeline))
