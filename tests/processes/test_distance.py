"""A Redis that is far away: the limits in time follow from one setting, and the service logs a warning when Redis is too far away."""

import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from urllib.parse import urlsplit

import pytest
from faults import Deployment, Proxy
from http_clients import fetch
from live import Service, User
from waiting import block_until, wait_until

from chatlab.cache.cache import Cache
from chatlab.connections.redis import connect
from chatlab.connections.redis_limits import RedisLimits
from chatlab.domain.trace import EventBus
from chatlab.settings import load_settings

ROUND_TRIP_S = 0.3
TOO_FAR = "Redis is too far away for the cache"


class SlowProxy(Proxy):
    """A proxy in front of a Redis that is far away: a round trip takes `round_trip_s`."""

    round_trip_s = ROUND_TRIP_S

    def _pass(self, received: bytes, to: socket.socket, *, is_reply: bool) -> None:
        time.sleep(self.round_trip_s / 2)
        super()._pass(received, to, is_reply=is_reply)


@pytest.fixture
def far(deployment: Deployment) -> Iterator[SlowProxy]:
    """Return a proxy in front of Redis."""
    proxy = SlowProxy(urlsplit(deployment.engines.redis.url).path)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("answer_s", [0.05, 0.2, 0.5, 4.0, 600.0])
def test_all_limits_follow_from_one_setting(answer_s: float) -> None:
    """Whatever the setting is, no process gives up before the others can notice that Redis is silent."""
    limits = RedisLimits(answer_s)
    together = limits.check_interval_s + limits.late_reply_s + limits.farthest_s
    assert together < limits.answer_s
    assert limits.farthest_s < limits.late_reply_s


def source(user: User, other: User) -> Callable[[], object]:
    """Return a function that reads the conversation, and returns X-Cache and the texts."""

    async def read() -> tuple[str, list[str]]:
        answer = await user.read(other)
        return answer.headers["x-cache"], [message["text"] for message in answer.json()]

    return read


@contextlib.asynccontextmanager
async def two_users(
    deployment: Deployment, here: Service, there: Service
) -> AsyncIterator[tuple[User, User]]:
    """Yield two users, each a client of one of these processes."""
    alice, bob = deployment.create_user(here), deployment.create_user(there)
    try:
        yield alice, bob
    finally:
        await alice.close()
        await bob.close()


async def test_a_distant_redis_serves_reads_if_the_setting_allows_it(
    deployment: Deployment, far: SlowProxy
) -> None:
    """With a time limit of more than four round trips there are hits, and no outage."""
    service = deployment.start_patient(REDIS_URL=far.url, REDIS_TIMEOUT=str(20 * ROUND_TRIP_S))
    async with two_users(deployment, service, service) as (alice, bob):
        await alice.send(bob, "one")
        await wait_until(
            source(bob, alice), "a hit", is_reached=lambda seen: seen == ("hit", ["one"])
        )
    logged = service.log.read_text()
    assert TOO_FAR not in logged


async def test_a_process_that_is_too_far_away_says_so_and_disturbs_nobody(
    deployment: Deployment, far: SlowProxy
) -> None:
    """It reads from MongoDB and still writes to the windows, so a process near Redis shows each change in a hit. Redis is not lost."""
    far.round_trip_s = 0.8
    limit_s = f"{3 * far.round_trip_s:g}"
    # With this TTL no window expires, so only a write of the distant process can update one.
    options = {"REDIS_TIMEOUT": limit_s, "CACHE_TTL": "3600"}
    distant = deployment.start_patient(REDIS_URL=far.url, **options)
    near = deployment.start_patient(**options)
    block_until(lambda: TOO_FAR in distant.log.read_text(), "the log to say it")
    async with two_users(deployment, distant, near) as (alice, bob):
        sent = await alice.send(bob, "old")
        assert await source(alice, bob)() == ("bypass", ["old"])  # type: ignore[misc]
        await wait_until(
            source(bob, alice), "a hit", is_reached=lambda seen: seen == ("hit", ["old"])
        )
        await alice.http.patch(f"/api/messages/{sent['_id']}", json={"text": "new"})
        await wait_until(
            source(bob, alice),
            "the change in a hit",
            is_reached=lambda seen: seen == ("hit", ["new"]),
        )
    logged = distant.log.read_text()
    assert f"CHATLAB_REDIS_TIMEOUT={limit_s}" in logged
    assert TOO_FAR not in near.log.read_text()
    assert fetch(f"{distant.url}/readyz").json()["status"] == "ok"


def test_a_redis_beyond_the_time_limit_is_not_used(deployment: Deployment, far: SlowProxy) -> None:
    """If a single round trip takes longer than the time limit, the log says why the service does without Redis."""
    service = deployment.start_patient(REDIS_URL=far.url, REDIS_TIMEOUT=str(ROUND_TRIP_S / 2))
    block_until(lambda: TOO_FAR in service.log.read_text(), "the log to say it")
    assert fetch(f"{service.url}/readyz").json()["status"] == "degraded"


def test_processes_with_different_time_limits_say_so(deployment: Deployment) -> None:
    """Each of them logs both values."""
    one, other = (
        deployment.start_patient(REDIS_TIMEOUT=limit, KEY_PREFIX="differ:") for limit in "34"
    )
    for service, here, there in ((one, 3, 4), (other, 4, 3)):
        line = f"CHATLAB_REDIS_TIMEOUT is {here} here and {there} in another process"
        block_until(lambda service=service, line=line: line in service.log.read_text(), line)  # type: ignore[misc]


async def is_too_far(cache: Cache) -> bool:
    """Measure the distance to Redis once, and return whether the cache gives up."""
    await cache.servers.all()[0].clock.check()
    return cache.servers.all()[0].clock.is_too_far


async def test_the_shortest_time_limit_of_all_processes_counts(
    deployment: Deployment, far: SlowProxy
) -> None:
    """A patient process must notice what makes an impatient one give up. If it cannot at this distance, it reads no window."""
    settings = load_settings(redis_timeout=600, key_prefix=f"{deployment.space}:")
    impatient_s: float | None = None
    client = connect(far.url, 600)
    cache = Cache(client, settings, EventBus(), peer_timeout_s=lambda: impatient_s)
    try:
        await cache.open()
        assert not [await is_too_far(cache) for _ in range(5)][-1]
        impatient_s = 2 * ROUND_TRIP_S
        assert await is_too_far(cache)
        far.round_trip_s = 0
        assert not await is_too_far(cache)
    finally:
        await cache.close()
