"""The sweeper of a Redis Cluster: one for each primary, and each of them has a lock of its own."""

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from redis.asyncio import Redis

from chatlab.cache.keys import Keys, Ttls
from chatlab.cache.sweeper import Sweeper
from chatlab.connections.cluster import Cluster, NodeName, connect_servers, slot_of
from chatlab.connections.redis_limits import RedisLimits
from chatlab.domain.trace import EventBus
from chatlab.settings import Settings

log = logging.getLogger(__name__)

REFRESH_INTERVAL_S = 30.0  # without a reason; redis-py needs some ms of processor time for it


class SweeperOfNode(NamedTuple):
    """A sweeper that runs."""

    sweeper: Sweeper
    redis: Redis
    task: asyncio.Task[None]


class ClusterSweeper:
    """Lets a `Sweeper` run for each primary that has slots. It has the same interface."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        events: EventBus,
        *,
        owns_keys: Callable[[], bool] = lambda: True,
    ) -> None:
        self._cluster, self._settings, self._events = cluster, settings, events
        self._owns_keys, self._by_name = owns_keys, dict[NodeName, SweeperOfNode]()

    async def run(self) -> None:
        """Sweep until cancelled, then let other processes take over at once."""
        interval_s, until_refresh_s = self._settings.sweep_interval, 0.0
        try:
            while True:
                is_lost = any(one.sweeper.has_lost_its_node for one in self._by_name.values())
                if is_lost or until_refresh_s <= 0:
                    until_refresh_s = REFRESH_INTERVAL_S if await self._follow_topology() else 0.0
                await asyncio.sleep(interval_s)
                until_refresh_s -= interval_s
        finally:
            await asyncio.gather(*map(self._stop, list(self._by_name)))
            await self._cluster.aclose()

    async def _follow_topology(self) -> bool:
        """Start and stop sweepers as the primaries change. Return whether these are known."""
        try:
            await self._cluster.refresh()
        except Exception as error:  # noqa: BLE001 - the circuit breakers log it; tried again
            log.debug("no topology: %s", error)
            return False
        names = self._cluster.primaries()
        await asyncio.gather(*(self._stop(name) for name in self._by_name.keys() - set(names)))
        for name in names:
            keys = Keys(self._settings.key_prefix, self._cluster.tag_of(name))
            if name not in self._by_name:
                self._by_name[name] = self._start(name)
            self._by_name[name].sweeper.use_keys(keys)
        return True

    def _start(self, name: NodeName) -> SweeperOfNode:
        redis = self._cluster.connect(name)
        sweeper = Sweeper(redis, self._settings, self._events, owns_keys=self._owns_keys, node=name)
        return SweeperOfNode(sweeper, redis, asyncio.create_task(sweeper.run()))

    async def _stop(self, name: NodeName) -> None:
        _, redis, task = self._by_name.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await redis.aclose()

    def expect(self, key: str, ttls: Ttls) -> None:
        """Track a message entry that this process has just written."""
        name = self._cluster.owner(slot_of(key))
        if name in self._by_name:
            self._by_name[name].sweeper.expect(key, ttls)

    @property
    def other_process(self) -> str | None:
        """Return the number of a process that sweeps a node instead of this one, or None."""
        others = (one.sweeper.other_process for one in self._by_name.values())
        return next(filter(None, others), None)


def create_sweeper(
    url: str,
    settings: Settings,
    events: EventBus,
    *,
    owns_keys: Callable[[], bool] = lambda: True,
) -> Sweeper | ClusterSweeper:
    """Return the sweeper of the server or of the cluster that the URL names."""
    redis = connect_servers(url, RedisLimits(settings.redis_timeout).connect_s)
    if isinstance(redis, Cluster):
        return ClusterSweeper(redis, settings, events, owns_keys=owns_keys)
    return Sweeper(redis, settings, events, owns_keys=owns_keys)
