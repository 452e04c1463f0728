"""Read a page of a conversation: from its window in Redis, from MongoDB, or from both.

`docs/cache.md` explains which readers may share a query, and which results may fill the window.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import NamedTuple

from chatlab.cache.cache import Cache
from chatlab.cache.window import WindowSnapshot
from chatlab.domain.ids import Conversation, UserId
from chatlab.domain.message import Message
from chatlab.domain.requests import Page
from chatlab.protect.read_limits import FREE_MESSAGES, ReadLimits
from chatlab.store.messages import CHUNK_MESSAGES, MessageStore

Stream = AsyncGenerator[bytes, None]  # must be closed, which frees its slot
Pieces = bytes | Stream


class History(NamedTuple):
    """A page of a conversation, oldest message first. `outcome` is the value of the header X-Cache.

    `pieces` is the messages as JSON, joined by commas, or a stream of such pieces if the page is
    too large to buffer.
    """

    outcome: str
    pieces: Pieces


class SharedQuery(NamedTuple):
    """A query in flight, and the fill token from before it was sent."""

    token: int
    messages: "asyncio.Task[list[Message]]"

    def may_serve(self, snapshot: WindowSnapshot, trusted_since: int, grace_period_ms: int) -> bool:
        """Return True if the query cannot lack a change that the reader of this snapshot must see.

        A change after the query has left a fence for at least a grace period, or was lost in an
        outage.
        """
        is_newer = self.token > max(snapshot.fence, trusted_since)
        return is_newer and snapshot.token - self.token <= grace_period_ms * 1000


class HistoryReader:
    """Choose where a page comes from, and fill the window with what MongoDB returned.

    Identical reads share a query. A large read waits for a slot of its reader, and is charged to
    the reader.
    """

    def __init__(self, messages: MessageStore, cache: Cache, limits: ReadLimits) -> None:
        self._messages, self._cache, self._limits = messages, cache, limits
        self._queries: dict[tuple[Conversation, Page], SharedQuery] = {}

    async def read(
        self,
        reader: UserId,
        conversation: Conversation,
        page: Page,
        snapshot: WindowSnapshot | None,
    ) -> History:
        """Return a page.

        Without a snapshot of the window only MongoDB is asked. Raises StoreUnavailable, and
        RateLimited if the reader reads too much. A stream raises RateLimited at its first piece
        only.
        """
        if snapshot is None:
            return await self._read_store(reader, conversation, page, "bypass")
        if snapshot.covers_page:
            return History("hit", snapshot.joined)
        if snapshot.exists:
            return await self._read_older_part(reader, conversation, snapshot)
        return await self._read_and_fill(reader, conversation, page, snapshot)

    async def _read_older_part(
        self, reader: UserId, conversation: Conversation, snapshot: WindowSnapshot
    ) -> History:
        """Put the messages that the window lacks in front of those that it has."""
        outcome = "partial" if snapshot.joined else "miss"
        missing = Page(after=snapshot.lowest - 1, before=min(snapshot.highest + 1, snapshot.oldest))
        if snapshot.oldest - snapshot.lowest > CHUNK_MESSAGES:  # too large to buffer and to cache
            pieces = self._stream_before(reader, conversation, missing, snapshot.joined)
            return History(outcome, pieces)
        older = await self._query_once(reader, (conversation, missing), snapshot, widen=True)
        return History(outcome, b",".join(filter(None, (_joined(older), snapshot.joined))))

    async def _read_and_fill(
        self, reader: UserId, conversation: Conversation, page: Page, snapshot: WindowSnapshot
    ) -> History:
        """Read MongoDB because there is no window.

        A page that cannot start one goes the way of a bypass.
        """
        is_newest = page.before is None
        if not is_newest or (page.limit or 0) > CHUNK_MESSAGES:
            return await self._read_store(reader, conversation, page, "miss")
        messages = await self._query_once(reader, (conversation, page), snapshot, widen=False)
        return History("miss", self._complete(reader, conversation, page, messages))

    async def _read_store(
        self, reader: UserId, conversation: Conversation, page: Page, outcome: str
    ) -> History:
        """Read MongoDB alone, in bounded memory.

        The first query runs here, so that an outage can still become a 503.
        """
        if (page.limit or 0) <= CHUNK_MESSAGES:
            async with self._slot(reader, page):
                messages = await self._query(conversation, page)
            self._limits.charge(reader, len(messages) - FREE_MESSAGES)
            return History(outcome, self._complete(reader, conversation, page, messages))
        pieces = self._stream(reader, conversation, *await self._seq_range(conversation, page))
        return History(outcome, _chain(await anext(pieces, b""), pieces))

    # --- request coalescing ------------------------------------------------------------------

    async def _query_once(
        self,
        reader: UserId,
        key: tuple[Conversation, Page],
        snapshot: WindowSnapshot,
        *,
        widen: bool,
    ) -> list[Message]:
        """Query MongoDB and fill the window, or join an identical query that is in flight."""
        if query := self._joinable(key, snapshot):
            return await asyncio.shield(query.messages)
        async with self._slot(reader, key[1]):
            query = self._joinable(key, snapshot) or self._start_query(key, snapshot, widen=widen)
            messages = await asyncio.shield(query.messages)
        self._limits.charge(reader, len(messages) - FREE_MESSAGES)
        return messages

    def _joinable(
        self, key: tuple[Conversation, Page], snapshot: WindowSnapshot
    ) -> SharedQuery | None:
        """Return a query in flight that may serve the reader of this snapshot."""
        query = self._queries.get(key)
        if query is None:
            return None
        trusted_since, grace_period_ms = (
            self._cache.trusted_since(key[0]),
            self._cache.grace_period_ms,
        )
        return query if query.may_serve(snapshot, trusted_since, grace_period_ms) else None

    def _start_query(
        self, key: tuple[Conversation, Page], snapshot: WindowSnapshot, *, widen: bool
    ) -> SharedQuery:
        task = asyncio.create_task(self._query_and_fill(*key, snapshot, widen=widen))
        query = self._queries[key] = SharedQuery(snapshot.token, task)
        task.add_done_callback(lambda _: self._forget(key, query))
        return query

    def _forget(self, key: tuple[Conversation, Page], query: SharedQuery) -> None:
        if self._queries.get(key) is query:
            del self._queries[key]

    async def _query_and_fill(
        self, conversation: Conversation, page: Page, snapshot: WindowSnapshot, *, widen: bool
    ) -> list[Message]:
        messages = await self._query(conversation, page)
        is_last_page = page.after is None or len(messages) < (page.limit or CHUNK_MESSAGES)
        if widen or is_last_page:  # a window must reach the newest message
            capacity = self._cache.capacity(snapshot)
            await self._cache.fill_window(
                conversation, snapshot.token, messages, widen=widen, capacity=capacity
            )
        return messages

    # --- MongoDB -----------------------------------------------------------------------------

    def _slot(self, reader: UserId, page: Page) -> contextlib.AbstractAsyncContextManager[object]:
        """Return the slot of a query for this page. A small page needs none."""
        is_small = page.limit is not None and page.limit <= FREE_MESSAGES
        return contextlib.nullcontext() if is_small else self._limits.query(reader)

    async def _query(self, conversation: Conversation, page: Page) -> list[Message]:
        """Return at most CHUNK_MESSAGES: the first ones after `after`, or the newest ones."""
        limit = page.limit or CHUNK_MESSAGES
        if page.after is None:
            return await self._messages.find_newest(conversation, limit, page.before)
        highest = None if page.before is None else page.before - 1
        return await self._messages.find_range(conversation, page.after + 1, highest, limit)

    def _complete(
        self, reader: UserId, conversation: Conversation, page: Page, messages: list[Message]
    ) -> Pieces:
        """Return the whole page, of which `_query` has returned these messages."""
        if page.limit is not None or len(messages) < CHUNK_MESSAGES:  # there are no more
            return _joined(messages)
        if page.after is None:
            older = Page(after=0, before=messages[0].seq)
            return self._stream_before(reader, conversation, older, _joined(messages))
        highest = None if page.before is None else page.before - 1
        rest = self._stream(reader, conversation, messages[-1].seq + 1, highest)
        return _chain(_joined(messages), rest)

    async def _seq_range(self, conversation: Conversation, page: Page) -> tuple[int, int]:
        """Return the lowest and the highest seq of a limited page."""
        last = (await self._messages.find_last_seqs([conversation])).get(conversation, 0)
        highest = last if page.before is None else min(last, page.before - 1)
        limit = page.limit or last
        if page.after is None:
            return max(1, highest - limit + 1), highest
        return page.after + 1, min(highest, page.after + limit)

    async def _stream(
        self, reader: UserId, conversation: Conversation, lowest: int, highest: int | None
    ) -> Stream:
        """Stream a range of seqs. The next chunk is read when the previous one has been taken."""
        chunks = self._messages.read_chunks(conversation, lowest, highest)
        async with self._limits.stream(reader):
            while True:
                async with self._limits.chunk(reader):
                    chunk = await anext(chunks, None)
                    if chunk is None:
                        return
                    piece = _joined(chunk)
                await self._limits.charge_chunk(reader, len(chunk))
                yield piece

    async def _stream_before(
        self, reader: UserId, conversation: Conversation, older: Page, newest: bytes
    ) -> Stream:
        """Stream the messages of the page `older`, then those that are here already."""
        assert older.after is not None
        assert older.before is not None
        lowest, highest = older.after + 1, older.before - 1
        async with contextlib.aclosing(
            self._stream(reader, conversation, lowest, highest)
        ) as pieces:
            async for piece in pieces:
                yield piece
        yield newest


def _joined(messages: list[Message]) -> bytes:
    return b",".join(message.json for message in messages)


async def _chain(first: bytes, rest: Stream) -> Stream:
    async with contextlib.aclosing(rest):
        yield first
        async for piece in rest:
            yield piece
