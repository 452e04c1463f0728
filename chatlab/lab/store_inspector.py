"""Look into MongoDB and Redis directly, bypassing the service, with separate clients.

Methods take and return keys without the session's prefix. They only read, except for `erase` and
for `execute_command`, which can change keys of this session.
"""

import contextlib
import json
from typing import Any

import pymongo
from bson import ObjectId
from pymongo.database import Database
from redis import Redis

from chatlab.client import Json
from chatlab.domain.message import from_document
from chatlab.lab.query_log import QueryLog, record_queries
from chatlab.local.engines import Engines

REPLY_TIMEOUT_S = 2.0
# Commands that affect more than the keys of one session.
SERVER_WIDE = """
    FLUSHALL FLUSHDB CONFIG SHUTDOWN DEBUG CLIENT REPLICAOF SWAPDB ACL FUNCTION SCRIPT MONITOR
"""


class RedisInspector:
    """The keys of one session in Redis, which begin with `prefix` there."""

    def __init__(self, url: str, prefix: str) -> None:
        self._url, self._prefix = url, prefix
        self._redis = self.client()

    def client(self) -> Redis:
        """Return a new client of this Redis, for work that needs two at a time.

        Use it as `with lab.redis.client() as redis`. Unlike other methods, it needs keys with the
        prefix.
        """
        return Redis.from_url(
            self._url,
            socket_timeout=REPLY_TIMEOUT_S,
            socket_connect_timeout=REPLY_TIMEOUT_S,
            decode_responses=True,
        )

    def close(self) -> None:
        self._redis.close()

    def keys(self, pattern: str = "*") -> list[str]:
        """Return the keys of this session, sorted."""
        return sorted({key.removeprefix(self._prefix) for key in self._scan(pattern)})

    def get(self, key: str) -> str | list[str] | None:
        """Return the value of a key, or None if the key does not exist.

        A message is returned as text, a conversation window as the list of its header and its
        messages.
        """
        name = f"{self._prefix}{key}"
        value: Any = (
            self._redis.lrange(name, 0, -1)
            if self._redis.type(name) == "list"
            else self._redis.get(name)
        )
        return value or None

    def ttl(self, key: str) -> int:
        """Return what TTL returns: seconds left, rounded; -1 for no expiry, -2 for no such key."""
        return int(self._redis.ttl(f"{self._prefix}{key}"))

    def pttl(self, key: str) -> int:
        """Return what PTTL returns: milliseconds left; -1 for no expiry, -2 for no such key."""
        return int(self._redis.pttl(f"{self._prefix}{key}"))

    def time_us(self) -> int:
        """Return Redis's time in microseconds, the clock by which the service dates its windows."""
        seconds, microseconds = self.execute_command("TIME")
        return int(seconds) * 1_000_000 + int(microseconds)

    def execute_command(self, *words: Any) -> Any:
        """Run a Redis command on keys of this session.

        For example `lab.redis.execute_command("SET", "message:mine", "hello", "EX", 5)`. Words that
        begin with `message:` or `messages:` are treated as keys and get the session's prefix.
        """
        name = str(words[0]).upper() if words else ""
        if name in SERVER_WIDE.split():
            raise ValueError(
                f"{name} would also affect the data of other notebooks. Use a command on a key."
            )
        reply = self._redis.execute_command(*(self._with_prefix(word) for word in words))  # type: ignore[no-untyped-call]
        return self._without_prefix(reply)

    def record_queries(
        self, database: Database[Json]
    ) -> contextlib.AbstractContextManager[QueryLog]:
        """Record what the service sends to `database` and to this Redis while the block runs."""
        return record_queries(database, self._redis, self._prefix)

    def erase(self) -> None:
        """Delete the keys of this session, and no other data."""
        for key in self._scan("*"):
            self._redis.delete(key)

    def _scan(self, pattern: str) -> list[str]:
        return list(self._redis.scan_iter(f"{self._prefix}{pattern}", count=1000))

    def _with_prefix(self, word: Any) -> Any:
        return (
            f"{self._prefix}{word}"
            if isinstance(word, str) and word.startswith(("message:", "messages:", "message*"))
            else word
        )

    def _without_prefix(self, reply: Any) -> Any:
        if isinstance(reply, list | tuple):
            return [self._without_prefix(part) for part in reply]
        return reply.removeprefix(self._prefix) if isinstance(reply, str) else reply


class StoreInspector:
    """Direct access to one session's `database` in MongoDB and to its keys in Redis."""

    def __init__(self, engines: Engines, database: str, prefix: str) -> None:
        timeout_ms = int(REPLY_TIMEOUT_S * 1000)
        self._client: pymongo.MongoClient[Json] = pymongo.MongoClient(
            engines.mongo.url, serverSelectionTimeoutMS=timeout_ms, timeoutMS=timeout_ms
        )
        self.mongo = self._client[database]
        self.redis = RedisInspector(engines.redis.url, prefix)

    def close(self) -> None:
        self.redis.close()
        self._client.close()

    def find_messages(self, **fields: Any) -> list[Json]:
        """Return the messages in MongoDB with these fields, in the form that the API returns."""
        if ObjectId.is_valid(fields.get("_id")):
            fields["_id"] = ObjectId(fields["_id"])
        found = self.mongo.messages.find(fields).sort("_id", 1)
        return [json.loads(from_document(document).json) for document in found]

    def record_queries(self) -> contextlib.AbstractContextManager[QueryLog]:
        """Record the commands that the service sends to both stores while the block runs."""
        return self.redis.record_queries(self.mongo)

    def erase(self) -> None:
        """Delete this session's database and keys, and no other data."""
        self._client.drop_database(self.mongo.name)
        self.redis.erase()
