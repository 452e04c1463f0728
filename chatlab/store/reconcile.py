"""Uncertain writes: inserts whose result was not received.

Their sends were answered with StoreUnavailable. MongoDB may have done the insert all the same, or
may do it later, when a frozen process continues.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from bson import ObjectId

from chatlab.connections.mongo import Document
from chatlab.domain.message import Message
from chatlab.errors import StoreUnavailable

MAX_ATTEMPTS = 20  # looks at a MongoDB that answers, for one write
ATTEMPT_INTERVAL_S = 0.5
MAX_BATCH = 1000  # writes in one query
MAX_UNCERTAIN = 100_000  # writes that are remembered; the oldest are dropped first

OnFound = Callable[[Message, int], Awaitable[None]]


class UncertainWriteReconciler:
    """Looks for uncertain writes until it finds them or has tried MAX_ATTEMPTS times.

    `on_found` is called once for each message that is found, with the value of `clock` from before
    the query. The list of uncertain writes is lost when the process ends.
    """

    def __init__(
        self,
        find_many: Callable[[list[ObjectId]], Awaitable[list[Message]]],
        clock: Callable[[], int],
        on_found: OnFound,
    ) -> None:
        self._find_many, self._clock, self._on_found = find_many, clock, on_found
        self._attempts_left: OrderedDict[ObjectId, int] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    def add(self, documents: list[Document]) -> None:
        """Start to look for these documents."""
        self._attempts_left.update((document["_id"], MAX_ATTEMPTS) for document in documents)
        while len(self._attempts_left) > MAX_UNCERTAIN:
            self._attempts_left.popitem(last=False)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop looking."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._attempts_left:
            await asyncio.sleep(ATTEMPT_INTERVAL_S)
            began, ids = self._clock(), list(self._attempts_left)[:MAX_BATCH]
            try:
                messages = await self._find_many(ids)
            except StoreUnavailable:
                continue  # does not count as an attempt
            self._count_attempt(ids)
            for message in messages:
                self._attempts_left.pop(ObjectId(message.id), None)
                await self._on_found(message, began)

    def _count_attempt(self, ids: list[ObjectId]) -> None:
        """Take one attempt from each, and move it behind those that were not looked for."""
        for object_id in ids:
            left = self._attempts_left.pop(object_id, 0) - 1
            if left > 0:
                self._attempts_left[object_id] = left
