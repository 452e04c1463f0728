"""Measuring from a notebook: fair turns, as many samples as were asked for, and a second service to compare with."""

from collections.abc import Callable

import pytest
from test_lab import LabMaker, begin

from chatlab.bench.raw_http import Reply
from chatlab.errors import EngineError
from chatlab.lab.measure import WARM, Table, in_turn

__all__ = ["begin"]  # a fixture
pytest_plugins = ["patient_children"]


def act(name: str, asked: list[str], *caches: str, status: int = 200) -> Callable[[], Reply]:
    """A side that notes when it is asked, and answers with these X-Cache values, the last one again and again."""
    left = list(caches)

    def answer() -> Reply:
        asked.append(name)
        return Reply(status, left.pop(0) if len(left) > 1 else left[0], b"", float(len(asked)))

    return answer


async def test_sides_take_turns() -> None:
    """Each is asked once a turn, who begins changes, and only what comes after the warming up counts."""
    asked: list[str] = []
    taken = [took async for took in in_turn({"a": act("a", asked, ""), "b": act("b", asked, "")}, turns=4)]
    assert asked == ["a", "b", "b", "a"] * ((WARM + 4) // 2)
    assert [list(took) for took in taken] == [["a", "b"]] * 4
    assert [took["a"] < took["b"] for took in taken] == [True, False, True, False]


async def test_a_turn_that_is_not_wanted_is_made_again() -> None:
    """A miss among the hits is no sample, neither is what the other side took in that turn; the number of samples stays."""
    asked: list[str] = []
    caches = ["hit"] * (WARM + 1) + ["miss", "hit"]
    acts = {"with": act("with", asked, *caches), "without": act("without", asked, "bypass")}
    taken = [took async for took in in_turn(acts, turns=3, wanted={"with": "hit"})]
    assert len(taken) == 3
    assert len(asked) == 2 * (WARM + 3 + 1)


@pytest.mark.parametrize(("cache", "status"), [("miss", 200), ("hit", 503)])
async def test_it_ends_when_it_cannot_be_measured(cache: str, status: int) -> None:
    """Replies that never come as they are wanted, and refused ones, are an error with a way out, not a wait without end."""
    acts = {"with": act("with", [], cache, status=status)}
    with pytest.raises(EngineError) as wrong:
        [took async for took in in_turn(acts, turns=3, wanted={"with": "hit"})]
    assert "again" in wrong.value.fix


def test_what_hangs_on_the_machine_is_marked() -> None:
    """As text from the mark to the end of the line, as HTML by the class of its row."""
    table = Table(("what", "here"), [(False, ("keys", "0")), (True, ("bytes <each>", "76"))])
    assert repr(table) == "what          here\nkeys          0\nbytes <each>  ≈ 76"
    assert table._repr_html_().splitlines()[3].startswith('<tr class="timed"><td style="text-align:left">bytes &lt;each&gt;</td>')


async def test_a_second_service_has_a_cache_of_its_own(begin: LabMaker) -> None:
    """It knows the same people and messages, and leaves keys under its own name; it ends with the session."""
    lab = await begin("beside", cache_ttl=3600)
    alice, bob = await lab.person("alice"), await lab.person("bob")
    url = await lab.beside("other", window_size=1)
    assert await lab.beside("other") == url
    await alice.send(bob, "by the first")
    wire = lab.wire(alice, url)
    assert [
        (reply.cache, b"by the first" in reply.body)
        for reply in (wire.request("GET", "/api/messages/bob"), wire.request("GET", "/api/messages/bob"))
    ] == [
        ("miss", True),
        ("hit", True),
    ]
    assert lab.redis_keys("*messages:*") == ["messages:alice:bob", "other:messages:alice:bob"]
    await lab.end()
    with pytest.raises(ConnectionError):
        lab.wire(alice, url)
