"""A simulated world around the conversation window, in which the test decides the order of events.

Real are the `Service` and the `Cache` of two processes, the scripts of `window.lua`, and Redis. MongoDB is replaced by a
list of messages. Time is simulated: it advances by `World.wait`, and by a few microseconds whenever a process reads the
clock. So neither the scripts nor the expiry of the window depend on the speed of the machine. The clock of Redis may step.
Every query to the store and every command to the window waits in `World.steps` until the schedule runs it, loses it, or runs
it too late. Each finished read is checked.
"""

import asyncio
import contextlib
import contextvars
import functools
import itertools
import json
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import msgspec
import redis

import chatlab.store.messages
from chatlab.accounts import Accounts
from chatlab.cache.cache import Cache
from chatlab.cache.clock import RedisClock
from chatlab.cache.keys import grace_period_ms
from chatlab.cache.scripts import Scripts
from chatlab.cache.window import SOURCE, scripts_in
from chatlab.connections.mongo import Document
from chatlab.connections.pipeline import AutoPipeline
from chatlab.connections.redis import connect
from chatlab.connections.redis_limits import RedisLimits
from chatlab.connections.resp import TRANSACTION, Command
from chatlab.domain.ids import UserId
from chatlab.domain.message import Draft, Message, create_draft, from_document
from chatlab.domain.requests import Page
from chatlab.domain.trace import EventBus
from chatlab.history import History
from chatlab.protect.batcher import Batcher, Callers, Waiting
from chatlab.protect.breaker import CircuitBreaker
from chatlab.protect.read_limits import ReadLimits
from chatlab.realtime.broadcast import Broadcast
from chatlab.receivers import Receivers
from chatlab.service import Service
from chatlab.settings import load_settings
from chatlab.store.group_commit import Saved
from chatlab.store.messages import MessageStore
from chatlab.store.store import Store

ALICE, BOB = UserId("alice"), UserId("bob")
TTL_MS = 5000
GRACE_MS = grace_period_ms(TTL_MS)

OWN_CLOCK = "local function clock()\n  local time = redis.call('TIME')\n  return time[1] * 1000000 + time[2]\nend\n"
WORLD_CLOCK = "local function clock()\n  return tonumber(redis.call('GET', string.match(KEYS[1], '^[^:]+:') .. 'now'))\nend\n"

# Before each command: set the clock of the scripts to ARGV[1] (microseconds), and the TTL of the window to ARGV[2] (ms, -1: none).
# After it: return the remaining TTL of the window, and set a long one, so that Redis does not expire it in real time.
THAW = """
redis.call('SET', KEYS[2], ARGV[1], 'EX', 3600)
if tonumber(ARGV[2]) > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
"""
FREEZE = """
local left = redis.call('PTTL', KEYS[1])
if left >= 0 then redis.call('PEXPIRE', KEYS[1], 86400000) end
return left
"""
TICK_US = 10  # time between two readings of the clock, so that no two events have the same time


def on_world_clock(source: str) -> str:
    """Return the scripts with the clock of a world. Nothing else in them changes."""
    assert source.count(OWN_CLOCK) == 1
    return source.replace(OWN_CLOCK, WORLD_CLOCK)


@functools.cache
def early_ms(server: redis.Redis) -> int:
    """Return how much too early the window may expire.

    Before Redis 7.2, time does not stop while a script runs.
    """
    version = str(server.info("server")["redis_version"])
    return 3 if tuple(map(int, version.split(".")[:2])) >= (7, 2) else 50


Seen = TypeVar("Seen")
WRITES = ("send", "change")
Versions = dict[int, int]  # seq: version


def newest_of(one: Versions, other: Versions) -> Versions:
    """Return the higher version of each message: what a reader must see that must see both."""
    return {seq: max(one.get(seq, 0), other.get(seq, 0)) for seq in one.keys() | other.keys()}


