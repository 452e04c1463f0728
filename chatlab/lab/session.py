"""A session: one notebook's service, people, and what was seen of both.

`start` runs a `chatlab serve` of its own as a child, on the private engines that everybody on this data folder shares, in a database and
under a key prefix that nobody else has. So a reset cannot touch others' data, settings can differ, and notebooks do not disturb each other.
The child ends when the kernel does, however that ends; the engines end with the last one who uses them.

Everything runs on the kernel's own event loop; nothing here prints. What goes wrong in the background shows in the widgets.
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
PATIENCE = 2.0  # seconds for a flow event to arrive
REMEMBERED = 50_000  # flow events
FOLLOWED = 20  # lives that are followed at a time; under load the others are not
OWN = {"host": "127.0.0.1", "port": 0, "workers": 1, "rate_limit": 0, "login_limit": 0}  # settings of every session's service

Found = TypeVar("Found")

_live: dict[str, "Lab"] = {}


async def start(name: str, *, own_engines: bool = False, **settings: Any) -> "Lab":
    """The session of this notebook: the one that runs, its engines too, or a new one without people and messages.

    `own_engines`: engines that nobody else uses, so that they can be frozen and stopped. `settings` as in `chatlab.settings`, e.g.
    `cache_ttl=20`. Raises EngineError with the command that mends it.
    """
    lab = _live.get(name)
    if lab and lab.runs and not lab.turned and (lab.own_engines, lab.given) == (own_engines, settings):
        return await lab.whole()
    if lab:
        await lab.end()
    _live[name] = lab = Lab(name, settings, own_engines=own_engines)
    await lab.open()
    return lab


class Lab:
    """Made by `start`. Keys are spoken of without the session's prefix, as the service names them for everybody else."""

    def __init__(self, name: str, given: dict[str, Any], *, own_engines: bool) -> None:
        self.name, self.given, self.own_engines = name, given, own_engines
        self.turned: dict[str, Any] = {}  # settings that were changed since
        self.events: deque[StageEvent] = deque(maxlen=REMEMBERED)
        self._people: dict[str, Person] = {}
        self._lives: dict[str, tuple[Life, asyncio.Task[None]]] = {}
        self._told: dict[str, StageEvent] = {}  # the worker's word of each key
        self._screen = screen_of(name)
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Event()
        self.counting = asyncio.Lock()  # held while commands are counted: widgets do not look at the stores meanwhile
        self._closing = contextlib.ExitStack()
        self._engines: Engines | None = None
        self._service: ChildService | None = None
        self._beside: dict[str, ChildService] = {}
        self._watch: asyncio.Task[None] | None = None
        self._looks: Looks | None = None

    # --- beginning and end ---------------------------------------------------------------------------------------------------

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
        self._looks.erase()  # what a kernel left that was killed

    def _settings(self, **other: Any) -> Settings:
        settings = load_settings(**self._fixed | (other or self.turned))
        return settings.model_copy(update={"mongo_url": None, "redis_url": None}) if self.own_engines else settings

    async def _open_service(self) -> None:
        await self._start_service()
        await self.person("observer")  # has the token that /flow wants
        await self._listen()

    async def _start_service(self) -> None:
        self._service = await asyncio.to_thread(ChildService, self.settings, pass_fds=[self._lock])

    async def _listen(self) -> None:
        assert self._service
        await self._people["observer"].watch_flow(self._hear)
        self._watch = self._spawn(self._watch_over(self._service))
        self._complain("")

    async def reset(self) -> "Lab":
        """Forget all people and messages of this session, and start its service again."""
        await self._close_service()
        await asyncio.to_thread(self._look.erase)
        self.turned.clear()
        self.settings = self._settings()
        await self._open_service()
        return self

    async def end(self) -> Said:
        """Stop the service and remove all data of this session. Says what is left."""
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
        await asyncio.gather(*(person.close() for person in self._people.values()), return_exceptions=True)
        await self.alone()
        if self._service:
            await asyncio.to_thread(self._service.stop)
        self._service = None
        for seen in (self._people, self._lives, self._told, self.events):
            seen.clear()

    def _erase(self) -> Said:
        try:
            self._look.erase()
            return Said(f"The service has ended. Left: {len(self.redis_keys())} keys, {len(self.mongo_find('messages'))} messages.")
        except Exception as wrong:  # noqa: BLE001 - the end never fails; the next start removes what is left
            return Said(f"The service has ended. What is left cannot be told: {words(wrong)}")

    @property
    def runs(self) -> bool:
        return self._service is not None and self._service.is_running

    @property
    def pid(self) -> int | None:
        """The process of the service."""
        return self._service.pid if self._service else None

    def log(self, word: str = "") -> list[str]:
        """The lines of the service's log that hold this word."""
        lines = self._service.log().splitlines() if self._service else []
        return [line for line in lines if word in line]

    def __repr__(self) -> str:
        if not self.runs:
            return f"Lab {self.name}: ended. Run the cell that starts it again."
        cache = (
            f"Cache {self.settings.cache_mode.value}, TTL {self.settings.cache_ttl:g} s, worker every {self.settings.sweep_interval:g} s"
        )
        return f"Lab {self.name}: the service runs. {cache}; {len(self.mongo_find('messages'))} messages."

    # --- switches --------------------------------------------------------------------------------------------------------------

    async def turn(self, *, cache_ttl: float | None = None, cache_mode: str | None = None) -> "Lab":
        """Another life for cached messages (seconds), another mode of the cache, from now on and without a restart."""
        asked = {"cacheTtl": cache_ttl, "cacheMode": cache_mode}
        await self._people["observer"].update_settings({name: value for name, value in asked.items() if value is not None})
        return self._changed(cache_ttl=cache_ttl, cache_mode=cache_mode)

    async def restart(self, **changed: Any) -> "Lab":
        """The service anew at the same address, also after it was killed, with other settings: `sweeper=False`, `window_size=500`.

        People and messages stay, and what Redis holds; sockets that were open are opened again.
        """
        opened = [person for person in self._people.values() if person.connect_requested]
        await self._stop_watching()
        await asyncio.gather(*(person.disconnect() for person in self._people.values()), return_exceptions=True)
        port = int(self._url.rpartition(":")[2])
        if self._service:
            await asyncio.to_thread(self._service.stop)
        self._changed(port=port, **changed)
        await self._start_service()
        await self._listen()
        await asyncio.gather(*(person.connect() for person in opened))
        return self

    async def kill(self) -> Said:
        """`kill -9` for the service. `restart` brings it back."""
        await self._stop_watching()
        assert self.pid
        os.kill(self.pid, signal.SIGKILL)
        await looked_until(lambda: not self.runs, PATIENCE)  # the kernel needs a moment
        return Said("The service was killed. await lab.restart() brings it back.")

    async def beside(self, name: str, **changed: Any) -> str:
        """The URL of a second service with other settings, to be compared: on the same people and messages, with a cache of its own.

        Its keys begin with its name. It reports no flow, and ends with the session.
        """
        if name not in self._beside or not self._beside[name].is_running:
            own = {"key_prefix": f"{self.settings.key_prefix}{name}:"}
            settings = self._settings(**own | changed)
            self._beside[name] = await asyncio.to_thread(ChildService, settings, flow=False, pass_fds=[self._lock])
        return self._beside[name].url

    async def alone(self) -> None:
        """End the services beside."""
        services, self._beside = self._beside, {}
        await asyncio.gather(*(asyncio.to_thread(service.stop) for service in services.values()))

    def _changed(self, **changed: Any) -> "Lab":
        self.turned |= {name: value for name, value in changed.items() if value is not None}
        self.settings = self._settings()
        return self

    async def stop_engine(self, name: Name) -> Said:
        """Stop `redis` or `mongo`, in a session that has its own."""
        await asyncio.to_thread(self._mine.stop, name)
        return Said(f"{name} is stopped. await lab.start_engine({name!r}) brings it back.")

    async def start_engine(self, name: Name) -> Said:
        """Start it again; MongoDB with all it had saved, Redis empty."""
        await asyncio.to_thread(self._mine.start, name)
        return Said(f"{name} runs again.")

    async def whole(self) -> "Lab":
        """With its own engines running, if it has any: what was stopped or frozen and forgotten goes on."""
        names: tuple[Name, ...] = ("mongo", "redis") if self.own_engines else ()
        for name in names:
            if self._mine.pid(name):
                self.thaw(name)
            await self.start_engine(name)
        return self

    async def crash_engine(self, name: Name) -> Said:
        """`kill -9` for an engine, frozen or not. Its supervisor starts it again at once: MongoDB with all it had saved, Redis empty."""
        former = self._mine.pid(name)
        self._signal(name, signal.SIGKILL)
        await looked_until(lambda: self._mine.pid(name) not in (None, former), PATIENCE)  # the supervisor has to notice
        await asyncio.to_thread(self._mine.start, name)
        return Said(f"{name} was killed, and runs again.")

    def freeze(self, name: Name) -> Said:
        """It holds its connections and says nothing, until `thaw`: as when a network breaks. It stands still when this returns."""
        pid = self._signal(name, signal.SIGSTOP)
        while not _stands_still(pid):
            time.sleep(0.0005)  # its threads stop one by one, within microseconds
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
            raise EngineError("Other notebooks use these engines too.", f"await start({self.name!r}, own_engines=True)")
        return self._engines

    # --- people --------------------------------------------------------------------------------------------------------------

    async def person(self, name: str) -> Person:
        """The user of this name; signed up when asked for the first time."""
        if name not in self._people:
            person = await Person.sign_up(self._url, name, PASSWORD)
            person.lab = self
            self._people[name] = person
        return self._people[name]

    @property
    def _url(self) -> str:
        if self._service is None:
            raise EngineError("The session has ended.", "run the cell with `await start(...)` again")
        return self._service.url

    def wire(self, person: Person, url: str | None = None) -> RawHttpClient:
        """A bare HTTP connection of this user for measurements: a general client takes longer for a request than the service.

        `url`: of a service `beside`. It is closed with the session.
        """
        return self._closing.enter_context(RawHttpClient(url or self._url, person.token))

    # --- the flow ------------------------------------------------------------------------------------------------------------

    def _hear(self, event: StageEvent) -> None:
        """A flow event: on the kernel's loop, where the socket was opened."""
        if "key" in event:
            event["key"] = event["key"].removeprefix(self.settings.key_prefix)
        self.events.append(event)
        self._arrived.set()  # wakes all who wait now
        self._arrived.clear()
        if event["stage"] == "cached":
            self._begin_life(event)
        elif event["stage"] == "cleaned":
            self._told[event["key"]] = event
        self._screen.hear(event)

    async def until(self, found: Callable[[], Found | None], within: float = PATIENCE) -> Found | None:
        """Wait for flow events until `found` gives something; None after `within` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not (result := found()):
                    await self._arrived.wait()
                return result
        return None

    async def way_of(self, message_id: str) -> list[StageEvent]:
        """The flow events of the send that made this message. Fewer than the diagram has boxes if one does not arrive."""

        def passed(stage: str) -> StageEvent | None:
            return next((event for event in self.events if event["stage"] == stage and event.get("messageId") == message_id), None)

        await self.until(lambda: passed("respond"))
        created = passed("create")
        return [event for event in self.events if created and event["trace"] == created["trace"]]

    # --- lives ---------------------------------------------------------------------------------------------------------------

    def _begin_life(self, event: StageEvent) -> None:
        running = [task for _, task in self._lives.values() if not task.done()]
        if event["key"] in self._lives or len(running) >= FOLLOWED:
            return
        life = Life.of(event)
        self._lives[life.key] = life, self._spawn(self._follow(life))
        self._show(life)

    async def _follow(self, life: Life) -> None:
        """Ask Redis until it no longer has the key, then wait for the worker's word. Asking makes Redis drop an expired key at once."""
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
        """Without a worker nobody tells of an end, and a key that went before its deadline (Redis was killed) is not told as cleaned."""
        return self.settings.sweeper and life.state == "expired"

    async def life(self, of: str | Trace) -> Life:
        """The whole life of a key that was cached in this session; waits for its end. LookupError if it was not seen."""
        key = of if isinstance(of, str) else of.key
        if key not in self._lives:
            raise LookupError(f"{key} was not cached in this session, or among too many at once to be followed")
        life, task = self._lives[key]
        await asyncio.wait_for(asyncio.shield(task), self.settings.cache_ttl + 11 * self.settings.sweep_interval + PATIENCE)
        return life

    # --- what was found ------------------------------------------------------------------------------------------------------

    def found(self, *claims: Claim) -> Claims:
        """What this notebook found of the document's claims; the ledger keeps it for the last but one."""
        Ledger(self._folder).write(self.name.partition("_")[0], list(claims))
        return Claims(claims)

    @property
    def _folder(self) -> Path:
        return load_settings().data_dir.expanduser() / "lab"

    # --- direct looks, read only -----------------------------------------------------------------------------------------------

    @property
    def _look(self) -> Looks:
        if self._looks is None:
            raise EngineError("The session has ended.", "run the cell with `await start(...)` again")
        return self._looks

    def redis_keys(self, pattern: str = "*") -> list[str]:
        """The keys of this session that Redis has."""
        return self._look.keys(pattern)

    def redis_get(self, key: str) -> str | list[str] | None:
        """The value: text, or for a conversation the list of its header and its messages; None when it is not there."""
        return self._look.value(key)

    def redis_ttl(self, key: str) -> int:
        """What TTL answers: seconds left, rounded; -1 for no expiry, -2 for no such key."""
        return self._look.ttl(key)

    def redis_pttl(self, key: str) -> int:
        """What PTTL answers: milliseconds left; -1 for no expiry, -2 for no such key."""
        return self._look.pttl(key)

    def mongo_find(self, collection: str, **fields: Any) -> list[Json]:
        """The documents with these fields; messages as the API gives them."""
        return self._look.documents(collection, fields)

    def redis(self, *words: Any) -> Any:
        """Any command to Redis on keys of this session: `lab.redis("SET", "message:mine", "hello", "EX", 5)`."""
        return self._look.command(*words)

    def redis_client(self) -> Redis:
        """One more client of this session's Redis, for two at a time: `with lab.redis_client() as redis`. Its keys have the prefix."""
        return self._look.client()

    def redis_clock(self) -> int:
        """Redis's time in microseconds, by which the service dates its windows."""
        seconds, microseconds = self.redis("TIME")
        return int(seconds) * 1_000_000 + int(microseconds)

    @property
    def messages(self) -> Collection[Json]:
        """MongoDB's messages of this session, as pymongo gives them."""
        return self._look.messages

    async def asked(self, act: Awaitable[Any]) -> Asked:
        """The commands that the service gives to MongoDB and to Redis while this goes on: `await lab.asked(bob.read("alice"))`."""
        async with self.counting:
            with self._look.listening() as asked:
                await act
        return asked

    # --- widgets -------------------------------------------------------------------------------------------------------------

    # One of each at a time: shown again, it closes the former. `big` is for a projector.

    def ttl_board(self, *, big: bool = False) -> TtlBoard:
        """Every cached message with the time it has left, live."""
        return self._screen.show(TtlBoard(big=big), self._spawn)

    def flow_map(self, *, of: str = "send", big: bool = False) -> FlowMap:
        """The diagram of a `send`, a `read` or a `change`, lit by each as it passes. A click on a box shows its source."""
        return self._screen.show(FlowMap(of, big=big), self._spawn)

    def timeline(self, *, big: bool = False) -> Timeline:
        """The worker's beats on a line of time, and each key from being cached to its deadline and to the worker's word."""
        return self._screen.show(Timeline(self.events, big=big), self._spawn)

    def chat(self, left: Person, right: Person, *, big: bool = False) -> Chat:
        """The screens of two people. What is typed there is sent through the service."""
        return self._screen.show(Chat(left, right, big=big), self._spawn)

    def stores(self, of: Trace | str, *, big: bool = False) -> Stores:
        """One message (its trace, or its id) in MongoDB, under its own key and in its conversation's window, side by side."""
        return self._screen.show(Stores(self, of, big=big), self._spawn)

    def chart(self, title: str, *, unit: str = "ms", log: bool = False, x: str = "", lines: bool = False, big: bool = False) -> Chart:
        """A chart that grows while it measures: `add`, `progress`, `mark`; with `lines` `point`, and `x` names what they run along."""
        return self._screen.show(Chart(title, unit=unit, log=log, x=x, lines=lines, big=big), self._spawn)

    def _show(self, life: Life) -> None:
        self._screen.follow(life)

    # --- background work -----------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        wrong = None if task.cancelled() else task.exception()
        if wrong is not None:
            self._complain(f"Cannot go on showing what happens: {words(wrong)}. Run the first cells again.")

    async def _watch_over(self, service: ChildService) -> None:
        while service.is_running:  # noqa: ASYNC110 - a look at a child process costs nothing, and half a second is soon enough for a person
            await asyncio.sleep(0.5)
        self._complain("The service has ended. Run the cell that starts it again.")

    def _complain(self, text: str) -> None:
        self._screen.complain(text)


def _stands_still(pid: int) -> bool:
    """Has every thread of this process stopped? Where they cannot be asked one by one, the process is asked."""
    threads = list(Path(f"/proc/{pid}/task").glob("*/stat"))
    if not threads:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    with contextlib.suppress(OSError):  # a thread that has just ended
        return all(thread.read_text().rpartition(") ")[2].startswith("T") for thread in threads)
    return False


def _now() -> float:
    return time.time() * 1000
