"""One call starts a replica set. Messages keep their order, and can be read, without a primary."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from faults import Deployment
from live import Service
from members import direct, kill, primary_of, restart, secondaries_of, stopped
from pymongo.errors import NotPrimaryError
from pymongo.read_concern import ReadConcern
from waiting import wait_until

from chatlab.connections.mongo import MongoDatabase
from chatlab.domain.ids import UserId, conversation_of
from chatlab.domain.message import Draft, Message, create_draft
from chatlab.local.binaries import MEMBERS
from chatlab.sessions import TOKEN_CACHE_S
from chatlab.store.group_commit import Saved
from chatlab.store.messages import MessageStore
from chatlab.store.migrations import migrate

ANN, BOB = UserId("ann"), UserId("bob")


@pytest.fixture(scope="module")
def deployment(replicated_deployment: Deployment) -> Deployment:
    """Use a MongoDB with three members."""
    return replicated_deployment


def test_one_call_starts_three_members(deployment: Deployment) -> None:
    """Every member has the data and listens on a private socket, on no port."""
    names = {primary_of(deployment), *secondaries_of(deployment)}
    assert names == set(MEMBERS)
    for name in MEMBERS:
        process = psutil.Process(deployment.pid(name))
        assert process.net_connections("inet") == []
        assert Path(deployment.engines.socket_of(name)).parent.stat().st_mode & 0o077 == 0
        with direct(deployment, name) as client:
            assert client.admin.command("hello")["setName"] == "rs0"


# --- seq --------------------------------------------------------------------------------------


async def ignore(_message: Message, _began: int, _is_new: bool) -> None:
    """Ignore an uncertain write that was found."""


@pytest.fixture
async def two_processes(
    deployment: Deployment, patient_driver: None
) -> AsyncIterator[list[MessageStore]]:
    """The messages as two processes see them. Each call waits for as long as an election takes.

    The first process does not repeat its insert after an election.
    """
    name, url = f"seqs{secrets.token_hex(4)}", deployment.engines.mongo.url
    databases = [
        MongoDatabase(address, name, migrate) for address in (f"{url}&retryWrites=false", url)
    ]
    stores = [MessageStore(database, clock=lambda: 0, on_found=ignore) for database in databases]
    for database in databases:
        await database.open()
        await wait_until(lambda: not database.breaker.is_open, "the indexes")  # noqa: B023
    yield stores
    for store in stores:
        await store.close()
    for database in databases:
        await database.close()


def draft(text: str) -> Draft:
    """Return a message that is not saved yet."""
    return create_draft(ANN, BOB, text, None)


@pytest.mark.slow
async def test_a_message_that_a_failover_removes_leaves_no_gap(
    deployment: Deployment, two_processes: list[MessageStore]
) -> None:
    """A second message must not get its seq after one that only the old primary has."""
    one, other = two_processes
    await one.save(draft("first"))
    primary, secondaries = primary_of(deployment), secondaries_of(deployment)
    has_inserts = partial(count_inserts, deployment, primary)
    for member in secondaries:
        await asyncio.to_thread(kill, deployment, member)
    lost = asyncio.create_task(one.save(draft("lost")))
    await wait_until(has_inserts, "it to reach the primary")
    kept = asyncio.create_task(other.save(draft("kept")))
    await wait_until(has_inserts, "both to reach the primary", is_reached=lambda n: n != 1)
    for fail, member in ((kill, primary), *((restart, member) for member in secondaries)):
        await asyncio.to_thread(fail, deployment, member)

    results = await asyncio.gather(lost, kept, return_exceptions=True)
    await asyncio.to_thread(restart, deployment, primary)
    found = await other.find_newest(conversation_of(ANN, BOB), 50)
    assert [message.seq for message in found] == list(range(1, len(found) + 1))
    assert all(result.message in found for result in results if isinstance(result, Saved))


def count_inserts(deployment: Deployment, primary: Any) -> int:
    """Return how many inserts of messages wait for the secondaries. 2 if it is no primary now."""
    with direct(deployment, primary) as client:
        if not client.admin.command("hello")["isWritablePrimary"]:
            return 2
        inserts = {"$match": {"active": True, "command.insert": "messages"}}
        return len(list(client.admin.aggregate([{"$currentOp": {}}, inserts])))


# --- stale reads ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stale(deployment: Deployment) -> Service:
    """A process that may read secondaries."""
    return deployment.start(STALE_READS="1")


@pytest.fixture(scope="module")
def strict(deployment: Deployment) -> Service:
    """A process that may not."""
    return deployment.start()


@pytest.mark.slow
async def test_without_a_primary_only_stale_reads_work(
    deployment: Deployment, stale: Service, strict: Service
) -> None:
    """A setting lets reads come from a secondary. They are marked, and fill no window."""
    ann, bob = deployment.create_user(stale), deployment.create_user(stale)
    window = f"{deployment.space}:messages:{conversation_of(ann.id, bob.id)}"
    also_ann = await ann.at(strict)
    sent = await ann.send(bob, "before")
    assert [(await user.read(bob)).status_code for user in (ann, also_ann)] == [200, 200]
    known_at = time.monotonic()
    last = secondaries_of(deployment)[0]
    await wait_until(partial(is_committed, deployment, last, sent["text"]), "the last member")

    with stopped(deployment, *(member for member in MEMBERS if member != last)):
        await wait_until(partial(is_secondary, deployment, last), "it to be no primary either")
        await wait_until(
            lambda: time.monotonic() - known_at, "old tokens", is_reached=TOKEN_CACHE_S.__lt__
        )
        deployment.keys.delete(window)
        for fresh in (True, False):
            answer = await ann.read(bob, fresh=fresh)
            assert (answer.status_code, answer.json()) == (200, [sent]), answer.text
            assert answer.headers["x-cache"] == "stale"
        assert deployment.keys.exists(window) == 0
        assert (await ann.send(bob, "refused"))["code"] == "store_unavailable"
        assert (await also_ann.read(bob)).status_code == 503

    answer = await wait_until(partial(ann.read, bob), "a primary", is_reached=is_current)
    assert answer.json()[0] == sent
    await asyncio.gather(*(user.close() for user in (ann, bob, also_ann)))


def is_committed(deployment: Deployment, member: Any, text: str) -> bool:
    """Return whether a member knows that a majority has this message."""
    with direct(deployment, member) as client:
        database = client.get_database(
            deployment.database.name, read_concern=ReadConcern("majority")
        )
        try:
            return database["messages"].find_one({"text": text}) is not None
        except NotPrimaryError:  # it still reads what it has missed
            return False


def is_secondary(deployment: Deployment, member: Any) -> bool:
    """Return whether a member knows that it is no primary."""
    with direct(deployment, member) as client:
        return bool(client.admin.command("hello")["secondary"])


def is_current(answer: httpx.Response) -> bool:
    """Return whether a read was answered, and not by a secondary."""
    return answer.is_success and answer.headers["x-cache"] != "stale"