def selected(page: Page, last: int) -> list[int]:
    """Return the seqs of a page of a conversation with `last` messages, as the contract defines it."""
    seqs = [
        seq
        for seq in range(1, last + 1)
        if (page.before is None or seq < page.before) and (page.after is None or seq > page.after)
    ]
    if page.limit is None:
        return seqs
    return seqs[-page.limit :] if page.after is None else seqs[: page.limit]


@dataclass(eq=False)
class Step:
    """A query to the store, or a command to the window, that waits for the schedule."""

    actor: "Actor"
    act: Callable[[], Any]
    answer: "asyncio.Future[Any]"
    script: str  # the script of a command; empty for a query


ACTOR: contextvars.ContextVar["Actor"] = contextvars.ContextVar("actor")


async def whole(history: History) -> bytes:
    """Return a short history as one JSON list."""
    if isinstance(history.pieces, bytes):
        return b"[" + history.pieces + b"]"
    return b"[" + b",".join([piece async for piece in history.pieces if piece]) + b"]"


class Actor:
    """A request that one process handles."""

    def __init__(
        self,
        world: "World",
        process: "Process",
        work: Callable[["Actor"], Coroutine[Any, Any, None]],
    ) -> None:
        self.world, self.process = world, process
        context = contextvars.copy_context()
        context.run(ACTOR.set, self)
        self.found: list[dict[str, Any]] = []  # the response to a read
        self.task = world.loop.create_task(work(self), context=context)
        world.run_until_idle()

    @property
    def waiting(self) -> list[Step]:
        return [step for step in self.world.steps if step.actor is self]

    def step(self, times: int = 1) -> "Actor":
        """Run the step that the request waits for, until it waits for the next one."""
        for _ in range(times):
            self.world.run_step(self.waiting[0])
        return self

    def advance(self, max_steps: int) -> "Actor":
        """Run up to this number of steps."""
        while max_steps and self.waiting:
            self.step()
            max_steps -= 1
        return self

    def lose(self) -> "Actor":
        """Acknowledge the write that the request waits for, but lose it, as a failover can. This is a fault."""
        self.world.lose(self.waiting[0])
        return self

    def finish(self) -> "Actor":
        """Run all steps of the request."""
        while not self.task.done():
            self.world.run_step(
                (self.waiting or self.world.steps)[0]
            )  # it may wait for the steps of a request whose query it shares
        return self


