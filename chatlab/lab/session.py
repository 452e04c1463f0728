"""A session: the service of one notebook, its users, and everything observed about them.

`start` runs `chatlab serve` as a child process, with a Redis of its own and a database of its own
in the MongoDB that all notebooks share. So a reset cannot touch the data of others, settings can
differ, and notebooks do not disturb each other. The service and its Redis end when the kernel ends,
even if the kernel is killed. MongoDB stops when its last user has ended.

Everything runs on the kernel's event loop, and nothing here prints. Errors in background tasks are
shown in the widgets.
"""

import asyncio
import contextlib
import inspect
import itertools
from collections.abc import Awaitable
from typing import Any

import socketio
from pymongo.database import Database
from redis import Redis

from chatlab.bench.raw_http import RawHttpClient
from chatlab.client import Json
from chatlab.domain.trace import StageEvent
from chatlab.errors import Conflict, EngineError
from chatlab.lab.claims import ClaimResult, ClaimResults
from chatlab.lab.event_log import EventLog
from chatlab.lab.key_lifetime import KeyLifetime
from chatlab.lab.lab_widgets import LabWidgets
from chatlab.lab.lifetime_observer import LifetimeObserver
from chatlab.lab.plain_text import PlainText, error_text
from chatlab.lab.query_log import QueryLog
from chatlab.lab.scorecard import Scorecard
from chatlab.lab.sentences import show_sentences
from chatlab.lab.session_engines import SessionEngines
from chatlab.lab.session_service import SessionService
from chatlab.lab.session_stores import SessionStores
from chatlab.lab.socket_log import hide_missing_pings
from chatlab.lab.stepped_clients import SteppedClients
from chatlab.lab.tasks import BackgroundTasks
from chatlab.lab.trace import Trace
from chatlab.lab.user import PASSWORD, User
from chatlab.lab.widgets import EndReport, screen_of
from chatlab.lab.workspace import Servers, Workspace
from chatlab.settings import Settings

OBSERVER = "observer"  # the user whose token gives access to /flow
WATCH_INTERVAL_S = 0.5

_sessions: dict[str, "Lab"] = {}
_ended: set[str] = set()  # those that have ended since the last start


async def start(
    name: str,
    *,
    own_mongodb: bool = False,
    replica_set: bool = False,
    redis_cluster: bool = False,
    **settings: Any,
) -> "Lab":
    """Return the session of this notebook: the running one if its settings match, else a new one.

    A new session has no users and no messages. `own_mongodb`: use a MongoDB that no other session
    uses, so that it can be frozen and stopped. `replica_set`: this MongoDB has three members.
    `redis_cluster`: its Redis is a cluster of three primaries with a replica each. `settings` as in
    `chatlab.settings`, e.g. `cache_ttl=20`. Raises EngineError, which names the command that fixes
    the problem.
    """
    _ended.clear()  # an error of this start is no sign of an end
    show_sentences(has_ended=lambda: bool(_ended) and not _sessions)
    hide_missing_pings()
    lab = _sessions.get(name)
    servers = Servers(own_mongodb, replica_set, redis_cluster)
    if lab and lab.is_as_started(settings, servers):
        await lab.engines.repair()
        return lab
    if lab:
        await lab.end()
    workspace = await asyncio.to_thread(Workspace, name, settings, servers)
    _sessions[name] = lab = Lab(name, settings, workspace)
    await lab.open()
    return lab


