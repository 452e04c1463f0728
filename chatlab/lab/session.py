"""A session: the service of one notebook, its users, and everything observed about them.

`start` runs `chatlab serve` as a child process. The child uses the private engines that all
processes on this data folder share, with a database and a key prefix of its own. So a reset cannot
touch the data of others, settings can differ, and notebooks do not disturb each other. The child
ends when the kernel ends, even if the kernel is killed. The engines stop when their last user has
ended.

Everything runs on the kernel's event loop, and nothing here prints. Errors in background tasks are
shown in the widgets.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

from pymongo.database import Database

from chatlab.bench.raw_http import RawHttpClient
from chatlab.client import Json
from chatlab.domain.trace import StageEvent
from chatlab.errors import EngineError
from chatlab.lab.claims import ClaimResult, ClaimResults
from chatlab.lab.event_log import EventLog
from chatlab.lab.key_lifetime import KeyLifetime
from chatlab.lab.lab_widgets import LabWidgets
from chatlab.lab.lifetime_observer import LifetimeObserver
from chatlab.lab.own_engines import OwnEngines
from chatlab.lab.plain_text import PlainText, error_text
from chatlab.lab.query_log import QueryLog
from chatlab.lab.scorecard import Scorecard
from chatlab.lab.session_service import SessionService
from chatlab.lab.store_inspector import RedisInspector, StoreInspector
from chatlab.lab.tasks import BackgroundTasks
from chatlab.lab.trace import Trace
from chatlab.lab.user import PASSWORD, User
from chatlab.lab.widgets import screen_of
from chatlab.lab.workspace import Workspace
from chatlab.settings import Settings

OBSERVER = "observer"  # the user whose token gives access to /flow
WATCH_INTERVAL_S = 0.5

_sessions: dict[str, "Lab"] = {}


async def start(name: str, *, own_engines: bool = False, **settings: Any) -> "Lab":
    """Return the session of this notebook: the running one if its settings match, else a new one.

    A new session has no users and no messages. `own_engines`: use engines that no other session
    uses, so that they can be frozen and stopped. `settings` as in `chatlab.settings`, e.g.
    `cache_ttl=20`. Raises EngineError, which names the command that fixes the problem.
    """
    lab = _sessions.get(name)
    if lab and lab.is_as_started(settings, own_engines=own_engines):
        if own_engines:
            await lab.engines.repair()
        return lab
    if lab:
        await lab.end()
    workspace = await asyncio.to_thread(Workspace, name, settings, own_engines=own_engines)
    _sessions[name] = lab = Lab(name, settings, workspace)
    await lab.open()
    return lab


class Lab(LabWidgets):
    """A running session, created by `start`.

    Its methods take and return keys without the session's prefix.
    """

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
            raise

    async def reset(self) -> "Lab":
        """Delete all users and messages of this session, and restart its service."""
        await self._stop_service()
        await asyncio.to_thread(self._open_stores().erase)
        await self._start_service()
        return self

    async def end(self) -> PlainText:
        """Stop the service, delete all data of this session, and report what is left."""
        _sessions.pop(self.name, None)
        self._screen.stop()
        await self._stop_service()
        report = await asyncio.to_thread(self._erase)
        await asyncio.to_thread(self._workspace.close)
        return report

    def is_as_started(self, settings: dict[str, Any], *, own_engines: bool) -> bool:
        """Return True if the service is running with these settings, unchanged since its start."""
        wanted = (self.start_settings, self.own_engines) == (settings, own_engines)
        return wanted and self.service.is_running and not self.service.changed

    async def _start_service(self) -> None:
        await self.service.start()
        await self.user(OBSERVER)
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

    def _erase(self) -> PlainText:
        try:
            self._open_stores().erase()
            keys, messages = len(self.redis.keys()), len(self.find_messages())
        except Exception as error:  # noqa: BLE001 - ending a session never fails; the next start deletes its data
            return PlainText(
                f"The service has stopped. Its data could not be deleted: {error_text(error)}"
            )
        return PlainText(
            f"The service has stopped. Left in Redis: {keys} keys. Left in MongoDB: {messages} messages."
        )

    # --- the service ------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """The settings of the running service."""
        return self.service.settings

    async def update_settings(
        self, *, cache_ttl: float | None = None, cache_mode: str | None = None
    ) -> "Lab":
        """Change the TTL of cached messages (seconds) or the cache mode, without a restart."""
        requested = {"cacheTtl": cache_ttl, "cacheMode": cache_mode}
        await self._users[OBSERVER].update_settings(
            {name: value for name, value in requested.items() if value is not None}
        )
        self.service.change_settings(cache_ttl=cache_ttl, cache_mode=cache_mode)
        return self

    async def restart(self, **changed: Any) -> "Lab":
        """Restart the service at the same address with changed settings.

        For example `sweeper=False` or `window_size=500`. This also works after the service was
        killed. Users, messages and the contents of Redis stay. Sockets that were open are opened
        again.
        """
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
        await self._stop_watching()
        await self.service.kill()
        return PlainText("The service was killed. To start it again: await lab.restart()")

    # --- engines and users ------------------------------------------------------------------------

    @property
    def own_engines(self) -> bool:
        return self._workspace.own_engines

    @property
    def engines(self) -> OwnEngines:
        """The session's own engines, to stop, freeze or crash them."""
        if not self.own_engines:
            raise EngineError(
                "Other notebooks use these engines, too.",
                f"await start({self.name!r}, own_engines=True)",
            )
        return OwnEngines(self._workspace.engines)

    async def user(self, name: str) -> User:
        """Return the user of this name. The first call signs the user up."""
        if name not in self._users:
            url = self.service.child.url
            self._users[name] = await User.sign_up(url, name, PASSWORD, events=self.events)
        return self._users[name]

    def raw_client(self, user: User, url: str | None = None) -> RawHttpClient:
        """Open a bare HTTP connection of this user for measurements.

        A general HTTP client would take longer for a request than the service does. `url` may be
        that of an extra service. The connection is closed with the session.
        """
        client = RawHttpClient(url or self.service.child.url, user.token)
        return self._workspace.keep_open(client)

    # --- the stores -------------------------------------------------------------------------------

    @property
    def redis(self) -> RedisInspector:
        """The keys of this session in Redis."""
        return self._open_stores().redis

    @property
    def mongo(self) -> Database[Json]:
        """This session's database, as pymongo returns it."""
        return self._open_stores().mongo

    def find_messages(self, **fields: Any) -> list[Json]:
        """Return the messages in MongoDB with these fields, in the form that the API returns."""
        return self._open_stores().find_messages(**fields)

    async def record_queries(self, act: Awaitable[Any]) -> QueryLog:
        """Return the commands that the service sends to MongoDB and to Redis during `act`.

        For example `await lab.record_queries(bob.read("alice"))`.
        """
        async with self.recording:
            with self._open_stores().record_queries() as log:
                await act
        return log

    def _open_stores(self) -> StoreInspector:
        return self._workspace.stores

    # --- results ----------------------------------------------------------------------------------

    async def key_lifetime(self, of: str | Trace) -> KeyLifetime:
        """Wait for the end of a cached key, and return its whole lifetime.

        Raises LookupError if the key was not observed in this session.
        """
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
        self._watch = self._tasks.start(self._report_end())
        self._screen.show_error("")

    async def _stop_watching(self) -> None:
        if self._watch:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    async def _report_end(self) -> None:
        # Checking a child process is cheap, and the interval is short enough for a person.
        while self.service.is_running:  # noqa: ASYNC110
            await asyncio.sleep(WATCH_INTERVAL_S)
        self._screen.show_error("The service has stopped. Run the cell that starts it again.")

    def _on_event(self, event: StageEvent) -> None:
        """Handle a flow event. Runs on the kernel's loop, where the socket was opened."""
        if "key" in event:
            event["key"] = event["key"].removeprefix(self.settings.key_prefix)
        self.events.record(event)
        self._lifetimes.on_event(event)
        self._screen.on_event(event)

    def _on_task_error(self, error: BaseException) -> None:
        self._screen.show_error(
            f"The widgets are no longer updated: {error_text(error)}. Run the first cells again."
        )
