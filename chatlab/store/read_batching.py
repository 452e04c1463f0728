"""Read batching: many reads of the newest messages share one query."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

from chatlab.connections.mongo import Document
from chatlab.domain.ids import Conversation
from chatlab.errors import ChatlabError, StoreUnavailable

MAX_QUERIES = 2  # in flight: MongoDB works on one while this process reads the reply to the other
MAX_CONVERSATIONS = 16  # in one query

QueryOne = Callable[[Document, int], Awaitable[list[Document]]]
QueryEach = Callable[[list[Conversation], int], Awaitable[dict[Conversation, list[Document]]]]
Readers = dict[Conversation, list["asyncio.Future[list[Document]]"]]


class ReadBatcher:
    """Collects the reads that arrive while MAX_QUERIES are in flight, and sends them in the next.

    A query costs the driver 140 us and MongoDB 100 us before its first message; up to 16
    conversations share these costs. An idle service sends each read at once.

    `query_one` takes a filter and a limit, `query_each` takes conversations and a limit.
    """

    def __init__(self, query_one: QueryOne, query_each: QueryEach) -> None:
        self._query_one, self._query_each = query_one, query_each
        self._waiting: dict[tuple[int, Conversation], list[asyncio.Future[list[Document]]]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def find_newest(self, conversation: Conversation, limit: int) -> list[Document]:
        """Return the last `limit` messages of a conversation, newest first.

        The query starts after this call. Cancelling the caller does not stop it.
        """
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Document]] = loop.create_future()
        self._waiting.setdefault((limit, conversation), []).append(found)
        if len(self._running) < MAX_QUERIES:
            task = loop.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await found

    async def _run(self) -> None:
        while self._waiting:
            limit, readers = self._take_batch()
            try:
                found = await self._query(list(readers), limit)
            except Exception as error:  # noqa: BLE001 - no reader may wait forever
                _fail(readers, error)
            else:
                _resolve(readers, found)

    def _take_batch(self) -> tuple[int, Readers]:
        """Return the first read, and others with the same limit."""
        limit, _ = next(iter(self._waiting))
        same_limit = (key for key in self._waiting if key[0] == limit)
        keys = list(itertools.islice(same_limit, MAX_CONVERSATIONS))
        return limit, {key[1]: self._waiting.pop(key) for key in keys}

    async def _query(
        self, conversations: list[Conversation], limit: int
    ) -> dict[Conversation, list[Document]]:
        if len(conversations) > 1:
            return await self._query_each(conversations, limit)
        (conversation,) = conversations
        return {conversation: await self._query_one({"conversation": conversation}, limit)}


def _resolve(readers: Readers, found: dict[Conversation, list[Document]]) -> None:
    for conversation, futures in readers.items():
        for future in futures:
            if not future.done():
                future.set_result(found[conversation])


def _fail(readers: Readers, error: Exception) -> None:
    for future in itertools.chain(*readers.values()):
        if not future.done():
            future.set_exception(error if isinstance(error, ChatlabError) else StoreUnavailable())
