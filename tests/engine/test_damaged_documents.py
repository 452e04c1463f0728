"""Documents of older and newer versions, and damaged ones: one of them never hides the others."""

from collections.abc import Collection, Iterator
from typing import Any

import bson
import pytest
from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from live import User
from shared_service import SharedService, UserMaker, store_messages

from chatlab.domain.message import create_draft

MISSING = object()
NOT_UTF8 = "not UTF-8"
Document = dict[str, Any]

OF_OTHER_VERSIONS: dict[str, Document] = {
    "older: no reactions": {"reactions": MISSING},
    "older: no version": {"version": MISSING},
    "older: no times": {"editedAt": MISSING, "deletedAt": MISSING},
    "newer: a new field": {"forwardedFrom": {"senderId": "carol"}},
    "a tool that restores 64-bit numbers": {"seq": Int64, "version": Int64(1)},
    "a tool that restores floats": {"seq": float, "version": 1.0},
    "null instead of no reactions": {"reactions": None},
}
DAMAGED: dict[str, Document] = {
    "no text": {"text": MISSING},
    "a text that is a number": {"text": 7},
    "a text that is a document": {"text": {"id": bson.ObjectId()}},
    "a text that is not UTF-8": {"text": NOT_UTF8},
    "no sender": {"senderId": MISSING},
    "a receiver that is a number": {"receiverId": 5},
    "no time": {"createdAt": MISSING},
    "a time that is a text": {"createdAt": "yesterday"},
    "a time after the year 9999": {"createdAt": DatetimeMS(2**60)},
    "an edit time that is a number": {"editedAt": 12},
    "reactions that are a list": {"reactions": ["🎉"]},
    "a reaction without a list": {"reactions": {"🎉": 7}},
    "a reaction of a number": {"reactions": {"🎉": [7]}},
    "a version that is a text": {"version": "two"},
    "a client id that is a number": {"clientId": 1},
    "a reply to a number": {"replyTo": 5},
}
WITHOUT_NUMBER: dict[str, Document] = {
    "no seq": {"seq": MISSING},
    "a text": {"seq": "2"},
    "not a number": {"seq": float("nan")},
    "negative": {"seq": -1},
}


def store(shared: SharedService, ann: User, bob: User, changes: Collection[Document]) -> None:
    """Store a conversation: the message "first", one with each of these changes, and "last".

    A change of `seq` that is a type converts the number.
    """
    store_messages(shared.database, ann.id, bob.id, ["first"])
    for seq, change in enumerate(changes, 2):
        document: Document = create_draft(ann.id, bob.id, "changed", None).document(seq)  # type: ignore[arg-type]
        document |= change
        if isinstance(document["seq"], type):
            document["seq"] = document["seq"](seq)
        stored = {name: value for name, value in document.items() if value is not MISSING}
        raw = bson.encode(stored).replace(NOT_UTF8.encode(), b"\xff" * len(NOT_UTF8))
        shared.database["messages"].insert_one(RawBSONDocument(raw))
    store_messages(shared.database, ann.id, bob.id, ["last"], first_seq=len(changes) + 2)


async def read_in_every_way(reader: User, other: User) -> list[Document]:
    """Read a conversation from MongoDB, into the cache, from the cache and in the list of users.

    Check that all agree, and return the messages.
    """
    answers = [
        await reader.read(other, fresh=True),
        await reader.read(other, limit=50),
        await reader.read(other, limit=50),
        await reader.read(other, after=0),
        await reader.read(other, before=1000, limit=50),
    ]
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    messages: list[Document] = answers[0].json()
    assert [answer.json() for answer in answers] == [messages] * len(answers)
    assert (await reader.row_of(other))["lastMessage"] == messages[-1]
    rows = (await reader.http.get("/api/conversations")).json()["items"]
    assert [row["lastMessage"] for row in rows] == [messages[-1]]
    return messages


async def test_documents_of_other_versions_and_tools_are_read_with_defaults(
    shared: SharedService, new_user: UserMaker
) -> None:
    """Each message is whole, and can be edited and reacted to."""
    ann, bob = new_user(), new_user()
    store(shared, ann, bob, OF_OTHER_VERSIONS.values())
    messages = await read_in_every_way(ann, bob)
    assert await read_in_every_way(bob, ann) == messages
    usual = messages[0]
    for kind, message in zip(OF_OTHER_VERSIONS, messages[1:], strict=False):
        own = {name: message[name] for name in ("_id", "seq", "version", "createdAt")}
        assert message == usual | own | {"text": "changed"}, kind
        edited = await ann.http.patch(f"/api/messages/{message['_id']}", json={"text": "edited"})
        assert edited.json()["version"] == message["version"] + 1, kind
    assert [message["text"] for message in (await bob.read(ann)).json()] == [
        "first",
        *["edited"] * len(OF_OTHER_VERSIONS),
        "last",
    ]


