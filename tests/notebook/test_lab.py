"""A notebook's session: what belongs to it, what ends with it, and what its widgets show."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pymongo
import pytest
import redis
from waiting import LIMIT_S, wait_until

from chatlab.errors import EngineError
from chatlab.lab import Lab, doctor, predict, start
from chatlab.lab.checks import BLANK, NOT_CHECKED, NOT_YET
from chatlab.lab.key_lifetime import KeyLifetime
from chatlab.lab.lessons import start_here
from chatlab.lab.session_names import reserve_name
from chatlab.local.engines import Engines

pytest_plugins = ["patient_children"]
LabMaker = Callable[..., Awaitable[Lab]]
KERNEL = """
import asyncio, sys
from chatlab.lab import start

async def main():
    lab = await start("killed")
    print(lab.service.pid, flush=True)
    await asyncio.sleep(600)  # until it is killed

asyncio.run(main())
"""


@pytest.fixture
async def begin(
    engines: Engines, tmp_path: Path, patient_children: None
) -> AsyncIterator[LabMaker]:
    """Return a function that starts sessions on the engines of the test run.

    They end with the test.
    """
    labs: list[Lab] = []

    async def begin(name: str, **settings: Any) -> Lab:
        own: dict[str, Any] = {
            "mongo_url": engines.mongo.url,
            "redis_url": engines.redis.url,
            "data_dir": tmp_path,
        }
        labs.append(await start(name, **own, **settings))
        return labs[-1]

    yield begin
    for lab in labs:
        await lab.end()


async def test_a_session_is_joined_not_doubled(begin: LabMaker) -> None:
    """Running the first cell twice returns the live session.

    With other settings, or after the service has died, it returns a new one.
    """
    lab = await begin("twice")
    assert await begin("twice") is lab
    assert lab.service.pid
    os.kill(lab.service.pid, signal.SIGKILL)
    await wait_until(lambda: not lab.service.is_running, "the end of the service")
    again = await begin("twice")
    assert again is not lab
    assert again.service.is_running
    slow = await begin("twice", cache_ttl=20)
    assert (slow.settings.cache_ttl, again.service.is_running) == (20, False)


async def test_a_reset_touches_only_its_own(begin: LabMaker, engines: Engines) -> None:
    """Of two sessions one is reset and ended, and the other keeps its messages, keys and users."""
    one, two = await asyncio.gather(begin("one", cache_ttl=3600), begin("two", cache_ttl=3600))
    for lab in (one, two):
        await (await lab.user("alice")).send(await lab.user("bob"), "mine")
    await one.reset()
    assert (one.find_messages(), one.redis.keys("message*")) == ([], [])
    trace = await (await one.user("alice")).send(await one.user("bob"), "anew")
    assert trace.message["seq"] == 1
    assert str(await one.end()) == (
        "The service has stopped. Left in Redis: 0 keys. Left in MongoDB: 0 messages."
    )
    assert (len(two.find_messages()), len(two.redis.keys("message*"))) == (1, 2)
    space = one.settings.database
    with (
        pymongo.MongoClient[dict[str, Any]](engines.mongo.url) as mongo,
        redis.Redis.from_url(engines.redis.url) as keys,
    ):
        assert space not in mongo.list_database_names()
        assert list(keys.scan_iter(f"{space}:*")) == []


def test_the_same_notebook_twice_has_two_names(tmp_path: Path) -> None:
    """While one kernel uses a name, a second session of the same notebook gets the next one.

    Afterwards the name is free again.
    """
    first, lock = reserve_name("00", tmp_path)
    second, other = reserve_name("00", tmp_path)
    os.close(lock)
    third, again = reserve_name("00", tmp_path)
    assert (first, second, third) == ("lab_00", "lab_00_2", "lab_00")
    os.close(other)
    os.close(again)


def running_engines(folder: Path) -> list[psutil.Process]:
    """Return the private engines of a data folder."""
    return [psutil.Process(int(file.read_text())) for file in folder.rglob("*.pid")]


async def test_nothing_is_left_when_a_kernel_dies(tmp_path: Path) -> None:
    """After SIGKILL of the kernel its service ends, and so do engines that no one else uses."""
    environment = os.environ | {"CHATLAB_DATA_DIR": str(tmp_path)}
    kernel = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KERNEL, env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert kernel.stdout
    service = psutil.Process(int(await asyncio.wait_for(kernel.stdout.readline(), LIMIT_S)))
    engines = running_engines(tmp_path)
    assert len(engines) == 2
    kernel.kill()
    await kernel.wait()
    await wait_until(
        lambda: [process for process in (service, *engines) if process.is_running()],
        "the end of the service and the engines",
        is_reached=lambda alive: not alive,
    )


async def test_a_send_returns_its_trace(begin: LabMaker) -> None:
    """Over either transport the trace has the seven stages in order, each with its time.

    Its keys come without the session's prefix.
    """
    lab = await begin("way", cache_ttl=3600)
    for door in ("http", "socket"):
        trace = await (await lab.user("alice")).send(await lab.user("bob"), "Hello", transport=door)
        assert trace.stages == (
            "request",
            "create",
            "save",
            "cache_message",
            "cache_conversation",
            "emit",
            "respond",
        )
        assert all(event["tookMs"] >= 0 and event["door"] == door for event in trace.events)
        assert trace.key == f"message:{trace.id}"
        assert {trace.key, "messages:alice:bob"} <= set(lab.redis.keys("message*"))
        assert lab.find_messages(_id=trace.id) == [trace.message]


async def test_the_board_gets_changes_only(begin: LabMaker) -> None:
    """The board is updated when a key is cached, missing in Redis and reported by the sweeper.

    So it gets three messages about a key.
    """
    lab = await begin("board", cache_ttl=3, sweep_interval=0.5)
    board, models = lab.ttl_board(), list[list[dict[str, Any]]]()
    board.observe(lambda change: models.append(change["new"]["items"]), "model")
    trace = await (await lab.user("alice")).send(await lab.user("bob"), "Hello")
    assert lab.service.pid
    os.kill(
        lab.service.pid, signal.SIGSTOP
    )  # the sweeper must not report the end before the board has seen it
    try:
        await wait_until(
            lambda: [items[0]["state"] for items in models],
            "the end of the key",
            is_reached=lambda states: "expired" in states,
        )
    finally:
        os.kill(lab.service.pid, signal.SIGCONT)
    life = await lab.key_lifetime(trace)
    assert [items[0]["state"] for items in models] == ["live", "expired", "gone"]
    assert (life.ttl_ms, life.end_pttl) == (3000, -2)
    assert life.deadline_ms - 50 <= life.ended_ms
    assert life.deadline_ms - 50 <= life.reported_ms
    assert trace.key in board.snapshot()


async def test_the_map_is_lit_by_the_message(begin: LabMaker) -> None:
    """Every box of the flow map shows the time of the latest send. A read lights none of them."""
    lab = await begin("map")
    alice, bob, flow = await lab.user("alice"), await lab.user("bob"), lab.flow_map()
    await bob.read("alice")
    assert {box["tookMs"] for box in flow.model["boxes"]} == {None}
    for door in ("http", "socket"):
        trace = await alice.send(bob, "Hello", transport=door)
        took = [event["tookMs"] for event in trace.events]
        await wait_until(
            lambda: [box["tookMs"] for box in flow.model["boxes"]],
            "the times of this send on the map",
            is_reached=lambda seen: seen == took,  # noqa: B023 - called before the next turn
        )
        assert flow.model["door"] == door


async def test_a_board_shown_again_closes_the_former(begin: LabMaker) -> None:
    """Running a cell again leaves one board that receives changes, not two."""
    lab = await begin("again", cache_ttl=3600)
    former, board = lab.ttl_board(), lab.ttl_board(big=True)
    await (await lab.user("alice")).send(await lab.user("bob"), "Hello")
    assert former.comm is None
    assert (len(former.model["items"]), len(board.model["items"])) == (0, 1)


async def test_errors_in_the_background_are_shown(begin: LabMaker) -> None:
    """When the service dies, the widgets report it and name the cell to run.

    A check reports that it cannot tell, and does not raise. After the end of the session a send and
    a read raise an error that explains it.
    """
    lab = await begin("trouble")
    alice, bob = await lab.user("alice"), await lab.user("bob")
    board, flow = lab.ttl_board(), lab.flow_map()
    assert lab.service.pid
    os.kill(lab.service.pid, signal.SIGKILL)
    await wait_until(lambda: board.error and flow.error, "an error on both widgets")
    assert "service has stopped" in board.error == flow.error
    assert (await start_here.gone_at(lab, 5)).kind == NOT_CHECKED
    await lab.end()
    assert "stopped" in repr(lab)
    for act in (alice.send(bob, "too late"), alice.read("bob")):
        with pytest.raises(EngineError, match=r"The session has ended\."):
            await act


async def test_checks_distinguish_wrong_from_blank(begin: LabMaker) -> None:
    """For every kind of answer (none, a wrong word, box or type) a check says what to try next."""
    lab = await begin("checks", cache_ttl=1, sweep_interval=0.2)
    trace = await (await lab.user("alice")).send(await lab.user("bob"), "Hello")
    assert (await start_here.durable_box(lab, trace, ...)).kind == BLANK
    assert [
        (await start_here.durable_box(lab, trace, answer)).kind
        for answer in ("redis", "cache_message", "emit", None)
    ] == [NOT_YET] * 4
    assert "MongoDB still has it" in (await start_here.durable_box(lab, trace, "save")).text
    assert [(await start_here.gone_at(lab, answer)).kind for answer in (..., "five")] == [
        BLANK,
        NOT_YET,
    ]
    assert "new life" in (await start_here.gone_at(lab, 3)).text


CACHED = {"key": "message:x", "ttlMs": 5000, "at": 1_000.0}


def test_a_lifetime_keeps_its_moments_apart() -> None:
    """The deadline, the check that misses the key and the expiry report are separate moments."""
    lifetime = KeyLifetime.from_event(CACHED)
    changes = [
        lifetime.record_pttl(2000, 4_000.0, 4_000.0),
        lifetime.record_pttl(900, 5_100.0, 5_100.0),
        lifetime.record_pttl(-2, 6_020.0, 6_020.0),
    ]
    assert changes == [False, False, True]
    lifetime.record_report({"at": 6_900.0})
    assert (lifetime.state, lifetime.deadline_ms) == ("gone", 6_000.0)
    assert (lifetime.missing_after_s, lifetime.reported_after_s) == (5.02, 5.9)
    assert lifetime.lifetime_s == 5


def test_a_key_that_disappears_before_its_deadline_is_lost() -> None:
    """It ended with the first check that missed it, and no check has found it."""
    lifetime = KeyLifetime.from_event(CACHED)
    assert lifetime.record_pttl(-2, 2_990.0, 3_000.0)
    assert (lifetime.state, lifetime.lifetime_s) == ("lost", 2)
    assert len(lifetime.moments()) == 2


def test_a_new_ttl_moves_the_deadline() -> None:
    """The key was given a new TTL 2 s after it was cached."""
    lifetime = KeyLifetime.from_event(CACHED)
    assert lifetime.record_pttl(5000, 2_990.0, 3_000.0)
    assert (lifetime.cached_ms, lifetime.deadline_ms) == (1_000.0, 8_000.0)


def test_the_first_check_corrects_a_late_event() -> None:
    """The event was created 80 ms after the key was set, and the deadline shows it.

    A TTL that is shortened later does not change the time of caching.
    """
    lifetime = KeyLifetime.from_event(CACHED)
    lifetime.record_pttl(3920, 2_000.0, 2_000.0)
    assert (lifetime.cached_ms, lifetime.deadline_ms) == (920.0, 5_920.0)
    lifetime.record_pttl(1000, 3_000.0, 3_000.0)
    assert (lifetime.cached_ms, lifetime.deadline_ms) == (920.0, 4_000.0)


def test_a_slow_reply_is_neither_a_longer_life_nor_a_new_ttl() -> None:
    """The kernel stalls for 2 s while it waits for PTTL.

    The key was alive when it asked. The reply does not show that it was alive later, or that its
    deadline has moved.
    """
    lifetime = KeyLifetime.from_event(CACHED)
    assert not lifetime.record_pttl(1000, 5_000.0, 7_000.0)
    assert (lifetime.alive_ms, lifetime.deadline_ms) == (5_000.0, 6_000.0)
    lifetime.record_pttl(-2, 7_000.0, 7_000.0)
    assert lifetime.expired_at_deadline
    assert lifetime.lifetime_s == 5


def test_what_is_shown_has_a_fixed_text() -> None:
    """A saved notebook contains no memory addresses.

    The headline of the doctor says whether everything is present.
    """
    asked = predict("When?", "now", "later")
    assert repr(asked) == "When? (now / later)"
    assert str(asked.compare_with("now")) == "You made no prediction. Measured: now."
    asked.children[1].value = "later"
    assert (
        str(asked.compare_with("now"))
        == "You predicted: later. Measured: now. Not quite. Here is why."
    )
    assert repr(doctor()).splitlines()[0] == "Everything that the notebooks need is installed."
