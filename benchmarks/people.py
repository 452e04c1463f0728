"""500 people in 250 pairs, who signed up and talked long ago: written straight into the databases, in the spelling of each side."""

import json
import random
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from bson import ObjectId
from pymongo import MongoClient
from pymongo.database import Database

from chatlab.accounts import hash_token
from chatlab.domain.ids import UserId
from chatlab.domain.message import create_draft

TEXT = "It is a truth universally acknowledged, that a message in want of a reader must be about as long as this one is, more or less."

Json = dict[str, Any]


class Person(NamedTuple):
    """`partner`: the only one this person talks with."""

    id: str
    token: str
    partner: str


def as_json(who: list[Person]) -> list[Json]:
    """For a load generator."""
    return [one._asdict() for one in who]


def people(count: int) -> list[Person]:
    """So many, two and two."""
    return [Person(f"u{number:04}", secrets.token_hex(16), f"u{number ^ 1:04}") for number in range(count)]


def settle_in_chatlab(database: Database[Json], who: list[Person], messages: int) -> None:
    """Users, sessions, and so many messages in each conversation."""
    today = datetime.now(UTC)
    names = sorted({name for person in who for name in (person.id, person.partner)})
    database["users"].insert_many([{"_id": name, "displayName": name, "passwordHash": "none", "createdAt": today} for name in names])
    expires = today + timedelta(days=1)
    database["sessions"].insert_many([{"_id": hash_token(one.token), "userId": one.id, "expiresAt": expires} for one in who])
    for first in who[::2]:
        talk_in_chatlab(database, first.id, first.partner, messages)


def talk_in_chatlab(database: Database[Json], one: str, other: str, messages: int) -> None:
    """A conversation, from seq 1 on."""
    for start in range(1, messages + 1, 10_000):
        some = range(start, min(start + 10_000, messages + 1))
        database["messages"].insert_many([create_draft(UserId(one), UserId(other), TEXT, None).document(seq) for seq in some])


def settle_in_peer(database: Database[Json], who: list[Person], messages: int) -> None:
    """The same for both peers, who spell alike."""
    database["tokens"].insert_many([{"_id": one.token, "userId": one.id} for one in who])
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
        for first in who[::2]
        for number in range(messages)
    ]
    if documents:
        database["messages"].insert_many(documents)


def forget(url: str, database: str) -> None:
    """Drop it."""
    with MongoClient[Json](url) as mongo:
        mongo.drop_database(database)


# --- what they ask -----------------------------------------------------------------------------------------------------------------


def sends(who: list[Person]) -> list[list[str]]:
    """Everybody writes to their partner, in an order that has no meaning."""
    return _shuffled([["POST", "/api/messages/send", one.token, json.dumps({"receiverId": one.partner, "text": TEXT})] for one in who])


def reads(who: list[Person], limit: int) -> list[list[str]]:
    """Everybody reads the newest messages with their partner. The peers know no limit but their own, which is the same."""
    return _shuffled([["GET", f"/api/messages/{one.partner}?limit={limit}", one.token, ""] for one in who])


def _shuffled(requests: list[list[str]]) -> list[list[str]]:
    random.Random(5).shuffle(requests)
    return requests


def write_requests(requests: list[list[str]], path: Path) -> Path:
    """A file as the load generators read it: a line a request, with tabs between method, path, token and body."""
    path.write_text("".join("\t".join(request) + "\n" for request in requests), encoding="utf-8")
    return path
