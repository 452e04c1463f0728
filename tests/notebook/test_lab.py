"""A notebook's session: what belongs to it, what ends with it, and what its widgets show."""

import asyncio
import fcntl
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pymongo
import pytest
import redis
from waiting import LIMIT_S, wait_until

from chatlab.lab import Lab, doctor, predict, start
from chatlab.lab.checks import BLANK, NOT_CHECKED, NOT_YET
from chatlab.lab.diagram import STAGES
from chatlab.lab.key_lifetime import KeyLifetime
from chatlab.lab.lessons import start_here
from chatlab.lab.sentences import PremiseGone, SessionEnded
from chatlab.lab.session import OBSERVER
from chatlab.lab.session_folder import create_folder, data_folder, remove_abandoned
from chatlab.lab.trace import Trace
from chatlab.lab.user import User as LabUser
from chatlab.lab.widgets.flow_map import FlowMap
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
    """Return a function that starts sessions on the MongoDB of the test run.

    They end with the test.
    """
    labs: list[Lab] = []

    async def begin(name: str, **settings: Any) -> Lab:
        own: dict[str, Any] = {"mongo_url": engines.mongo.url, "data_dir": tmp_path}
        labs.append(await start(name, **own, **settings))
        return labs[-1]

    yield begin
    for lab in labs:
        await lab.end()


@pytest.mark.slow
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


@pytest.mark.slow  # it starts servers of its own
async def test_a_reset_touches_only_its_own(begin: LabMaker, engines: Engines) -> None:
    """Of two sessions one is reset and ended, and the other keeps its messages, keys and users."""
    one, two = await asyncio.gather(begin("one", cache_ttl=3600), begin("two", cache_ttl=3600))
    for lab in (one, two):
        await (await lab.user("alice")).send(await lab.user("bob"), "mine")
    await one.reset()
    assert (one.find_messages(), list(one.redis.scan_iter("message*"))) == ([], [])
    trace = await (await one.user("alice")).send(await one.user("bob"), "anew")
    assert trace.message["seq"] == 1
    own_redis, database = one.redis, one.settings.database
    assert "its data in MongoDB is deleted" in repr(await one.end())
    assert (len(two.find_messages()), len(list(two.redis.scan_iter("message*")))) == (1, 2)
    with pymongo.MongoClient[dict[str, Any]](engines.mongo.url) as mongo:
        assert database not in mongo.list_database_names()
    with pytest.raises(redis.ConnectionError):
        own_redis.ping()


async def test_the_clients_are_ordinary_ones(begin: LabMaker) -> None:
    """A cell uses the clients as any program does, and keys look as in the document."""
    lab = await begin("clients", cache_ttl=3600)
    alice, bob = await lab.user("alice"), await lab.user("bob")
    heard = asyncio.get_running_loop().create_future()
    bob.socket.on("newMessage", heard.set_result)
    reply = await alice.http.post("/api/messages/send", json={"receiverId": "bob", "text": "Hi"})
    message = reply.json()
    assert await asyncio.wait_for(heard, LIMIT_S) == message
    assert sorted(lab.redis.scan_iter("message*")) == [
        f"message:{message['_id']}",
        "messages:alice:bob",
    ]
    assert lab.redis.set("message:mine", "mine", ex=60) is True
    assert (lab.redis.get("message:mine"), lab.redis.ttl("message:mine")) == ("mine", 60)
    found = lab.mongo.messages.find_one({"conversation": "alice:bob"})
    assert found is not None
    assert str(found["_id"]) == message["_id"]
    ack = await bob.socket.call("sendMessage", {"receiverId": "alice", "text": "Hi to you"})
    assert ack["message"]["seq"] == 2


def test_the_same_notebook_twice_has_two_folders(tmp_path: Path) -> None:
    """Each session has a folder of its own, whose name is also that of its database."""
    folders, locks = zip(*(create_folder("00", tmp_path) for _ in range(2)), strict=True)
    assert len(set(folders)) == 2
    assert all(re.fullmatch(r"lab_00_[0-9a-f]{6}", folder.name) for folder in folders)
    for lock in locks:
        os.close(lock)