class ScheduledPipeline(AutoPipeline):
    """Commands of requests to the window wait for the schedule. All other commands run at once."""

    def __init__(self, process: "Process", breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._waiting, self._coalesced, self._scripts = [], {}, {}
        self._batcher = ScheduledBatcher(process.world, self._take_batch, self._answer)

    def _take_batch(self) -> list[Waiting[Command, Any]]:
        taken, self._waiting = self._waiting, []
        return taken  # they can be shared until they are answered

    def _answer(self, command: Command, callers: Callers[Any], reply: Any) -> None:
        self._coalesced.pop(command, None)  # it has been sent
        for future in callers:
            future.set_result(reply)


class ScheduledBatcher(Batcher[Command, Any]):
    """Sends a command when the schedule runs it."""

    def __init__(
        self,
        world: "World",
        take: Callable[[], list[Waiting[Command, Any]]],
        answer: Callable[[Command, Callers[Any], Any], None],
    ) -> None:
        self._world, self._take, self._answer = world, take, answer

    def join(self, callers: Callers[Any]) -> asyncio.Future[Any]:
        future = self._world.loop.create_future()
        callers.append(future)
        for waiting in self._take():
            self._schedule(*waiting)
        return future

    def _schedule(self, command: Command, callers: Callers[Any]) -> None:
        world, first = self._world, command[1] if command[0] == TRANSACTION else command
        script = world.scripts[first[1]] if first[0] == "EVALSHA" and first[3] == world.key else ""
        if ACTOR.get(None) and script not in (
            "",
            "fence",
        ):  # a fence runs at once: after an outage it is sent before anything else
            step = world.wait_for(lambda: world.command(command), script)
            step.add_done_callback(
                lambda answered: self._answer(command, callers, answered.result())
            )
        else:
            self._answer(command, callers, world.command(command))

    async def drain(self) -> None:
        pass


class ScheduledCache(Cache):
    """The cache, with the simulated time and the scheduled pipeline."""

    def __init__(self, process: "Process", source: str, window_size: int) -> None:
        world = process.world
        settings = load_settings(
            key_prefix=f"{world.prefix}:", cache_ttl=TTL_MS / 1000, window_size=window_size
        )
        super().__init__(connect("redis://nowhere", 1), settings, EventBus(), source=source)
        self.node = node = self.servers.all()[0]
        node.pipe = ScheduledPipeline(process, node.breaker)
        node.clock = RedisClock(
            node.pipe,
            RedisLimits(settings.redis_timeout),
            peer_timeout_s=lambda: settings.redis_timeout,
            ttl_ms=lambda: self.ttls.window_ms,
            monotonic_us=world.now,
        )
        node.scripts = Scripts(node.pipe, source)
        node.scripts.digests = {
            name: str(world.redis.script_load(script))
            for name, script in scripts_in(source).items()
        }
        world.scripts |= {digest: name for name, digest in node.scripts.digests.items()}


class InMemoryMessages(MessageStore):
    """A list of messages, newest last, instead of MongoDB."""

    def __init__(self, world: "World") -> None:
        self.world = world

    async def save(self, draft: Draft) -> Saved:
        began = ACTOR.get().process.cache.now_us()
        saved: Saved = await self.world.wait_for(
            lambda: Saved(self.world.commit(self._placed(draft)), is_new=True, began=began)
        )
        return saved

    def _placed(self, draft: Draft) -> Message:
        return from_document(draft.document(len(self.world.messages) + 1))

    async def change(
        self, message: Message, condition: Document, change: Document | list[Document]
    ) -> Message | None:
        def change_newest() -> Message:
            old = next(one for one in self.world.messages if one.id == message.id)
            return self.world.commit(
                msgspec.structs.replace(
                    old, version=old.version + 1, text=f"version {old.version + 1}"
                )
            )

        changed: Message = await self.world.wait_for(change_newest)
        return changed

    async def find(self, message_id: str) -> Message | None:
        return next((message for message in self.world.messages if message.id == message_id), None)

    async def find_in(self, conversation: str, message_id: str) -> Message | None:
        return await self.find(message_id)

    async def find_range(
        self, conversation: str, lowest: int, highest: int | None, limit: int
    ) -> list[Message]:
        return await self._seen(
            lambda: [
                one
                for one in self.world.messages
                if lowest <= one.seq and (highest is None or one.seq <= highest)
            ][:limit]
        )

    async def _read_chunk(
        self, conversation: str, lowest: int, highest: int | None
    ) -> list[Message]:
        return await self.find_range(
            conversation, lowest, highest, chatlab.store.messages.STREAMED_MESSAGES
        )

    async def find_newest(
        self, conversation: str, limit: int, below: int | None = None
    ) -> list[Message]:
        return await self._seen(
            lambda: [one for one in self.world.messages if below is None or one.seq < below][
                -limit:
            ]
        )

    async def find_last_seqs(
        self, conversations: list[Any], *, committed: bool = False
    ) -> dict[Any, int]:
        return await self._seen(lambda: dict.fromkeys(conversations, len(self.world.messages)))

    async def _seen(self, look: Callable[[], Seen]) -> Seen:
        """Run the query in one step, and deliver its result in a later one."""
        seen: Seen = await self.world.wait_for(look)
        await self.world.wait_for(lambda: None)
        return seen


class SilentStandIn:
    """A broadcast without sockets, accounts that know every user, and receivers that block no one."""

    owed = contextlib.nullcontext()

    async def emit(self, event: str, payload: bytes, users: object) -> None:
        pass

    async def require_user(self, user: str) -> None:
        pass

    async def require(self, sender: str, receiver: str) -> None:
        pass


class Process:
    """One process of the service. `required`: the versions that it must show because it noticed an outage."""

    def __init__(self, world: "World", source: str, window_size: int) -> None:
        self.world, self.required = world, Versions()
        self.cache = ScheduledCache(self, source, window_size)
        stand_in = SilentStandIn()
        store = cast(Store, SimpleNamespace(messages=InMemoryMessages(world), stale_messages=None))
        self.service = Service(
            store,
            self.cache,
            cast(Broadcast, stand_in),
            cast(Accounts, stand_in),
            cast(Receivers, stand_in),
            ReadLimits(0),
        )
        self.begin()

    def begin(self) -> None:
        """Learn the time of Redis, and trust no older window."""

        async def time() -> Any:
            return self.world.command(("TIME",))

        self.world.call(self.cache.node.clock.begin(time))

    @property
    def has_lost_redis(self) -> bool:
        return self.cache.node.breaker.is_open

    def lose_redis(self) -> None:
        """Open the breaker. Commands in flight get no reply, but may still run later."""
        self.cache.node.breaker.is_open = True
        self.give_up()

    def give_up(self) -> None:
        """Get no reply to commands in flight, which may still run later. The breaker does not change."""
        for step in self.world.steps:
            if step.actor.process is self and step.script and not step.answer.done():
                step.answer.set_result(None)
        self.world.run_until_idle()

    def probe(self) -> None:
        """Let the probe succeed. The breaker is still open."""
        self.begin()
        self.required = newest_of(self.required, self.world.committed())

    def find_redis(self) -> None:
        """Close the breaker."""
        self.cache.node.breaker.is_open = False
        self.cache.node.fence_missed_windows()

    def short_outage(self) -> None:
        """Lose Redis and find it again."""
        self.lose_redis()
        self.probe()
        self.find_redis()


@dataclass
class World:
    """`exact`: no write is lost, so each read must show everything that was acknowledged before it began."""

    redis: redis.Redis
    source: str = SOURCE
    window_size: int = 100
    exact: bool = True
    messages: list[Message] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    actors: list[Actor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.prefix = f"w{secrets.token_hex(5)}"
        self.key, self.now_key = f"{self.prefix}:messages:alice:bob", f"{self.prefix}:now"
        self.acked, self.history = Versions(), list[tuple[int, int, int]]()
        self._now_us, self._ahead_us = (
            1_000_000_000,
            1_700_000_000_000_000,
        )  # how far Redis is ahead
        self._has_stepped, self.expires_ms = False, -1  # when the window expires, -1 for never
        self.scripts = dict[str, str]()  # digest: name
        self._texts, self.is_silent = itertools.count(1), False
        self._thaw, self._freeze = self.redis.script_load(THAW), self.redis.script_load(FREEZE)
        self.processes = [
            Process(self, on_world_clock(self.source), self.window_size) for _ in range(2)
        ]

    def close(self) -> None:
        """Cancel what is in flight, and delete the keys."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        self.redis.delete(self.key, self.now_key)

    def message_key(self, seq: int) -> str:
        return self.processes[0].cache.keys.message(self.messages[seq - 1].id)

    def save(self, count: int) -> list[Message]:
        """Add messages to the store, but not to Redis."""
        first = len(self.messages) + 1
        drafts = [
            create_draft(ALICE, BOB, f"text {seq}", None) for seq in range(first, first + count)
        ]
        return [
            self.commit(from_document(draft.document(seq)))
            for seq, draft in enumerate(drafts, first)
        ]

    def call(self, work: Awaitable[Any]) -> Any:
        """Return the result of a call of the cache outside of any request. Its commands run at once."""
        return self.loop.run_until_complete(asyncio.ensure_future(work, loop=self.loop))

    # --- time ------------------------------------------------------------------------------------------------------------------

    def now(self) -> int:
        """Return the time in microseconds, on a clock that never steps."""
        self._now_us += TICK_US
        return self._now_us

    def redis_now(self) -> int:
        """Return the time of the clock of Redis, which the scripts see."""
        return self.now() + self._ahead_us

    def wait(self, milliseconds: int) -> None:
        """Let time pass. The window expires if its TTL ends meanwhile.

        Before that, each process that reaches Redis checks its clock, as it does all the time.
        """
        if self._has_stepped:
            for process in self.processes:
                self.call(process.cache.node.clock.check())
            self._has_stepped = False
        self._now_us += milliseconds * 1000
        self._expire()
        self.check_key()

    def step_clock(self, milliseconds: int) -> None:
        """Let the clock of Redis step forward, or back if the number is negative."""
        self._ahead_us += milliseconds * 1000
        self._has_stepped = True
        self._expire()

    def _expire(self) -> None:
        if 0 <= self.expires_ms <= (self._now_us + self._ahead_us) / 1000:
            self.evict()

    def evict(self) -> None:
        """Delete the window. This is a fault if it happens before the expiry."""
        self.redis.delete(self.key)
        self.expires_ms = -1

    # --- steps ----------------------------------------------------------------------------------------------------------

    def wait_for(self, act: Callable[[], Any], script: str = "") -> "asyncio.Future[Any]":
        step = Step(ACTOR.get(), act, self.loop.create_future(), script)
        self.steps.append(step)
        return step.answer

    def run_step(self, step: Step) -> None:
        self.steps.remove(step)
        answer = step.act()
        if not step.answer.done():
            step.answer.set_result(answer)
        self.run_until_idle()
        self.check_key()

    def command(self, command: Command) -> Any:
        if self.is_silent:
            return None
        if command == ("TIME",):
            return [b"%d" % part for part in divmod(self.redis_now(), 1_000_000)]
        if (
            command[0] == TRANSACTION
        ):  # an error reply is one of them; as in `AutoPipeline`, somebody else's value is None
            return [
                None if isinstance(one, redis.ResponseError) else one
                for one in self._at_once(command[1:])
            ]
        (reply,) = self._at_once([command])
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _at_once(self, commands: Sequence[Command]) -> list[Any]:
        """Run the commands in one transaction, in which the clock of Redis stands still, at the time of this world."""
        now_us = self.redis_now()
        self._expire()
        left = self.expires_ms - now_us // 1000 if self.expires_ms >= 0 else -1
        thaw = ("EVALSHA", self._thaw, 2, self.key, self.now_key, now_us, left)
        freeze = ("EVALSHA", self._freeze, 1, self.key)
        pipeline = self.redis.pipeline(transaction=True)
        for command in (thaw, *commands, freeze):
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no types here
        _, *replies, left_after = pipeline.execute(raise_on_error=False)
        if left_after != left:
            self.expires_ms = now_us // 1000 + left_after if left_after >= 0 else -1
        return replies

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """Let commands that would run at once get no reply, and do nothing."""
        self.is_silent = True
        try:
            yield
        finally:
            self.is_silent = False

    def lose(self, step: Step) -> None:
        assert step.script in WRITES
        step.act = lambda: b"window"
        self.run_step(step)

    def run_until_idle(self) -> None:
        """Run until every request waits for a step or is finished. A request that raises fails the test."""
        for _ in range(10):  # more than the longest chain of futures in `Service.read`
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        done = [actor for actor in self.actors if actor.task.done()]
        self.actors = [actor for actor in self.actors if not actor.task.done()]
        for actor in done:
            actor.task.result()

    def commit(self, message: Message) -> Message:
        self.messages[message.seq - 1 : message.seq] = [message]
        self.history.append((self.now(), message.seq, message.version))
        return message

    def committed(self, until: int | None = None) -> Versions:
        """Return what the store held at that time."""
        return {seq: version for at, seq, version in self.history if until is None or at <= until}

    # --- requests -----------------------------------------------------------------------------------------------------------

    def _act(self, process: int, work: Callable[[Actor], Coroutine[Any, Any, None]]) -> Actor:
        actor = Actor(self, self.processes[process], work)
        if not actor.task.done():
            self.actors.append(actor)
        else:
            actor.task.result()
        return actor

    def send(self, process: int = 0) -> Actor:
        return self._act(
            process,
            lambda actor: self._acked(
                actor, actor.process.service.send(ALICE, BOB, f"text {next(self._texts)}")
            ),
        )

    def edit(self, seq: int, process: int = 0) -> Actor:
        message_id = self.messages[seq - 1].id
        return self._act(
            process,
            lambda actor: self._acked(
                actor, actor.process.service.edit(ALICE, message_id, "another text")
            ),
        )

    async def _acked(self, actor: Actor, writing: Awaitable[Message]) -> None:
        message = await writing
        self.acked = newest_of(self.acked, {message.seq: message.version})
        if actor.process.has_lost_redis:
            actor.process.required = newest_of(
                actor.process.required, {message.seq: message.version}
            )

    def read(self, process: int = 0, page: Page | None = None) -> Actor:
        return self._act(process, lambda actor: self._read(actor, page or Page()))

    async def _read(self, actor: Actor, page: Page) -> None:
        must = self.must_show(actor.process)
        history = await actor.process.service.read(BOB, ALICE, page)
        actor.found = json.loads(await whole(history))
        self.check_read(page, {message["seq"]: message["version"] for message in actor.found}, must)

    # --- checks -----------------------------------------------------------------------------------------------------

    def must_show(self, process: Process) -> Versions:
        """Return what a read that begins now must show. Expiries are whole milliseconds: the tolerance is 2 ms."""
        old = self.committed(self.now() - (TTL_MS + 2) * 1000)
        return newest_of(newest_of(old, process.required), self.acked if self.exact else {})

    def check_read(self, page: Page, found: Versions, must: Versions) -> None:
        """Check that the messages are in order, without gaps, and new enough in number and version."""
        ends = range(max(must, default=0), len(self.messages) + 1)
        assert list(found) in [selected(page, end) for end in ends], (
            "missing messages",
            page,
            found,
            must,
        )
        stale = {seq: version for seq, version in found.items() if version < must.get(seq, 0)}
        assert not stale, ("stale messages", page, stale, must)

    def check_key(self) -> None:
        """Check that the key, if it exists, is a well-formed window that expires in time and holds no stale message."""
        entries = cast(list[bytes], self.redis.lrange(self.key, 0, -1))
        if not entries:
            return
        fence, born, oldest = (int(number) for number in entries[0].split(b":"))
        held = {message["seq"]: message["version"] for message in map(json.loads, entries[1:])}
        assert list(held) == list(range(oldest, oldest + len(held))), ("not consecutive", entries)
        assert len(held) <= self.window_size, ("too long", entries)
        lifetime_ms = self.expires_ms - born / 1000
        assert TTL_MS - early_ms(self.redis) <= lifetime_ms <= TTL_MS + 1, (
            "expires at the wrong time",
            lifetime_ms,
        )  # expiries are in whole milliseconds
        if max(born, fence) > self.redis_now():  # no process trusts it
            return
        for process in self.processes:
            if (
                held
                and not process.has_lost_redis
                and born >= process.cache.node.clock.trusted_since
            ):
                must = self.must_show(process)
                stale = {
                    seq: version for seq, version in held.items() if version < must.get(seq, 0)
                }
                assert not stale, ("stale messages in the window", stale, must)
                assert max(held) >= max(must, default=0), (
                    "missing messages in the window",
                    held,
                    must,
                )
