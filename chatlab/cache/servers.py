"""Which Redis server has a key: the only one, or a node of a cluster."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from chatlab.cache.node import CacheNode
from chatlab.connections.pipeline import Pipeline


class Servers(Protocol):
    """All servers of a cache. `pipe` sends a command to the one that has its key."""

    @property
    def pipe(self) -> Pipeline:
        """Return the pipeline for commands that are not about the cache."""

    def of(self, key: str, /) -> CacheNode:
        """Return the server that has this key."""

    def all(self) -> Sequence[CacheNode]:
        """Return all servers that are known."""

    def now_us(self) -> int:
        """Return the time with which a write begins, for `CacheNode.to_own_time`."""

    async def open(self) -> None:
        """Connect to all servers, and watch them. A server that is away opens its breaker."""

    async def close(self) -> None:
        """Wait for the commands that were already given, and close the connections."""

    def use_for(self, installation: str) -> None:
        """Let each server claim its keys for this installation."""


class OneServer:
    """The implementation for a single server. All times are those of its clock."""

    def __init__(self, node: CacheNode, connect_s: float) -> None:
        self.node, self._connect_s = node, connect_s
        self._watching: asyncio.Task[None] | None = None

    @property
    def pipe(self) -> Pipeline:
        return self.node.pipe

    def of(self, _: str, /) -> CacheNode:
        return self.node

    def all(self) -> Sequence[CacheNode]:
        return (self.node,)

    def now_us(self) -> int:
        return self.node.clock.now_us()

    async def open(self) -> None:
        try:
            async with asyncio.timeout(self._connect_s):
                await self.node.probe()
        except Exception as error:  # noqa: BLE001 - any failure is an outage, as in the pipeline
            self.node.breaker.trip(error)
        self._watching = asyncio.create_task(self.node.watch())

    async def close(self) -> None:
        if self._watching:
            self._watching.cancel()
        await self.node.close()

    def use_for(self, installation: str) -> None:
        self.node.claim.installation = installation
