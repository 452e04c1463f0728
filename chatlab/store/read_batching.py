"""Read batching: many reads of the newest messages share one query."""

import itertools
from collections.abc import Awaitable, Callable

from chatlab.connections.mongo import Document
from chatlab.domain.ids import Conversation
from chatlab.protect.batcher import Batcher, Callers, Waiting

MAX_QUERIES = 2  # in flight: MongoDB works on one while this process reads the reply to the other
MAX_CONVERSATIONS = 16  # in one query

QueryOne = Callable[[Document, int], Awaitable[list[Document]]]
QueryEach = Callable[[list[Conversation], int], Awaitable[dict[Conversation, list[Document]]]]
_Read = tuple[int, Conversation]  # the limit comes first


class ReadBatcher:
    """Collects the reads that arrive while MAX_QUERIES are in flight, and sends them in the next.

    A query costs the driver 140 us and MongoDB 100 us before its first message; up to 16
    conversations share these costs. An idle service sends each read at once.

    `query_one` takes a filter and a limit, `query_each` takes conversations and a limit.
    """

    def __init__(self, query_one: QueryOne, query_each: QueryEach) -> None:
        self._query_one, self._query_each = query_one, query_each
        self._waiting: dict[_Read, Callers[list[Document]]] = {}
        self._batcher = Batcher(self._take_batch, self._query, max_in_flight=MAX_QUERIES)

    async def find_newest(self, conversation: Conversation, limit: int) -> list[Document]:
        """Return the last `limit` messages of a conversation, newest first.

        The query starts after this call. Cancelling the caller does not stop it.
        """
        return await self._batcher.join(self._waiting.setdefault((limit, conversation), []))

    def _take_batch(self) -> list[Waiting[_Read, list[Document]]]:
        """Return the first read, and others with the same limit."""
        limit = next((limit for limit, _ in self._waiting), None)
        same_limit = (read for read in self._waiting if read[0] == limit)
        reads = list(itertools.islice(same_limit, MAX_CONVERSATIONS))
        return [(read, self._waiting.pop(read)) for read in reads]

    async def _query(self, batch: list[Waiting[_Read, list[Document]]]) -> list[list[Document]]:
        limit = batch[0][0][0]
        conversations = [conversation for (_, conversation), _ in batch]
        if len(conversations) == 1:
            return [await self._query_one({"conversation": conversations[0]}, limit)]
        found = await self._query_each(conversations, limit)
        return [found[conversation] for conversation in conversations]
