"""Boxes "Cache in Redis" and "Update Conversation Cache": the only module that knows keys, expiries and scripts.

Redis is an optimisation: nothing here raises because of it. A write that could not be made, or a read not asked, answers None or False.
After an outage no window that is older than its end is trusted (`epoch`), because writes may have passed it by. An outage is also an
answer so late that another process may have given up waiting. The windows that a write of this process missed are dropped as soon as Redis
is back, for the sake of processes that noticed nothing.
The rules of the window are in `window.lua`; why they hold is told there, line by line.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from redis.asyncio import Redis

from chatlab.connections.driver_calls import DriverCalls
from chatlab.connections.pipeline import Command, Pipe, together
from chatlab.domain.ids import Conversation
from chatlab.domain.message import Message, from_json
from chatlab.domain.requests import Page
from chatlab.domain.trace import EventBus
from chatlab.protect.breaker import CircuitBreaker
from chatlab.settings import CacheMode, Settings

SYNC_EVERY = 1.0  # seconds between two looks at Redis's clock: also how an idle process notices an outage
PULSE = 0.05  # the same, while other processes write too
LATE = 0.08  # an answer to such a look that came later is an outage. PULSE + LATE < ANSWER: nobody gives up on Redis without all noticing
CALL_LIMIT_S = 1.0  # seconds for one call of redis-py; requests use the pipe, which has limits of its own
WRITTEN = (b"window", b"fence")  # what a script says that has done its work on a window


class Keys:
    """Every key there is. `prefix` is `CHATLAB_KEY_PREFIX`."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.all_messages = f"{prefix}message:*"
        self.both_kinds = f"{prefix}message*:*"
        self.probe = f"{prefix}probe"
        self.sweeping = f"{prefix}sweeping"

    def message(self, message_id: str) -> str:
        return f"{self.prefix}message:{message_id}"

    def window(self, conversation: str) -> str:
        return f"{self.prefix}messages:{conversation}"


