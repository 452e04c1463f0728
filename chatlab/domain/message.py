"""Box "Create Message Object": the message and its two spellings, the MongoDB document and the JSON.

The JSON is encoded once for a version of a message; the HTTP answer, the ack, the event and the Redis value are these same bytes.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from bson import ObjectId

from chatlab.domain.ids import Conversation, UserId, conversation_of


class Draft(msgspec.Struct, frozen=True):
    """A message that has no `seq` yet: it gets one when it is saved."""

    id: ObjectId
    sender: UserId
    receiver: UserId
    text: str
    client_id: str | None
    created_at: datetime

    @property
    def conversation(self) -> Conversation:
        return conversation_of(self.sender, self.receiver)

    def document(self, seq: int) -> dict[str, Any]:
        """The MongoDB document of this draft at its place `seq` in the conversation."""
        document: dict[str, Any] = {
            "_id": self.id,
            "conversation": self.conversation,
            "seq": seq,
            "version": 1,
            "senderId": self.sender,
            "receiverId": self.receiver,
            "text": self.text,
            "reactions": {},
            "createdAt": self.created_at,
            "editedAt": None,
            "deletedAt": None,
        }
        if self.client_id is not None:  # absent, not null: the unique index holds only those that have one
            document["clientId"] = self.client_id
            document["clientText"] = text_digest(self.text)  # tells a repeat from a misuse, also after an edit
        return document


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A saved message, with the names and the order of its JSON. The cache's scripts read the head `_id`, `seq`, `version`."""

    id: str = msgspec.field(name="_id")
    seq: int
    version: int
    sender_id: str = msgspec.field(name="senderId")
    receiver_id: str = msgspec.field(name="receiverId")
    text: str
    client_id: str | None = msgspec.field(name="clientId")
    reactions: dict[str, list[str]]
    created_at: str = msgspec.field(name="createdAt")
    edited_at: str | None = msgspec.field(name="editedAt")
    deleted_at: str | None = msgspec.field(name="deletedAt")

    @property
    def conversation(self) -> Conversation:
        return conversation_of(self.sender_id, self.receiver_id)

    @property
    def json(self) -> bytes:
        return _encode(self)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Message).decode


def create_draft(sender: UserId, receiver: UserId, text: str, client_id: str | None) -> Draft:
    """A new message, stamped with its `_id` and the time (UTC, whole milliseconds: BSON keeps no more)."""
    return Draft(ObjectId(), sender, receiver, text, client_id, now())


def text_digest(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def now() -> datetime:
    """The time in UTC, without a zone as BSON gives it back, in whole milliseconds."""
    moment = datetime.now(UTC).replace(tzinfo=None)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def from_document(document: Mapping[str, Any]) -> Message:
    """The message that a MongoDB document holds. An emoji that nobody holds any more is left out."""
    return Message(
        id=str(document["_id"]),
        seq=document["seq"],
        version=document["version"],
        sender_id=document["senderId"],
        receiver_id=document["receiverId"],
        text=document["text"],
        client_id=document.get("clientId"),
        reactions={emoji: users for emoji, users in document["reactions"].items() if users},
        created_at=rfc3339(document["createdAt"]),
        edited_at=document["editedAt"] and rfc3339(document["editedAt"]),
        deleted_at=document["deletedAt"] and rfc3339(document["deletedAt"]),
    )


def from_json(raw: bytes) -> Message | None:
    """The message that cached bytes hold; None when they are not a message."""
    try:
        return _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def rfc3339(moment: datetime) -> str:
    """`2026-01-31T12:00:00.123Z` for a UTC time without a zone."""
    return moment.isoformat(timespec="milliseconds") + "Z"
