"""The regular check of Redis time: what a late reply means, and what does not count as an outage."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from waiting import wait_until

from chatlab.cache.cache import Cache
from chatlab.connections.redis import connect
from chatlab.connections.redis_limits import RedisLimits
from chatlab.domain.trace import EventBus
from chatlab.local.engines import Engines
from chatlab.settings import CacheMode, load_settings

PATIENT_S = 600.0  # longer than any test may take


@pytest.fixture
async def cache(engines: Engines, space: str) -> AsyncIterator[Cache]:
    """Open the cache of an idle process. It waits for Redis however slow the machine is."""
    settings = load_settings(key_prefix=f"{space}:", redis_timeout=PATIENT_S)
    cache = Cache(connect(engines.redis.url, PATIENT_S), settings, EventBus())
    await cache.open()
    await wait_until(lambda: not cache.servers.all()[0].breaker.is_open, "the cache to reach Redis")
    yield cache
    await cache.close()


async def test_a_late_reply_is_an_outage(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Redis replies late for the most impatient process, that one may have given up a write, so older windows are not trusted."""
    fetch_us, impatient = cache.servers.all()[0].clock.fetch_us, 0.2

    async def late() -> int | None:
        await asyncio.sleep(RedisLimits(impatient).late_reply_s + 0.02)
        return await fetch_us()

    before = cache.servers.all()[0].clock.trusted_since
    monkeypatch.setattr(cache.servers.all()[0].clock, "fetch_us", late)
    await cache.servers.all()[0].clock.check()
    assert cache.servers.all()[0].clock.trusted_since == before
    monkeypatch.setattr(cache.servers.all()[0].clock, "_peer_timeout_s", lambda: impatient)
    await cache.servers.all()[0].clock.check()
    assert cache.servers.all()[0].clock.trusted_since > before
    assert not cache.servers.all()[0].breaker.is_open


async def test_a_reply_in_time_is_no_outage(cache: Cache) -> None:
    """If Redis replies in time, windows stay trusted."""
    before = cache.servers.all()[0].clock.trusted_since
    for _ in range(3):
        await cache.servers.all()[0].clock.check()
    assert cache.servers.all()[0].clock.trusted_since == before


async def test_after_mode_off_older_windows_are_not_trusted(cache: Cache) -> None:
    """After a time in mode `off`, older windows are not trusted, and the grace period has not grown."""
    before = cache.servers.all()[0].clock.trusted_since
    await cache.reconfigure(1000, CacheMode.OFF)
    assert (cache.servers.all()[0].clock.trusted_since, cache.grace_period_ms) == (before, 200)
    await cache.reconfigure(5000, CacheMode.WINDOW)
    assert cache.servers.all()[0].clock.trusted_since > before
    assert (cache.ttl_ms, cache.grace_period_ms) == (5000, 200)
