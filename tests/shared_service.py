"""A running service that many tests share, and users created without the slow password hash of a
sign-up.
"""

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pymongo
import redis
from http_clients import open_client
from live import GenerousService, Service, User
from pymongo.database import Database
from redis_clients import open_keys
from waiting import wait_until

from chatlab.domain.ids import UserId
from chatlab.domain.message import create_draft
from chatlab.local.engines import Engines
from chatlab.sessions import hash_token

LAB_KEY = "key-of-the-presenter"  # opens the page /lab
Documents = dict[str, list[dict[str, Any]]]


@dataclass
class SharedService:
    """A service, its database and its keys. `prefix` is the prefix of all its keys."""

    service: Service
    database: Database[dict[str, Any]]
    keys: redis.Redis
    prefix: str

    def create_user(self, name: str | None = None, at: Service | None = None) -> User:
        """Return a new user who is logged in. Without a name, the user gets a unique one."""
        return create_user(self.database, at or self.service, name)

    @contextlib.contextmanager
    def another_process(
        self, log: Path, service_type: type[Service] | None = None, **settings: str
    ) -> Iterator["SharedService"]:
        """Start another process on the same database, with its own key prefix and settings."""
        prefix = f"{self.prefix}{secrets.token_hex(3)}:"
        given = self.service.settings | {"KEY_PREFIX": prefix} | settings
        mongo_url, redis_url = given.pop("MONGO_URL"), given.pop("REDIS_URL")
        del given["PORT"]
        start = service_type or type(self.service)
        service = start(mongo_url, redis_url, log, **given)
        try:
            yield SharedService(service.wait_until_ready(), self.database, self.keys, prefix)
        finally:
            service.end()

    def everything(self) -> Documents:
        """Return all documents of this service, by collection.

        Without the summaries, which the service writes in the background.
        """
        documents = {
            name: list(self.database[name].find().sort("_id", 1))
            for name in sorted(self.database.list_collection_names())
            if not name.startswith("system.")
        }
        marks = self.database["reads"].find({"seq": {"$gt": 0}}, {"lastSeq": 0, "lastAt": 0})
        return documents | {"reads": list(marks.sort("_id", 1))}

    def keys_of(self, pattern: str) -> list[str]:
        """Return the keys that match, without their prefix."""
        return sorted(
            key.decode().removeprefix(self.prefix)
            for key in self.keys.scan_iter(self.prefix + pattern, count=1000)
        )


def create_user(
    database: Database[dict[str, Any]], service: Service, name: str | None = None
) -> User:
    """Insert a user and a session as sign-up does, and return the user."""
    name, token, today = (
        name or f"u{secrets.token_hex(6)}",
        secrets.token_urlsafe(32),
        datetime.now(UTC),
    )
    database["users"].insert_one(
        {"_id": name, "displayName": name.title(), "passwordHash": "none", "createdAt": today}
    )
    database["sessions"].insert_one(
        {
            "_id": hash_token(token),
            "userId": name,
            "expiresAt": today + timedelta(days=1),
            "createdAt": today,
            "lastUsedAt": today,
            "userAgent": "",
        }
    )
    http = open_client(service.url, headers={"authorization": f"Bearer {token}"})
    return User(service, name, token, http)


def store_messages(
    database: Database[dict[str, Any]],
    sender: str,
    receiver: str,
    texts: Iterable[str],
    first_seq: int = 1,
) -> None:
    """Insert messages as the service stores them, without sending them.

    They have no summary, as after a crash. A read of a list that shows them repairs this.
    """
    database["messages"].insert_many(
        create_draft(UserId(sender), UserId(receiver), text, None).document(seq)
        for seq, text in enumerate(texts, first_seq)
    )


def presence_channel(database: Database[dict[str, Any]], prefix: str) -> str:
    """Return the channel in which the processes of a service report their users."""
    installation = database["installation"].find_one()
    return f"{prefix}{installation['id']}:presence" if installation else ""


def sees(witness: User, user: User) -> bool:
    """Return whether the events that the witness has received show this partner online."""
    online = set[str]()
    for event, payload in witness.events:
        if event == "onlineUsers":
            online = set(payload)
        elif event == "presence" and payload["online"]:
            online.add(payload["userId"])
        elif event == "presence":
            online.discard(payload["userId"])
    return user.id in online


async def is_online(witness: User, user: User) -> bool:
    """Return whether the list of users shows another user online."""
    return bool((await witness.row_of(user))["online"])


async def meet(*users: User) -> None:
    """Connect the users and wait until the list of each one shows the others online.

    Afterwards the processes that they are connected to know each other.
    """
    await asyncio.gather(*(user.connect() for user in users))
    others = ((one, user) for one, user in itertools.permutations(users, 2) if one.id != user.id)
    for witness, user in others:
        await wait_until(lambda: is_online(witness, user), "users to see each other online")  # noqa: B023 - called at once


@contextlib.contextmanager
def start_shared_service(
    engines: Engines, log: Path, service_type: type[Service] = GenerousService, **settings: str
) -> Iterator[SharedService]:
    """Start a service with its own database and key prefix, and remove its data at the end.

    All keys must have an expiry by then.
    """
    space = f"shared{secrets.token_hex(4)}"
    given = {
        "DATABASE": space,
        "KEY_PREFIX": f"{space}:",
        "FLOW": "1",
        "LAB_KEY": LAB_KEY,
        **settings,
    }
    with (
        pymongo.MongoClient[dict[str, Any]](engines.mongo.url) as mongo,
        open_keys(engines.redis.url) as keys,
    ):
        service = service_type(engines.mongo.url, engines.redis.url, log, **given)
        try:
            yield SharedService(service.wait_until_ready(), mongo[space], keys, f"{space}:")
            leaked = [key for key in keys.scan_iter(f"{space}:*") if keys.pttl(key) == -1]
            assert not leaked, f"keys without an expiry: {leaked}"
            for key in keys.scan_iter(f"{space}:*"):
                keys.delete(key)
        finally:
            service.end()
            mongo.drop_database(space)


UserMaker = Callable[..., User]
