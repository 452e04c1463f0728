"""A world around the conversation window, in which the test decides what happens when.

Real: `Service` and `Cache` of two processes, the scripts of `window.lua`, a Redis. Plain Python: a list of messages in place of MongoDB.
Time is the test's own. It stands still except for `World.wait` and a few microseconds for each look at the clock, so neither the scripts
nor the expiry of the window depend on the speed of the machine. Every query to the store and every command to the window waits in
`World.steps` until the schedule lets it happen, loses it, or lets it come too late. Every finished read is checked.
"""

import asyncio
import contextvars
import itertools
import json
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import msgspec
import redis

import chatlab.store.store
from chatlab.accounts import Accounts
from chatlab.cache.cache import SOURCE, Cache, grace_ms, scripts_in
from chatlab.connections.pipeline import AutoPipeline
from chatlab.connections.redis import connect
from chatlab.connections.resp import TRANSACTION, Command
from chatlab.domain.ids import UserId
from chatlab.domain.message import Draft, Message, create_draft, from_document
from chatlab.domain.requests import Page
from chatlab.domain.trace import EventBus
from chatlab.protect.breaker import CircuitBreaker
from chatlab.realtime.broadcast import Broadcast
from chatlab.service import History, Service
from chatlab.settings import load_settings
from chatlab.store.store import Document, Doubts, Saved, Store

ALICE, BOB = UserId("alice"), UserId("bob")
TTL, GRACE = 5000, grace_ms(5000)  # milliseconds

OWN_CLOCK = "local function clock()\n  local time = redis.call('TIME')\n  return time[1] * 1000000 + time[2]\nend\n"
WORLD_CLOCK = "local function clock()\n  return tonumber(redis.call('GET', string.match(KEYS[1], '^[^:]+:') .. 'now'))\nend\n"

# Before a command: set the clock of the scripts to ARGV[1] (microseconds), and give the window ARGV[2] milliseconds to live (-1: none).
# After it: answer what the window has left, and keep Redis from ending it while the test does something else.
THAW = """
redis.call('SET', KEYS[2], ARGV[1], 'EX', 3600)
if tonumber(ARGV[2]) > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
"""
FREEZE = """
local left = redis.call('PTTL', KEYS[1])
if left >= 0 then redis.call('PEXPIRE', KEYS[1], 86400000) end
return left
"""
TICK_US = 10  # what passes from one look at the clock to the next, so that no two things happen at once


def on_world_clock(source: str) -> str:
    """Return the scripts with the clock of a world. Nothing else in them changes."""
    assert source.count(OWN_CLOCK) == 1
    return source.replace(OWN_CLOCK, WORLD_CLOCK)


Seen = TypeVar("Seen")
WRITES = ("send", "change")
Versions = dict[int, int]  # seq: version


def at_least(one: Versions, other: Versions) -> Versions:
    """What a reader must see who must see both."""
    return {seq: max(one.get(seq, 0), other.get(seq, 0)) for seq in one.keys() | other.keys()}


def selected(page: Page, last: int) -> list[int]:
    """The seqs of a page of a conversation that ends at `last`, as the contract says it."""
    seqs = [seq for seq in range(1, last + 1) if (page.before is None or seq < page.before) and (page.after is None or seq > page.after)]
    if page.limit is None:
        return seqs
    return seqs[-page.limit :] if page.after is None else seqs[: page.limit]


@dataclass(eq=False)
class Step:
    """One thing that waits to happen: a question to the store, or a command to the window."""

    actor: "Actor"
    act: Callable[[], Any]
    answer: "asyncio.Future[Any]"
    script: str  # of a command; empty for a question


ACTOR: contextvars.ContextVar["Actor"] = contextvars.ContextVar("actor")


async def whole(history: History) -> bytes:
    """A history as one JSON list; for short ones."""
    if isinstance(history.pieces, bytes):
        return b"[" + history.pieces + b"]"
    return b"[" + b",".join([piece async for piece in history.pieces if piece]) + b"]"


