"""The clients of a session, which bypass its service: ordinary ones, as in any program."""

import contextlib
import json
from typing import Any

from bson import ObjectId
from pymongo import MongoClient
from pymongo.database import Database
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from chatlab.client import Json
from chatlab.connections.redis import connect_to_cluster
from chatlab.domain.message import from_document
from chatlab.errors import EngineError
from chatlab.lab.query_log import QueryLog, record_queries
from chatlab.lab.stepped_clients import SteppedClients
from chatlab.local.engines import Engines
from chatlab.server_urls import ClusterUrl

MONGODB_TIMEOUT_S = 20  # for a busy machine
REDIS_TIMEOUT_S = 5.0  # the widgets of a notebook wait that long for a frozen Redis
CLUSTER_RETRIES = 3  # of redis-py, after it has learned the topology again


class SessionStores:
    """The session's own Redis, and its database in MongoDB."""

    def __init__(self, engines: Engines, database: str) -> None:
        timeout_ms = MONGODB_TIMEOUT_S * 1000
        self.client: MongoClient[Json] = MongoClient(
            engines.mongo.url, serverSelectionTimeoutMS=timeout_ms, timeoutMS=timeout_ms
        )
        self.mongo: Database[Json] = self.client[database]
        self.redis = _connect(engines.redis.url)
        self._stepped: SteppedClients | None = None
        self._mongo_url, self._redis_url = engines.mongo.url, engines.redis.url

    @property
    def stepped(self) -> SteppedClients:
        """The clients of functions in a race. Raises EngineError with a Redis Cluster."""
        self._require_one_redis()
        if self._stepped is None:
            self._stepped = SteppedClients(self.redis, self._mongo_url, self.mongo.name)
        return self._stepped

    def close(self) -> None:
        if self._stepped:
            self._stepped.close()
        self.redis.close()
        self.client.close()

    def find_messages(self, **fields: Any) -> list[Json]:
        """Return the messages in MongoDB with these fields, in the form that the API returns."""
        if ObjectId.is_valid(fields.get("_id")):
            fields["_id"] = ObjectId(fields["_id"])
        found = self.mongo.messages.find(fields).sort("_id", 1)
        return [json.loads(from_document(document).json) for document in found]

    def record_queries(self) -> contextlib.AbstractContextManager[QueryLog]:
        """Record the commands that the service sends to both stores while the block runs.

        Raises EngineError with a Redis Cluster.
        """
        self._require_one_redis()
        return record_queries(self.mongo, self.redis)

    def drop_database(self) -> None:
        self.client.drop_database(self.mongo.name)

    def _require_one_redis(self) -> None:
        if ClusterUrl.of(self._redis_url):
            raise EngineError(
                "This session has a Redis Cluster, and steps are recorded on a single Redis only.",
                "use a notebook without redis_cluster=True",
            )


def _connect(url: str) -> Redis:
    """Return an ordinary client of a server, or of a cluster.

    That of a cluster repeats a command at once: a pause would stop the whole kernel.
    """
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": REDIS_TIMEOUT_S,
        "socket_connect_timeout": REDIS_TIMEOUT_S,
    }
    if nodes := ClusterUrl.of(url):
        return connect_to_cluster(nodes, options | {"retry": Retry(NoBackoff(), CLUSTER_RETRIES)})
    return Redis.from_url(url, **options)


def value_of(redis: Redis, key: str) -> str | list[str] | None:
    """Return the value of a key, or None if the key does not exist.

    A message is returned as text, a conversation window as the list of its header and its messages.
    """
    value: Any = redis.lrange(key, 0, -1) if redis.type(key) == "list" else redis.get(key)
    return value or None


def time_us(redis: Redis) -> int:
    """Return Redis's time in microseconds, the clock by which the service dates its windows."""
    seconds, microseconds = redis.time()
    return int(seconds) * 1_000_000 + int(microseconds)