def test_what_a_killed_session_has_left_is_removed(tmp_path: Path) -> None:
    """The folder and the database of a killed session are deleted.

    They stay while the kernel, the service or the supervisor of the session is alive. Without a
    client of the shared MongoDB, only the folder of a session with its own MongoDB is deleted.
    """
    names = ("alive", "stopping", "shared", "own", "members")
    folders = {name: create_folder(name, tmp_path) for name in names}
    for name in ("shared", "own", "members", "stopping"):
        os.close(folders[name][1])
    for name, db in (("own", "db"), ("members", "db1")):
        (folders[name][0] / db).mkdir()
        (folders[name][0] / db / "journal").touch()
    with (folders["stopping"][0] / "lock").open("w") as supervisor:
        fcntl.flock(supervisor, fcntl.LOCK_EX)
        remove_abandoned(tmp_path, None)
        assert {name for name in names if folders[name][0].exists()} == {*names} - {
            "own",
            "members",
        }
        dropped: list[str] = []
        remove_abandoned(tmp_path, dropped.append)
        assert dropped == [folders["shared"][0].name]
        assert [name for name in names if folders[name][0].exists()] == ["alive", "stopping"]
    os.close(folders["alive"][1])


def running_engines(folder: Path) -> list[psutil.Process]:
    """Return the private engines of a data folder and of its sessions."""
    folders = [folder, *(folder / "lab").glob("lab_*")]
    files = [file for path in folders for file in data_folder(path).run.glob("*.pid")]
    return [psutil.Process(int(file.read_text())) for file in files]


async def test_nothing_is_left_when_a_kernel_dies(tmp_path: Path) -> None:
    """After SIGKILL of the kernel its service ends, and so do engines that no one else uses."""
    environment = os.environ | {"CHATLAB_DATA_DIR": str(tmp_path)}
    kernel = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KERNEL, env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert kernel.stdout
    service = psutil.Process(int(await asyncio.wait_for(kernel.stdout.readline(), LIMIT_S)))
    engines = running_engines(tmp_path)
    assert len(engines) == 2  # the shared MongoDB, and the session's own Redis
    kernel.kill()
    await kernel.wait()
    await wait_until(
        lambda: [process for process in (service, *engines) if process.is_running()],
        "the end of the service and the engines",
        is_reached=lambda alive: not alive,
    )


