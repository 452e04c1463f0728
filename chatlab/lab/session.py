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
import contextlib
import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import psutil
from pymongo.collection import Collection
from redis import Redis
from redis.exceptions import RedisError

from chatlab.bench.raw_http import RawHttpClient
from chatlab.client import Json
from chatlab.domain.trace import StageEvent
from chatlab.errors import EngineError
from chatlab.lab.asked import Asked
from chatlab.lab.claims import Claim, Claims
from chatlab.lab.ledger import Ledger
from chatlab.lab.life import SELDOM, Life
from chatlab.lab.looks import Looks, looked_until
from chatlab.lab.said import Said, words
from chatlab.lab.space import remove_left, take_space
from chatlab.lab.trace import Person, Trace
from chatlab.lab.widgets import Chart, Chat, FlowMap, Stores, Timeline, TtlBoard, screen_of
from chatlab.local.binaries import Name
from chatlab.local.engines import Engines, open_engines
from chatlab.run.child import ChildService
from chatlab.settings import Settings, load_settings

PASSWORD = "everybody here has this one"  # noqa: S105 - it guards nothing: the service is private and short-lived
PATIENCE = 2.0  # seconds to wait for a flow event
REMEMBERED = 50_000  # flow events kept in memory
# Keys whose lifetimes are observed at the same time; under load, further keys are not observed.
FOLLOWED = 20
# The settings of every session's service.
OWN = {"host": "127.0.0.1", "port": 0, "workers": 1, "rate_limit": 0, "login_limit": 0}

Found = TypeVar("Found")

_live: dict[str, "Lab"] = {}


async def start(name: str, *, own_engines: bool = False, **settings: Any) -> "Lab":
    """Return the session of this notebook: the running one if its settings match, else a new one.

    A new session has no users and no messages. `own_engines`: use engines that no other session
    uses, so that they can be frozen and stopped. `settings` as in `chatlab.settings`, e.g.
    `cache_ttl=20`. Raises EngineError, which names the command that fixes the problem.
    """
    lab = _live.get(name)
    if (
        lab
        and lab.runs
        and not lab.turned
        and (lab.own_engines, lab.given) == (own_engines, settings)
    ):
        return await lab.whole()
    if lab:
        await lab.end()
    _live[name] = lab = Lab(name, settings, own_engines=own_engines)
    await lab.open()
    return lab


