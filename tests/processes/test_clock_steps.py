"""The clock of Redis steps, in either direction: no read becomes older than one TTL, and every key still expires."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import Deployment, Proxy
from live import Service
from stepping_redis import SteppingRedis, needs_libfaketime
from waiting import block_until, wait_until

from chatlab.cache.claim import SPARE_MS

pytestmark = needs_libfaketime

TTL_S = 600  # longer than any test takes
HOUR_S = 3600


@pytest.fixture(scope="module")
def stepping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SteppingRedis]:
    """Return a Redis whose clock the tests step."""
    server = SteppingRedis(tmp_path_factory.mktemp("stepping"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def service(deployment: Deployment, stepping: SteppingRedis) -> Service:
    """Return a service on this Redis."""
    return deployment.start_patient(REDIS_URL=stepping.url, CACHE_TTL=str(TTL_S))


class Talk:
    """A conversation with one message, `old`, which every read takes from the cache.

    MongoDB has another text already, as if the update of the cache had been lost.
    """

    def __init__(self, deployment: Deployment, service: Service) -> None:
        self._deployment, self._service = deployment, service
        self.alice, self.bob = deployment.create_user(service), deployment.create_user(service)
        self._messages = deployment.database["messages"]
        self.sent: dict[str, Any] = {}

    async def begin(self) -> "Talk":
        """Send the message. A service that was late does not trust its cache: then begin again."""
        for _ in range(10):
            if await self._is_read_from_the_cache():
                return self
            await self.close()
            self.alice = self._deployment.create_user(self._service)
            self.bob = self._deployment.create_user(self._service)
        raise AssertionError("the service was late ten times in a row")

    async def _is_read_from_the_cache(self) -> bool:
        self.sent = await self.alice.send(self.bob, "old")
        await wait_until(self.read, "a hit", is_reached=lambda seen: seen == ("hit", "old"))
        self._messages.update_one(
            {"conversation": ":".join(sorted((self.alice.id, self.bob.id)))},
            {"$set": {"text": "new"}},
        )
        return await self.read() == ("hit", "old")

    async def read(self) -> tuple[str, str]:
        """Read the conversation. Return X-Cache and the text."""
        answer = await self.bob.read(self.alice)
        (message,) = answer.json()
        return answer.headers["x-cache"], message["text"]

    async def close(self) -> None:
        await self.alice.close()
        await self.bob.close()


def ttls_ms(server: SteppingRedis) -> dict[bytes, Any]:
    """Return the TTL of each key."""
    return {key: server.keys.pttl(key) for key in server.keys.scan_iter(count=1000)}


def longest_ms(key: bytes) -> int:
    """Return the longest TTL of this key: the claim of the installation outlives all others."""
    return TTL_S * 1000 + (SPARE_MS if key.endswith(b"installation") else 0)


async def test_after_a_step_back_no_read_is_too_old_and_no_ttl_too_long(
    deployment: Deployment, service: Service, stepping: SteppingRedis
) -> None:
    """A window from before the step is not read any more. The sweeper shortens TTLs that have grown, and deletes nothing."""
    talk = await Talk(deployment, service).begin()
    before = set(ttls_ms(stepping))
    stepping.step(-HOUR_S)
    for _ in range(3):
        assert (await talk.read())[1] == "new"
    await wait_until(talk.read, "a hit", is_reached=lambda seen: seen == ("hit", "new"))
    after = block_until(
        lambda: ttls_ms(stepping),
        "no TTL to be too long",
        is_reached=lambda ttls: all(0 < ttl <= longest_ms(key) for key, ttl in ttls.items()),
    )
    assert before <= set(after)
    await talk.close()


async def test_after_a_step_forward_all_is_well(
    deployment: Deployment, service: Service, stepping: SteppingRedis
) -> None:
    """The keys expire early, each is reported as cleaned once, and the next message is cached."""
    talk = await Talk(deployment, service).begin()
    cleaned = f"Cache cleaned {deployment.space}:message:{talk.sent['_id']} "
    entry = f"Cache hit {deployment.space}:message:{talk.sent['_id']} "
    await wait_until(lambda: entry in service.log.read_text(), "a sweep to see the entry")
    stepping.step(HOUR_S)
    assert (await talk.read())[1] == "new"
    await wait_until(lambda: cleaned in service.log.read_text(), "the report of the expiry")
    await wait_until(talk.read, "a hit", is_reached=lambda seen: seen == ("hit", "new"))
    logged = service.log.read_text()
    assert logged.count(cleaned) == 1
    assert f"Cache lost {deployment.space}:message:{talk.sent['_id']}" not in logged
    await talk.close()


async def test_after_a_short_step_back_no_read_is_too_old(
    deployment: Deployment, service: Service, stepping: SteppingRedis
) -> None:
    """This test is the last one with this service: there are no hits until the clock is back at its old time."""
    talk = await Talk(deployment, service).begin()
    stepping.step(-60)
    for _ in range(3):
        assert (await talk.read())[1] == "new"
    await talk.close()


async def test_after_a_failover_to_a_machine_whose_clock_is_behind_no_read_is_too_old(
    deployment: Deployment, tmp_path: Path
) -> None:
    """The new server has the windows of the old one, which lack a write, and its clock is an hour behind."""
    old = SteppingRedis(tmp_path, "old")
    new = SteppingRedis(tmp_path, "new", ahead_s=-HOUR_S)
    new.keys.replicaof("127.0.0.1", str(old.port))
    proxy = Proxy(old.socket)
    try:
        service = deployment.start_patient(
            REDIS_URL=proxy.url,
            CACHE_TTL=str(TTL_S),
            KEY_PREFIX="failover:",
        )
        talk = await Talk(deployment, service).begin()
        window = f"failover:messages:{':'.join(sorted((talk.alice.id, talk.bob.id)))}"
        await wait_until(lambda: new.keys.exists(window), "the window to reach the new server")
        new.keys.replicaof("NO", "ONE")
        proxy._target = new.socket
        old.kill()
        for _ in range(3):
            assert (await talk.read())[1] == "new"
        await wait_until(talk.read, "a hit", is_reached=lambda seen: seen == ("hit", "new"))
        await talk.close()
    finally:
        proxy.close()
        new.kill()
        old.kill()