async def test_a_ping_that_did_not_come_in_time_prints_nothing(
    begin: LabMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """A busy machine is no error of the learner. An error in a handler is one, and is printed."""
    lab = await begin("pings")
    alice, bob = await lab.user("alice"), await lab.user("bob")

    async def broken(_message: Any) -> None:
        raise ZeroDivisionError

    bob.socket.on("newMessage", broken)
    await alice.send_by_socket("bob", "Hello")
    await wait_until(lambda: "ZeroDivisionError" in caplog.text, "the error of the handler")
    caplog.clear()

    engine = alice.socket.eio
    engine.ping_interval = engine.ping_timeout = -5  # it waits 5 s longer, so not at all
    await alice.socket.emit("typing", {"receiverId": "bob"})
    await wait_until(engine.write_loop_task.done, "the client to miss a ping")
    assert "packet queue is empty" not in caplog.text


async def test_a_session_receives_stages_again_after_a_lost_connection(begin: LabMaker) -> None:
    """Stages that were lost have no verdict. Later sends have a trace again."""
    lab = await begin("lost", cache_ttl=3600)
    alice, bob = await lab.user("alice"), await lab.user("bob")
    observer = await lab.user(OBSERVER, connect=False)
    await observer.disconnect()
    lost = Trace((await alice.send_by_http(bob.id, "Nobody watches")).message, 0.0, [])
    with pytest.raises(PremiseGone, match="no stage of this message"):
        _ = lost.stages
    await wait_until(lambda: observer.is_watching_flow, "a new connection for the stages")
    assert (await alice.send(bob, "Somebody watches")).stages == STAGES


async def test_a_send_returns_its_trace(begin: LabMaker) -> None:
    """Over either transport the trace has the seven stages in order, each with its time."""
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
        assert {trace.key, "messages:alice:bob"} <= set(lab.redis.scan_iter("message*"))
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
        # A busy machine may save a message too late for the cache, which then has no time.
        await wait_until(
            partial(_light_map, flow, alice, bob, door),
            "a send that lights every box",
            is_reached=lambda times: None not in times,
        )
        assert flow.model["door"] == door


async def _light_map(flow: FlowMap, alice: LabUser, bob: LabUser, door: str) -> list[float | None]:
    """Send a message and return the time of each box, when the map shows those of this message."""
    trace = await alice.send(bob, "Hello", transport=door)
    took = {event["stage"]: event["tookMs"] for event in trace.events}

    def times() -> dict[str, float | None]:
        return {box["stage"]: box["tookMs"] for box in flow.model["boxes"]}

    shown = await wait_until(
        times,
        "the times of this send on the map",
        is_reached=lambda shown: (
            {stage: ms for stage, ms in shown.items() if ms is not None} == took
        ),
    )
    return list(shown.values())


async def test_a_board_shown_again_closes_the_former(begin: LabMaker) -> None:
    """Running a cell again leaves one board that receives changes, not two."""
    lab = await begin("again", cache_ttl=3600)
    former, board = lab.ttl_board(), lab.ttl_board(big=True)
    await (await lab.user("alice")).send(await lab.user("bob"), "Hello")
    assert former.comm is None
    assert (len(former.model["items"]), len(board.model["items"])) == (0, 1)


async def test_errors_in_the_background_are_shown(begin: LabMaker) -> None:
    """When the service dies, the widgets report it and name the cell to run.

    A check reports that it cannot tell, and does not raise.
    """
    lab = await begin("trouble")
    board, flow = lab.ttl_board(), lab.flow_map()
    assert lab.service.pid
    os.kill(lab.service.pid, signal.SIGKILL)
    await wait_until(lambda: board.error and flow.error, "an error on both widgets")
    assert "service has stopped" in board.error == flow.error
    assert (await start_here.gone_at(lab, 5)).kind == NOT_CHECKED
    await lab.end()
    assert "stopped" in repr(lab)
    assert "The session has ended." in (await start_here.gone_at(lab, 5)).text


async def test_after_the_end_everything_says_how_to_start_again(begin: LabMaker) -> None:
    """Every method and client of an ended session raises SessionEnded. A second end does nothing."""
    lab = await begin("over")
    alice, bob = await lab.user("alice"), await lab.user("bob")
    trace = await alice.send(bob, "Hello")
    farewell = repr(await lab.end())
    awaited: list[Callable[[], Awaitable[Any]]] = [
        lambda: alice.send(bob, "too late"),
        lambda: alice.read("bob"),
        lambda: lab.user("carol"),
        lab.reset,
        lab.restart,
        lab.kill_service,
        lambda: lab.update_settings(cache_ttl=1),
        lambda: lab.key_lifetime(trace),
        lambda: lab.record_queries(asyncio.sleep(0)),
        lambda: lab.service.start_extra("two"),
    ]
    for act in awaited:
        with pytest.raises(SessionEnded):
            await act()
    called: list[Callable[[], Any]] = [
        lambda: lab.redis,
        lambda: lab.mongo,
        lambda: lab.engines,
        lab.find_messages,
        lambda: lab.raw_client(alice),
        lab.flow_map,
        lab.ttl_board,
        lab.timeline,
        lambda: lab.chat(alice, bob),
        lambda: lab.stores(trace),
        lambda: lab.chart("A chart"),
    ]
    for call in called:
        with pytest.raises(SessionEnded):
            call()
    assert repr(await lab.end()) == farewell


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
    # A busy machine may save a message too late for a cache with such a short TTL.
    answer = await wait_until(
        lambda: start_here.gone_at(lab, 3),
        "a lifetime that was observed",
        is_reached=lambda answer: "was not observed" not in answer.text,
    )
    assert "new TTL" in answer.text


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
