"""Summaries: the seq and the time of the last message of each conversation, for each of its users.

The lists of conversations are sorted by them. They are hints, which can be computed from `messages`
again: each read of a list compares them with the messages, and notes those that are too old. So no
send waits for them. They are written together, each at most once per WRITE_INTERVAL_S. Only the
first summary of a conversation is written at the same time as its message, because a conversation
without a summary is in no list.
"""

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from pymongo import UpdateOne, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError

from chatlab.connections.mongo import Document, MongoDatabase
from chatlab.domain.ids import Conversation, UserId, participants_of
from chatlab.domain.message import MAX_COUNT, UNKNOWN_TIME, Message, rfc3339
from chatlab.errors import StoreUnavailable

WRITE_INTERVAL_S = 0.5
IS_NUMBERED = {"seq": {"$gt": 0, "$lt": MAX_COUNT}}  # a damaged document is in no conversation
MAX_WRITTEN = 200  # summaries in one command; more would keep the event loop busy for too long


class Summary(NamedTuple):
    """The last message of a conversation: its `seq` and its `createdAt`."""

    seq: int
    at: str


Summaries = dict[UserId, dict[Conversation, Summary]]


class SummaryWriter:
    """Writes summaries to the documents of `reads`, in the background."""

    def __init__(self, mongo: MongoDatabase) -> None:
        self._mongo, self._durable = mongo, mongo.database["reads"]
        # A summary that is lost with a crash is repaired, so its write waits for no journal.
        self._reads = self._durable.with_options(write_concern=WriteConcern(w=1))
        self._noted: dict[Conversation, Message] = {}  # the newest message of each
        self._waiting: Summaries = {}
        self._in_flight: dict[UserId, asyncio.Task[None]] = {}  # the last write of each user
        self._tasks: set[asyncio.Task[None]] = set()  # all writes
        self._writing: asyncio.Task[None] | None = None
        self._is_closed = False

    def note(self, message: Message) -> None:
        """Write the summary of this message soon. Each send calls this, so it does little."""
        noted = self._noted.get(message.conversation)
        if noted is None or message.seq > noted.seq:
            self._noted[message.conversation] = message
        self._write_soon()

    def begin(self, messages: Iterable[Message]) -> asyncio.Task[None]:
        """Write these summaries now, as durably as messages.

        The task raises nothing. If the write fails, it is repeated in the background.
        """
        summaries: Summaries = {}
        for message in messages:
            _add(summaries, message.conversation, Summary(message.seq, message.created_at))
        return self._start(summaries, self._durable)

    async def settle(self, user: UserId) -> None:
        """Return when all summaries of this user that this process has noted were written.

        If the write fails, it is repeated in the background.
        """
        if user in self._in_flight:
            await asyncio.wait([self._in_flight[user]])
        self._summarize_noted()
        if user in self._waiting:
            await asyncio.wait([self._start({user: self._waiting.pop(user)}, self._reads)])

    async def close(self) -> None:
        """Write what waits."""
        self._is_closed = True
        if self._writing:
            self._writing.cancel()
        self._start_waiting()
        await asyncio.wait(self._tasks)

    def _write_soon(self) -> None:
        if (self._writing is None or self._writing.done()) and not self._is_closed:
            self._writing = asyncio.get_running_loop().create_task(self._write_regularly())

    async def _write_regularly(self) -> None:
        while self._noted or self._waiting:
            await asyncio.sleep(WRITE_INTERVAL_S)
            await asyncio.wait([self._start_waiting()])

    def _summarize_noted(self) -> None:
        for message in self._noted.values():
            summary = Summary(message.seq, message.created_at)
            _add(self._waiting, message.conversation, summary)
        self._noted.clear()

    def _start_waiting(self) -> asyncio.Task[None]:
        self._summarize_noted()
        summaries, self._waiting = self._waiting, {}
        return self._start(summaries, self._reads)

    def _start(
        self, summaries: Summaries, collection: AsyncCollection[Document]
    ) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._write(summaries, collection))
        self._in_flight |= dict.fromkeys(summaries, task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _write(self, summaries: Summaries, collection: AsyncCollection[Document]) -> None:
        try:
            for updates in _updates(summaries):
                await self._mongo.execute(collection.bulk_write(updates, ordered=False))
        except (BulkWriteError, StoreUnavailable) as error:
            if isinstance(error, BulkWriteError):
                self._mongo.unavailable(error)  # logs it
            for user, conversations in summaries.items():
                for conversation, summary in conversations.items():
                    _add_for(self._waiting, user, conversation, summary)
            self._write_soon()
        finally:
            task = asyncio.current_task()
            for user in summaries:
                if self._in_flight.get(user) is task:
                    del self._in_flight[user]


async def rebuild(mongo: MongoDatabase) -> None:
    """Compute all summaries from the messages, without a limit in time. Raises PyMongoError.

    Messages may be sent meanwhile, because a summary never goes back.
    """
    reads, run = mongo.database["reads"], mongo.long_calls.run
    newest: list[Document] = [
        # Without the first condition, MongoDB would read all messages.
        {
            "$match": {
                "$and": [{"conversation": {"$gte": ""}}, {"seq": {"$gt": 0, "$lt": MAX_COUNT}}]
            }
        },
        # With both conditions, this order and $first, MongoDB does one index seek for each
        # conversation.
        {"$sort": {"conversation": -1, "seq": -1}},
        {
            "$group": {
                "_id": "$conversation",
                "seq": {"$first": "$seq"},
                "at": {"$first": "$createdAt"},
            }
        },
    ]
    async with await run(mongo.database["messages"].aggregate(newest)) as cursor:
        while rows := await run(cursor.to_list(MAX_WRITTEN)):
            summaries: Summaries = {}
            for row in rows:
                at = row["at"]
                time = rfc3339(at) if isinstance(at, datetime) else UNKNOWN_TIME
                _add(summaries, row["_id"], Summary(int(row["seq"]), time))
            for updates in _updates(summaries):
                await run(reads.bulk_write(updates, ordered=False))


def _add(summaries: Summaries, conversation: Conversation, summary: Summary) -> None:
    for user in participants_of(conversation):
        _add_for(summaries, user, conversation, summary)


def _add_for(
    summaries: Summaries, user: UserId, conversation: Conversation, summary: Summary
) -> None:
    known = summaries.setdefault(user, {})
    known[conversation] = max(summary, known.get(conversation, summary))


def _updates(summaries: Summaries) -> Iterator[list[UpdateOne]]:
    """Yield the updates of the documents, in groups. A summary never goes back."""
    updates = (
        UpdateOne(
            {"userId": user, "conversation": conversation},
            {
                "$max": {"lastSeq": summary.seq, "lastAt": datetime.fromisoformat(summary.at)},
                "$setOnInsert": {"seq": 0},
            },
            upsert=True,
        )
        for user, conversations in summaries.items()
        for conversation, summary in conversations.items()
    )
    while group := list(itertools.islice(updates, MAX_WRITTEN)):
        yield group
