"""The state of conversations: newest messages, unread counts, read marks, and their order."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from pymongo.errors import DuplicateKeyError

from chatlab.connections.mongo import Document, MongoDatabase
from chatlab.domain.ids import Conversation, UserId, conversation_of, other_of
from chatlab.domain.message import EPOCH, Message
from chatlab.protect.fair_slots import FairSlots
from chatlab.store.messages import CONCURRENT_CHANGES, WAITING_CHANGES, MessageStore

# One damaged document must not make the list of conversations unreadable.
IS_VALID_MARK = {"conversation": {"$type": "string"}, "seq": {"$gt": 0}}
HAS_SUMMARY = {"lastAt": {"$gte": EPOCH}}  # with this, the index `newest` has the whole answer
MAX_UNREAD = 1000  # at most this number of the newest messages of a conversation is counted


class Place(NamedTuple):
    """The place of a conversation in the list of a user."""

    at: datetime
    conversation: Conversation


class State(NamedTuple):
    """What a user sees of a conversation. `read_up_to` is the read mark of the other user."""

    last: Message | None = None
    unread: int = 0
    read_up_to: int = 0


class ConversationStore:
    """The collection `reads`, with the read mark and the summary of each user and conversation."""

    def __init__(self, mongo: MongoDatabase, messages: MessageStore) -> None:
        self._mongo, self._messages = mongo, messages
        self._marking = FairSlots(CONCURRENT_CHANGES, 1, waiting_per_key=WAITING_CHANGES)
        self._message_documents, self._reads = mongo.database["messages"], mongo.database["reads"]

    async def mark_read(self, user_id: UserId, conversation: Conversation, seq: int) -> bool:
        """Move a user's read mark forward. Return False if it was already there or further.

        Raises RateLimited if too many other marks of this user wait.
        """
        mark = {"userId": user_id, "conversation": conversation}
        lower = mark | {"seq": {"$lt": seq}}
        try:
            async with self._marking.hold(user_id):
                result = await self._mongo.execute(
                    self._reads.update_one(lower, {"$set": {"seq": seq}}, upsert=True)
                )
        except DuplicateKeyError:  # the mark exists and is not lower
            return False
        return bool(result.modified_count or result.upserted_id)

    # --- the order of conversations --------------------------------------------------------------

    async def find_places(
        self, user_id: UserId, limit: int, before: Place | None = None
    ) -> list[Place]:
        """Return the places of the newest conversations of a user, or of the next older ones."""
        wanted: Document = {"userId": user_id} | HAS_SUMMARY
        if before:
            is_older, is_behind = (
                {"lastAt": {"$lt": before.at}},
                {"conversation": {"$lt": before.conversation}},
            )
            wanted |= {"lastAt": {"$lte": before.at}, "$or": [is_older, is_behind]}
        fields = {"_id": 0, "conversation": 1, "lastAt": 1}
        found = self._reads.find(wanted, fields).sort([("lastAt", -1), ("conversation", -1)])
        rows = await self._mongo.find_all(found.limit(limit).batch_size(limit))
        return [Place(row["lastAt"], row["conversation"]) for row in rows]

    async def find_partners(self, user_id: UserId, limit: int) -> list[UserId]:
        """Return the other users of the newest conversations of a user."""
        places = await self.find_places(user_id, limit)
        return [other_of(user_id, place.conversation) for place in places]

    async def find_own_places(
        self, user_id: UserId, conversations: list[Conversation]
    ) -> list[Place]:
        """Return the places of those of these conversations that the user is in."""
        rows = await self._find_own(user_id, conversations)
        return [Place(row["lastAt"], row["conversation"]) for row in rows if "lastAt" in row]

    async def settle(self, user_id: UserId) -> None:
        """Return when the summaries that this process has noted for a user are written."""
        await self._messages.summaries.settle(user_id)

    async def _find_own(self, user_id: UserId, conversations: list[Conversation]) -> list[Document]:
        wanted = {"userId": user_id, "conversation": {"$in": conversations}}
        return await self._mongo.find_all(self._reads.find(wanted))

    # --- the state of conversations --------------------------------------------------------------

    async def find_states(
        self, user_id: UserId, conversations: Mapping[UserId, Conversation]
    ) -> tuple[dict[Conversation, State], bool]:
        """Return the state of each conversation, and whether all their summaries were right.

        `conversations` maps the id of the other user to the conversation. The summaries that were
        too old are noted: after `settle`, the places are right.
        """
        names = list(conversations.values())
        if not names:
            return {}, True
        oneself = conversation_of(user_id, user_id)
        latest, own, read_up_to = await asyncio.gather(
            self._messages.find_last(names),
            self._find_own(user_id, names),
            self._find_marks_of_others(conversations),
        )
        marks = {row["conversation"]: _count(row, "seq") for row in own}
        known = {row["conversation"]: _count(row, "lastSeq") for row in own}
        stale = [last for name, last in latest.items() if last.seq > known.get(name, 0)]
        for last in stale:
            self._messages.summaries.note(last)
        received = {name: last for name, last in latest.items() if name != oneself}
        unread = await self._count_unread(user_id, received, marks)
        states = {
            name: State(latest.get(name), unread.get(name, 0), read_up_to.get(name, 0))
            for name in names
        }
        return states, not stale

    async def _find_marks_of_others(
        self, conversations: Mapping[UserId, Conversation]
    ) -> dict[Conversation, int]:
        """Return how far the other user of each conversation has read it."""
        wanted = {
            "userId": {"$in": list(conversations)},
            "conversation": {"$in": list(conversations.values())},
            "seq": IS_VALID_MARK["seq"],
        }
        rows = await self._mongo.find_all(self._reads.find(wanted))
        return {
            row["conversation"]: int(row["seq"])
            for row in rows
            if conversations[row["userId"]] == row["conversation"]
        }

    async def _count_unread(
        self,
        user_id: UserId,
        latest: Mapping[Conversation, Message],
        marks: Mapping[Conversation, int],
    ) -> dict[Conversation, int]:
        """Return the number of messages to a user above the mark, for conversations with any."""
        unread = [
            {"conversation": name, "seq": {"$gt": max(marks.get(name, 0), last.seq - MAX_UNREAD)}}
            for name, last in latest.items()
            if last.seq > marks.get(name, 0)
        ]
        if not unread:
            return {}
        pipeline: list[Document] = [
            {"$match": {"$or": unread, "receiverId": user_id}},
            {"$group": {"_id": "$conversation", "count": {"$sum": 1}}},
        ]
        rows = await self._mongo.aggregate_all(self._message_documents, pipeline)
        return {row["_id"]: row["count"] for row in rows}


def _count(row: Document, field: str) -> int:
    """Return a seq, or 0 if it is missing or damaged."""
    value = row.get(field)
    return int(value) if isinstance(value, int | float) and value > 0 else 0
