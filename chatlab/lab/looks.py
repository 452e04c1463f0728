"""Direct looks at MongoDB and Redis, behind the service's back, with clients of their own.

Keys are spoken of without the session's prefix, as the service names them for everybody else. Looks only read; `command` is for those
who want to do something to a key of this session themselves.
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

PATIENCE = 2.0  # seconds for an engine's answer
EVERYBODYS = {"FLUSHALL", "FLUSHDB", "CONFIG", "SHUTDOWN", "DEBUG", "CLIENT", "REPLICAOF", "SWAPDB", "ACL", "FUNCTION", "SCRIPT", "MONITOR"}


async def looked_until(found: Callable[[], Any], within: float, every: float = 0.01) -> bool:
    """Look again and again until it is so, for what nobody tells of; `within` and `every` are seconds. False when it did not come.

    What `found` gives may be awaited.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            while not (await seen if inspect.isawaitable(seen := found()) else seen):  # noqa: ASYNC110 - see above
                await asyncio.sleep(every)
            return True
    return False


class Looks:
    """`database` and `prefix` are those of one session."""

    def __init__(self, engines: Engines, database: str, prefix: str) -> None:
        wait = int(PATIENCE * 1000)
        self._mongo: pymongo.MongoClient[Json] = pymongo.MongoClient(engines.mongo.url, serverSelectionTimeoutMS=wait, timeoutMS=wait)
        self._redis_url = engines.redis.url
        self._redis = self.client()
        self._database, self._prefix = self._mongo[database], prefix

    def client(self) -> Redis:
        """One more client of this Redis, for those who need two at a time; the caller closes it. It knows nothing of the prefix."""
        return Redis.from_url(self._redis_url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE, decode_responses=True)

    def close(self) -> None:
        self._redis.close()
        self._mongo.close()

    def keys(self, pattern: str) -> list[str]:
        return sorted(key.removeprefix(self._prefix) for key in self._redis.scan_iter(f"{self._prefix}{pattern}", count=1000))

    def value(self, key: str) -> str | list[str] | None:
        name = f"{self._prefix}{key}"
        value: Any = self._redis.lrange(name, 0, -1) if self._redis.type(name) == "list" else self._redis.get(name)
        return value or None

    def ttl(self, key: str) -> int:
        return int(self._redis.ttl(f"{self._prefix}{key}"))

    def pttl(self, key: str) -> int:
        return int(self._redis.pttl(f"{self._prefix}{key}"))

    def documents(self, collection: str, fields: dict[str, Any]) -> list[Json]:
        """Messages as the API gives them, other documents as they are."""
        query = {name: ObjectId(value) if name == "_id" and ObjectId.is_valid(value) else value for name, value in fields.items()}
        found = list(self._database[collection].find(query).sort("_id", 1))
        return [json.loads(from_document(document).json) for document in found] if collection == "messages" else found

    def command(self, *words: Any) -> Any:
        """Any command of Redis that touches no more than keys. Words that begin with `message` are keys of this session."""
        name = str(words[0]).upper() if words else ""
        if name in EVERYBODYS:
            raise ValueError(f"{name} would reach others' data too; what can be done here is done to keys")
        answer = self._redis.execute_command(*(self._with_prefix(word) for word in words))  # type: ignore[no-untyped-call]
        return self._without_prefix(answer)

    def _with_prefix(self, word: Any) -> Any:
        return f"{self._prefix}{word}" if isinstance(word, str) and word.startswith(("message:", "messages:", "message*")) else word

    def _without_prefix(self, answer: Any) -> Any:
        if isinstance(answer, list | tuple):
            return [self._without_prefix(part) for part in answer]
        return answer.removeprefix(self._prefix) if isinstance(answer, str) else answer

    def listening(self) -> contextlib.AbstractContextManager[Asked]:
        """What the service asks of both while the block goes on."""
        return listening(self._database, self._redis, self._prefix)

    @property
    def messages(self) -> Collection[Json]:
        """MongoDB's messages, as documents."""
        return self._database["messages"]

    def erase(self) -> None:
        """The one thing here that writes: it removes this session's database and keys, and nothing else."""
        self._mongo.drop_database(self._database.name)
        for key in self._redis.scan_iter(f"{self._prefix}*", count=1000):
            self._redis.delete(key)
