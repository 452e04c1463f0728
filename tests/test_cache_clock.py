"""What an idle process learns from its looks at Redis's clock."""

from collections.abc import AsyncIterator

import pytest
import redis
from live import eventually

from chatlab.cache import Cache
from chatlab.engines import Engines
from chatlab.flow import Flow
from chatlab.pipe import connect
from chatlab.settings import CacheMode, load_settings


@pytest.fixture
async def cache(engines: Engines, space: str) -> AsyncIterator[Cache]:
    """The cache of a process that nobody asks anything, beside others that write."""
    cache = Cache(connect(engines.redis.url, answer=None), load_settings(key_prefix=f"{space}:"), Flow())
    cache.others = lambda: True
    await cache.open()
    yield cache
    await cache.close()


async def test_a_late_answer_is_an_outage(cache: Cache, keys: redis.Redis) -> None:
    """Redis is silent for so long that another process may have given up a write: windows from before are trusted no more."""
    before = cache.epoch
    keys.execute_command("CLIENT", "PAUSE", 130, "ALL")  # type: ignore[no-untyped-call]
    await eventually(lambda: cache.epoch > before, 3)
    assert not cache.breaker.is_open


async def test_without_a_cache_for_a_while(cache: Cache) -> None:
    """Windows from before a time without a cache are trusted no more, and GRACE grows no more than it has shrunk."""
    before = cache.epoch
    await cache.retune(1000, CacheMode.OFF)
    assert (cache.epoch, cache.grace_ms) == (before, 200)
    await cache.retune(5000, CacheMode.WINDOW)
    assert cache.epoch > before
    assert (cache.ttl_ms, cache.grace_ms) == (5000, 200)
