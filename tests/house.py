"""One running service that many tests share, and people who signed up long ago (no argon2id to wait for)."""

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pymongo
import redis
from live import Person, Service
from pymongo.database import Database

from chatlab.accounts import hash_of
from chatlab.engines import Engines

Documents = dict[str, list[dict[str, Any]]]


@dataclass
class House:
    """A service, and what stands behind it. `prefix` goes before all its keys."""

    service: Service
    database: Database[dict[str, Any]]
    keys: redis.Redis
    prefix: str

    def settle(self, name: str | None = None, at: Service | None = None) -> Person:
        """Somebody who can use the service at once; without a name, one that nobody else has."""
        return settle(self.database, at or self.service, name)

    @contextlib.contextmanager
    def annexe(self, log: Path, **settings: str) -> Iterator["House"]:
        """Another process on the same database, with keys and settings of its own."""
        prefix = f"{self.prefix}{secrets.token_hex(3)}:"
        given = self.service.settings | {"KEY_PREFIX": prefix} | settings
        mongo_url, redis_url = given.pop("MONGO_URL"), given.pop("REDIS_URL")
        del given["PORT"]
        service = Service(mongo_url, redis_url, log, **given).wait_until_ready()
        try:
            yield House(service, self.database, self.keys, prefix)
        finally:
            service.kill()

    def everything(self) -> Documents:
        """All that MongoDB holds of this service."""
        return {
            name: list(self.database[name].find().sort("_id", 1))
            for name in sorted(self.database.list_collection_names())
            if not name.startswith("system.")
        }

    def keys_of(self, pattern: str) -> list[str]:
        """The keys that match, without their prefix."""
        return sorted(key.decode().removeprefix(self.prefix) for key in self.keys.scan_iter(self.prefix + pattern, count=1000))


def settle(database: Database[dict[str, Any]], service: Service, name: str | None = None) -> Person:
    """A user and a session, as sign-up leaves them in MongoDB."""
    name, token, today = name or f"u{secrets.token_hex(6)}", secrets.token_urlsafe(32), datetime.now(UTC)
    database["users"].insert_one({"_id": name, "displayName": name.title(), "passwordHash": "none", "createdAt": today})
    database["sessions"].insert_one({"_id": hash_of(token), "userId": name, "expiresAt": today + timedelta(days=1)})
    http = httpx.AsyncClient(base_url=service.url, timeout=20, headers={"authorization": f"Bearer {token}"})
    return Person(service, name, token, http)


@contextlib.contextmanager
def open_house(engines: Engines, log: Path, **settings: str) -> Iterator[House]:
    """A service with a database and a key prefix of its own; nothing of it stays, and no key was left without an expiry."""
    space = f"house{secrets.token_hex(4)}"
    given = {"DATABASE": space, "KEY_PREFIX": f"{space}:", "FLOW": "1", **settings}
    with pymongo.MongoClient[dict[str, Any]](engines.mongo.url) as mongo, redis.Redis.from_url(engines.redis.url) as keys:
        service = Service(engines.mongo.url, engines.redis.url, log, **given).wait_until_ready()
        try:
            yield House(service, mongo[space], keys, f"{space}:")
            leaked = [key for key in keys.scan_iter(f"{space}:*") if keys.pttl(key) == -1]
            assert not leaked, f"keys without an expiry: {leaked}"
        finally:
            service.kill()
            mongo.drop_database(space)


Newcomer = Callable[..., Person]
