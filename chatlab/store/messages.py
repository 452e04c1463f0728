"""The stage `save`: the collection of messages.

A save is acknowledged when a majority of the replica set has the message in its journal.
"""

import asyncio
import functools
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.errors import BulkWriteError
from pymongo.read_concern import ReadConcern

from chatlab.connections.mongo import Document, MongoDatabase
from chatlab.domain.ids import Conversation
from chatlab.domain.message import Draft, Message, from_document, text_digest
from chatlab.errors import Conflict, StoreUnavailable
from chatlab.protect.fair_slots import FairSlots
from chatlab.store.group_commit import GroupCommitter, Rejection, Saved
from chatlab.store.read_batching import ReadBatcher
from chatlab.store.reconcile import OnFound, UncertainWriteReconciler
from chatlab.store.summaries import SummaryWriter

MAX_BATCHED_MESSAGES = 100  # of one conversation in a batched read: the reply is one document
CHUNK_MESSAGES = 1000  # the most that one query reads; a longer history is streamed
# Read at a time while a history is streamed. They keep the event loop busy for up to 10 ms.
STREAMED_MESSAGES = 100
CONCURRENT_CHUNK_READS = 4  # so that long histories leave connections for other requests
# Changes of one message wait for each other: MongoDB repeats those that conflict, and a hundred at
# once took longer than a call may take. This is a user's burst of requests.
WAITING_CHANGES = 200
CONCURRENT_CHANGES = 50  # of different messages
DUPLICATE_KEY = 11000  # MongoDB's error code
# A damaged document without a number is in no conversation. As a text, it would be the newest one.
IS_NUMBERED = {"seq": {"$gt": 0}}
# The index for queries with an `_id` and the conversation. MongoDB would compare two indexes.
BY_ID = "_id_"


