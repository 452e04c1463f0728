"""How a session controls its service and engines, counts commands and remembers claims."""

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from waiting import wait_until

from chatlab.errors import Conflict, EngineError, StoreUnavailable
from chatlab.lab import Lab, start
from chatlab.lab.claims import BY_NAME, DOCUMENT, FAILS, HOLDS, ClaimResult, ClaimResults
from chatlab.lab.scorecard import Scorecard
from chatlab.lab.user import User
from chatlab.local.binaries import MEMBERS, NODES
from chatlab.local.engines import Engines

pytest_plugins = ["patient_children"]


@pytest.fixture
async def lab(engines: Engines, tmp_path: Path, patient_children: None) -> Any:
    """Start a session on the MongoDB of the test run."""
    lab = await start("switches", mongo_url=engines.mongo.url, data_dir=tmp_path)
    yield lab
    await lab.end()


async def two(lab: Lab) -> Any:
    """Return the users Alice and Bob."""
    return await lab.user("alice"), await lab.user("bob")


async def test_commands_are_counted(lab: Lab) -> None:
    """A send costs one insert and two scripts, and a hit only one Redis command.

    A read that bypasses the cache costs one MongoDB command and no Redis command. Commands of the
    notebook's own clients do not count.
    """
    alice, bob = await two(lab)
    await lab.update_settings(cache_ttl=3600)  # the window must not expire between the reads
    await alice.send(bob, "the first one looks up both users")
    await bob.read("alice")
    trace = await alice.send(bob, "it's \"quoted\" 'oddly")
    cached = await lab.record_queries(bob.read("alice"))
    assert (*cached[:2], cached.result.cache) == ([], ["EVALSHA messages:alice:bob"], "hit")
    fresh = await lab.record_queries(bob.read("alice", fresh=True))
    assert (*fresh[:2], fresh.result.cache) == (["find messages"], [], "bypass")
    sent = await lab.record_queries(alice.send(bob, "counted ' too"))
    assert (sent.mongo, [word.partition(":")[0] for word in sent.redis]) == (
        ["insert messages"],
        ["EVALSHA message", "EVALSHA messages"],
    )
    assert trace.id not in str(sent)

    async def read_directly() -> None:
        assert lab.redis.get(trace.key)
        assert lab.redis.delete("message:none") == 0
        assert lab.mongo.messages.count_documents({}) == 3

    assert (await lab.record_queries(read_directly()))[:2] == ([], [])
    assert repr(sent).startswith(
        "MongoDB received 1 command: insert messages\nRedis received 2 commands: "
    )


async def test_commands_of_a_widget_are_not_counted(lab: Lab) -> None:
    """A widget that polls both stores pauses while the service's commands are counted."""
    alice, bob = await two(lab)
    stores, looks = lab.stores(await alice.send(bob, "looked at")), list[int]()
    read = stores.read

    def counted() -> dict[str, Any]:
        looks.append(1)
        return read()

    stores.read = counted  # type: ignore[method-assign]
    stores._handle_custom_msg({"views": 1}, [])
    await wait_until(lambda: looks, "the first look of the widget")
    # Seconds: long enough for two more looks.
    assert await lab.record_queries(asyncio.sleep(0.6)) == ([], [], None)
    count = len(looks)
    await wait_until(
        lambda: len(looks), "another look of the widget", is_reached=lambda seen: seen > count
    )


async def test_a_setting_changes_without_a_restart(lab: Lab) -> None:
    """Changing a setting does not restart the service."""
    alice, bob = await two(lab)
    pid = lab.service.pid
    await lab.update_settings(cache_ttl=3600, cache_mode="drawn")
    trace = await alice.send(bob, "a long TTL")
    assert (lab.service.pid, lab.settings.cache_ttl) == (pid, 3600)
    assert lab.redis.pttl(trace.key) > 5000
    assert (await bob.read("alice")).cache == "bypass"


@pytest.mark.slow
async def test_a_restart_keeps_users_and_messages(lab: Lab) -> None:
    """A restart keeps the address, tokens, users and messages, also after SIGKILL.

    Sockets reconnect, flow events arrive, and the new settings apply.
    """
    alice, bob = await two(lab)
    await bob.connect()
    await alice.send(bob, "before")
    await lab.kill_service()
    assert not lab.service.is_running
    await lab.restart(sweeper=False, cache_ttl=1)
    trace = await alice.send(bob, "after")
    assert [message["text"] for message in (await bob.read("alice")).messages] == [
        "before",
        "after",
    ]
    assert "respond" in trace.stages
    await wait_until(
        lambda: [heard.payload["text"] for heard in bob.received if heard.event == "newMessage"],
        "both messages at Bob's socket",
        is_reached=lambda texts: texts == ["before", "after"],
    )
    await wait_until(
        lambda: lab.redis.pttl(trace.key), "the end of the key", is_reached=lambda pttl: pttl == -2
    )
    assert [
        event
        for event in lab.events
        if event["stage"] == "sweep" and event["at"] > trace.events[0]["at"]
    ] == []