def grace_ms(ttl_ms: int) -> int:
    """GRACE: how long a fill may take, and the least life that a write leaves to a window. 1 s, or a fifth of a shorter TTL."""
    return min(1000, ttl_ms // 5)


def scripts_in(source: str) -> dict[str, str]:
    """The scripts of `window.lua` by name, each with the common part before it."""
    common, *blocks = source.split("-- script ")
    return {block.split(":", 1)[0].split()[0]: f"{common}-- {block}" for block in blocks}


SOURCE = (Path(__file__).parent / "window.lua").read_text()


class Glimpse(NamedTuple):
    """What the window has of a page. `token`: Redis's time before MongoDB is asked; `newest` is -1 when there is no window.

    The page is seq `lowest` to `highest`; `joined` holds those of it from seq `oldest` on, as JSON, joined by commas.
    """

    token: int
    fence: int
    newest: int
    oldest: int
    lowest: int
    highest: int
    joined: bytes

    @classmethod
    def of(cls, reply: Any) -> "Glimpse":
        """What the script `read` answered, and the end of the window. Raises ValueError for anything else."""
        match reply:
            case [[bytes() as token, bytes() as fence, int() as newest, int() as oldest, int() as lowest, int() as highest], list() as end]:
                return cls(int(token), int(fence), newest, oldest, lowest, highest, _joined(end, newest, oldest, lowest, highest))
            case [[bytes() as token, bytes() as fence, -1], _]:
                return cls(int(token), int(fence), -1, 0, 0, 0, b"")
        raise ValueError("not an answer to what was asked")

    @property
    def there(self) -> bool:
        return self.newest >= 0

    @property
    def covers(self) -> bool:
        """True when MongoDB need not be asked."""
        return self.there and (self.lowest >= self.oldest or self.lowest > self.highest)


def _joined(end: list[bytes], newest: int, oldest: int, lowest: int, highest: int) -> bytes:
    """Of these last elements of the list, the last of them seq `newest`, those from seq `lowest` to `highest` that are messages."""
    place = len(end) - newest - 1  # of seq 0
    return b",".join(end[place + max(lowest, oldest) : max(place + highest + 1, 0)])


class Room(NamedTuple):
    """How much more a window takes. Redis copies what a fill brings for 1.5 us a message, and does nothing else meanwhile."""

    messages: int
    bytes: int


def _fitting(messages: Sequence[Message], room: Room) -> list[bytes]:
    """The newest of them that there is room for, as JSON; oldest first."""
    kept: list[bytes] = []
    left = room.bytes
    for message in reversed(messages[max(len(messages) - room.messages, 0) :]):
        left -= len(message.json) + 1
        if left < 0:
            break
        kept.append(message.json)
    return kept[::-1]


class Cache:
    def __init__(self, redis: Redis, settings: Settings, flow: EventBus, *, source: str = SOURCE) -> None:
        self.keys = Keys(settings.key_prefix)
        self.mode, self.ttl_ms = settings.cache_mode, settings.ttl_ms
        self.breaker = CircuitBreaker("Redis", self._probe, on_recovery=self._mend)
        self.pipe = Pipe(redis, self.breaker)
        self.epoch = 0  # microseconds of Redis's clock
        self.others: Callable[[], bool] = lambda: False  # are there other processes?
        self.on_kept: Callable[[str, int], None] = lambda _key, _ttl_ms: None  # hears of each `message:{_id}` that has begun a life
        self._redis, self._flow, self._window_size = redis, flow, settings.window_size
        self._calls = DriverCalls(CALL_LIMIT_S)
        self._scripts, self._digests = scripts_in(source), dict[str, str]()
        self._behind: int | None = None  # Redis's clock minus ours, in microseconds
        self._syncing: asyncio.Task[None] | None = None
        self._least_grace_ms = grace_ms(self.ttl_ms)
        self._missed: OrderedDict[Conversation, float] = OrderedDict()  # windows that a write did not reach, and when

    # --- life ----------------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Load the scripts and learn Redis's time. While Redis is away the cache is open all the same."""
        if self.mode is not CacheMode.OFF:
            await self._begin()

    async def _begin(self) -> None:
        try:
            await asyncio.wait_for(self._probe(), 1)
        except Exception as error:  # noqa: BLE001 - see Pipe
            self.breaker.trip(error)
        self._syncing = asyncio.create_task(self._sync())

    async def retune(self, ttl_ms: int, mode: CacheMode) -> None:
        """Another life for what is cached from now on, and another mode, in this process; it must be the only one.

        What is cached keeps the life it has. Windows of before a time without a cache are not trusted after it: they may lack messages.
        """
        if self.mode is CacheMode.OFF and mode is not CacheMode.OFF:
            await (self._begin_anew() if self._syncing else self._begin())
        self.ttl_ms, self.mode = ttl_ms, mode
        self._least_grace_ms = self.grace_ms

    async def _begin_anew(self) -> None:
        self.epoch = await self._redis_time() or self.epoch  # none: the breaker is open, and the probe that closes it sets the epoch

    async def close(self) -> None:
        if self._syncing:
            self._syncing.cancel()
        await self.breaker.close()
        await self.pipe.drain()
        await self.pipe.hang_up()
        await self._calls.drain()
        await self._redis.aclose()

    async def _probe(self) -> None:
        """Redis is back when it takes a write; what it held before now is not trusted, and no late reply is taken for one of now."""
        await self.pipe.hang_up()
        await self._calls.run(self._redis.connection_pool.disconnect())
        await self._calls.run(self._redis.set(self.keys.probe, 1, px=1000))
        for name, script in self._scripts.items():
            self._digests[name] = await self._loaded(script)
        seconds, microseconds = await self._calls.run(self._redis.time())
        self.epoch = seconds * 1_000_000 + microseconds
        self._learn_time(self.epoch)

    async def _loaded(self, script: str) -> str:
        """The digest that Redis knows a script by. Raises ValueError if it is another one: that is not Redis, or out of step."""
        digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        if await self._calls.run(self._redis.script_load(script)) not in (digest, digest.encode()):
            raise ValueError("not an answer to what was asked")
        self.pipe.sources[digest] = script
        return digest

    def _mend(self) -> None:
        """Drop the windows that lack a write of this process: others may still trust them."""
        missed, self._missed = self._missed, OrderedDict()
        for conversation in missed:
            self._write("fence", conversation, 0)

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(PULSE if self.others() else SYNC_EVERY)
            asked, asked_at = self.clock(), time.monotonic()
            redis_time = await self._redis_time()
            if redis_time is not None:
                if min(redis_time - asked, (time.monotonic() - asked_at) * 1_000_000) > LATE * 1_000_000:  # by either clock
                    self.epoch = redis_time
                self._learn_time(redis_time)

    async def _redis_time(self) -> int | None:
        """In microseconds; None when Redis does not tell."""
        match await self.pipe.ask("TIME"):
            case [bytes() as seconds, bytes() as microseconds]:  # as it comes over the wire
                return int(seconds) * 1_000_000 + int(microseconds)
        return None

    def _learn_time(self, redis_time: int) -> None:
        self._behind = redis_time - time.monotonic_ns() // 1000

    def clock(self) -> int:
        """Redis's time in microseconds, never ahead of it. 0 before it was ever reached: everything then counts as late, which is safe."""
        return 0 if self._behind is None else time.monotonic_ns() // 1000 + self._behind

    @property
    def grace_ms(self) -> int:
        """GRACE now. It never grows again in a process: a trace that was left under a shorter one may end before a pending fill."""
        return min(self._least_grace_ms, grace_ms(self.ttl_ms))

    # --- writing -------------------------------------------------------------------------------------------------------------

    def keep(self, message: Message, began: int) -> Awaitable[bool]:
        """Cache a new message under its own key, for TTL, if it is not there. `began`: `clock()` when its save began."""
        return self._kept(message, self._run("message", self.keys.message(message.id), began, message.json))

    def keep_changed(self, message: Message, began: int) -> Awaitable[bool]:
        """Cache a changed message for a new TTL, unless a higher version is there."""
        return self._kept(message, self._run("message_change", self.keys.message(message.id), began, message.json))

    def append(self, message: Message, began: int) -> Awaitable[bool]:
        """Add a new message to its conversation's window."""
        return _done(self._write("send", message.conversation, began, message.seq, message.json))

    def change(self, message: Message, began: int) -> Awaitable[bool]:
        """Bring a changed message into its conversation's window, and fence off every fill that may not know it."""
        return _done(self._write("change", message.conversation, began, message.seq, message.json))

    def room(self, glimpse: Glimpse) -> Room:
        """What a window takes beside what this glimpse has seen of it: so many messages as its size, and so many KB."""
        held = glimpse.newest - glimpse.oldest + 1 if glimpse.there else 0
        return Room(self._window_size - held, self._window_size * 1000 - len(glimpse.joined))

    async def fill(
        self, conversation: Conversation, token: int, messages: Sequence[Message], *, widen: bool, room: Room | None = None
    ) -> str | None:
        """Put the newest of these messages, as far as there is room, into the window; what became of it, in a word.

        They were read from MongoDB after `token`, and must be consecutive in seq.
        """
        if not messages or messages[-1].seq - messages[0].seq != len(messages) - 1:
            return None
        kept = _fitting(messages, room or Room(self._window_size, self._window_size * 1000))
        if not kept:
            return None
        first = messages[-1].seq - len(kept) + 1
        answer = await self._run("fill", self.keys.window(conversation), token, int(widen), first, *kept)
        return answer.decode() if isinstance(answer, bytes) else None

    # --- reading -------------------------------------------------------------------------------------------------------------

    async def glimpse(self, conversation: Conversation, page: Page) -> Glimpse | None:
        """What the window has of this page; None when Redis cannot be asked."""
        before, after = -1 if page.before is None else page.before, -1 if page.after is None else page.after
        epoch = self.epoch
        command = self._command("read", key := self.keys.window(conversation), 0, page.limit or 0, before, after)
        if command is None:
            return None
        start = -page.limit if page.limit and before < 0 and after < 0 else 1  # of a page of the newest no more than is asked for
        reply = await self.pipe.ask_once(*together(command, ("LRANGE", key, start, -1)))
        if reply is None or epoch != self.epoch:  # guard: an outage has come to light while this was on its way
            return None
        try:
            glimpse = Glimpse.of(reply)
        except (TypeError, ValueError) as error:
            self.breaker.trip(error)
            return None
        self._learn_time(glimpse.token)
        return glimpse

    async def message(self, message_id: str) -> Message | None:
        """The cached message; None when it is not there, or Redis cannot be asked."""
        if self.mode is CacheMode.OFF:
            return None
        raw = await self.pipe.ask("GET", self.keys.message(message_id))
        return from_json(raw) if isinstance(raw, bytes) else None

    async def lives(self) -> dict[str, int] | None:
        """Every key of both kinds and the milliseconds it has left, for a picture; None when Redis cannot be asked."""
        cursor, names = b"0", set[bytes]()
        while True:
            match await self.pipe.ask("SCAN", cursor, "MATCH", self.keys.both_kinds, "COUNT", 1000):
                case [bytes() as cursor, list() as found]:
                    names.update(found)
                case _:
                    return None
            if cursor == b"0":
                break
        pttls = await asyncio.gather(*(self.pipe.ask("PTTL", name) for name in names))
        found_alive = zip(names, pttls, strict=True)
        return {name.decode("utf-8", "backslashreplace"): pttl for name, pttl in found_alive if isinstance(pttl, int) and pttl > 0}

    # --- both ----------------------------------------------------------------------------------------------------------------

    def _command(self, script: str, key: str, began: int, *rest: Any) -> Command | None:
        """None when there is nobody to ask."""
        if self.mode is CacheMode.OFF or script not in self._digests:
            return None
        common = (self.epoch, self.ttl_ms, self.grace_ms, self._window_size, began)
        return ("EVALSHA", self._digests[script], 1, key, *common, *rest)

    def _run(self, script: str, key: str, began: int, *rest: Any) -> "asyncio.Future[Any]":
        command = self._command(script, key, began, *rest)
        if command:
            return self.pipe.ask(*command)
        nothing: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        nothing.set_result(None)
        return nothing

    def _write(self, script: str, conversation: Conversation, began: int, *rest: Any) -> "asyncio.Future[Any]":
        """A write to a window; one that does not reach it is remembered."""
        reply = self._run(script, self.keys.window(conversation), began, *rest)
        if self.mode is not CacheMode.OFF:
            reply.add_done_callback(lambda answered: self._note(script, conversation, answered))
        return reply

    def _note(self, script: str, conversation: Conversation, reply: "asyncio.Future[Any]") -> None:
        answer = None if reply.cancelled() else reply.result()
        if answer in WRITTEN:
            return
        if answer is not None:
            self.breaker.trip(ValueError("not an answer to what was asked"))
        now = self._missed[conversation] = time.monotonic()
        self._missed.move_to_end(conversation)
        while now - next(iter(self._missed.values())) > self.ttl_ms / 1000:  # whatever it lacked is gone by now
            self._missed.popitem(last=False)
        if not self.breaker.is_open and script != "fence":  # closed again in the meantime
            self._mend()

    async def _kept(self, message: Message, reply: "asyncio.Future[Any]") -> bool:
        ttl_ms = self.ttl_ms  # that it was written with, whatever it is when Redis has answered
        kept: bool = await reply == 1
        if kept:
            key = self.keys.message(message.id)
            self.on_kept(key, ttl_ms)
            if self._flow:
                self._flow.publish(message.id, "cache", "cached", key=key, ttlMs=ttl_ms, messageId=message.id)
        return kept


async def _done(reply: "asyncio.Future[Any]") -> bool:
    return await reply in WRITTEN
