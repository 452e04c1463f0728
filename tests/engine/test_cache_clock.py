"""The regular check of Redis time: what a late reply means, and what does not count as an outage."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from waiting import wait_until

from chatlab.cache import clock as clock_module
from chatlab.cache.cache import Cache
from chatlab.cache.clock import LATE_REPLY_S
from chatlab.connections import redis as redis_client
from chatlab.connections import resp
from chatlab.connections.redis import connect
from chatlab.domain.trace import EventBus
from chatlab.local.engines import Engines
from chatlab.settings import CacheMode, load_settings

PATIENT_S = 600.0  # longer than any test may take


@pytest.fixture
async def cache(
    engines: Engines, space: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Cache]:
    """Open the cache of an idle process that has peers. It waits for Redis however slow the machine is."""
    monkeypatch.setattr(resp, "PIPELINE_TIMEOUT_S", PATIENT_S)
    monkeypatch.setattr(redis_client, "CONNECT_TIMEOUT_S", PATIENT_S)
    client, settings = (
        connect(engines.redis.url, reply_timeout_s=None),
        load_settings(key_prefix=f"{space}:"),
    )
    cache = Cache(client, settings, EventBus(), has_peers=lambda: True)
    await cache.open()
    await wait_until(lambda: not cache.breaker.is_open, "the cache to reach Redis")
    yield cache
    await cache.close()


async def test_a_late_reply_is_an_outage(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Redis replies late, another process may have given up a write, so older windows are not trusted."""
    fetch_us = cache.clock.fetch_us

    async def late() -> int | None:
        await asyncio.sleep(LATE_REPLY_S + 0.02)
        return await fetch_us()

    before = cache.clock.trusted_since
    monkeypatch.setattr(cache.clock, "fetch_us", late)
    await wait_until(lambda: cache.clock.trusted_since > before, "a new trusted_since")
    assert not cache.breaker.is_open


async def test_a_reply_in_time_is_no_outage(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Redis replies in time, windows stay trusted."""
    monkeypatch.setattr(clock_module, "LATE_REPLY_S", PATIENT_S)
    checks, fetch_us = 0, cache.clock.fetch_us

    async def counted() -> int | None:
        nonlocal checks
        checks += 1
        return await fetch_us()

    monkeypatch.setattr(cache.clock, "fetch_us", counted)
    await wait_until(lambda: checks, "the first check", is_reached=lambda count: count >= 1)
    before = cache.clock.trusted_since
    await wait_until(lambda: checks, "two more checks", is_reached=lambda count: count >= 3)
    assert cache.clock.trusted_since == before


async def test_after_mode_off_older_windows_are_not_trusted(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a time in mode `off`, older windows are not trusted, and the grace period has not grown."""
    monkeypatch.setattr(clock_module, "LATE_REPLY_S", PATIENT_S)
    before = cache.clock.trusted_since
    await cache.reconfigure(1000, CacheMode.OFF)
    assert (cache.clock.trusted_since, cache.grace_period_ms) == (before, 200)
    await cache.reconfigure(5000, CacheMode.WINDOW)
    assert cache.clock.trusted_since > before
    assert (cache.ttl_ms, cache.grace_period_ms) == (5000, 200)