async def test_a_shared_mongodb_cannot_be_broken(lab: Lab) -> None:
    """Without a MongoDB of its own, a session may break its Redis only. The error says how."""
    await lab.engines.crash("redis")
    assert lab.redis.ping() is True
    lab.engines.freeze("redis")
    lab.engines.thaw("redis")
    with pytest.raises(EngineError, match="Other notebooks use this MongoDB") as refused:
        await lab.engines.stop("mongo")
    assert refused.value.fix == "await start('switches', own_mongodb=True)"


@pytest.mark.slow
async def test_own_servers_can_break(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an engine frozen, killed or stopped, the service keeps its promises.

    The folder is deleted with the session.
    """
    monkeypatch.setenv("CHATLAB_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("CHATLAB_REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("CHATLAB_MONGO_URL", "mongodb://127.0.0.1:1")
    lab = await start("breaks", own_mongodb=True)
    alice, bob = await two(lab)
    await alice.send(bob, "one")
    await lab.engines.crash("redis")
    assert list(lab.redis.scan_iter("message*")) == []
    await lab.engines.crash("mongo")
    assert len(lab.find_messages()) == 1
    await wait_until(lambda: _reaches_mongodb(bob), "the service to find the new MongoDB")
    await lab.engines.stop("redis")
    assert "cache_message" not in (await alice.send(bob, "two")).stages
    await lab.engines.start("redis")
    lab.engines.freeze("mongo")
    with pytest.raises(StoreUnavailable):
        await alice.send(bob, "three")
    lab.engines.thaw("mongo")
    assert repr(await lab.end()).startswith("The session has ended.")
    assert [path.name for path in (tmp_path / "lab").iterdir() if path.is_dir()] == []


@pytest.mark.slow
async def test_members_can_be_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session may have a Redis Cluster and a replica set. A killed server stays away.

    Joining the session starts it again.
    """
    monkeypatch.setenv("CHATLAB_DATA_DIR", str(tmp_path))
    lab = await start("members", replica_set=True, redis_cluster=True)
    alice, bob = await two(lab)
    client: Any = lab.redis
    await alice.send(bob, "one")
    primary = lab.mongo.client.primary
    assert primary
    killed = [
        lab.engines.name_of(client.get_node_from_key("messages:alice:bob").port),
        lab.engines.name_of(primary[0]),
    ]
    assert set(killed) <= {*NODES, *MEMBERS}
    for name in killed:
        await lab.engines.kill(name)
    with pytest.raises(EngineError, match="is not running"):
        await lab.engines.kill(killed[0])
    with pytest.raises(EngineError, match="has no redis"):
        await lab.engines.stop("redis")
    await wait_until(lambda: _reaches_mongodb(bob), "the service to find the new primary")
    assert [message["text"] for message in lab.find_messages()] == ["one"]
    with pytest.raises(EngineError, match="Redis Cluster"):
        await lab.record_queries(bob.read("alice"))
    assert await start("members", replica_set=True, redis_cluster=True) is lab
    for name in killed:
        await lab.engines.kill(name)  # it runs again
    await lab.end()
    assert [path.name for path in (tmp_path / "lab").iterdir() if path.is_dir()] == []


async def _reaches_mongodb(user: User) -> bool:
    try:
        await user.read("alice", fresh=True)
    except StoreUnavailable:
        return False
    return True


async def test_settings_can_change_after_an_extra_service(lab: Lab) -> None:
    """While it shares the cache, the service refuses. After its end it does not."""
    await lab.service.start_extra("other")
    await wait_until(lambda: is_refused(lab), "the service to know the other process")
    await lab.service.stop_extras()
    await lab.update_settings(cache_ttl=7)
    assert lab.settings.cache_ttl == 7


async def test_settings_can_change_after_an_extra_service_was_killed(lab: Lab) -> None:
    """It has said no goodbye, so the service still expects its writes, and is restarted."""
    port = urlsplit(await lab.service.start_extra("killed")).port
    await wait_until(lambda: is_refused(lab), "the service to know the other process")
    pid = lab.service.pid
    process_at(port).kill()
    await lab.service.stop_extras()
    await lab.update_settings(cache_ttl=7)
    assert lab.settings.cache_ttl == 7
    assert lab.service.pid != pid
    await lab.update_settings(cache_ttl=8)
    assert lab.settings.cache_ttl == 8


async def is_refused(lab: Lab) -> bool:
    """Return whether the service refuses a new TTL."""
    with contextlib.suppress(Conflict):
        await lab.update_settings(cache_ttl=5)
        return False
    return True


def process_at(port: int | None) -> psutil.Process:
    """Return our child process that listens on this port."""
    children = psutil.Process().children(recursive=True)
    [found] = [one for one in children if port in listening_ports(one)]
    return found


def listening_ports(process: psutil.Process) -> set[int]:
    """Return the TCP ports on which a process listens."""
    sockets = process.net_connections("tcp")
    return {one.laddr.port for one in sockets if one.status == psutil.CONN_LISTEN}


def test_the_scorecard_keeps_the_latest_results(tmp_path: Path) -> None:
    """The scorecard keeps the latest measurement of each claim across sessions."""
    scorecard = Scorecard(tmp_path)
    assert scorecard.read() == {}
    scorecard.write(
        "04",
        [
            ClaimResult("message_key", "5.0 s", HOLDS),
            ClaimResult("total_bytes", "641 bytes", HOLDS),
        ],
    )
    scorecard.write("11", [ClaimResult("total_bytes", "650 bytes", HOLDS, timed=True)])
    known = Scorecard(tmp_path).read()
    assert {name: (entry.notebook, entry.result.measured) for name, entry in known.items()} == {
        "message_key": ("04", "5.0 s"),
        "total_bytes": ("11", "650 bytes"),
    }
    scorecard.write("00", [ClaimResult("total_bytes", "a first look", HOLDS)])
    assert scorecard.read()["total_bytes"].notebook == "11"
    scorecard.write("13", [ClaimResult("total_bytes", "once more", HOLDS)])
    assert scorecard.read()["total_bytes"].result.measured == "once more"


@pytest.mark.parametrize(
    "broken",
    ["{half", "[]", "null", '{"ttl_0": 1}', '{"ttl_0": {"verdict": "holds"}}', b"\xff\xfe"],
)
def test_an_unreadable_scorecard_is_empty_and_replaced(tmp_path: Path, broken: str | bytes) -> None:
    """A file with any invalid content is read as empty, and the next measurement is saved."""
    (tmp_path / "ledger.json").write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    scorecard = Scorecard(tmp_path)
    assert scorecard.read() == {}
    scorecard.write("06", [ClaimResult("ttl_0", "PTTL answered -2", FAILS)])
    assert list(scorecard.read()) == ["ttl_0"]


def test_claims_have_a_place_in_the_series() -> None:
    """Each claim of the document has one name and one notebook of the series."""
    assert len(BY_NAME) == len(DOCUMENT)
    assert {says.notebook for says in DOCUMENT} <= {f"{number:02}" for number in range(13)}
    assert f"all {len(DOCUMENT)} claims" in (Path(__file__).parents[2] / "README.md").read_text(
        encoding="utf-8"
    )


def test_results_that_depend_on_the_machine_are_marked() -> None:
    """Results that depend on the machine are marked.

    So a strict comparison of outputs can ignore them, and a reader is informed.
    """
    shown = ClaimResults(
        [
            ClaimResult("send_faster", "-3 %", "does not hold", timed=True),
            ClaimResult("ttl_0", "-2", "does not hold"),
        ]
    )
    first, second = repr(shown).splitlines()
    assert (first[:2], second[:2]) == ("≈ ", "do")
    assert re.findall(r'<tr class="timed">', shown._repr_html_()) == ['<tr class="timed">']


@pytest.mark.slow
async def test_a_session_with_changed_settings_is_replaced(
    engines: Engines, tmp_path: Path
) -> None:
    """Running the first cell again restores the settings that it passes."""
    own: dict[str, Any] = {"mongo_url": engines.mongo.url, "data_dir": tmp_path}
    lab = await start("anew", **own)
    await lab.update_settings(cache_ttl=20)
    again = await start("anew", **own)
    assert (again is lab, again.settings.cache_ttl) == (False, 5)
    await again.end()
