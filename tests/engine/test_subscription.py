"""The subscription of a process: one connection, whenever its users come."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
from redis.asyncio import Redis
from waiting import wait_until

from chatlab.cache.cache import Cache
from chatlab.connections.redis import connect
from chatlab.domain.ids import UserId
from chatlab.domain.trace import EventBus
from chatlab.local.engines import Engines
from chatlab.realtime.broadcast import Broadcast
from chatlab.realtime.peer_settings import PeerSettings
from chatlab.realtime.presence import Presence
from chatlab.settings import Settings, load_settings
from chatlab.web.socket_server import create_socket_server

PATIENT_S = 600.0  # longer than any test may take
ANN, BOB = UserId("ann"), UserId("bob")


class Held:
    """Lets the connections of a client be made when `may_connect` is set, and counts them."""

    def __init__(self, client: Redis) -> None:
        self.may_connect, self.asked = asyncio.Event(), 0
        pool = client.connection_pool
        held, kind = self, pool.connection_class

        class HeldConnection(kind):  # type: ignore[valid-type,misc]  # it depends on the URL
            async def connect(self, **options: Any) -> None:
                held.asked += not self.is_connected
                await held.may_connect.wait()
                await super().connect(**options)

        pool.connection_class = HeldConnection


@pytest.fixture
def settings(space: str) -> Settings:
    """Return the settings of a process that waits for Redis however slow the machine is."""
    return load_settings(key_prefix=f"{space}:", redis_timeout=PATIENT_S)


@pytest.fixture
async def cache(engines: Engines, settings: Settings) -> AsyncIterator[Cache]:
    """Open the cache, whose pipeline publishes."""
    cache = Cache(connect(engines.redis.url, PATIENT_S), settings, EventBus())
    await cache.open()
    yield cache
    await cache.close()


async def find_no_partners(_user: UserId, _limit: int) -> list[UserId]:
    """Return no one."""
    return []


async def test_a_user_who_comes_while_the_process_connects_is_subscribed_with_the_others(
    engines: Engines, settings: Settings, cache: Cache, space: str, keys: redis.Redis
) -> None:
    """Two connections would be one too many: the process would listen to the second one only."""
    subscriber = connect(engines.redis.url, PATIENT_S)
    held = Held(subscriber)
    sockets = create_socket_server(settings.max_body)
    presence = Presence(sockets, cache.pipe, f"{space}:", PeerSettings(settings), find_no_partners)
    broadcast = Broadcast(
        sockets, cache.pipe, subscriber, presence, f"{space}:", cache.distrust_windows
    )
    broadcast.join("installation")
    await broadcast.joined(ANN)
    opening = asyncio.create_task(broadcast.open())
    await wait_until(lambda: held.asked == 1, "the process to connect")
    joining = asyncio.create_task(broadcast.joined(BOB))
    await opening  # it stops waiting after a while
    assert held.asked == 1
    held.may_connect.set()
    await joining
    channels = [f"{space}:installation:user:{user}" for user in (ANN, BOB)]
    expected = [(channel.encode(), 1) for channel in channels]
    await wait_until(
        lambda: keys.pubsub_numsub(*channels),
        "both subscriptions",
        is_reached=expected.__eq__,
    )
    await broadcast.close()
