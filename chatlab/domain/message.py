"""A message and its two representations: the MongoDB document and the JSON.

Creating a `Draft` is the stage "Create Message Object" of the diagram. The HTTP response, the
acknowledgement, the event and the Redis value of a message all contain the same JSON.
"""

import functools
import hashlib
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from bson import ObjectId

from chatlab.domain.emoji_spelling import one_spelling
from chatlab.domain.ids import Conversation, UserId, conversation_of

log = logging.getLogger(__name__)

MAX_COUNT = 1 << 53  # JavaScript and Lua have no larger exact number
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - MongoDB returns times without a time zone
UNKNOWN_TIME = "1970-01-01T00:00:00.000Z"
Time = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]


class Draft(msgspec.Struct, frozen=True):
    """A message before it is saved. It has no `seq` yet: the store assigns it."""

    id: ObjectId
    conversation: Conversation
    sender: UserId
    receiver: UserId
    text: str
    client_id: str | None
    created_at: datetime
    reply_to: ObjectId | None = None

    def document(self, seq: int) -> dict[str, Any]:
        """Return the MongoDB document of this draft as message number `seq` of its conversation."""
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
        if self.client_id is not None:  # absent, not null: the unique index skips absent fields
            document["clientId"] = self.client_id
            # Of the original text: a repeat with another text is a conflict, also after an edit.
            document["clientText"] = text_digest(self.text)
        if self.reply_to is not None:
            document["replyTo"] = self.reply_to
        return document


class Message(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A saved message. Its fields have the names and the order of the JSON."""

    # Keep these three first: the Lua scripts of the cache find them at the start.
    id: str = msgspec.field(name="_id")
    seq: int
    version: int
    sender_id: str = msgspec.field(name="senderId")
    receiver_id: str = msgspec.field(name="receiverId")
    text: str
    client_id: str | None = msgspec.field(name="clientId")
    reactions: dict[str, list[str]]
    created_at: Time = msgspec.field(name="createdAt")
    edited_at: Time | None = msgspec.field(name="editedAt")
    deleted_at: Time | None = msgspec.field(name="deletedAt")
    reply_to: str | None = msgspec.field(name="replyTo", default=None)  # an `_id`

    @property
    def conversation(self) -> Conversation:
        return conversation_of(self.sender_id, self.receiver_id)

    @property
    def json(self) -> bytes:
        """The message as JSON. A send needs it four times, so it is encoded once and kept."""
        kept: bytes | None = self.__dict__.get("json")
        if kept is None:
            kept = self.__dict__["json"] = _encode(self)
        return kept


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Message).decode


def create_draft(
    sender: UserId,
    receiver: UserId,
    text: str,
    client_id: str | None,
    reply_to: str | None = None,
) -> Draft:
    """Return a new message with its `_id` and the current time."""
    original = ObjectId(reply_to) if reply_to else None
    conversation = conversation_of(sender, receiver)
    return Draft(ObjectId(), conversation, sender, receiver, text, client_id, now(), original)


def text_digest(text: str) -> bytes:
    """Return a 16-byte hash of a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def now() -> datetime:
    """Return the current UTC time as BSON stores it: whole milliseconds, without a time zone."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=None)


def from_document(document: Mapping[str, Any]) -> Message:
    """Return the message of a MongoDB document, without emoji that have no users any more.

    A field that an older version did not store has its default, and one of a newer version is
    ignored. A document with a wrong value becomes a message too, so that it cannot make all others
    of its conversation unreadable.
    """
    try:
        edited, deleted = document.get("editedAt"), document.get("deletedAt")
        reply_to = document.get("replyTo")
        message = Message(
            id=str(document["_id"]),
            seq=document["seq"],
            version=document.get("version", 0),  # the first change makes it 1
            sender_id=document["senderId"],
            receiver_id=document["receiverId"],
            text=document["text"],
            client_id=document.get("clientId"),
            reactions=_reactions(document.get("reactions", {})),
            created_at=rfc3339(document["createdAt"]),
            edited_at=edited and rfc3339(edited),
            deleted_at=deleted and rfc3339(deleted),
            reply_to=reply_to and str(reply_to),
        )
    except (KeyError, TypeError, AttributeError):
        return _from_unusual(document)
    client = message.client_id
    is_plain = (
        type(message.seq) is type(message.version) is int
        and type(message.sender_id) is type(message.receiver_id) is type(message.text) is str
        and (client is None or type(client) is str)
        and (reply_to is None or type(reply_to) is ObjectId)
    )
    return message if is_plain else _from_unusual(document)


def _reactions(stored: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the users of each emoji. Raises TypeError for anything but lists of users."""
    for users in stored.values():
        if type(users) is not list or not all(type(user) is str for user in users):
            raise TypeError
    return _users_by_emoji(stored) if stored else {}


def _from_unusual(document: Mapping[str, Any]) -> Message:
    """Return the message of a document with values of other types than those of `Draft.document`.

    Some tools restore numbers as Int64 or float. Every other value of a wrong type is damage: it is
    replaced by a default. Without a readable text, the message looks deleted and keeps its place.
    """
    sender, receiver, text = (_text(document, name) for name in ("senderId", "receiverId", "text"))
    if sender is None or receiver is None:
        sender, _, receiver = (_text(document, "conversation") or "").partition(":")
    times = (_time(document, name) for name in ("createdAt", "editedAt", "deletedAt"))
    created, edited, deleted = times
    if text is None or created is None:
        _report_damage(str(document["_id"]))
    created = created or UNKNOWN_TIME
    reply_to = document.get("replyTo")
    try:
        reactions = _reactions(document.get("reactions", {}))
    except (TypeError, AttributeError):
        reactions = {}
    return Message(
        id=str(document["_id"]),
        seq=_count(document, "seq"),
        version=_count(document, "version"),
        sender_id=sender,
        receiver_id=receiver,
        text=text or "",
        client_id=_text(document, "clientId"),
        reactions=reactions,
        created_at=created,
        edited_at=edited,
        deleted_at=deleted if text else deleted or created,
        reply_to=str(reply_to) if type(reply_to) is ObjectId else None,
    )


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    return value if type(value) is str else None


def _time(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    return rfc3339(value) if isinstance(value, datetime) else None


def _count(document: Mapping[str, Any], name: str) -> int:
    value = document.get(name)
    if isinstance(value, int | float) and 0 <= value < MAX_COUNT:
        return int(value)
    return 0


@functools.lru_cache(maxsize=1000)
def _report_damage(message_id: str) -> None:
    """Log that a document is damaged, once for each."""
    log.error(
        "The document %s of the collection `messages` has a missing or wrong value, which is shown "
        "as a default. Restore it from a backup, or correct it",
        message_id,
    )


def _users_by_emoji(reactions: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the reactions without emoji that have no users, and with one spelling of each emoji.

    Older versions stored both.
    """
    merged: dict[str, list[str]] = {}
    for emoji, users in reactions.items():
        if users:
            known = merged.setdefault(one_spelling(emoji), [])
            known.extend(user for user in users if user not in known)
    return merged


def from_json(raw: bytes) -> Message | None:
    """Return the message of cached JSON, or None when the bytes are not a message."""
    try:
        return _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def rfc3339(moment: datetime) -> str:
    """Format a UTC time without a time zone, for example `2026-01-31T12:00:00.123Z`."""
    return moment.isoformat(timespec="milliseconds") + "Z"
