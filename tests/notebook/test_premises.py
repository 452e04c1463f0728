"""A helper of a notebook whose premise is gone explains this, and returns no result."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from waiting import wait_until

from chatlab.lab import Lab, start
from chatlab.lab.checks import NOT_CHECKED
from chatlab.lab.lessons import (
    breaking,
    changing,
    five_seconds,
    lighter,
    over_a_socket,
    reading,
    sweeper,
)
from chatlab.lab.sentences import PremiseGone, TooSlow
from chatlab.lab.trace import Trace
from chatlab.lab.user import User
from chatlab.local.engines import Engines

pytestmark = pytest.mark.asyncio(loop_scope="module")


class World(NamedTuple):
    """A session without a sweeper, and a message whose keys have expired."""

    lab: Lab
    alice: User
    bob: User
    trace: Trace


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Start a session whose keys expire soon, and wait until those of one message have."""
    own: dict[str, Any] = {
        "mongo_url": engines.mongo.url,
        "data_dir": tmp_path_factory.mktemp("lab"),
    }
    lab = await start("premises", sweeper=False, cache_ttl=0.5, **own)
    alice, bob = await lab.user("alice"), await lab.user("bob")
    trace = await alice.send(bob, "Hello")
    await wait_until(
        lambda: list(lab.redis.scan_iter("message*")),
        "the end of both keys",
        is_reached=lambda keys: keys == [],
    )
    yield World(lab, alice, bob, trace)
    await lab.end()


async def _lost(world: World) -> Any:
    """Ask for acknowledged messages of which one is not in MongoDB any more."""
    lost: Any = breaking.finds_lost
    return await lost.__wrapped__(world.lab, [world.trace.id, "0" * 24], list)


async def _keys_of(world: World) -> Any:
    """Look for a message in Redis after it has expired."""
    return over_a_socket.keys_of(world.lab, world.trace.id)


HELPERS: dict[str, Callable[[World], Awaitable[Any]]] = {
    "key_lifetime": lambda w: w.lab.key_lifetime("message:never"),
    "four_moments": lambda w: five_seconds.four_moments(w.lab, w.bob, w.trace, w.trace),
    "watch": lambda w: sweeper.watch(w.lab, w.trace.key),
    "lifetime_without_sweeper": lambda w: sweeper.lifetime_without_sweeper(w.lab, w.trace.key),
    "waits": lambda w: sweeper.waits(w.lab, w.lab.chart("A chart")),
    "passed": lambda w: changing.passed(w.lab, "0" * 24),
    "finds_lost": _lost,
    "keys_of": _keys_of,
}


@pytest.mark.parametrize("name", HELPERS)
async def test_a_helper_whose_premise_is_gone_has_no_result(world: World, name: str) -> None:
    """It raises PremiseGone, which a cell shows as one sentence that says what to do."""
    with pytest.raises(PremiseGone) as gone:
        await HELPERS[name](world)
    assert gone.value.fix


async def test_a_helper_that_waits_in_vain_has_no_result(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for what a sweeper or a socket would have to report."""
    monkeypatch.setattr(sweeper, "TIMEOUT_S", 0.1)
    with pytest.raises(PremiseGone, match="The sweeper is not running"):
        await sweeper.sweeps(world.lab)
    with pytest.raises(PremiseGone, match="no line Cache lost"):
        await sweeper.wait_for_log(world.lab, "Cache lost", world.trace.key)


async def test_a_read_that_redis_did_not_answer_is_no_miss(world: World) -> None:
    """On a slow machine it has no result, so a right answer is not rejected."""
    await world.lab.update_settings(cache_mode="off")
    try:
        with pytest.raises(TooSlow):
            await lighter.share_of_misses(world.lab, world.bob, world.alice, 1)
        result = await reading.half_hits(world.lab, world.alice, world.bob, 3)
    finally:
        await world.lab.update_settings(cache_mode="window")
    assert result.kind == NOT_CHECKED
