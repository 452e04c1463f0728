"""The users of the benchmarks, their messages, and the requests they send.

Users come in pairs. They and their messages are written directly into the databases, in the format
of each server, because signing up 500 users takes minutes.
"""

import json
import random
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from bson import ObjectId
from pymongo import MongoClient
from pymongo.database import Database

from chatlab.domain.ids import UserId
from chatlab.domain.message import create_draft
from chatlab.sessions import hash_token

TEXT = "It is a truth universally acknowledged, that a message in want of a reader must be about as long as this one is, more or less."
SEED = 5  # for the order of requests
INSERT_SIZE = 10_000  # messages

Json = dict[str, Any]
RequestLine = list[str]  # method, path, token, body


class BenchUser(NamedTuple):
    """A user with a valid token. `partner` is the id of the only user it writes to."""

    id: str
    token: str
    partner: str


def as_json(users: list[BenchUser]) -> list[Json]:
    """Return the users as a load generator reads them."""
    return [user._asdict() for user in users]


def make_users(count: int) -> list[BenchUser]:
    """Return `count` users in pairs: u0000 and u0001, u0002 and u0003, and so on."""
    return [
        BenchUser(f"u{number:04}", secrets.token_hex(16), f"u{number ^ 1:04}")
        for number in range(count)
    ]


def insert_chatlab_data(database: Database[Json], users: list[BenchUser], messages: int) -> None:
    """Insert users, sessions, and `messages` messages in each conversation."""
    today = datetime.now(UTC)
    names = sorted({name for user in users for name in (user.id, user.partner)})
    database["users"].insert_many(
        [
            {"_id": name, "displayName": name, "passwordHash": "none", "createdAt": today}
            for name in names
        ]
    )
    expires = today + timedelta(days=1)
    database["sessions"].insert_many(
        [{"_id": hash_token(user.token), "userId": user.id, "expiresAt": expires} for user in users]
    )
    for first in users[::2]:
        insert_conversation(database, first.id, first.partner, messages)


def insert_conversation(
    database: Database[Json], sender: str, receiver: str, messages: int
) -> None:
    """Insert messages of one conversation with the seqs 1 to `messages`."""
    for start in range(1, messages + 1, INSERT_SIZE):
        seqs = range(start, min(start + INSERT_SIZE, messages + 1))
        drafts = ((seq, create_draft(UserId(sender), UserId(receiver), TEXT, None)) for seq in seqs)
        database["messages"].insert_many([draft.document(seq) for seq, draft in drafts])


def insert_peer_data(database: Database[Json], users: list[BenchUser], messages: int) -> None:
    """Insert the same users and messages in the format of both peers."""
    database["tokens"].insert_many([{"_id": user.token, "userId": user.id} for user in users])
    now = datetime.now(UTC)
    documents = [
        {
            "_id": ObjectId(),
            "conversation": f"messages:{first.id}:{first.partner}",
            "senderId": first.id,
            "receiverId": first.partner,
            "text": TEXT,
            "reactions": {},
            "createdAt": now + timedelta(milliseconds=number),
        }
        for first in users[::2]
        for number in range(messages)
    ]
    if documents:
        database["messages"].insert_many(documents)


def drop_database(url: str, database: str) -> None:
    """Drop a database of the MongoDB at `url`."""
    with MongoClient[Json](url) as mongo:
        mongo.drop_database(database)


# --- the requests ------------------------------------------------------------------------------


def send_requests(users: list[BenchUser]) -> list[RequestLine]:
    """Return one send to its partner for each user, in random order."""
    return _shuffled(
        [
            [
                "POST",
                "/api/messages/send",
                user.token,
                json.dumps({"receiverId": user.partner, "text": TEXT}),
            ]
            for user in users
        ]
    )


def read_requests(users: list[BenchUser], limit: int) -> list[RequestLine]:
    """Return one read of the newest `limit` messages for each user, in random order.

    The peers ignore the limit; theirs is fixed to the same number.
    """
    return _shuffled(
        [["GET", f"/api/messages/{user.partner}?limit={limit}", user.token, ""] for user in users]
    )


def _shuffled(requests: list[RequestLine]) -> list[RequestLine]:
    random.Random(SEED).shuffle(requests)
    return requests


def write_requests(requests: list[RequestLine], path: Path) -> Path:
    """Write a file for the load generators: one line for each request, separated by tabs."""
    path.write_text("".join("\t".join(request) + "\n" for request in requests), encoding="utf-8")
    return path
