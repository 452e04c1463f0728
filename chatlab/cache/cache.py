"""The cache stages of the diagram: message entries and conversation windows in Redis.

Redis is an optimization. No method raises because of it: a write that was not made returns False,
and a read that was not answered returns None. `docs/cache.md` explains what happens after an
outage, and why reads stay exact.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis

from chatlab.cache import window
from chatlab.cache.claim import RENEWAL_INTERVAL_S, Claim, KeysInUseError
from chatlab.cache.clock import RedisClock
from chatlab.cache.keys import Keys, grace_period_ms
from chatlab.cache.missed_windows import MissedWindows
from chatlab.cache.scripts import Scripts
from chatlab.cache.window import Capacity, CommonArguments, ScriptCall, WindowSnapshot
from chatlab.connections.diagnosis import explain
from chatlab.connections.pipeline import AutoPipeline, no_reply
from chatlab.connections.redis_limits import RedisLimits
from chatlab.connections.resp import transaction
from chatlab.domain.ids import Conversation
from chatlab.domain.message import Message, from_json
from chatlab.domain.requests import Page
from chatlab.domain.trace import EventBus
from chatlab.protect.breaker import CircuitBreaker
from chatlab.protect.loop_lag import LoopLag
from chatlab.settings import CacheMode, Settings

REPAIR_INTERVAL_S = 0.25  # between two attempts to fence the windows that missed a write


class Cache:
    """Read and write both kinds of keys.

    `peer_timeout_s` returns the shortest `CHATLAB_REDIS_TIMEOUT` of the other processes that use
    this Redis, or None if there are none. `lag` measures the event loop. `on_cached` is called with
    the key and the TTL in milliseconds of each message entry that was written.
    """

    def __init__(
        self,
        redis: Redis,
        settings: Settings,
        events: EventBus,
        *,
        peer_timeout_s: Callable[[], float | None] = lambda: None,
        lag: LoopLag | None = None,
        on_cached: Callable[[str, int], None] | None = None,
        source: str = window.SOURCE,
    ) -> None:
        self.keys = Keys(settings.key_prefix)
        self.mode, self.ttl_ms = settings.cache_mode, settings.ttl_ms
        self._limits, self._peer_timeout_s = RedisLimits(settings.redis_timeout), peer_timeout_s
        self.breaker = CircuitBreaker(
            "Redis",
            self._probe,
            on_recovery=self._fence_missed_windows,
            probe_timeout_s=self._limits.connect_s,
            explain=functools.partial(explain, "Redis"),
        )
        self.pipe = AutoPipeline(
            redis,
            self.breaker,
            lag or LoopLag(),
            timeout_s=self._limits.answer_s,
            on_connection=lambda: self.clock.reconnect(self._ask_time),
        )
        self.clock = RedisClock(
            self.pipe,
            self._limits,
            peer_timeout_s=peer_timeout_s,
            ttl_ms=lambda: self.ttl_ms,
        )
        self._redis, self._events, self._on_cached = redis, events, on_cached
        self._window_size = settings.window_size
        self._scripts = Scripts(self.pipe, source)
        self._watching: asyncio.Task[None] | None = None
        self._repairing: asyncio.Task[None] | None = None
        self._reconfiguring = asyncio.Lock()
        self._smallest_grace_period_ms = grace_period_ms(self.ttl_ms)
        self._missed = MissedWindows()
        self._claim = Claim(self.pipe, self.keys.claim, lambda: self.ttl_ms)
        self._renewing: asyncio.Task[None] | None = None

    # --- start, stop, settings ---------------------------------------------------------------

    async def open(self) -> None:
        """Learn Redis time. If Redis is away, the cache opens all the same."""
        if self.mode is not CacheMode.OFF:
            await self._connect()

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self._limits.connect_s):
                await self._probe()
        except Exception as error:  # noqa: BLE001 - any failure is an outage, as in the pipeline
            self.breaker.trip(error)
        self._watching = asyncio.create_task(self.clock.watch())

    async def close(self) -> None:
        """Wait for the commands that were already given, and close the connections."""
        for task in (self._watching, self._repairing, self._renewing):
            if task:
                task.cancel()
        await self.breaker.close()
        await self.pipe.drain()
        await self.pipe.disconnect()
        await self._redis.aclose()

    async def claim(self, installation: str) -> None:
        """Use the keys for this installation, and do without Redis if another one uses them."""
        self._claim.installation = installation
        await self._renew_claim()
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._keep_claim())

    @property
    def owns_keys(self) -> bool:
        """Return False while another installation is known to use the keys."""
        return not self._claim.is_refused

    async def _keep_claim(self) -> None:
        while True:
            await asyncio.sleep(RENEWAL_INTERVAL_S)
            await self._renew_claim()

    async def _renew_claim(self) -> None:
        try:
            await self._claim.renew()
        except KeysInUseError as error:
            self.breaker.trip(error)

    async def reconfigure(self, ttl_ms: int | None = None, mode: CacheMode | None = None) -> None:
        """Use another TTL, another mode, or both from now on.

        This must be the only process that uses this Redis.

        Existing keys keep their expiry. Windows from before a time in mode `off` may lack messages,
        so they are not trusted.
        """
        async with self._reconfiguring:
            if self.mode is CacheMode.OFF and mode not in (None, CacheMode.OFF):
                # Without a reply, the regular check or the probe trusts windows again later.
                self.clock.distrust()
                await (self.clock.trust_again() if self._watching else self._connect())
            self.ttl_ms, self.mode = ttl_ms or self.ttl_ms, mode or self.mode
            self._smallest_grace_period_ms = self.grace_period_ms

    def has_peers(self) -> bool:
        """Return whether other processes use this Redis."""
        return self._peer_timeout_s() is not None

    @property
    def grace_period_ms(self) -> int:
        """The grace period. It never grows in a running process.

        A write under a shorter TTL leaves a fence for a shorter time, and a fill could outlive that
        fence.
        """
        return min(self._smallest_grace_period_ms, grace_period_ms(self.ttl_ms))

    # --- outages -----------------------------------------------------------------------------

    async def _probe(self) -> None:
        """Check that Redis accepts the commands of requests, on a new connection.

        Windows from before this moment are not trusted.

        A full or read-only Redis still answers reads, and a fence needs no memory if it replaces
        the key of the probe before, so this writes a key as well.
        """
        key, common = self.keys.probe, self._common()
        read = self._scripts.command(window.read(key, Page()), common)
        written, fenced, _, *claimed = await self.pipe.ask_on_new_connection(
            ("SET", key, 1, "PX", 1000),
            self._scripts.command(window.fence(key), common),
            transaction(read, ("LRANGE", key, 1, -1)),
            *self._claim.commands(),
            timeout_s=self._limits.connect_s,
        )
        self._claim.check(claimed)
        if (written, fenced) != (b"OK", b"fence"):
            raise ValueError("Redis sent an unexpected reply")
        await self.clock.begin(self._ask_time)

    async def _ask_time(self) -> Any:
        return await self.pipe.ask_at_once(("TIME",), timeout_s=self._limits.connect_s)

    def _fence_missed_windows(self) -> None:
        """Fence off the windows that lack a write of this process.

        Other processes may still trust them.
        """
        for conversation in self._missed.take_all():
            self._write(conversation, window.fence(self.keys.window(conversation)))

    # --- message entries ---------------------------------------------------------------------

    def put_message(self, message: Message, began: int) -> Awaitable[bool]:
        """Write the entry of a new message, unless there is one.

        `began`: `clock.now_us()` when its save began.
        """
        call = window.put_message(self.keys.message(message.id), message, began)
        return self._report_cached(message, self._run(call))

    def put_changed_message(self, message: Message, began: int) -> Awaitable[bool]:
        """Write the entry of a changed message for a new TTL, unless it has a higher version."""
        call = window.put_changed_message(self.keys.message(message.id), message, began)
        return self._report_cached(message, self._run(call))

    async def message(self, message_id: str) -> Message | None:
        """Return the cached message. Returns None if it is not cached or Redis cannot be asked."""
        if self.mode is CacheMode.OFF:
            return None
        raw = await self.pipe.execute("GET", self.keys.message(message_id))
        return from_json(raw) if isinstance(raw, bytes) else None

    async def _report_cached(self, message: Message, reply: "asyncio.Future[Any]") -> bool:
        ttl_ms = self.ttl_ms  # of the command; the setting may change before Redis answers
        cached: bool = await reply == 1
        if cached:
            key = self.keys.message(message.id)
            if self._on_cached:
                self._on_cached(key, ttl_ms)
            if self._events:
                self._events.publish(
                    message.id, "cache", "cached", key=key, ttlMs=ttl_ms, messageId=message.id
                )
        return cached

    # --- conversation windows ----------------------------------------------------------------

    def append_to_window(self, message: Message, began: int) -> Awaitable[bool]:
        """Add a new message to the window of its conversation."""
        key = self.keys.window(message.conversation)
        return _was_written(self._write(message.conversation, window.send(key, message, began)))

    def change_in_window(self, message: Message, began: int) -> Awaitable[bool]:
        """Replace a changed message in its window.

        Fills that may lack the change will be refused.
        """
        key = self.keys.window(message.conversation)
        return _was_written(self._write(message.conversation, window.change(key, message, began)))

    async def snapshot_window(
        self, conversation: Conversation, page: Page
    ) -> WindowSnapshot | None:
        """Return what the window holds of this page.

        Returns None if windows are not read or Redis cannot be asked.
        """
        trusted_since, key = self.clock.trusted_since, self.keys.window(conversation)
        if self.mode is not CacheMode.WINDOW or self.clock.is_too_far:
            return None
        command = self._scripts.command(window.read(key, page), self._common())
        is_newest = page.before is None and page.after is None
        first = -page.limit if page.limit and is_newest else 1  # no more of the list than needed
        reply = await self.pipe.execute_coalesced(*transaction(command, ("LRANGE", key, first, -1)))
        is_outdated = trusted_since != self.clock.trusted_since  # guard: an outage meanwhile
        if reply is None or is_outdated:
            return None
        try:
            snapshot = WindowSnapshot.from_reply(reply)
        except (TypeError, ValueError) as error:
            self.breaker.trip(error)
            return None
        self.clock.learn(snapshot.token)
        return snapshot

    def capacity(self, snapshot: WindowSnapshot | None = None) -> Capacity:
        """Return how much a fill may add to the window of this snapshot.

        A window has a limit in messages, and the same limit in KB of JSON.
        """
        messages, size = self._window_size, self._window_size * 1000
        if snapshot and snapshot.exists:
            messages -= snapshot.newest - snapshot.oldest + 1
            size -= len(snapshot.joined)
        return Capacity(messages, size)

    async def fill_window(
        self,
        conversation: Conversation,
        token: int,
        messages: Sequence[Message],
        *,
        widen: bool,
        capacity: Capacity | None = None,
    ) -> str | None:
        """Offer messages to the window that were read from MongoDB after the fill token.

        Returns the reply of the script `fill`, or None if there is nothing to offer. A gap in seq
        is not offered: it comes from a message that somebody deleted from MongoDB by hand.
        """
        if not messages or messages[-1].seq - messages[0].seq != len(messages) - 1:
            return None
        fitting = (capacity or self.capacity()).newest_that_fit(messages)
        if not fitting:
            return None
        first_seq = messages[-1].seq - len(fitting) + 1
        call = window.fill(self.keys.window(conversation), token, fitting, first_seq, widen=widen)
        reply = await self._run(call)
        return reply.decode() if isinstance(reply, bytes) else None

    # --- running scripts ---------------------------------------------------------------------

    def _common(self) -> CommonArguments:
        return CommonArguments(
            self.clock.trusted_since, self.ttl_ms, self.grace_period_ms, self._window_size
        )

    def _run(self, call: ScriptCall) -> "asyncio.Future[Any]":
        """Return the reply to come. It is None if the cache is off or Redis does not answer."""
        if self.mode is CacheMode.OFF:
            return no_reply()
        return self._scripts.run(call, self._common())

    def _write(self, conversation: Conversation, call: ScriptCall) -> "asyncio.Future[Any]":
        """Run a write to a window.

        If the write does not reach the window, remember the window as missed.
        """
        reply = self._run(call)
        if self.mode is not CacheMode.OFF:
            reply.add_done_callback(lambda done: self._note_missed(conversation, done))
        return reply

    def _note_missed(self, conversation: Conversation, reply: "asyncio.Future[Any]") -> None:
        answer = None if reply.cancelled() else reply.result()
        if answer in window.WRITTEN:
            return
        if answer is not None:
            self.breaker.trip(ValueError("Redis sent an unexpected reply"))
        self._missed.add(conversation, self.ttl_ms)
        if not self.breaker.is_open:  # otherwise the windows are fenced when it closes
            self.clock.distrust()
            if self._repairing is None or self._repairing.done():
                self._fence_missed_windows()
                self._repairing = asyncio.get_running_loop().create_task(self._repair())

    async def _repair(self) -> None:
        """Finish after a missed write what the end of an outage does, while the breaker is closed.

        A write is missed with a closed breaker if the event loop was late, or if the breaker has
        just closed.
        """
        while not await self.clock.trust_again() or self._missed:
            await asyncio.sleep(REPAIR_INTERVAL_S)
            if self.breaker.is_open:  # the probe that closes it does the rest
                return
            self._fence_missed_windows()


async def _was_written(reply: "asyncio.Future[Any]") -> bool:
    return await reply in window.WRITTEN
