"""Notebook 12: its first cells repair what an interrupted run has broken, and its faults are real."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from chatlab.lab import Lab, start
from chatlab.lab.lessons import breaking


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    """Start a session with its own engines."""
    monkeypatch.setenv("CHATLAB_DATA_DIR", str(tmp_path))
    lab = await start("broken", own_mongodb=True)
    yield lab
    await lab.end()


@pytest.mark.slow
async def test_joining_a_session_brings_its_engines_back(lab: Lab) -> None:
    """`start` returns the same session with one engine restarted and the other thawed."""
    alice, bob = await lab.user("alice"), await lab.user("bob")
    await lab.engines.stop("redis")
    lab.engines.freeze("mongo")
    assert await start("broken", own_mongodb=True) is lab
    await breaking.until_ok(alice)
    assert lab.redis.ping()
    assert len((await bob.read("alice", fresh=True)).messages) == 0


@pytest.mark.slow
async def test_a_disk_that_was_lost_is_put_back(lab: Lab) -> None:
    """The experiment removes MongoDB's folder and restores it; afterwards all data is there again.

    New messages can be saved, too.
    """
    alice, bob = await lab.user("alice"), await lab.user("bob")
    first = await alice.send(bob, "before")
    assert await breaking.lose_the_disk(lab, alice, bob) == (20, 0, 20)
    last = await alice.send(bob, "after")
    assert (first.message["seq"], last.message["seq"]) == (1, 22)
    assert len((await bob.read("alice", fresh=True)).messages) == 22


async def test_a_network_has_its_faults_in_order(lab: Lab) -> None:
    """A refused request does not arrive. One whose reply is lost does, and so does the last one."""
    alice, bob = await lab.user("alice"), await lab.user("bob")
    network = breaking.Network(breaking.REFUSED, breaking.LOST)
    sent = {"receiverId": bob.id, "text": "Are you there?"}
    async with breaking._client(alice, network) as http:
        for kind, saved in ((httpx.ConnectError, 0), (httpx.ReadError, 1)):
            with pytest.raises(kind):
                await http.post(breaking.SEND, json=sent)
            assert len(lab.find_messages(text=sent["text"])) == saved
        assert (await http.post(breaking.SEND, json=sent)).status_code == 200
    assert len(lab.find_messages(text=sent["text"])) == 2
