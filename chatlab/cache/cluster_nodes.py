"""The nodes of a Redis Cluster, each with its own breaker, clock and trust in windows.

redis-py knows which primary has which slot. This process remembers since when, because another
primary may lack writes and fences, and has another clock: it may be a replica that was promoted, or
have got the slot by resharding.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from redis.exceptions import ResponseError

from chatlab.cache.keys import Keys
from chatlab.cache.node import CacheNode, Common
from chatlab.connections.cluster import SLOTS, Cluster, NodeName, slot_of
from chatlab.connections.driver_calls import DriverCalls
from chatlab.connections.pipeline import Pipeline, no_reply
from chatlab.connections.resp import TRANSACTION, Command

log = logging.getLogger(__name__)

# The clocks of the nodes may differ by this much, so a window of another node may look younger.
CLOCK_DIFFERENCE_US = 1_000_000
CHECK_INTERVAL_S = 1.0  # shorter than any failover: a primary that is no longer one is noticed
OPEN_LIMIT_S = 1.0  # how long the start waits for the nodes; later, requests do without them
WINDOW_WRITES = ("send", "change", "fence")  # scripts


class ClusterNode(CacheNode):
    """A primary. Its keys for the cache itself have a hash tag, so that they are in its slots."""

    def __init__(self, nodes: "ClusterNodes", name: NodeName, keys: Keys, common: Common) -> None:
        super().__init__(
            nodes.cluster.connect(name, common.limits.connect_s),
            keys,
            common,
            f"Redis node {name}",
            clock_difference_us=CLOCK_DIFFERENCE_US,
            follow=nodes.follow,
        )
        self.name, self._nodes = name, nodes
        self._came_at_us: dict[int, int] = {}  # of slots, in the time of this node
        self.has_been_reached = asyncio.Event()
        self._watching = asyncio.create_task(self.watch())

    def to_own_time(self, began: int) -> int:
        return self.clock.from_monotonic(began)

    def trusted_since(self, key: str) -> int:
        return max(self.clock.trusted_since, self._came_at_us.get(slot_of(key), 0))

    def may_fill(self, key: str, token: int) -> bool:
        """A token from before the slot came here is a time of another clock."""
        return token > self.trusted_since(key)

    def note_came(self, slot: int) -> None:
        """Trust no window in a slot that has just come from another node.

        A node that has not been reached yet trusts none anyway.
        """
        self._came_at_us[slot] = self.clock.now_us() + CLOCK_DIFFERENCE_US

    def remember_missed(self, key: str) -> None:
        """Leave it to the node that has the key now."""
        owner = self._nodes.of(key)
        if owner is self:
            super().remember_missed(key)
        else:
            owner.remember_missed(key)

    async def probe(self) -> None:
        """Find out first whether this node still has slots, and which ones."""
        await self._nodes.refresh(failed=self.name)
        self.use_keys(self._nodes.keys_of(self))
        await super().probe()

    def _recover(self) -> None:
        super()._recover()
        self.has_been_reached.set()

    async def close(self) -> None:
        self._watching.cancel()
        await super().close()


class ClusterNodes:
    """Knows the node of each key, and follows the topology.

    Times of writes are those of the monotonic clock of this process, which each node converts.
    """

    def __init__(self, cluster: Cluster, keys: Keys, common: Common) -> None:
        self.cluster = cluster
        self.pipe: Pipeline = ClusterPipeline(self)
        self._keys, self._common = keys, common
        self._node_of: list[ClusterNode | None] = [None] * SLOTS
        self._nodes: dict[NodeName, ClusterNode] = {}
        self._installation: str | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._nowhere: CacheNode | None = None

    def of(self, key: str, /) -> CacheNode:
        return self._node_of[slot_of(key)] or self._unreached()

    def all(self) -> Sequence[ClusterNode]:
        return list(self._nodes.values())

    def now_us(self) -> int:
        return time.monotonic_ns() // 1000

    def use_for(self, installation: str) -> None:
        self._installation = installation
        for node in self._nodes.values():
            node.claim.installation = installation

    @property
    def has_all_slots(self) -> bool:
        """Return whether each slot has had an owner."""
        return None not in self._node_of

    # --- topology -----------------------------------------------------------------------------

    async def open(self) -> None:
        try:
            async with asyncio.timeout(self._common.limits.connect_s):
                await self.refresh()
                with contextlib.suppress(ResponseError):  # forbidden: redirections take longer
                    await self.cluster.prepare()
        except Exception as error:  # noqa: BLE001 - any failure is an outage, as in the pipeline
            self._unreached().breaker.trip(error)
        reached = [asyncio.create_task(node.has_been_reached.wait()) for node in self.all()]
        if reached:
            _, late = await asyncio.wait(reached, timeout=OPEN_LIMIT_S)
            for task in late:
                task.cancel()
        self._start(self._watch())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        nodes = [*self._nodes.values(), *filter(None, [self._nowhere])]
        await asyncio.gather(*(node.close() for node in nodes))
        await self.cluster.aclose()

    async def refresh(self, failed: NodeName | None = None) -> None:
        """Learn the topology. Raises what redis-py raises."""
        await self.cluster.refresh(failed)
        before = set(self._nodes)
        for slot in range(SLOTS):
            self._learn_owner(slot)
        names = {node.name for node in self._node_of if node}
        for name in before - names:
            self._retire(self._nodes.pop(name))
        if before != names:
            log.info("the primaries of the Redis Cluster are %s", ", ".join(sorted(names)))

    def _learn_owner(self, slot: int) -> None:
        """Take the owner of a slot from redis-py. A slot without one stays where it was."""
        name, old = self.cluster.owner(slot), self._node_of[slot]
        if name is None or (old and old.name == name):
            return
        new = self._node_of[slot] = self._nodes.get(name) or self._add(name)
        if old:
            new.note_came(slot)

    def _add(self, name: NodeName) -> ClusterNode:
        node = self._nodes[name] = ClusterNode(self, name, self._keys, self._common)
        node.claim.installation = self._installation
        node.breaker.open_until_probed()
        return node

    def _retire(self, node: ClusterNode) -> None:
        """Close a node that has no slots any more. Others fence the windows that it has missed."""
        for key in node.take_missed():
            self.of(key).remember_missed(key)
        self._start(node.close())

    def keys_of(self, node: ClusterNode) -> Keys:
        """Return keys for the cache itself that this node has."""
        return Keys(self._keys.prefix, self.cluster.tag_of(node.name))

    async def _watch(self) -> None:
        """Notice primaries that have become replicas, slots that have moved, and failovers."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            nodes = self.all()
            await asyncio.gather(*(node.pipe.execute("EXISTS", node.keys.probe) for node in nodes))
            if any(node.breaker.is_open or self.of(node.keys.probe) is not node for node in nodes):
                try:
                    await self.refresh()
                except Exception as error:  # noqa: BLE001 - tried again at the next interval
                    log.debug("no topology: %s", error)
                for node in self.all():
                    node.use_keys(self.keys_of(node))

    def _unreached(self) -> CacheNode:
        """Return the node of a slot that has no known owner. It is never asked for a key.

        Its breaker is open until each slot has an owner.
        """
        if self._nowhere is None:
            self._nowhere = NoNode(self, self._keys, self._common)
        return self._nowhere

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- redirections -------------------------------------------------------------------------

    async def follow(self, command: Command, left_s: float) -> Any:
        """Return the reply to a command that a node has redirected, or None after `left_s`.

        redis-py asks the right node and learns the new owner of the slot. The arguments of a script
        are times of the node that has refused it. So a write to a window becomes a fence, which
        needs no time and is always right; any other script is given up.
        """
        key = key_of(command)
        wanted: Command = ("EXISTS", key)
        if is_script := command[0] in (TRANSACTION, "EVALSHA"):
            if self._is_window_write(command):
                fence = self.of(key).scripts.sources["fence"]
                wanted = ("EVAL", fence, 1, key, *command[4:9])
        else:
            wanted = command
        reply = None
        try:
            # In a task of its own: redis-py may ignore a cancellation while it connects to a node.
            reply = await DriverCalls(left_s).run(self.cluster.execute(*wanted))
        except Exception as failure:  # noqa: BLE001 - the caller does without a reply
            log.debug("%s was not redirected: %s", command[0], failure)
        self._learn_owner(slot_of(key))
        return None if is_script and wanted[0] == "EXISTS" else reply

    def _is_window_write(self, command: Command) -> bool:
        digests = self.of(key_of(command)).scripts.digests
        return command[0] == "EVALSHA" and command[1] in {digests[name] for name in WINDOW_WRITES}