class Actor:
    """A request on its way through a process."""

    def __init__(self, world: "World", process: "Process", work: Callable[["Actor"], Coroutine[Any, Any, None]]) -> None:
        self.world, self.process = world, process
        context = contextvars.copy_context()
        context.run(ACTOR.set, self)
        self.found: list[dict[str, Any]] = []  # the answer of a read
        self.task = world.loop.create_task(work(self), context=context)
        world.settle()

    @property
    def waiting(self) -> list[Step]:
        return [step for step in self.world.steps if step.actor is self]

    def step(self, times: int = 1) -> "Actor":
        """Let what it waits for happen, and whatever follows from it at once."""
        for _ in range(times):
            self.world.let_happen(self.waiting[0])
        return self

    def come(self, far: int) -> "Actor":
        """So many steps, or all there are."""
        while far and self.waiting:
            self.step()
            far -= 1
        return self

    def lose(self) -> "Actor":
        """The write it waits for is answered and lost all the same (a replica took over that did not have it): a fault."""
        self.world.lose(self.waiting[0])
        return self

    def finish(self) -> "Actor":
        """Let all of it happen."""
        while not self.task.done():
            self.world.let_happen((self.waiting or self.world.steps)[0])  # one that shares a query waits for another's steps
        return self


class Gate(AutoPipeline):
    """Where the commands of a process to the window wait for the schedule; other commands are done at once."""

    def __init__(self, process: "Process", breaker: CircuitBreaker) -> None:
        self.process, self._breaker = process, breaker
        self._coalesced, self._scripts = {}, {}

    def _create_future(self) -> "asyncio.Future[Any]":
        return self.process.world.loop.create_future()

    def _enqueue(self, command: Command, replies: list["asyncio.Future[Any]"]) -> None:
        world, first = self.process.world, command[1] if command[0] == TRANSACTION else command
        script = world.scripts[first[1]] if first[0] == "EVALSHA" and first[3] == world.key else ""
        if ACTOR.get(None) and script not in ("", "fence"):  # a fence is the first thing after an outage: nothing gets before it
            step = world.wait_for(lambda: world.command(command), script)
            step.add_done_callback(lambda answered: self._answer(command, replies, answered.result()))
        else:
            self._answer(command, replies, world.command(command))

    def _answer(self, command: Command, replies: list["asyncio.Future[Any]"], reply: Any) -> None:
        self._coalesced.pop(command, None)  # it has left
        for future in replies:
            future.set_result(reply)

    async def drain(self) -> None:
        pass


class TimedCache(Cache):
    """The cache, with the world's time and the world's schedule."""

    def __init__(self, process: "Process", source: str, window_size: int) -> None:
        world = process.world
        settings = load_settings(key_prefix=f"{world.prefix}:", cache_ttl=TTL / 1000, window_size=window_size)
        super().__init__(connect("redis://nowhere", reply_timeout_s=None), settings, EventBus(), source=source)
        self._world, self.pipe = world, Gate(process, self.breaker)
        self._digests = {name: str(world.redis.script_load(script)) for name, script in scripts_in(source).items()}
        world.scripts |= {digest: name for name, digest in self._digests.items()}

    def clock(self) -> int:
        return self._world.now()


class PlainStore(Store):
    """A list of messages, newest last, instead of MongoDB."""

    def __init__(self, world: "World") -> None:
        self.world, self.doubts = world, Doubts(self, world.now)

    async def save(self, draft: Draft) -> Saved:
        began = self.world.now()
        saved: Saved = await self.world.wait_for(lambda: Saved(self.world.commit(self._placed(draft)), first=True, began=began))
        return saved

    def _placed(self, draft: Draft) -> Message:
        return from_document(draft.document(len(self.world.messages) + 1))

    async def change(self, message_id: str, condition: Document, change: Document) -> Message | None:
        def changed() -> Message:
            old = next(message for message in self.world.messages if message.id == message_id)
            return self.world.commit(msgspec.structs.replace(old, version=old.version + 1, text=f"version {old.version + 1}"))

        message: Message = await self.world.wait_for(changed)
        return message

    async def message(self, message_id: str) -> Message | None:
        return next((message for message in self.world.messages if message.id == message_id), None)

    async def stretch(self, conversation: str, lowest: int, highest: int | None, limit: int) -> list[Message]:
        return await self._seen(
            lambda: [one for one in self.world.messages if lowest <= one.seq and (highest is None or one.seq <= highest)][:limit]
        )

    async def _chunk(self, conversation: str, lowest: int, highest: int | None) -> list[Message]:
        return await self.stretch(conversation, lowest, highest, chatlab.store.store.CHUNK)

    async def newest(self, conversation: str, limit: int, below: int | None = None) -> list[Message]:
        return await self._seen(lambda: [one for one in self.world.messages if below is None or one.seq < below][-limit:])

    async def last_seqs(self, conversations: list[Any]) -> dict[Any, int]:
        return await self._seen(lambda: dict.fromkeys(conversations, len(self.world.messages)))

    async def _seen(self, look: Callable[[], Seen]) -> Seen:
        """What is there at one moment, answered at a later one."""
        seen: Seen = await self.world.wait_for(look)
        await self.world.wait_for(lambda: None)
        return seen


