"""Functions in a race: one command after another, in a chosen order. With a real Redis and MongoDB."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from pymongo.errors import DuplicateKeyError

from chatlab.lab import Lab, Race, start
from chatlab.lab.race import every_order
from chatlab.lab.sentences import PremiseGone
from chatlab.local.engines import Engines

pytestmark = pytest.mark.asyncio(loop_scope="module")
KEY = "counter"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    """Return a session without a sweeper."""
    own: dict[str, Any] = {
        "mongo_url": engines.mongo.url,
        "data_dir": tmp_path_factory.mktemp("lab"),
    }
    lab = await start("race", sweeper=False, **own)
    yield lab
    await lab.end()


def increment(r: Any, _db: Any) -> None:
    """Read, add one, write back."""
    r.set(KEY, int(r.get(KEY) or 0) + 1)


def racing(lab: Lab) -> Race:
    """Return a race of two increments of a key that does not exist."""
    lab.redis.delete(KEY)
    return Race(lab, KEY, ann=increment, ben=increment)


async def test_a_function_stops_after_a_command_until_it_may_go_on(lab: Lab) -> None:
    """So an update is lost on every run, and the picture marks the step that lost it."""
    race = racing(lab).run("ann", until="GET")
    assert lab.redis.get(KEY) is None
    race.run("ben").run("ben")
    race.run("ann")
    assert lab.redis.get(KEY) == "1"
    assert [step.lane for step in race.steps] == ["ann", "ben", "ben", "ann"]


async def test_every_order_is_tried_once(lab: Lab) -> None:
    """Two functions of two commands have six orders, and two of them keep both increments."""
    orders = [
        ("".join(step.lane[0] for step in race.steps), lab.redis.get(KEY))
        for race in every_order(lambda: racing(lab))
    ]
    assert sorted(orders) == [
        ("aabb", "2"),
        ("abab", "1"),
        ("abba", "1"),
        ("baab", "1"),
        ("baba", "1"),
        ("bbaa", "2"),
    ]


async def test_commands_to_mongodb_and_transactions_are_steps(lab: Lab) -> None:
    """Each is one step, with its reply, and so is a command that raises an error."""

    def work(r: Any, db: Any) -> int:
        db.chat.insert_one({"text": "Hello"})
        with r.pipeline() as step:
            step.set(KEY, "1").expire(KEY, 5).execute()
        return int(db.chat.count_documents({}))

    race = Race(lab, KEY, ann=work).run("ann")
    assert race.results == {"ann": 1}
    assert [step.text for step in race.steps] == [
        "insert chat 'Hello' → ok",
        "MULTI; SET counter 1; EXPIRE counter 5; EXEC → True, True",
        "aggregate chat → 1 document",
    ]
    assert race.steps[1].value == "1"


async def test_an_insert_that_a_unique_index_rejects_is_a_step(lab: Lab) -> None:
    """So two writers that take the same number are seen, and that one of them retries."""
    lab.mongo.letters.drop()
    lab.mongo.letters.create_index("seq", unique=True)

    def write(db: Any, text: str) -> int:
        while True:
            last = db.letters.find_one({}, sort=[("seq", -1)])
            letter = {"seq": last["seq"] + 1 if last else 1, "text": text}
            with contextlib.suppress(DuplicateKeyError):
                db.letters.insert_one(letter)
                return int(letter["seq"])

    race = Race(lab, ann=lambda _r, db: write(db, "A"), ben=lambda _r, db: write(db, "B"))
    race.run("ann", until="find").run("ben").run("ann")
    assert race.results == {"ann": 2, "ben": 1}
    assert [(step.lane, step.text) for step in race.steps] == [
        ("ann", "find letters → 0 documents"),
        ("ben", "find letters → 0 documents"),
        ("ben", "insert letters seq 1 'B' → ok"),
        ("ann", "insert letters seq 1 'A' → rejected: E11000 duplicate key error"),
        ("ann", "find letters → 1 document, seq 1"),
        ("ann", "insert letters seq 2 'A' → ok"),
    ]
    assert "afterwards" not in f"{race!r} {race._repr_svg_()}"


async def test_an_error_is_raised_where_the_function_runs(lab: Lab) -> None:
    """So a learner sees it in the cell, and `every_order` stops at it."""

    def fail(r: Any, _db: Any) -> None:
        r.get(KEY)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Race(lab, KEY, ann=fail).run("ann")
    with pytest.raises(ZeroDivisionError):
        list(every_order(lambda: Race(lab, KEY, ann=fail)))


async def test_a_function_without_an_end_is_stopped(lab: Lab) -> None:
    """A race has a limit of commands, and `until` needs a command that happens."""

    def loop(r: Any, _db: Any) -> None:
        while True:
            r.get(KEY)

    with pytest.raises(PremiseGone, match="more than 200 commands"):
        Race(lab, KEY, ann=loop).run("ann")
    with pytest.raises(PremiseGone, match="without the command DEL"):
        racing(lab).run("ann", until="DEL")
    with pytest.raises(PremiseGone, match="should have the reply 7"):
        racing(lab).run("ann", until="GET", reply=7)


async def test_a_long_value_does_not_leave_the_picture(lab: Lab) -> None:
    """It is cut, in the picture and in its text."""
    lab.redis.set(KEY, "x" * 3000, ex=60)
    picture = Race(lab, KEY, ann=lambda r, _db: r.get(KEY)).run("ann").picture()
    assert ("x" * 39 + "…") in repr(picture)
    assert ("x" * 41) not in f"{picture!r} {picture._repr_svg_()}"