class MessageStore:
    """Saves, finds and changes messages. `clock` and `on_found` are those of `Store`."""

    def __init__(self, mongo: MongoDatabase, clock: Callable[[], int], on_found: OnFound) -> None:
        self._mongo, self._collection = mongo, mongo.database["messages"]
        self._committed = self._collection.with_options(read_concern=ReadConcern("majority"))
        self._chunk_reads = asyncio.Semaphore(CONCURRENT_CHUNK_READS)
        self._changes = FairSlots(CONCURRENT_CHANGES, 1, waiting_per_key=WAITING_CHANGES)
        self._reads = ReadBatcher(self.query_newest, self.query_newest_of_each)
        self.summaries = SummaryWriter(mongo)
        self._uncertain = UncertainWriteReconciler(self.find_many, clock, self._noting(on_found))
        self._commits = GroupCommitter(
            insert=self.insert,
            find_last_seqs=functools.partial(self.find_last_seqs, committed=True),
            find_repeated=self.find_repeated,
            on_uncertain=self._uncertain.add_inserts,
            clock=clock,
            summaries=self.summaries,
        )

    @property
    def unsaved(self) -> int:
        """The number of messages that wait to be saved."""
        return self._commits.waiting

    @property
    def has_uncertain_writes(self) -> bool:
        """Return whether a message, or a change of one, may be in MongoDB without an event."""
        return self._uncertain.is_looking

    async def close(self) -> None:
        """Save the messages that wait and their summaries. Stop looking for uncertain writes."""
        await self._commits.drain()
        await self._uncertain.stop()
        await self.summaries.close()

    def _noting(self, on_found: OnFound) -> OnFound:
        """Return a function that notes the summary of a message, and calls `on_found`."""

        async def note(message: Message, began: int, is_new: bool) -> None:
            self.summaries.note(message)
            await on_found(message, began, is_new)

        return note

    # --- saving and changing ---------------------------------------------------------------------

    def save(self, draft: Draft) -> Coroutine[Any, Any, Saved]:
        """Save a message durably, and give it its seq.

        Raises Conflict if its sender has used the client id for another text.
        """
        if self._mongo.breaker.is_open:
            raise StoreUnavailable
        return self._commits.save(draft)

    async def insert(self, documents: list[Document]) -> dict[int, Rejection]:
        """Insert the documents in one command, independently of each other.

        Return the positions of those that a unique index has rejected, with the name of the index.
        """
        try:
            await self._mongo.execute(self._collection.insert_many(documents, ordered=False))
        except BulkWriteError as error:
            details = error.details
            codes = {failure["code"] for failure in details["writeErrors"]}
            if details["writeConcernErrors"] or codes - {DUPLICATE_KEY}:
                raise self._mongo.unavailable(error) from error
            return {failure["index"]: _index_of(failure) for failure in details["writeErrors"]}
        return {}

    async def change(
        self, message: Message, condition: Document, change: Document | list[Document]
    ) -> Message | None:
        """Change a message that is not deleted and meets the condition, and raise its version.

        `message` is any version of it. `change` is an update or an aggregation pipeline. Return the
        changed message, or None if there is no such message. Raises RateLimited if too many other
        changes of it wait.
        """
        wanted = _by_shard_key(message) | {"deletedAt": None} | condition
        update = (
            [*change, {"$set": {"version": {"$add": [{"$ifNull": ["$version", 0]}, 1]}}}]
            if isinstance(change, list)
            else change | {"$inc": {"version": 1}}
        )
        async with self._changes.hold(message.id):
            if self._mongo.breaker.is_open:
                raise StoreUnavailable
            try:
                found = await self._mongo.execute(
                    self._collection.find_one_and_update(
                        wanted, update, hint=BY_ID, return_document=ReturnDocument.AFTER
                    )
                )
            except StoreUnavailable:
                self._uncertain.add_change(message)
                raise
        return from_document(found) if found else None

    # --- finding ---------------------------------------------------------------------------------

    async def find(self, message_id: str) -> Message | None:
        """Return the message with this id, or None.

        This is the only query without the shard key. A sharded cluster asks every shard, so use
        `find_again` or the cache where the conversation is known (see docs/scaling.md).
        """
        return await self._find_one({"_id": ObjectId(message_id)})

    async def find_again(self, message: Message) -> Message | None:
        """Return the current version of a message, or None if it was removed from MongoDB."""
        return await self._find_one(_by_shard_key(message))

    async def find_in(self, conversation: Conversation, message_id: str) -> Message | None:
        """Return the message with this id if it belongs to the conversation, or None."""
        return await self._find_one({"_id": ObjectId(message_id), "conversation": conversation})

    async def _find_one(self, wanted: Document) -> Message | None:
        found = await self._mongo.execute(self._collection.find_one(wanted, hint=BY_ID))
        return from_document(found) if found else None

    async def find_many(self, conversations: Mapping[ObjectId, Conversation]) -> list[Message]:
        """Return those of these messages that exist. The mapping has the conversation of each."""
        wanted = {
            "conversation": {"$in": list(set(conversations.values()))},
            "_id": {"$in": list(conversations)},
        }
        return _messages(await self._mongo.find_all(self._collection.find(wanted, hint=BY_ID)))

    async def find_repeated(self, draft: Draft) -> Message:
        """Return the message that was saved first with the client id of this draft.

        Raises Conflict if it was sent with another text. Later edits do not count.
        """
        # Without $type, MongoDB does not use the partial index `once`.
        client_id = {"$eq": draft.client_id, "$type": "string"}
        wanted = {
            "conversation": draft.conversation,
            "senderId": draft.sender,
            "clientId": client_id,
        }
        found = await self._mongo.execute(self._collection.find_one(wanted))
        if found is None:  # the index rejected the draft, and then the first message was removed
            raise StoreUnavailable
        message = from_document(found)
        if found.get("clientText", text_digest(message.text)) != text_digest(draft.text):
            raise Conflict(
                "clientId: this sender has already used it for another text in this conversation."
            )
        return message

    async def find_range(
        self, conversation: Conversation, lowest: int, highest: int | None, limit: int
    ) -> list[Message]:
        """Return at most `limit` messages from seq `lowest` to `highest`, oldest first."""
        cursor = self._range(conversation, lowest, highest, limit)
        return _messages(await self._mongo.find_all(cursor))

    async def search(
        self, conversation: Conversation, text: str, seqs: range, limit: int
    ) -> list[Message]:
        """Return at most `limit` messages of a range that contain a text, newest first."""
        wanted = {
            "conversation": conversation,
            "seq": {"$gte": seqs.start, "$lt": seqs.stop},
            "text": {"$regex": re.escape(text), "$options": "i"},
        }
        return _messages(await self.query_newest(wanted, limit))

    async def read_chunks(
        self, conversation: Conversation, lowest: int, highest: int | None
    ) -> AsyncIterator[list[Message]]:
        """Yield a range of any length, STREAMED_MESSAGES at a time, oldest first."""
        while highest is None or lowest <= highest:
            chunk = await self._read_chunk(conversation, lowest, highest)
            if chunk:
                yield chunk
            if len(chunk) < STREAMED_MESSAGES:
                return
            lowest = chunk[-1].seq + 1

    async def _read_chunk(
        self, conversation: Conversation, lowest: int, highest: int | None
    ) -> list[Message]:
        cursor = self._range(conversation, lowest, highest, STREAMED_MESSAGES)
        await self._chunk_reads.acquire()
        return _messages(await self._mongo.find_all(cursor, slots=self._chunk_reads))

    def _range(
        self, conversation: Conversation, lowest: int, highest: int | None, limit: int
    ) -> AsyncCursor[Document]:
        seq: Document = {"$gte": lowest} if highest is None else {"$gte": lowest, "$lte": highest}
        found = self._collection.find({"conversation": conversation, "seq": seq})
        return found.sort("seq", 1).limit(limit).batch_size(limit)

    async def find_newest(
        self, conversation: Conversation, limit: int, below: int | None = None
    ) -> list[Message]:
        """Return the last `limit` messages, or the last ones below a seq; oldest first."""
        if below is None and limit <= MAX_BATCHED_MESSAGES:
            found = await self._reads.find_newest(conversation, limit)
        else:
            wanted: Document = {"conversation": conversation}
            if below is not None:
                wanted["seq"] = IS_NUMBERED["seq"] | {"$lt": below}
            found = await self.query_newest(wanted, limit)
        return [from_document(document) for document in reversed(found)]

    async def query_newest(self, wanted: Document, limit: int) -> list[Document]:
        """Return the documents with the highest seq, newest first."""
        cursor = self._collection.find(IS_NUMBERED | wanted)
        return await self._mongo.find_all(cursor.sort("seq", -1).limit(limit).batch_size(limit))

    async def query_newest_of_each(
        self, conversations: list[Conversation], limit: int
    ) -> dict[Conversation, list[Document]]:
        """Return the same for each of several conversations, with one query."""
        lookup = {
            "from": "messages",
            "localField": "_id",
            "foreignField": "conversation",
            "pipeline": [{"$match": IS_NUMBERED}, {"$sort": {"seq": -1}}, {"$limit": limit}],
            "as": "found",
        }
        pipeline: list[Document] = [
            {"$documents": [{"_id": conversation} for conversation in conversations]},
            {"$lookup": lookup},
        ]
        rows = await self._mongo.aggregate_all(self._mongo.database, pipeline)
        return {row["_id"]: row["found"] for row in rows}

    async def find_last(self, conversations: list[Conversation]) -> dict[Conversation, Message]:
        """Return the last message of each conversation that has one."""
        pipeline = _last_of_each(conversations, {"last": {"$first": "$$ROOT"}})
        rows = await self._mongo.aggregate_all(self._collection, pipeline)
        return {row["_id"]: from_document(row["last"]) for row in rows}

    async def find_last_seqs(
        self, conversations: list[Conversation], *, committed: bool = False
    ) -> dict[Conversation, int]:
        """Return the highest seq of each conversation that has a message.

        With `committed`, only messages count that a majority of the replica set has. If a message
        got its seq after one that the next primary does not have, it would leave a gap.
        """
        source = self._committed if committed else self._collection
        pipeline = _last_of_each(conversations, {"seq": {"$first": "$seq"}})
        rows = await self._mongo.aggregate_all(source, pipeline)
        return {row["_id"]: int(row["seq"]) for row in rows}


def _last_of_each(conversations: list[Conversation], fields: Document) -> list[Document]:
    """Return a pipeline for these fields of the last message of each conversation."""
    return [
        {"$match": {"conversation": {"$in": conversations}} | IS_NUMBERED},
        # With this order and $first, MongoDB does one index seek for each conversation.
        {"$sort": {"conversation": -1, "seq": -1}},
        {"$group": {"_id": "$conversation"} | fields},
    ]


def _by_shard_key(message: Message) -> Document:
    """Return the filter for one message. A sharded cluster asks only the shard that has it."""
    return {"_id": ObjectId(message.id), "conversation": message.conversation}


def _messages(documents: list[Document]) -> list[Message]:
    return [from_document(document) for document in documents]


def _index_of(failure: Document) -> Rejection:
    return "place" if "seq" in failure["keyPattern"] else "once"
