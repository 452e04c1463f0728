"""Uncertain writes: inserts and changes of messages whose result was not received.

Their requests were answered with StoreUnavailable. MongoDB may have done the write all the same, or
may do it later, when a frozen process continues.
"""

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from bson import ObjectId

from chatlab.connections.mongo import Document
from chatlab.domain.ids import Conversation
from chatlab.domain.message import Message
from chatlab.errors import StoreUnavailable

MAX_ATTEMPTS = 20  # looks at a MongoDB that answers, for one write
ATTEMPT_INTERVAL_S = 0.5
MAX_BATCH = 1000  # writes in one query
MAX_UNCERTAIN = 100_000  # writes that are remembered; the oldest are dropped first
NONE = -1  # lower than any version

OnFound = Callable[[Message, int, bool], Awaitable[None]]


class Uncertain(NamedTuple):
    """An uncertain write of a message, and how often it is still looked for.

    `version` is the one before the write, or a lower one. Before an insert it is NONE.
    """

    conversation: Conversation
    version: int
    attempts_left: int = MAX_ATTEMPTS

    @property
    def is_insert(self) -> bool:
        return self.version == NONE


class UncertainWriteReconciler:
    """Looks for uncertain writes until it finds them or has tried MAX_ATTEMPTS times.

    `on_found` is called for each message that is found with a higher version, with the value of
    `clock` from before the query, and whether the message is new. A change is looked for until the
    last attempt, because a higher version may be that of another change. The list of uncertain
    writes is lost when the process ends.
    """

    def __init__(
        self,
        find_many: Callable[[Mapping[ObjectId, Conversation]], Awaitable[list[Message]]],
        clock: Callable[[], int],
        on_found: OnFound,
    ) -> None:
        self._find_many, self._clock, self._on_found = find_many, clock, on_found
        self._uncertain: OrderedDict[ObjectId, Uncertain] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_looking(self) -> bool:
        """Return whether there are uncertain writes."""
        return bool(self._uncertain)

    def add_inserts(self, documents: list[Document]) -> None:
        """Start to look for these documents."""
        self._add({one["_id"]: Uncertain(one["conversation"], NONE) for one in documents})

    def add_change(self, message: Message) -> None:
        """Start to look for a change of this message."""
        object_id, change = ObjectId(message.id), Uncertain(message.conversation, message.version)
        known = self._uncertain.get(object_id, change)
        self._add({object_id: known if known.is_insert else change})

    def _add(self, writes: dict[ObjectId, Uncertain]) -> None:
        self._uncertain |= writes
        while len(self._uncertain) > MAX_UNCERTAIN:
            self._uncertain.popitem(last=False)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop looking."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._uncertain:
            await asyncio.sleep(ATTEMPT_INTERVAL_S)
            began, batch = self._clock(), dict(itertools.islice(self._uncertain.items(), MAX_BATCH))
            try:
                messages = await self._find_many(
                    {object_id: write.conversation for object_id, write in batch.items()}
                )
            except StoreUnavailable:
                continue  # does not count as an attempt
            self._count_attempt(batch)
            for message in messages:
                write = batch[ObjectId(message.id)]
                if message.version > write.version:
                    self._note_found(message, write)
                    await self._on_found(message, began, write.is_insert)

    def _note_found(self, message: Message, write: Uncertain) -> None:
        left = self._uncertain.pop(ObjectId(message.id), None)
        if left and not write.is_insert:
            self._uncertain[ObjectId(message.id)] = left._replace(version=message.version)

    def _count_attempt(self, batch: dict[ObjectId, Uncertain]) -> None:
        """Take one attempt from each, and move it behind those that were not looked for."""
        for object_id, write in batch.items():
            self._uncertain.pop(object_id, None)
            if write.attempts_left > 1:
                left = write.attempts_left - 1
                self._uncertain[object_id] = write._replace(attempts_left=left)
