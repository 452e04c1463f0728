"""The servers that the demo runs on, and direct access to MongoDB and Redis.

The demo reads both servers itself, so that it does not have to trust the service's own reports.
"""

import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

from bson import ObjectId
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import PyMongoError
from redis.exceptions import RedisError

from chatlab.cache.keys import Keys
from chatlab.client import Json
from chatlab.connections.redis import connect, connect_blocking
from chatlab.demo.record import KeySample, ObservedMessage
from chatlab.domain.ids import conversation_of
from chatlab.domain.message import from_document

SERVER_TIMEOUT_S = 3  # for the demo's own requests to MongoDB and Redis


@dataclass(frozen=True)
class DemoServers:
    """The addresses of the service, MongoDB and Redis.

    `namespace` names the demo's database, and every Redis key of the demo begins with it.
    """

    url: str
    mongo_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    namespace: str

    @property
    def keys(self) -> Keys:
        return Keys(f"{self.namespace}:")

    def delete_data(self) -> None:
        """Delete the demo's database and keys. A server that does not answer is skipped."""
        timeout_ms = SERVER_TIMEOUT_S * 1000
        with (
            contextlib.suppress(PyMongoError),
            MongoClient[Json](self.mongo_url, timeoutMS=timeout_ms) as mongo,
        ):
            mongo.drop_database(self.namespace)
        with (
            contextlib.suppress(RedisError),
            connect_blocking(self.redis_url, SERVER_TIMEOUT_S) as redis,
        ):
            for key in redis.scan_iter(f"{self.keys.prefix}*"):
                redis.delete(key)


class ServerProbe:
    """Reads a message directly from MongoDB and Redis."""

    def __init__(self, servers: DemoServers) -> None:
        self._keys = servers.keys
        self._mongo = AsyncMongoClient[Json](servers.mongo_url, timeoutMS=SERVER_TIMEOUT_S * 1000)
        self._messages = self._mongo[servers.namespace]["messages"]
        self._redis = connect(servers.redis_url, SERVER_TIMEOUT_S)

    async def stored_message(self, message_id: str) -> Json | None:
        """Return the message that MongoDB stores, with the field names of the API."""
        document = await self._messages.find_one({"_id": ObjectId(message_id)})
        return json.loads(from_document(document).json) if document else None

    async def sample_entry(self, message: ObservedMessage) -> KeySample:
        """Read `message:{_id}` and its TTL."""
        key = self._keys.message(message.message_id)
        pttl_ms, value = await self._run(("PTTL", key), ("GET", key))
        matches = message.send_result is not None and _json(value) == message.send_result.message
        return KeySample(message.age_s(), pttl_ms, matches)

    async def sample_window(self, message: ObservedMessage) -> KeySample:
        """Read `messages:{a}:{b}` and its TTL; it matches if it contains the message."""
        key = self._keys.window(conversation_of(message.sender, message.receiver))
        # The first item of the list is the header of the window, see window.lua.
        pttl_ms, values = await self._run(("PTTL", key), ("LRANGE", key, 1, -1))
        matches = message.send_result is not None and message.send_result.message in map(
            _json, values
        )
        return KeySample(message.age_s(), pttl_ms, matches)

    async def _run(self, *commands: tuple[Any, ...]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute())

    async def aclose(self) -> None:
        await self._redis.aclose()
        await self._mongo.close()


def _json(value: bytes | None) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(value or b"null")
    return None
