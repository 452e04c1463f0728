"""Notebook 12, stopped half-way: running its first cells again repairs what was broken."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatlab.lab import Lab, start
from chatlab.lab.checks import NOT_YET
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
    verdict = await breaking.loses(lab, alice, bob, "redis")
    assert (verdict.kind, "20 of them are in MongoDB" in verdict.text) == (NOT_YET, True)


@pytest.mark.slow
async def test_a_disk_that_was_lost_is_put_back(lab: Lab) -> None:
    """The exercise removes MongoDB's folder and restores it; afterwards all data is there again.

    New messages can be saved, too.
    """
    alice, bob = await lab.user("alice"), await lab.user("bob")
    first = await alice.send(bob, "before")
    assert (
        "0 of them are in MongoDB. The folder is back: 20 of them."
        in (await breaking.loses(lab, alice, bob, "disk")).text
    )
    last = await alice.send(bob, "after")
    assert (first.message["seq"], last.message["seq"]) == (1, 22)
    assert len((await bob.read("alice", fresh=True)).messages) == 22