async def test_a_message_without_reactions_gets_some(
    shared: SharedService, new_user: UserMaker
) -> None:
    """A reaction can be added to a message of an older version, and removed again."""
    ann, bob = new_user(), new_user()
    store(shared, ann, bob, [{"reactions": MISSING, "version": MISSING}])
    message_id = (await ann.read(bob)).json()[1]["_id"]
    for method, reactions, version in (("PUT", {"🎉": [bob.id]}, 1), ("DELETE", {}, 2)):
        answer = await bob.http.request(method, f"/api/messages/{message_id}/reactions/🎉")
        assert (answer.json()["reactions"], answer.json()["version"]) == (reactions, version)


async def test_a_reaction_to_a_message_without_a_version_is_removed(
    shared: SharedService, new_user: UserMaker
) -> None:
    """Every change makes the version higher than before."""
    ann, bob = new_user(), new_user()
    store(shared, ann, bob, [{"reactions": {"🎉": [bob.id]}, "version": MISSING}])
    message = (await ann.read(bob)).json()[1]
    answer = await bob.http.delete(f"/api/messages/{message['_id']}/reactions/🎉")
    assert (message["version"], answer.json()["version"], answer.json()["reactions"]) == (0, 1, {})


async def test_a_damaged_message_keeps_its_place(
    shared: SharedService, new_user: UserMaker
) -> None:
    """Both users can read the conversation and their lists, and send; the log names the message."""
    ann, bob = new_user(), new_user()
    store(shared, ann, bob, DAMAGED.values())
    messages = await read_in_every_way(ann, bob)
    assert await read_in_every_way(bob, ann) == messages
    assert [message["seq"] for message in messages] == list(range(1, len(DAMAGED) + 3))
    for kind, message in zip(DAMAGED, messages[1:], strict=False):
        assert {message["senderId"], message["receiverId"]} == {ann.id, bob.id}, kind
        is_readable = message["text"] in ("changed", "\N{REPLACEMENT CHARACTER}" * len(NOT_UTF8))
        assert is_readable or (message["text"] == "" and message["deletedAt"]), kind
    assert messages[1]["_id"] in shared.service.log.read_text()
    assert (await bob.send(ann, "next"))["seq"] == len(DAMAGED) + 3


async def test_a_document_without_a_number_is_in_no_conversation(
    shared: SharedService, new_user: UserMaker
) -> None:
    """The other messages are read, and the next message gets the next seq."""
    ann, bob = new_user(), new_user()
    store(shared, ann, bob, WITHOUT_NUMBER.values())
    messages = await read_in_every_way(ann, bob)
    assert await read_in_every_way(bob, ann) == messages
    assert [message["text"] for message in messages] == ["first", "last"]
    assert (await bob.send(ann, "next"))["seq"] == messages[-1]["seq"] + 1


@pytest.fixture
def damaged_users(shared: SharedService) -> Iterator[None]:
    """Store damaged users and read marks, and remove them after the test."""
    users, reads = shared.database["users"], shared.database["reads"]
    users.insert_many(
        [{"_id": 7}, {"_id": "damaged1"}, {"_id": "damaged2", "displayName": 3, "createdAt": "now"}]
    )
    yield
    users.delete_many({"_id": {"$in": [7, "damaged1", "damaged2"]}})
    reads.delete_many({"damaged": True})


@pytest.mark.usefixtures("damaged_users")
async def test_damaged_users_and_marks_do_not_hide_the_list(
    shared: SharedService, new_user: UserMaker
) -> None:
    """The list shows a damaged user with defaults, and ignores damaged read marks."""
    ann, bob = new_user(), new_user()
    store_messages(shared.database, ann.id, bob.id, ["one"])
    conversation = ":".join(sorted((ann.id, bob.id)))
    shared.database["reads"].insert_many(
        {"userId": user.id, "damaged": True} | mark
        for user in (ann, bob)
        for mark in ({"conversation": conversation, "seq": "1"}, {"conversation": 7, "seq": 1})
    )
    row = await bob.row_of(ann)
    assert (row["unread"], row["readUpTo"]) == (1, 0)
    rows = (await bob.http.get("/api/users", params={"query": "damaged"})).json()
    assert [row["id"] for row in rows] == ["damaged1", "damaged2"]
    for row in rows:
        assert row["displayName"] == row["id"]
        assert row["createdAt"] == "1970-01-01T00:00:00.000Z"
    log_in = {"username": "damaged1", "password": "correct horse battery"}
    assert (await bob.http.post("/api/auth/login", json=log_in)).status_code == 401
