"""Read MongoDB and Redis directly, bypassing the service, with separate clients.

Methods take and return keys without the session's prefix. They only read, except for `erase` and
for `command`, which can change keys of this session.
"""

import asyncio
import contextlib
import inspect
import json
from collections.abc import Callable
from typing import Any

import pymongo
from bson import ObjectId
from pymongo.collection import Collection
from redis import Redis

from chatlab.client import Json
from chatlab.domain.message import from_document
from chatlab.lab.asked import Asked, listening
from chatlab.local.engines import Engines

PATIENCE = 2.0  # seconds to wait for an engine's reply
EVERYBODYS = {
    "FLUSHALL",
    "FLUSHDB",
    "CONFIG",
    "SHUTDOWN",
    "DEBUG",
    "CLIENT",
    "REPLICAOF",
    "SWAPDB",
    "ACL",
    "FUNCTION",
    "SCRIPT",
    "MONITOR",
}


async def looked_until(found: Callable[[], Any], within: float, every: float = 0.01) -> bool:
    """Poll until `found` returns something true; False if that does not happen in time.

    For conditions that no event reports. `within` and `every` are seconds. `found` may also return
    an awaitable.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            while not (await seen if inspect.isawaitable(seen := found()) else seen):  # noqa: ASYNC110 - see above
                await asyncio.sleep(every)
            return True
    return False


class Looks:
    """Direct access to one session's `database` and to its keys, which begin with `prefix`."""

    def __init__(self, engines: Engines, database: str, prefix: str) -> None:
        wait = int(PATIENCE * 1000)
        self._mongo: pymongo.MongoClient[Json] = pymongo.MongoClient(
            engines.mongo.url, serverSelectionTimeoutMS=wait, timeoutMS=wait
        )
        self._redis_url = engines.redis.url
        self._redis = self.client()
        self._database, self._prefix = self._mongo[database], prefix

    def client(self) -> Redis:
        """Return a new client of this Redis, for work that needs two at a time.

        The caller closes it. It does not add the session's prefix to keys.
        """
        return Redis.from_url(
            self._redis_url,
            socket_timeout=PATIENCE,
            socket_connect_timeout=PATIENCE,
            decode_responses=True,
        )

    def close(self) -> None:
        self._redis.close()
        self._mongo.close()

    def keys(self, pattern: str) -> list[str]:
        return sorted(
            key.removeprefix(self._prefix)
            for key in self._redis.scan_iter(f"{self._prefix}{pattern}", count=1000)
        )

    def value(self, key: str) -> str | list[str] | None:
        name = f"{self._prefix}{key}"
        value: Any = (
            self._redis.lrange(name, 0, -1)
            if self._redis.type(name) == "list"
            else self._redis.get(name)
        )
        return value or None

    def ttl(self, key: str) -> int:
        return int(self._redis.ttl(f"{self._prefix}{key}"))

    def pttl(self, key: str) -> int:
        return int(self._redis.pttl(f"{self._prefix}{key}"))

    def documents(self, collection: str, fields: dict[str, Any]) -> list[Json]:
        """Return matching documents; messages have the form that the API returns."""
        query = {
            name: ObjectId(value) if name == "_id" and ObjectId.is_valid(value) else value
            for name, value in fields.items()
        }
        found = list(self._database[collection].find(query).sort("_id", 1))
        return (
            [json.loads(from_document(document).json) for document in found]
            if collection == "messages"
            else found
        )

    def command(self, *words: Any) -> Any:
        """Run a Redis command that only touches keys of this session.

        Words that begin with `message` are treated as keys and get the session's prefix.
        """
        name = str(words[0]).upper() if words else ""
        if name in EVERYBODYS:
            raise ValueError(
                f"{name} would reach others' data too; what can be done here is done to keys"
            )
        answer = self._redis.execute_command(*(self._with_prefix(word) for word in words))  # type: ignore[no-untyped-call]
        return self._without_prefix(answer)

    def _with_prefix(self, word: Any) -> Any:
        return (
            f"{self._prefix}{word}"
            if isinstance(word, str) and word.startswith(("message:", "messages:", "message*"))
            else word
        )

    def _without_prefix(self, answer: Any) -> Any:
        if isinstance(answer, list | tuple):
            return [self._without_prefix(part) for part in answer]
        return answer.removeprefix(self._prefix) if isinstance(answer, str) else answer

    def listening(self) -> contextlib.AbstractContextManager[Asked]:
        """Record the commands that the service sends to both stores while the block runs."""
        return listening(self._database, self._redis, self._prefix)

    @property
    def messages(self) -> Collection[Json]:
        """The collection with the session's messages."""
        return self._database["messages"]

    def erase(self) -> None:
        """Delete this session's database and keys, and no other data."""
        self._mongo.drop_database(self._database.name)
        for key in self._redis.scan_iter(f"{self._prefix}*", count=1000):
            self._redis.delete(key)
