"""What an idle process learns when it asks Redis for the time."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from waiting import wait_until

from chatlab.cache import cache as cache_module
from chatlab.cache.cache import LATE, Cache
from chatlab.connections import redis as redis_client
from chatlab.connections import resp
from chatlab.connections.redis import connect
from chatlab.domain.trace import EventBus
from chatlab.local.engines import Engines
from chatlab.settings import CacheMode, load_settings

PATIENT_S = 600.0  # longer than any test may take


@pytest.fixture
async def cache(engines: Engines, space: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cache]:
    """The cache of an idle process beside others that write. However slow the machine is, Redis is not given up."""
    monkeypatch.setattr(resp, "PIPELINE_TIMEOUT_S", PATIENT_S)
    monkeypatch.setattr(redis_client, "CONNECT_TIMEOUT_S", PATIENT_S)
    cache = Cache(connect(engines.redis.url, reply_timeout_s=None), load_settings(key_prefix=f"{space}:"), EventBus())
    cache.others = lambda: True
    await cache.open()
    await wait_until(lambda: not cache.breaker.is_open, "the cache to reach Redis")
    yield cache
    await cache.close()


async def test_a_late_answer_is_an_outage(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Redis answers later than LATE, another process may have given up a write: older windows are not trusted any more."""
    ask = cache._redis_time

    async def late() -> int | None:
        await asyncio.sleep(LATE + 0.02)
        return await ask()

    before = cache.epoch
    monkeypatch.setattr(cache, "_redis_time", late)
    await wait_until(lambda: cache.epoch > before, "a new epoch")
    assert not cache.breaker.is_open


async def test_an_answer_in_time_is_no_outage(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Redis answers in time, windows stay trusted."""
    monkeypatch.setattr(cache_module, "LATE", PATIENT_S)
    looks, ask = 0, cache._redis_time

    async def counted() -> int | None:
        nonlocal looks
        looks += 1
        return await ask()

    monkeypatch.setattr(cache, "_redis_time", counted)
    await wait_until(lambda: looks, "the first look", is_reached=lambda count: count >= 1)
    before = cache.epoch
    await wait_until(lambda: looks, "two more looks", is_reached=lambda count: count >= 3)
    assert cache.epoch == before


async def test_without_a_cache_for_a_while(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows from before a time without a cache are not trusted after it, and GRACE does not grow back."""
    monkeypatch.setattr(cache_module, "LATE", PATIENT_S)
    before = cache.epoch
    await cache.retune(1000, CacheMode.OFF)
    assert (cache.epoch, cache.grace_ms) == (before, 200)
    await cache.retune(5000, CacheMode.WINDOW)
    assert cache.epoch > before
    assert (cache.ttl_ms, cache.grace_ms) == (5000, 200)
