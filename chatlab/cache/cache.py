"""The cache stages of the diagram: message entries and conversation windows in Redis.

Redis is an optimization. No method raises because of it: a write that was not made returns False,
and a read that was not answered returns None. `docs/cache.md` explains what happens after an
outage, and why reads stay exact.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis

from chatlab.cache import window
from chatlab.cache.claim import RENEWAL_INTERVAL_S, KeysInUseError
from chatlab.cache.cluster_nodes import ClusterNodes
from chatlab.cache.keys import Keys, Ttls, grace_period_ms
from chatlab.cache.node import CacheNode, Common
from chatlab.cache.servers import OneServer, Servers
from chatlab.cache.window import Capacity, CommonArguments, ScriptCall, WindowSnapshot
from chatlab.connections.cluster import Cluster
from chatlab.connections.pipeline import Pipeline, no_reply
from chatlab.connections.redis_limits import RedisLimits
from chatlab.connections.resp import transaction
from chatlab.domain.ids import Conversation
from chatlab.domain.message import Message, from_json
from chatlab.domain.requests import Page
from chatlab.domain.trace import EventBus
from chatlab.protect.loop_lag import LoopLag
from chatlab.settings import CacheMode, Settings


class Cache:
    """Read and write both kinds of keys.

    `peer_timeout_s` returns the shortest `CHATLAB_REDIS_TIMEOUT` of the other processes that use
    this Redis, or None if there are none. `lag` measures the event loop. `on_cached` is called with
    the key of each message entry that was written, and with the TTLs at that time.

    `ttl_ms` is the setting; `ttls` are the TTLs that follow from it. The grace period never grows
    in a running process: a write under a shorter TTL leaves a fence for a shorter time, and a fill
    could outlive that fence.
    """

    def __init__(
        self,
        redis: Redis | Cluster,
        settings: Settings,
        events: EventBus,
        *,
        peer_timeout_s: Callable[[], float | None] = lambda: None,
        lag: LoopLag | None = None,
        on_cached: Callable[[str, Ttls], None] | None = None,
        source: str = window.SOURCE,
    ) -> None:
        self.keys = Keys(settings.key_prefix)
        self.mode, self.ttl_ms = settings.cache_mode, settings.ttl_ms
        self.ttls = Ttls.of(self.ttl_ms)
        self.grace_period_ms = grace_period_ms(min(self.ttls))
        self._peer_timeout_s = peer_timeout_s
        limits = RedisLimits(settings.redis_timeout)
        common = Common(
            limits,
            lag or LoopLag(),
            peer_timeout_s,
            lambda: self.ttls,
            self._common_arguments,
            source,
        )
        self.servers: Servers
        if isinstance(redis, Cluster):
            self.servers = ClusterNodes(redis, self.keys, common)
        else:
            self.servers = OneServer(CacheNode(redis, self.keys, common), limits.connect_s)
        self._events, self._on_cached = events, on_cached
        self._window_size = settings.window_size
        self._is_open = False
        self._reconfiguring = asyncio.Lock()
        self._renewing: asyncio.Task[None] | None = None

    @property
    def pipe(self) -> Pipeline:
        """The pipeline for commands that are not about messages."""
        return self.servers.pipe

    def now_us(self) -> int:
        """Return the time with which a write begins."""
        return self.servers.now_us()

    # --- start, stop, settings ---------------------------------------------------------------

    async def open(self) -> None:
        """Learn Redis time. If Redis is away, the cache opens all the same."""
        if self.mode is not CacheMode.OFF:
            await self._connect()

    async def _connect(self) -> None:
        self._is_open = True
        await self.servers.open()

    async def close(self) -> None:
        """Wait for the commands that were already given, and close the connections."""
        if self._renewing:
            self._renewing.cancel()
        await self.servers.close()

    async def claim(self, installation: str) -> None:
        """Use the keys for this installation, and do without Redis if another one uses them."""
        self.servers.use_for(installation)
        await self._renew_claim()
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._keep_claim())

    @property
    def owns_keys(self) -> bool:
        """Return False while another installation is known to use the keys."""
        return not any(node.claim.is_refused for node in self.servers.all())

    async def _keep_claim(self) -> None:
        while True:
            await asyncio.sleep(RENEWAL_INTERVAL_S)
            await self._renew_claim()

    async def _renew_claim(self) -> None:
        for node in self.servers.all():
            try:
                await node.claim.renew()
            except KeysInUseError as error:
                node.breaker.trip(error)

    async def reconfigure(self, ttl_ms: int | None = None, mode: CacheMode | None = None) -> None:
        """Use another TTL, another mode, or both from now on.

        This must be the only process that uses this Redis.

        Existing keys keep their expiry. Windows from before a time in mode `off` may lack messages,
        so they are not trusted.
        """
        async with self._reconfiguring:
            if self.mode is CacheMode.OFF and mode not in (None, CacheMode.OFF):
                await self.distrust_windows()
                if not self._is_open:
                    await self._connect()
            self.ttl_ms, self.mode = ttl_ms or self.ttl_ms, mode or self.mode
            self.ttls = Ttls.of(self.ttl_ms)
            self.grace_period_ms = min(self.grace_period_ms, grace_period_ms(min(self.ttls)))

    async def distrust_windows(self) -> None:
        """Trust only windows that are born from now on: one from before may lack a write."""
        for node in self.servers.all():
            node.clock.distrust()
            if self._is_open:
                # Without a reply, the regular check or the probe trusts windows again later.
                await node.clock.trust_again()

    @property
    def has_missed_windows(self) -> bool:
        """Return whether a window that others trust may lack a write of this process."""
        return any(node.has_missed_windows for node in self.servers.all())

    def has_peers(self) -> bool:
        """Return whether other processes use this Redis."""
        return self._peer_timeout_s() is not None

    # --- message entries ---------------------------------------------------------------------

    def put_message(self, message: Message, began: int) -> Awaitable[bool]:
        """Write the entry of a new message, unless there is one.

        `began`: `now_us()` when its save began. Like the other writes, it is not `async`: the
        pipeline has the command when it returns.
        """
        key = self.keys.message(message.id)
        call = window.put_message(key, message, self._own_time(key, began), self.ttls.entry_ms)
        return self._report_cached(message, self._run(call))

    def put_changed_message(self, message: Message, began: int) -> Awaitable[bool]:
        """Write the entry of a changed message for a new TTL, unless it has a higher version."""
        key = self.keys.message(message.id)
        call = window.put_changed_message(
            key, message, self._own_time(key, began), self.ttls.entry_ms
        )
        return self._report_cached(message, self._run(call))

    async def message(self, message_id: str) -> Message | None:
        """Return the cached message. Returns None if it is not cached or Redis cannot be asked."""
        if self.mode is CacheMode.OFF:
            return None
        key = self.keys.message(message_id)
        raw = await self.servers.of(key).pipe.execute("GET", key)
        return from_json(raw) if isinstance(raw, bytes) else None

    async def _report_cached(self, message: Message, reply: "asyncio.Future[Any]") -> bool:
        ttls = self.ttls  # of the command; the setting may change before Redis answers
        cached: bool = await reply == 1
        if cached:
            key, ttl_ms = self.keys.message(message.id), ttls.entry_ms
            if self._on_cached:
                self._on_cached(key, ttls)
            if self._events:
                self._events.publish(
                    message.id, "cache", "cached", key=key, ttlMs=ttl_ms, messageId=message.id
                )
        return cached

    # --- conversation windows ----------------------------------------------------------------

    def append_to_window(self, message: Message, began: int) -> Awaitable[bool]:
        """Add a new message to the window of its conversation."""
        key = self.keys.window(message.conversation)
        call = window.send(key, message, self._own_time(key, began))
        return _was_written(self._write(call))

    def change_in_window(self, message: Message, began: int) -> Awaitable[bool]:
        """Replace a changed message in its window.

        Fills that may lack the change will be refused.
        """
        key = self.keys.window(message.conversation)
        call = window.change(key, message, self._own_time(key, began))
        return _was_written(self._write(call))

    async def snapshot_window(
        self, conversation: Conversation, page: Page
    ) -> WindowSnapshot | None:
        """Return what the window holds of this page.

        Returns None if windows are not read or Redis cannot be asked.
        """
        key = self.keys.window(conversation)
        node = self.servers.of(key)
        trusted_since = node.trusted_since(key)
        if self.mode is not CacheMode.WINDOW or node.clock.is_too_far:
            return None
        command = node.command(window.read(key, page))
        is_newest = page.before is None and page.after is None
        first = -page.limit if page.limit and is_newest else 1  # no more of the list than needed
        reply = await node.pipe.execute_coalesced(*transaction(command, ("LRANGE", key, first, -1)))
        is_outdated = trusted_since != node.trusted_since(key)  # guard: an outage meanwhile
        if reply is None or is_outdated:
            return None
        try:
            snapshot = WindowSnapshot.from_reply(reply)
        except (TypeError, ValueError) as error:
            node.breaker.trip(error)
            return None
        node.clock.learn(snapshot.token)
        return snapshot

    def trusted_since(self, conversation: Conversation) -> int:
        """Return since when this window is trusted, in the time of the server that has it."""
        key = self.keys.window(conversation)
        return self.servers.of(key).trusted_since(key)

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
        key, first_seq = self.keys.window(conversation), messages[-1].seq - len(fitting) + 1
        if not self.servers.of(key).may_fill(key, token):
            return None
        call = window.fill(key, token, fitting, first_seq, widen=widen)
        reply = await self._run(call)
        return reply.decode() if isinstance(reply, bytes) else None

    # --- running scripts ---------------------------------------------------------------------

    def _common_arguments(self, trusted_since: int) -> CommonArguments:
        ttl_ms, grace_period_ms = self.ttls.window_ms, self.grace_period_ms
        return CommonArguments(trusted_since, ttl_ms, grace_period_ms, self._window_size)

    def _own_time(self, key: str, began: int) -> int:
        return self.servers.of(key).to_own_time(began)

    def _run(self, call: ScriptCall) -> "asyncio.Future[Any]":
        """Return the reply to come. It is None if the cache is off or Redis does not answer."""
        if self.mode is CacheMode.OFF:
            return no_reply()
        return self.servers.of(call.key).run(call)

    def _write(self, call: ScriptCall) -> "asyncio.Future[Any]":
        """Run a write to a window. If it does not reach the window, the window is repaired."""
        if self.mode is CacheMode.OFF:
            return no_reply()
        return self.servers.of(call.key).write(call)


async def _was_written(reply: "asyncio.Future[Any]") -> bool:
    return await reply in window.WRITTEN