class Lab:
    """A running session, created by `start`.

    Its methods take and return keys without the session's prefix.
    """

    def __init__(self, name: str, given: dict[str, Any], *, own_engines: bool) -> None:
        self.name, self.given, self.own_engines = name, given, own_engines
        self.turned: dict[str, Any] = {}  # settings that were changed later
        self.events: deque[StageEvent] = deque(maxlen=REMEMBERED)
        self._people: dict[str, Person] = {}
        self._lives: dict[str, tuple[Life, asyncio.Task[None]]] = {}
        self._told: dict[str, StageEvent] = {}  # the sweeper's expiry report for each key
        self._screen = screen_of(name)
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Event()
        # Held while commands are counted. The widgets do not read the stores meanwhile.
        self.counting = asyncio.Lock()
        self._closing = contextlib.ExitStack()
        self._engines: Engines | None = None
        self._service: ChildService | None = None
        self._beside: dict[str, ChildService] = {}
        self._watch: asyncio.Task[None] | None = None
        self._looks: Looks | None = None

    # --- start and end ----------------------------------------------------------------------------

    async def open(self) -> None:
        try:
            await asyncio.to_thread(self._open_engines)
            await self._open_service()
        except BaseException:
            await self.end()
            raise

    def _open_engines(self) -> None:
        folder = self._folder
        remove_left(folder)
        space, self._lock = take_space(self.name, folder)
        self._closing.callback(os.close, self._lock)
        self._fixed = OWN | {"database": space, "key_prefix": f"{space}:"} | self.given
        if self.own_engines:
            self._fixed["data_dir"] = folder / space
            self._closing.callback(shutil.rmtree, folder / space, ignore_errors=True)
        self.settings = self._settings()
        self._engines = self._closing.enter_context(open_engines(self.settings))
        self._looks = Looks(self._engines, space, self.settings.key_prefix)
        self._closing.callback(self._looks.close)
        self._looks.erase()  # left over from a kernel that was killed

    def _settings(self, **other: Any) -> Settings:
        settings = load_settings(**self._fixed | (other or self.turned))
        return (
            settings.model_copy(update={"mongo_url": None, "redis_url": None})
            if self.own_engines
            else settings
        )

    async def _open_service(self) -> None:
        await self._start_service()
        await self.person("observer")  # its token gives access to /flow
        await self._listen()

    async def _start_service(self) -> None:
        self._service = await asyncio.to_thread(ChildService, self.settings, pass_fds=[self._lock])

    async def _listen(self) -> None:
        assert self._service
        await self._people["observer"].watch_flow(self._hear)
        self._watch = self._spawn(self._watch_over(self._service))
        self._complain("")

    async def reset(self) -> "Lab":
        """Delete all users and messages of this session, and restart its service."""
        await self._close_service()
        await asyncio.to_thread(self._look.erase)
        self.turned.clear()
        self.settings = self._settings()
        await self._open_service()
        return self

    async def end(self) -> Said:
        """Stop the service, delete all data of this session, and report what is left."""
        _live.pop(self.name, None)
        self._screen.rest()
        await self._close_service()
        left = await asyncio.to_thread(self._erase)
        await asyncio.to_thread(self._closing.close)
        self._looks = self._engines = None
        return left

    async def _stop_watching(self) -> None:
        if self._watch:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    async def _close_service(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(
            *(person.close() for person in self._people.values()), return_exceptions=True
        )
        await self.alone()
        if self._service:
            await asyncio.to_thread(self._service.stop)
        self._service = None
        for seen in (self._people, self._lives, self._told, self.events):
            seen.clear()

    def _erase(self) -> Said:
        try:
            self._look.erase()
            return Said(
                f"The service has ended. Left: {len(self.redis_keys())} keys, {len(self.mongo_find('messages'))} messages."
            )
        except Exception as wrong:  # noqa: BLE001 - ending a session never fails; the next start removes leftovers
            return Said(f"The service has ended. What is left cannot be told: {words(wrong)}")

    @property
    def runs(self) -> bool:
        return self._service is not None and self._service.is_running

    @property
    def pid(self) -> int | None:
        """The process id of the service, or None if there is no service."""
        return self._service.pid if self._service else None

    def log(self, word: str = "") -> list[str]:
        """Return the lines of the service's log that contain `word`."""
        lines = self._service.log().splitlines() if self._service else []
        return [line for line in lines if word in line]

    def __repr__(self) -> str:
        if not self.runs:
            return f"Lab {self.name}: ended. Run the cell that starts it again."
        cache = f"Cache {self.settings.cache_mode.value}, TTL {self.settings.cache_ttl:g} s, worker every {self.settings.sweep_interval:g} s"
        return f"Lab {self.name}: the service runs. {cache}; {len(self.mongo_find('messages'))} messages."

    # --- switches ---------------------------------------------------------------------------------

    async def turn(self, *, cache_ttl: float | None = None, cache_mode: str | None = None) -> "Lab":
        """Change the TTL of cached messages (seconds) or the cache mode, without a restart."""
        asked = {"cacheTtl": cache_ttl, "cacheMode": cache_mode}
        await self._people["observer"].update_settings(
            {name: value for name, value in asked.items() if value is not None}
        )
        return self._changed(cache_ttl=cache_ttl, cache_mode=cache_mode)

    async def restart(self, **changed: Any) -> "Lab":
        """Restart the service at the same address with changed settings.

        For example `sweeper=False` or `window_size=500`. This also works after the service was
        killed. Users, messages and the contents of Redis stay. Sockets that were open are opened
        again.
        """
        opened = [person for person in self._people.values() if person.connect_requested]
        await self._stop_watching()
        await asyncio.gather(
            *(person.disconnect() for person in self._people.values()), return_exceptions=True
        )
        port = int(self._url.rpartition(":")[2])
        if self._service:
            await asyncio.to_thread(self._service.stop)
        self._changed(port=port, **changed)
        await self._start_service()
        await self._listen()
        await asyncio.gather(*(person.connect() for person in opened))
        return self

    async def kill(self) -> Said:
        """Kill the service with SIGKILL (`kill -9`). `restart` starts it again."""
        await self._stop_watching()
        assert self.pid
        os.kill(self.pid, signal.SIGKILL)
        # the kernel of the operating system needs a moment
        await looked_until(lambda: not self.runs, PATIENCE)
        return Said("The service was killed. await lab.restart() brings it back.")

    async def beside(self, name: str, **changed: Any) -> str:
        """Start a second service with other settings for a comparison, and return its URL.

        It has the same users and messages but a cache of its own: its keys begin with `name`. It
        reports no flow events. It ends with the session.
        """
        if name not in self._beside or not self._beside[name].is_running:
            own = {"key_prefix": f"{self.settings.key_prefix}{name}:"}
            settings = self._settings(**own | changed)
            self._beside[name] = await asyncio.to_thread(
                ChildService, settings, flow=False, pass_fds=[self._lock]
            )
        return self._beside[name].url

    async def alone(self) -> None:
        """Stop the services that `beside` started."""
        services, self._beside = self._beside, {}
        await asyncio.gather(*(asyncio.to_thread(service.stop) for service in services.values()))

    def _changed(self, **changed: Any) -> "Lab":
        self.turned |= {name: value for name, value in changed.items() if value is not None}
        self.settings = self._settings()
        return self

    async def stop_engine(self, name: Name) -> Said:
        """Stop `redis` or `mongo`. Only a session with its own engines can do this."""
        await asyncio.to_thread(self._mine.stop, name)
        return Said(f"{name} is stopped. await lab.start_engine({name!r}) brings it back.")

    async def start_engine(self, name: Name) -> Said:
        """Start an engine again. MongoDB still has its saved data; Redis is empty."""
        await asyncio.to_thread(self._mine.start, name)
        return Said(f"{name} runs again.")

    async def whole(self) -> "Lab":
        """Start or thaw all of the session's own engines that are stopped or frozen."""
        names: tuple[Name, ...] = ("mongo", "redis") if self.own_engines else ()
        for name in names:
            if self._mine.pid(name):
                self.thaw(name)
            await self.start_engine(name)
        return self

    async def crash_engine(self, name: Name) -> Said:
        """Kill an engine with SIGKILL, even a frozen one.

        Its supervisor restarts it at once. MongoDB still has its saved data; Redis is empty.
        """
        former = self._mine.pid(name)
        self._signal(name, signal.SIGKILL)
        # the supervisor has to notice
        await looked_until(lambda: self._mine.pid(name) not in (None, former), PATIENCE)
        await asyncio.to_thread(self._mine.start, name)
        return Said(f"{name} was killed, and runs again.")

    def freeze(self, name: Name) -> Said:
        """Freeze an engine until `thaw`: its connections stay open but it does not reply.

        This looks like a broken network. When the method returns, the process has stopped.
        """
        pid = self._signal(name, signal.SIGSTOP)
        while not _stands_still(pid):
            time.sleep(0.0005)  # its threads stop one after another, within microseconds
        return Said(f"{name} is frozen. lab.thaw({name!r}) lets it go on.")

    def thaw(self, name: Name) -> Said:
        self._signal(name, signal.SIGCONT)
        return Said(f"{name} goes on.")

    def _signal(self, name: Name, what: signal.Signals) -> int:
        pid = self._mine.pid(name)
        if pid is None:
            raise EngineError(f"{name} does not run.", f"await lab.start_engine({name!r})")
        os.kill(pid, what)
        return pid

    @property
    def _mine(self) -> Engines:
        if self._engines is None or not self.own_engines:
            raise EngineError(
                "Other notebooks use these engines too.",
                f"await start({self.name!r}, own_engines=True)",
            )
        return self._engines

    # --- users ------------------------------------------------------------------------------------

    async def person(self, name: str) -> Person:
        """Return the user of this name. The first call signs the user up."""
        if name not in self._people:
            person = await Person.sign_up(self._url, name, PASSWORD)
            person.lab = self
            self._people[name] = person
        return self._people[name]

    @property
    def _url(self) -> str:
        if self._service is None:
            raise EngineError(
                "The session has ended.", "run the cell with `await start(...)` again"
            )
        return self._service.url

    def wire(self, person: Person, url: str | None = None) -> RawHttpClient:
        """Open a bare HTTP connection of this user for measurements.

        A general HTTP client would take longer for a request than the service does. `url` may be
        that of a second service started with `beside`. The connection is closed with the session.
        """
        return self._closing.enter_context(RawHttpClient(url or self._url, person.token))

    # --- flow events ------------------------------------------------------------------------------

    def _hear(self, event: StageEvent) -> None:
        """Handle a flow event. Runs on the kernel's loop, where the socket was opened."""
        if "key" in event:
            event["key"] = event["key"].removeprefix(self.settings.key_prefix)
        self.events.append(event)
        self._arrived.set()  # wakes all waiting tasks
        self._arrived.clear()
        if event["stage"] == "cached":
            self._begin_life(event)
        elif event["stage"] == "cleaned":
            self._told[event["key"]] = event
        self._screen.hear(event)

    async def until(
        self, found: Callable[[], Found | None], within: float = PATIENCE
    ) -> Found | None:
        """Wait for flow events until `found` returns a value; None after `within` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not (result := found()):
                    await self._arrived.wait()
                return result
        return None

    async def way_of(self, message_id: str) -> list[StageEvent]:
        """Return the flow events of the send that created this message.

        The list is shorter than the diagram if some events do not arrive.
        """

        def passed(stage: str) -> StageEvent | None:
            return next(
                (
                    event
                    for event in self.events
                    if event["stage"] == stage and event.get("messageId") == message_id
                ),
                None,
            )

        await self.until(lambda: passed("respond"))
        created = passed("create")
        return [event for event in self.events if created and event["trace"] == created["trace"]]

    # --- lifetimes of keys ------------------------------------------------------------------------

    def _begin_life(self, event: StageEvent) -> None:
        running = [task for _, task in self._lives.values() if not task.done()]
        if event["key"] in self._lives or len(running) >= FOLLOWED:
            return
        life = Life.of(event)
        self._lives[life.key] = life, self._spawn(self._follow(life))
        self._show(life)

    async def _follow(self, life: Life) -> None:
        """Check Redis until it no longer has the key, then wait for the sweeper's expiry report.

        A check makes Redis delete an expired key at once.
        """
        while life.state in ("live", "kept"):
            pttl = self._pttl_if_it_answers(life.key)
            if pttl is not None and life.looked(pttl, _now()):
                self._show(life)
            await asyncio.sleep(SELDOM if pttl is None else life.next_look(_now()))
        patience = 10 * self.settings.sweep_interval if self._will_be_told(life) else 0
        told = await self.until(lambda: self._told.get(life.key), patience)
        if told:
            life.told(told)
            self._show(life)

    def _pttl_if_it_answers(self, key: str) -> int | None:
        try:
            return self.redis_pttl(key)
        except RedisError:  # stopped or frozen on purpose
            return None

    def _will_be_told(self, life: Life) -> bool:
        """Return True if the sweeper will report the end of this key.

        Without a sweeper there is no report, and a key that disappeared before its deadline
        (because Redis was killed) is not reported as cleaned.
        """
        return self.settings.sweeper and life.state == "expired"

    async def life(self, of: str | Trace) -> Life:
        """Wait for the end of a cached key, and return its whole lifetime.

        Raises LookupError if the key was not observed in this session.
        """
        key = of if isinstance(of, str) else of.key
        if key not in self._lives:
            raise LookupError(
                f"{key} was not cached in this session, or among too many at once to be followed"
            )
        life, task = self._lives[key]
        await asyncio.wait_for(
            asyncio.shield(task),
            self.settings.cache_ttl + 11 * self.settings.sweep_interval + PATIENCE,
        )
        return life

    # --- results for the document's claims --------------------------------------------------------

    def found(self, *claims: Claim) -> Claims:
        """Return this notebook's results for the document's claims, and save them to the ledger.

        Notebook 13, the scorecard, reads them there.
        """
        Ledger(self._folder).write(self.name.partition("_")[0], list(claims))
        return Claims(claims)

    @property
    def _folder(self) -> Path:
        return load_settings().data_dir.expanduser() / "lab"

    # --- direct reads of the stores ---------------------------------------------------------------

    @property
    def _look(self) -> Looks:
        if self._looks is None:
            raise EngineError(
                "The session has ended.", "run the cell with `await start(...)` again"
            )
        return self._looks

    def redis_keys(self, pattern: str = "*") -> list[str]:
        """Return the keys of this session in Redis, without the session's prefix."""
        return self._look.keys(pattern)

    def redis_get(self, key: str) -> str | list[str] | None:
        """Return the value of a key, or None if the key does not exist.

        A message is returned as text, a conversation window as the list of its header and its
        messages.
        """
        return self._look.value(key)

    def redis_ttl(self, key: str) -> int:
        """Return what TTL returns: seconds left, rounded; -1 for no expiry, -2 for no such key."""
        return self._look.ttl(key)

    def redis_pttl(self, key: str) -> int:
        """Return what PTTL returns: milliseconds left; -1 for no expiry, -2 for no such key."""
        return self._look.pttl(key)

    def mongo_find(self, collection: str, **fields: Any) -> list[Json]:
        """Return the documents with these fields; messages have the form that the API returns."""
        return self._look.documents(collection, fields)

    def redis(self, *words: Any) -> Any:
        """Run a Redis command on keys of this session.

        For example `lab.redis("SET", "message:mine", "hello", "EX", 5)`.
        """
        return self._look.command(*words)

    def redis_client(self) -> Redis:
        """Return a new client of this session's Redis, for work that needs two at a time.

        Use it as `with lab.redis_client() as redis`. Unlike other methods, it needs keys with the
        prefix.
        """
        return self._look.client()

    def redis_clock(self) -> int:
        """Return Redis's time in microseconds, the clock by which the service dates its windows."""
        seconds, microseconds = self.redis("TIME")
        return int(seconds) * 1_000_000 + int(microseconds)

    @property
    def messages(self) -> Collection[Json]:
        """The collection with this session's messages, as pymongo returns it."""
        return self._look.messages

    async def asked(self, act: Awaitable[Any]) -> Asked:
        """Return the commands that the service sends to MongoDB and to Redis during `act`.

        For example `await lab.asked(bob.read("alice"))`.
        """
        async with self.counting:
            with self._look.listening() as asked:
                await act
        return asked

    # --- widgets ----------------------------------------------------------------------------------

    # There is one live widget of each kind: showing it again closes the earlier one. `big` is for a
    # projector.

    def ttl_board(self, *, big: bool = False) -> TtlBoard:
        """Show every cached message with the time it has left."""
        return self._screen.show(TtlBoard(big=big), self._spawn)

    def flow_map(self, *, of: str = "send", big: bool = False) -> FlowMap:
        """Show the diagram of a `send`, a `read` or a `change`.

        Each request lights the stages that it passes. A click on a box shows its source.
        """
        return self._screen.show(FlowMap(of, big=big), self._spawn)

    def timeline(self, *, big: bool = False) -> Timeline:
        """Show the sweeps on a time axis, and each key's caching, deadline and expiry report."""
        return self._screen.show(Timeline(self.events, big=big), self._spawn)

    def chat(self, left: Person, right: Person, *, big: bool = False) -> Chat:
        """Show the screens of two users. Messages typed there are sent through the service."""
        return self._screen.show(Chat(left, right, big=big), self._spawn)

    def stores(self, of: Trace | str, *, big: bool = False) -> Stores:
        """Show one message in MongoDB, in its cache entry and in its conversation window.

        `of` is the message's trace or id.
        """
        return self._screen.show(Stores(self, of, big=big), self._spawn)

    def chart(
        self,
        title: str,
        *,
        unit: str = "ms",
        log: bool = False,
        x: str = "",
        lines: bool = False,
        big: bool = False,
    ) -> Chart:
        """Show a chart that grows during a measurement: `add`, `progress`, `mark`.

        With `lines`, use `point`; `x` is the label of the x axis.
        """
        return self._screen.show(
            Chart(title, unit=unit, log=log, x=x, lines=lines, big=big), self._spawn
        )

    def _show(self, life: Life) -> None:
        self._screen.follow(life)

    # --- background tasks -------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        wrong = None if task.cancelled() else task.exception()
        if wrong is not None:
            self._complain(
                f"Cannot go on showing what happens: {words(wrong)}. Run the first cells again."
            )

    async def _watch_over(self, service: ChildService) -> None:
        # Checking a child process is cheap, and a delay of half a second is short enough for a
        # person.
        while service.is_running:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        self._complain("The service has ended. Run the cell that starts it again.")

    def _complain(self, text: str) -> None:
        self._screen.complain(text)


def _stands_still(pid: int) -> bool:
    """Return True if every thread of this process has stopped.

    Where threads cannot be checked one by one, the state of the process is used.
    """
    threads = list(Path(f"/proc/{pid}/task").glob("*/stat"))
    if not threads:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    with contextlib.suppress(OSError):  # a thread that has just ended
        return all(thread.read_text().rpartition(") ")[2].startswith("T") for thread in threads)
    return False


def _now() -> float:
    return time.time() * 1000