class NoNode(CacheNode):
    """Stands in for the owner of a slot while there is none."""

    def __init__(self, nodes: ClusterNodes, keys: Keys, common: Common) -> None:
        host, port = nodes.cluster.places[0]
        redis = nodes.cluster.connect(f"{host}:{port}")
        super().__init__(redis, keys, common, "Redis Cluster")
        self._nodes = nodes
        self.breaker.open_until_probed()

    async def probe(self) -> None:
        await self._nodes.refresh()
        if not self._nodes.has_all_slots:
            raise ConnectionError("not every slot of the cluster has a node")

    def _recover(self) -> None:
        for key in self.take_missed():
            self._nodes.of(key).remember_missed(key)


class ClusterPipeline:
    """Sends each command to the node that has its key.

    PUBLISH goes to any node, and reaches the clients of all. PING has a reply if all can be used.
    """

    publish_command = "SPUBLISH"

    def __init__(self, nodes: ClusterNodes) -> None:
        self._nodes = nodes

    @property
    def is_usable(self) -> bool:
        return any(node.pipe.is_usable for node in self._nodes.all())

    def execute(self, *command: Any) -> asyncio.Future[Any]:
        if command[0] not in ("PUBLISH", "PING"):
            return self._nodes.of(key_of(command)).pipe.execute(*command)
        nodes = self._nodes.all()
        usable = [node for node in nodes if node.pipe.is_usable]
        if not usable or (command[0] == "PING" and len(usable) < len(nodes)):
            return no_reply()
        return usable[0].pipe.execute(*command)

    async def drain(self) -> None:
        await asyncio.gather(*(node.pipe.drain() for node in self._nodes.all()))


def key_of(command: Command) -> str:
    """Return the key of a command. All keys of a transaction are the same."""
    if command[0] is TRANSACTION:
        return key_of(command[1])
    key: str = command[3] if command[0] in ("EVALSHA", "EVAL") else command[1]
    return key
