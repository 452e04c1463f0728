"""The client of a Redis Cluster. redis-py knows the node of each key, and follows MOVED and ASK."""

from typing import Any

import redis
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from chatlab.connections.redis import cluster_options, connect
from chatlab.server_urls import ClusterUrl

SLOTS: int = REDIS_CLUSTER_HASH_SLOTS
RETRIES = 2  # of redis-py, after it has learned the topology again

NodeName = str  # host:port


class Cluster:
    """The topology, and clients of the whole cluster and of its nodes.

    `timeout_s` limits the time until a connection to a node is made, and until a reply arrives.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        nodes = ClusterUrl.of(url)
        assert nodes
        self.places, self._nodes, self._timeout_s = nodes.places, nodes, timeout_s
        share_s = timeout_s / 4  # a node that is silent does not use up the time of the others
        limits = {
            "socket_timeout": share_s,
            "socket_connect_timeout": share_s,
            "retry": Retry(NoBackoff(), RETRIES),
        }
        startup_nodes = [ClusterNode(host, port) for host, port in nodes.places]
        self._redis = RedisCluster(
            startup_nodes=startup_nodes, **cluster_options(nodes, limits, parse_url)
        )

    async def refresh(self, failed: NodeName | None = None) -> None:
        """Ask for the topology. The node that has failed is asked last.

        Raises RedisClusterException if no node answers.
        """
        await self._redis.nodes_manager.initialize(self._nodes.places, failed)

    async def prepare(self) -> None:
        """Learn where commands have their keys, so that the first one needs no more time for it.

        Raises what redis-py raises.
        """
        await self._redis.initialize()

    def owner(self, slot: int) -> NodeName | None:
        """Return the primary that has this slot. Returns None if there is none."""
        nodes = self._redis.nodes_manager.slots_cache.get(slot)
        return nodes[0].name if nodes else None

    def primaries(self) -> list[NodeName]:
        """Return the primaries that have slots."""
        return sorted({name for slot in range(SLOTS) if (name := self.owner(slot))})

    def tag_of(self, name: NodeName) -> str:
        """Return a hash tag. Keys that contain it are on this node, if it has slots."""
        tags = (f"{{{number}}}" for number in range(SLOTS))
        return next((tag for tag in tags if self.owner(slot_of(tag)) == name), "")

    def connect(self, name: NodeName, timeout_s: float | None = None) -> Redis:
        """Return a client of one node."""
        host, _, port = name.rpartition(":")
        return connect(self._nodes.of_node(host, int(port)), timeout_s or self._timeout_s)

    async def execute(self, *command: Any) -> Any:
        """Return the reply of the node that has the key of the command, also while it moves.

        Raises what redis-py raises.
        """
        return await self._redis.execute_command(*command)

    async def aclose(self) -> None:
        """Close the connections of redis-py. Clients of single nodes have their own."""
        await self._redis.aclose()  # does nothing before the first command
        await self._redis.nodes_manager.aclose()
        await self._redis.nodes_manager.aclose("startup_nodes")


def connect_servers(url: str, timeout_s: float) -> Redis | Cluster:
    """Return a client of the only server, or of a cluster."""
    return Cluster(url, timeout_s) if ClusterUrl.of(url) else connect(url, timeout_s)


def hash_tags(client: Any) -> list[str]:
    """Return a hash tag for each primary of a cluster, or none for a single server.

    `client` comes from `connect_blocking`.
    """
    if not isinstance(client, redis.RedisCluster):
        return [""]
    tags: dict[NodeName, str] = {}
    for tag in (f"{{{number}}}" for number in range(SLOTS)):
        for node in client.nodes_manager.slots_cache.get(slot_of(tag), [])[:1]:
            tags.setdefault(node.name, tag)
    return list(tags.values())


def slot_of(key: str) -> int:
    """Return the slot of a key or of a channel."""
    slot: int = key_slot(key.encode())
    return slot
