"""Read a page of a conversation: from its window in Redis, from MongoDB, or from both.

`docs/cache.md` explains which readers may share a query, and which results may fill the window.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

from chatlab.cache.cache import Cache
from chatlab.cache.window import WindowSnapshot
from chatlab.domain.ids import Conversation
from chatlab.domain.message import Message
from chatlab.domain.requests import Page
from chatlab.store.messages import CHUNK_MESSAGES, MessageStore

Pieces = bytes | AsyncIterator[bytes]


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

    Identical reads share a query.
    """

    def __init__(self, messages: MessageStore, cache: Cache) -> None:
        self._messages, self._cache = messages, cache
        self._queries: dict[tuple[Conversation, Page], SharedQuery] = {}

    async def read(
        self, conversation: Conversation, page: Page, snapshot: WindowSnapshot | None
    ) -> History:
        """Return a page.

        Without a snapshot of the window only MongoDB is asked. Raises StoreUnavailable.
        """
        if snapshot is None:
            return await self._read_store(conversation, page, "bypass")
        if snapshot.covers_page:
            return History("hit", snapshot.joined)
        if snapshot.exists:
            return await self._read_older_part(conversation, snapshot)
        return await self._read_and_fill(conversation, page, snapshot)

    async def _read_older_part(
        self, conversation: Conversation, snapshot: WindowSnapshot
    ) -> History:
        """Put the messages that the window lacks in front of those that it has."""
        outcome = "partial" if snapshot.joined else "miss"
        missing = Page(after=snapshot.lowest - 1, before=min(snapshot.highest + 1, snapshot.oldest))
        if snapshot.oldest - snapshot.lowest > CHUNK_MESSAGES:  # too large to buffer and to cache
            return History(outcome, self._stream_before(conversation, missing, snapshot.joined))
        older = await self._query_once(conversation, missing, snapshot, widen=True)
        return History(outcome, b",".join(filter(None, (_joined(older), snapshot.joined))))

    async def _read_and_fill(
        self, conversation: Conversation, page: Page, snapshot: WindowSnapshot
    ) -> History:
        """Read MongoDB because there is no window.

        A page that cannot start one goes the way of a bypass.
        """
        is_newest = page.before is None
        if not is_newest or (page.limit or 0) > CHUNK_MESSAGES:
            return await self._read_store(conversation, page, "miss")
        messages = await self._query_once(conversation, page, snapshot, widen=False)
        return History("miss", self._complete(conversation, page, messages))

    async def _read_store(self, conversation: Conversation, page: Page, outcome: str) -> History:
        """Read MongoDB alone, in bounded memory.

        The first query runs here, so that an outage can still become a 503.
        """
        if (page.limit or 0) <= CHUNK_MESSAGES:
            messages = await self._query(conversation, page)
            return History(outcome, self._complete(conversation, page, messages))
        pieces = self._stream(conversation, *await self._seq_range(conversation, page))
        return History(outcome, _chain(await anext(pieces, b""), pieces))

    # --- request coalescing ------------------------------------------------------------------

    async def _query_once(
        self, conversation: Conversation, page: Page, snapshot: WindowSnapshot, *, widen: bool
    ) -> list[Message]:
        """Query MongoDB and fill the window, or join an identical query that is in flight."""
        key = (conversation, page)
        query = self._queries.get(key)
        clock, grace_period_ms = self._cache.clock, self._cache.grace_period_ms
        if query is None or not query.may_serve(snapshot, clock.trusted_since, grace_period_ms):
            query = self._start_query(key, snapshot, widen=widen)
        return await asyncio.shield(query.messages)

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

    async def _query(self, conversation: Conversation, page: Page) -> list[Message]:
        """Return at most CHUNK_MESSAGES: the first ones after `after`, or the newest ones."""
        limit = page.limit or CHUNK_MESSAGES
        if page.after is None:
            return await self._messages.find_newest(conversation, limit, page.before)
        highest = None if page.before is None else page.before - 1
        return await self._messages.find_range(conversation, page.after + 1, highest, limit)

    def _complete(self, conversation: Conversation, page: Page, messages: list[Message]) -> Pieces:
        """Return the whole page, of which `_query` has returned these messages."""
        if page.limit is not None or len(messages) < CHUNK_MESSAGES:  # there are no more
            return _joined(messages)
        if page.after is None:
            older = Page(after=0, before=messages[0].seq)
            return self._stream_before(conversation, older, _joined(messages))
        highest = None if page.before is None else page.before - 1
        return _chain(_joined(messages), self._stream(conversation, messages[-1].seq + 1, highest))

    async def _seq_range(self, conversation: Conversation, page: Page) -> tuple[int, int]:
        """Return the lowest and the highest seq of a limited page."""
        last = (await self._messages.find_last_seqs([conversation])).get(conversation, 0)
        highest = last if page.before is None else min(last, page.before - 1)
        limit = page.limit or last
        if page.after is None:
            return max(1, highest - limit + 1), highest
        return page.after + 1, min(highest, page.after + limit)

    async def _stream(
        self, conversation: Conversation, lowest: int, highest: int | None
    ) -> AsyncIterator[bytes]:
        async for chunk in self._messages.read_chunks(conversation, lowest, highest):
            yield _joined(chunk)

    async def _stream_before(
        self, conversation: Conversation, older: Page, newest: bytes
    ) -> AsyncIterator[bytes]:
        """Stream the messages of the page `older`, then those that are here already."""
        assert older.after is not None
        assert older.before is not None
        async for piece in self._stream(conversation, older.after + 1, older.before - 1):
            yield piece
        yield newest


def _joined(messages: list[Message]) -> bytes:
    return b",".join(message.json for message in messages)


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