class Silence:
    """A broadcast without sockets, and accounts that know every user."""

    async def emit(self, event: str, payload: bytes, users: object) -> None:
        pass

    async def require_user(self, user: str) -> None:
        pass


class Process:
    """One process of the service. `floor`: what it must show after an outage, whatever the other processes know."""

    def __init__(self, world: "World", source: str, window_size: int) -> None:
        self.world, self.floor = world, Versions()
        self.cache = TimedCache(self, source, window_size)
        silence = Silence()
        self.service = Service(PlainStore(world), self.cache, cast(Broadcast, silence), cast(Accounts, silence))
        self.cache.epoch = world.now()

    @property
    def out(self) -> bool:
        return self.cache.breaker.is_open

    def lose_redis(self) -> None:
        """Nothing is answered any more. What is under way may still happen, later."""
        self.cache.breaker.is_open = True
        for step in self.world.steps:
            if step.actor.process is self and step.script and not step.answer.done():
                step.answer.set_result(None)
        self.world.settle()

    def probe(self) -> None:
        """Redis has answered the probe; the breaker is still open."""
        self.cache.epoch = self.world.now()
        self.floor = at_least(self.floor, self.world.committed())

    def find_redis(self) -> None:
        """The breaker is closed."""
        self.cache.breaker.is_open = False
        self.cache._mend()

    def short_outage(self) -> None:
        """From its beginning to its end."""
        self.lose_redis()
        self.probe()
        self.find_redis()