class Lab(LabWidgets):
    """A running session, created by `start`. After `end`, every method raises SessionEnded."""

    def __init__(self, name: str, start_settings: dict[str, Any], workspace: Workspace) -> None:
        self.name, self.start_settings = name, start_settings
        self.events = EventLog()
        self.recording = asyncio.Lock()
        self._workspace = workspace
        self.service = SessionService(workspace)
        self._users: dict[str, User] = {}
        self._screen = screen_of(name)
        self._tasks = BackgroundTasks(self._on_task_error)
        self._lifetimes = LifetimeObserver(
            workspace.stores.redis,
            self.events,
            self._tasks,
            get_settings=lambda: self.settings,
            on_change=self._screen.on_lifetime,
        )
        self._watch: asyncio.Task[None] | None = None

    # --- start and end ----------------------------------------------------------------------------

    async def open(self) -> None:
        """Start the service. If that fails, the session ends."""
        try:
            await self._start_service()
        except BaseException:
            await self.end()
            _ended.discard(self.name)  # the cell shows why it failed, not that it has ended
            raise

    async def reset(self) -> "Lab":
        """Delete all users, messages and keys of this session, and restart its service."""
        stores = self._open_stores()
        await self._stop_service()
        await asyncio.to_thread(stores.drop_database)
        await asyncio.to_thread(stores.redis.flushall)
        await self._start_service()
        return self

    async def end(self) -> EndReport:
        """Stop the service and the Redis of this session, and delete its data.

        The report also offers to stop the kernel.
        """
        error = ""
        if _sessions.get(self.name) is self:
            del _sessions[self.name]
            _ended.add(self.name)
            self._screen.stop()
            await self._stop_service()
            error = await asyncio.to_thread(self._workspace.close)
        return EndReport(error)

    def is_as_started(self, settings: dict[str, Any], servers: Servers) -> bool:
        """Return True if the service is running with these settings, unchanged since its start."""
        is_wanted = (self.start_settings, self._workspace.servers) == (settings, servers)
        return is_wanted and self.service.is_running and not self.service.changed

    async def _start_service(self) -> None:
        await self.service.start()
        await self.user(OBSERVER, connect=False)
        await self._watch_service()

    async def _stop_service(self) -> None:
        await self._tasks.cancel()
        await asyncio.gather(
            *(user.close() for user in self._users.values()), return_exceptions=True
        )
        await self.service.stop()
        self._users.clear()
        self._lifetimes.clear()
        self.events.clear()

    # --- the service ------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """The settings of the running service."""
        return self.service.settings

    async def update_settings(
        self, *, cache_ttl: float | None = None, cache_mode: str | None = None
    ) -> "Lab":
        """Change the TTL of cached messages (seconds) or the cache mode.

        The service is restarted only if it still expects writes of an extra service that has
        stopped, which it does for a minute. Raises Conflict while an extra service shares its cache.
        """
        self._open_stores()
        requested = {"cacheTtl": cache_ttl, "cacheMode": cache_mode}
        try:
            await self._users[OBSERVER].update_settings(
                {name: value for name, value in requested.items() if value is not None}
            )
        except Conflict:
            if self.service.has_extras:
                raise
            return await self.restart(cache_ttl=cache_ttl, cache_mode=cache_mode)
        self.service.change_settings(cache_ttl=cache_ttl, cache_mode=cache_mode)
        return self

    async def restart(self, **changed: Any) -> "Lab":
        """Restart the service at the same address with changed settings.

        For example `sweeper=False` or `window_size=500`. This also works after the service was
        killed. Users, messages and the contents of Redis stay. Sockets that were open are opened
        again.
        """
        self._open_stores()
        connected = [user for user in self._users.values() if user.connect_requested]
        await self._stop_watching()
        await asyncio.gather(
            *(user.disconnect() for user in self._users.values()), return_exceptions=True
        )
        await self.service.restart(**changed)
        await self._watch_service()
        await asyncio.gather(*(user.connect() for user in connected))
        return self

    async def kill_service(self) -> PlainText:
        """Kill the service with SIGKILL (`kill -9`). `restart` starts it again."""
        self._open_stores()
        await self._stop_watching()
        await self.service.kill()
        return PlainText("The service was killed. To start it again: await lab.restart()")

    # --- engines and users ------------------------------------------------------------------------

    @property
    def engines(self) -> SessionEngines:
        """The session's own servers, to stop, freeze or crash them."""
        self._open_stores()
        workspace = self._workspace
        return SessionEngines(workspace.engines, self.name, workspace.servers)

    async def user(self, name: str, *, connect: bool = True) -> User:
        """Return the user of this name. The first call signs the user up.

        `connect`: connect the user's socket, too.
        """
        if name not in self._users:
            url = self.service.child.url
            self._users[name] = await User.sign_up(url, name, PASSWORD, events=self.events)
        if connect:
            await self._users[name].connect()
        return self._users[name]

    async def new_user(self, name: str) -> User:
        """Return a user without messages: `carol`, at the next call `carol-2`, and so on."""
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        return await self.user(next(free for free in names if free not in self._users))

    def raw_client(self, user: User, url: str | None = None) -> RawHttpClient:
        """Open a bare HTTP connection of this user for measurements.

        A general HTTP client would take longer for a request than the service does. `url` may be
        that of an extra service. The connection is closed with the session.
        """
        client = RawHttpClient(url or self.service.child.url, user.token)
        return self._workspace.keep_open(client)

    # --- the stores -------------------------------------------------------------------------------

    @property
    def redis(self) -> Redis:
        """The Redis of this session: an ordinary client of redis-py, with `decode_responses`.

        With `redis_cluster` it is a `redis.RedisCluster`.
        """
        return self._open_stores().redis

    @property
    def mongo(self) -> Database[Json]:
        """The database of this session: an ordinary one of pymongo."""
        return self._open_stores().mongo

    @property
    def stepped_clients(self) -> SteppedClients:
        """The clients of functions in a `Race`."""
        return self._open_stores().stepped

    def find_messages(self, **fields: Any) -> list[Json]:
        """Return the messages in MongoDB with these fields, in the form that the API returns."""
        return self._open_stores().find_messages(**fields)

    async def record_queries(self, act: Awaitable[Any]) -> QueryLog:
        """Return the commands that the service sends to MongoDB and to Redis during `act`.

        For example `await lab.record_queries(bob.read("alice"))`. Its `result` is that of `act`.
        """
        try:
            recording = self._open_stores().record_queries()
        except EngineError:
            if inspect.iscoroutine(act):
                act.close()  # otherwise Python warns that it was never awaited
            raise
        async with self.recording:
            with recording as log:
                result = await act
        return log._replace(result=result)

    def _open_stores(self) -> SessionStores:
        return self._workspace.stores

    # --- results ----------------------------------------------------------------------------------

    async def key_lifetime(self, of: str | Trace) -> KeyLifetime:
        """Wait for the end of a cached key, and return its whole lifetime.

        Raises PremiseGone if the key was not observed in this session.
        """
        self._open_stores()
        return await self._lifetimes.lifetime(of if isinstance(of, str) else of.key)

    def record_claims(self, *results: ClaimResult) -> ClaimResults:
        """Return this notebook's results for the document's claims, and save them.

        Notebook 13, the scorecard, reads them.
        """
        Scorecard().write(self.name.partition("_")[0], list(results))
        return ClaimResults(results)

    def __repr__(self) -> str:
        if not self.service.is_running:
            return f"Lab {self.name}: the service has stopped. Run the cell that starts it again."
        settings = self.settings
        return (
            f"Lab {self.name}: the service is running. Cache mode {settings.cache_mode.value},"
            f" TTL {settings.cache_ttl:g} s, a sweep every {settings.sweep_interval:g} s,"
            f" {len(self.find_messages())} messages."
        )

    # --- what is observed -------------------------------------------------------------------------

    async def _watch_service(self) -> None:
        await self._users[OBSERVER].watch_flow(self._on_event)
        self._watch = self._tasks.start(self._keep_watching())
        self._screen.show_error("")

    async def _stop_watching(self) -> None:
        if self._watch:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    async def _keep_watching(self) -> None:
        """Watch again if the connection is lost, and show that the service has stopped.

        A cell that blocks the kernel for a minute, such as an endless loop, loses all connections.
        """
        observer = self._users[OBSERVER]
        # Checking a child process is cheap, and the interval is short enough for a person.
        while self.service.is_running:
            if not observer.is_watching_flow:
                with contextlib.suppress(socketio.exceptions.ConnectionError):
                    await observer.watch_flow(self._on_event)
            await asyncio.sleep(WATCH_INTERVAL_S)
        self._screen.show_error("The service has stopped. Run the cell that starts it again.")

    def _on_event(self, event: StageEvent) -> None:
        """Handle a flow event. Runs on the kernel's loop, where the socket was opened."""
        self.events.record(event)
        if not self._workspace.servers.redis_cluster:  # a failover would stop the kernel's loop
            self._lifetimes.on_event(event)
        self._screen.on_event(event)

    def _on_task_error(self, error: BaseException) -> None:
        self._screen.show_error(
            f"The widgets are no longer updated: {error_text(error)}. Run the first cells again."
        )
