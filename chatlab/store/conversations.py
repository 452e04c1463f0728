"""The list of conversations: newest messages, unread counts and read marks."""

from collections.abc import Mapping

from pymongo.errors import DuplicateKeyError

from chatlab.connections.mongo import Document, MongoDatabase
from chatlab.domain.ids import Conversation, UserId
from chatlab.domain.message import Message, from_document
from chatlab.protect.fair_slots import FairSlots
from chatlab.store.messages import CONCURRENT_CHANGES, WAITING_CHANGES, MessageStore

# One damaged document must not make the list of conversations unreadable.
IS_VALID_MARK = {"conversation": {"$type": "string"}, "seq": {"$gt": 0}}


class ConversationStore:
    """The collection `reads` (the read marks), and summaries of `messages`."""

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

    async def find_marks(self, user_id: UserId) -> dict[Conversation, int]:
        """Return how far a user has read each conversation, as a seq."""
        wanted = {"userId": user_id} | IS_VALID_MARK
        rows = await self._mongo.find_all(self._reads.find(wanted))
        return {row["conversation"]: int(row["seq"]) for row in rows}

    async def find_marks_of_others(
        self, conversations: Mapping[str, Conversation]
    ) -> dict[Conversation, int]:
        """Return how far the other user of each conversation has read it.

        `conversations` maps the id of the other user to the conversation.
        """
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

    async def find_latest(self, conversations: list[Conversation]) -> dict[Conversation, Message]:
        """Return the newest message of each conversation that has one."""
        seqs = await self._messages.find_last_seqs(conversations)
        if not seqs:
            return {}
        wanted = {"$or": [{"conversation": name, "seq": seq} for name, seq in seqs.items()]}
        rows = await self._mongo.find_all(self._message_documents.find(wanted))
        return {row["conversation"]: from_document(row) for row in rows}

    async def count_unread(
        self, user_id: UserId, above: Mapping[Conversation, int]
    ) -> dict[Conversation, int]:
        """Return the number of messages to a user above a seq, for conversations that have any.

        `above` maps each conversation to the seq.
        """
        if not above:
            return {}
        unread = [{"conversation": name, "seq": {"$gt": seq}} for name, seq in above.items()]
        pipeline: list[Document] = [
            {"$match": {"$or": unread, "receiverId": user_id}},
            {"$group": {"_id": "$conversation", "count": {"$sum": 1}}},
        ]
        rows = await self._mongo.aggregate_all(self._message_documents, pipeline)
        return {row["_id"]: row["count"] for row in rows}