@dataclass
class World:
    """`exact`: nothing is lost, so each read must show all that was acknowledged before it began."""

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
        self._now_us, self.expires_ms = 1_700_000_000_000_000, -1  # the clock; when the window expires, -1 for never
        self.scripts = dict[str, str]()  # digest: name
        self._texts = itertools.count(1)
        self._thaw, self._freeze = self.redis.script_load(THAW), self.redis.script_load(FREEZE)
        self.processes = [Process(self, on_world_clock(self.source), self.window_size) for _ in range(2)]

    def close(self) -> None:
        """Nothing that is under way happens any more."""
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
        """Messages that are in the store and nowhere else."""
        first = len(self.messages) + 1
        drafts = [create_draft(ALICE, BOB, f"text {seq}", None) for seq in range(first, first + count)]
        return [self.commit(from_document(draft.document(seq))) for seq, draft in enumerate(drafts, first)]

    def do(self, work: Awaitable[Any]) -> Any:
        """A call of the cache outside of any request: its commands wait for no step."""
        return self.loop.run_until_complete(asyncio.ensure_future(work, loop=self.loop))

    # --- time ------------------------------------------------------------------------------------------------------------------

    def now(self) -> int:
        """Return the time in microseconds, on the clock that the scripts see."""
        self._now_us += TICK_US
        return self._now_us

    def wait(self, milliseconds: int) -> None:
        """Let time pass, and the window expire if its time has come."""
        self._now_us += milliseconds * 1000
        self._expire()
        self.check_key()

    def _expire(self) -> None:
        if 0 <= self.expires_ms <= self._now_us / 1000:
            self.evict()

    def evict(self) -> None:
        """Delete the window. Before its expiry this is a fault."""
        self.redis.delete(self.key)
        self.expires_ms = -1

    # --- what happens ----------------------------------------------------------------------------------------------------------

    def wait_for(self, act: Callable[[], Any], script: str = "") -> "asyncio.Future[Any]":
        step = Step(ACTOR.get(), act, self.loop.create_future(), script)
        self.steps.append(step)
        return step.answer

    def let_happen(self, step: Step) -> None:
        self.steps.remove(step)
        answer = step.act()
        if not step.answer.done():
            step.answer.set_result(answer)
        self.settle()
        self.check_key()

    def command(self, command: Command) -> Any:
        if command[0] == TRANSACTION:  # an error reply is one of them; as in `AutoPipeline`, somebody else's value is None
            return [None if isinstance(one, redis.ResponseError) else one for one in self._at_once(command[1:])]
        (reply,) = self._at_once([command])
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _at_once(self, commands: Sequence[Command]) -> list[Any]:
        """Run the commands in one transaction, in which the clock of Redis stands still, at the time of this world."""
        self.now()
        self._expire()
        left = self.expires_ms - self._now_us // 1000 if self.expires_ms >= 0 else -1
        thaw = ("EVALSHA", self._thaw, 2, self.key, self.now_key, self._now_us, left)
        freeze = ("EVALSHA", self._freeze, 1, self.key)
        pipeline = self.redis.pipeline(transaction=True)
        for command in (thaw, *commands, freeze):
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no types here
        _, *replies, left_after = pipeline.execute(raise_on_error=False)
        if left_after != left:
            self.expires_ms = self._now_us // 1000 + left_after if left_after >= 0 else -1
        return replies

    def lose(self, step: Step) -> None:
        assert step.script in WRITES
        step.act = lambda: b"window"
        self.let_happen(step)

    def settle(self) -> None:
        """Until every request waits for a step again, or is done; a request that failed fails the test."""
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
        """What the store had at that time."""
        return {seq: version for at, seq, version in self.history if until is None or at <= until}

    # --- who does it -----------------------------------------------------------------------------------------------------------

    def _act(self, process: int, work: Callable[[Actor], Coroutine[Any, Any, None]]) -> Actor:
        actor = Actor(self, self.processes[process], work)
        if not actor.task.done():
            self.actors.append(actor)
        else:
            actor.task.result()
        return actor

    def send(self, process: int = 0) -> Actor:
        return self._act(process, lambda actor: self._acked(actor, actor.process.service.send(ALICE, BOB, f"text {next(self._texts)}")))

    def edit(self, seq: int, process: int = 0) -> Actor:
        message_id = self.messages[seq - 1].id
        return self._act(process, lambda actor: self._acked(actor, actor.process.service.edit(ALICE, message_id, "another text")))

    async def _acked(self, actor: Actor, writing: Awaitable[Message]) -> None:
        message = await writing
        self.acked = at_least(self.acked, {message.seq: message.version})
        if actor.process.out:
            actor.process.floor = at_least(actor.process.floor, {message.seq: message.version})

    def read(self, process: int = 0, page: Page | None = None) -> Actor:
        return self._act(process, lambda actor: self._read(actor, page or Page()))

    async def _read(self, actor: Actor, page: Page) -> None:
        must = self.must_show(actor.process)
        history = await actor.process.service.read(BOB, ALICE, page)
        actor.found = json.loads(await whole(history))
        self.check_read(page, {message["seq"]: message["version"] for message in actor.found}, must)

    # --- what must be true -----------------------------------------------------------------------------------------------------

    def must_show(self, process: Process) -> Versions:
        """What a read that begins now must show, with a tolerance of 2 ms for expiries in whole milliseconds."""
        old = self.committed(self.now() - (TTL + 2) * 1000)
        return at_least(at_least(old, process.floor), self.acked if self.exact else {})

    def check_read(self, page: Page, found: Versions, must: Versions) -> None:
        """In order, without gaps, up to an end that is new enough, each message in a version that is new enough."""
        ends = range(max(must, default=0), len(self.messages) + 1)
        assert list(found) in [selected(page, end) for end in ends], ("missing messages", page, found, must)
        stale = {seq: version for seq, version in found.items() if version < must.get(seq, 0)}
        assert not stale, ("stale messages", page, stale, must)

    def check_key(self) -> None:
        """The key, if there is one, is a well formed window, it ends when it must, and a read that begins now may trust it."""
        entries = cast(list[bytes], self.redis.lrange(self.key, 0, -1))
        if not entries:
            return
        _, born, oldest = (int(number) for number in entries[0].split(b":"))
        held = {message["seq"]: message["version"] for message in map(json.loads, entries[1:])}
        assert list(held) == list(range(oldest, oldest + len(held))), ("not consecutive", entries)
        assert len(held) <= self.window_size, ("too long", entries)
        life = self.expires_ms - born / 1000
        assert TTL - 3 <= life <= TTL + 1, ("ends at the wrong time", life)  # expiries are in whole milliseconds
        for process in self.processes:
            if held and not process.out and born >= process.cache.epoch:
                must = self.must_show(process)
                stale = {seq: version for seq, version in held.items() if version < must.get(seq, 0)}
                assert not stale, ("stale messages in the window", stale, must)
                assert max(held) >= max(must, default=0), ("missing messages in the window", held, must)
