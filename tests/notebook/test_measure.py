"""Measurements in a notebook: requests alternate, each has enough samples, and a second service can be started."""

from collections.abc import Callable

import pytest
from test_lab import LabMaker, begin

from chatlab.bench.raw_http import Reply
from chatlab.errors import EngineError
from chatlab.lab.measure import WARM_UP_TURNS, Table, alternate

__all__ = ["begin"]  # a fixture
pytest_plugins = ["patient_children"]


def fake_request(name: str, log: list[str], *caches: str, status: int = 200) -> Callable[[], Reply]:
    """Return a fake request that logs its name and replies with these X-Cache values, then repeats the last."""
    left = list(caches)

    def answer() -> Reply:
        log.append(name)
        return Reply(status, left.pop(0) if len(left) > 1 else left[0], b"", float(len(log)))

    return answer


async def test_requests_alternate() -> None:
    """Each request is sent once in a turn, the order alternates, and the warm-up turns do not count."""
    log: list[str] = []
    taken = [
        took
        async for took in alternate(
            {"a": fake_request("a", log, ""), "b": fake_request("b", log, "")}, turns=4
        )
    ]
    assert log == ["a", "b", "b", "a"] * ((WARM_UP_TURNS + 4) // 2)
    assert [list(took) for took in taken] == [["a", "b"]] * 4
    assert [took["a"] < took["b"] for took in taken] == [True, False, True, False]


async def test_a_turn_with_an_unwanted_reply_is_repeated() -> None:
    """A turn with a miss among hits does not count for either request. The number of samples stays the same."""
    log: list[str] = []
    caches = ["hit"] * (WARM_UP_TURNS + 1) + ["miss", "hit"]
    acts = {
        "with": fake_request("with", log, *caches),
        "without": fake_request("without", log, "bypass"),
    }
    taken = [took async for took in alternate(acts, turns=3, wanted={"with": "hit"})]
    assert len(taken) == 3
    assert len(log) == 2 * (WARM_UP_TURNS + 3 + 1)


@pytest.mark.parametrize(("cache", "status"), [("miss", 200), ("hit", 503)])
async def test_a_measurement_that_cannot_succeed_is_an_error(cache: str, status: int) -> None:
    """Rejected requests, or replies that never have the wanted X-Cache value, raise an error with a fix."""
    acts = {"with": fake_request("with", [], cache, status=status)}
    with pytest.raises(EngineError) as raised:
        [took async for took in alternate(acts, turns=3, wanted={"with": "hit"})]
    assert "again" in raised.value.fix


def test_figures_that_depend_on_the_machine_are_marked() -> None:
    """In text a sign precedes the figures; in HTML the row has a class."""
    table = Table(("what", "here"), [(False, ("keys", "0")), (True, ("bytes <each>", "76"))])
    assert repr(table) == "what          here\nkeys          0\nbytes <each>  ≈ 76"
    assert (
        table._repr_html_()
        .splitlines()[3]
        .startswith('<tr class="timed"><td style="text-align:left">bytes &lt;each&gt;</td>')
    )


@pytest.mark.slow
async def test_a_second_service_can_have_a_cache_of_its_own(begin: LabMaker) -> None:
    """The second service has the same users and messages, and stops with the session. With a prefix it has its own keys."""
    lab = await begin("beside", cache_ttl=3600)
    alice, bob = await lab.user("alice"), await lab.user("bob")
    url = await lab.service.start_extra("other", key_prefix="other:")
    assert await lab.service.start_extra("other") == url
    await alice.send(bob, "by the first")
    wire = lab.raw_client(alice, url)
    assert [
        (reply.cache, b"by the first" in reply.body)
        for reply in (
            wire.request("GET", "/api/messages/bob"),
            wire.request("GET", "/api/messages/bob"),
        )
    ] == [
        ("miss", True),
        ("hit", True),
    ]
    assert sorted(lab.redis.scan_iter("*messages:*")) == [
        "messages:alice:bob",
        "other:messages:alice:bob",
    ]
    await lab.end()
    with pytest.raises(ConnectionError):
        lab.raw_client(alice, url)
