"""What has been answered is there once, for ever: after `kill -9` of MongoDB or of the service, and however often a send is repeated."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from faults import Site, open_site
from live import Person, Service, eventually
from load import Account, check, write

BACK = 10.0  # seconds for a killed engine or service to be back


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Engines that may be broken."""
    with open_site(tmp_path_factory.mktemp("durability")) as site:
        yield site


@pytest.fixture(scope="module")
def pair(site: Site) -> tuple[Service, Service]:
    """Two processes of one service."""
    return site.start(), site.start()


async def more_answers(account: Account, count: int) -> None:
    """Wait until that many more sends have been answered."""
    so_far = len(account.answered)
    await eventually(lambda: len(account.answered) >= so_far + count, BACK)


def is_another(site: Site, killed: int) -> bool:
    """Does another mongod run?"""
    return site.engines.pid("mongo") not in (None, killed)


@contextlib.asynccontextmanager
async def under_load(site: Site, pair: tuple[Service, Service]) -> AsyncIterator[tuple[Account, Person]]:
    """Eight writers, one conversation: both people, both doors, both processes, with client ids and without. Checked at the end."""
    account = Account()
    alice, bob = site.settle(pair[0]), site.settle(pair[1])
    people = [await person.at(service) for person in (alice, bob) for service in pair for _ in range(2)]
    other = {alice.id: bob.id, bob.id: alice.id}
    writers = [
        asyncio.create_task(write(account, person, other[person.id], door=("http", "socket")[place % 2], repeat=place % 4 < 2))
        for place, person in enumerate(people)
    ]
    try:
        await more_answers(account, 100)
        yield account, alice
        await more_answers(account, 100)
    finally:
        account.stop = True
        await asyncio.wait_for(asyncio.gather(*writers), 2 * BACK)
    for fresh in (True, False):
        check(account, (await bob.read(alice, fresh=fresh)).json())
    await asyncio.gather(*(person.close() for person in [*people, alice, bob]))


async def test_killing_mongodb_loses_nothing(site: Site, pair: tuple[Service, Service]) -> None:
    """`kill -9` of mongod, twice, under eight writers: what was answered is there once, what was not at most once, no gap."""
    async with under_load(site, pair) as (account, _):
        for _ in range(2):
            killed = site.pid("mongo")
            os.kill(killed, signal.SIGKILL)
            await eventually(partial(is_another, site, killed), BACK)
            await more_answers(account, 50)
    assert account.answered


async def test_killing_the_service_loses_nothing(site: Site, pair: tuple[Service, Service]) -> None:
    """`kill -9` of each process in turn, under eight writers: what was answered is there once, what was not at most once, no gap."""
    async with under_load(site, pair) as (account, _):
        for service in pair:
            service.kill()
            await asyncio.to_thread(service.restart)
            await more_answers(account, 50)
    assert account.unanswered, "nothing was in flight when a process was killed: the test has shown nothing"


# --- client ids ------------------------------------------------------------------------------------------------------------------


async def say(sender: Person, receiver: Person, text: str, client_id: str) -> httpx.Response:
    """A send with a client id, by HTTP."""
    return await sender.http.post("/api/messages/send", json={"receiverId": receiver.id, "text": text, "clientId": client_id})


async def test_a_client_id_repeated_a_hundred_times_at_once_is_one_message(site: Site, pair: tuple[Service, Service]) -> None:
    """A hundred sends with one client id, through both doors of two processes at once: one message, one answer, one event."""
    alice, bob = site.settle(pair[0]), site.settle(pair[1])
    there = await alice.at(pair[1])
    await asyncio.gather(alice.connect(), there.connect(), bob.connect())
    ways = [(alice, "http"), (alice, "socket"), (there, "http"), (there, "socket")] * 25
    answers = await asyncio.gather(*(who.send(bob, "once", door=door, clientId="c") for who, door in ways))
    assert all(answer == answers[0] for answer in answers), answers
    assert (await bob.read(alice)).json() == [answers[0]]
    await alice.send(bob, "after")
    await bob.hears("newMessage", 2)
    assert [message["text"] for message in bob.heard("newMessage")] == ["once", "after"]
    await asyncio.gather(*(person.close() for person in (alice, bob, there)))


async def test_a_client_id_is_remembered_for_ever(site: Site, pair: tuple[Service, Service]) -> None:
    """After restarts, an edit and a deletion, a repeat still gives the first message as it is now, and another text is 409."""
    alice, bob = site.settle(pair[0]), site.settle(pair[1])
    first = (await say(alice, bob, "first", "c")).json()
    for service in pair:
        service.stop()
        service.restart()
    assert (await say(alice, bob, "first", "c")).json() == first
    edited = (await alice.http.patch(f"/api/messages/{first['_id']}", json={"text": "edited"})).json()
    assert (await say(alice, bob, "first", "c")).json() == edited
    assert (await say(alice, bob, "edited", "c")).status_code == 409, "what it was edited to is another text"
    deleted = (await alice.http.delete(f"/api/messages/{first['_id']}")).json()
    assert (await say(alice, bob, "first", "c")).json() == deleted
    assert (await bob.read(alice)).json() == [deleted]
    await asyncio.gather(alice.close(), bob.close())


async def test_a_repeat_is_found_by_an_index(site: Site, pair: tuple[Service, Service]) -> None:
    """In a long conversation too: MongoDB looks at one message to find the one that a client id stands for."""
    alice, bob = site.settle(pair[0]), site.settle(pair[1])
    await asyncio.gather(*(say(alice, bob, f"number {number}", f"c{number}") for number in range(100)))
    last = (await say(alice, bob, "last", "c")).json()
    site.database.command("profile", 2)
    try:
        assert (await say(alice, bob, "last", "c")).json() == last
    finally:
        site.database.command("profile", 0)
    found = list(site.database["system.profile"].find({"op": "query", "command.filter.clientId": {"$exists": True}}))
    assert [(query["docsExamined"], query["nreturned"]) for query in found] == [(1, 1)]
    await asyncio.gather(alice.close(), bob.close())


async def test_a_client_id_belongs_to_a_sender_in_a_conversation(site: Site, pair: tuple[Service, Service]) -> None:
    """The same client id with another text is 409, also at once; of another sender, or in another conversation, it is another message."""
    alice, bob, carol = site.settle(pair[0]), site.settle(pair[1]), site.settle(pair[1])
    both = await asyncio.gather(say(alice, bob, "one", "c"), say(alice, bob, "two", "c"))
    assert sorted(answer.status_code for answer in both) == [200, 409]
    others: list[Any] = [answer.json() for answer in (await say(bob, alice, "one", "c"), await say(alice, carol, "one", "c"))]
    assert [message["seq"] for message in others] == [2, 1]
    assert len((await bob.read(alice)).json()) == 2
    await asyncio.gather(alice.close(), bob.close(), carol.close())


@pytest.mark.parametrize("door", ["http", "socket"])
async def test_a_sender_who_hangs_up_leaves_the_send_whole(site: Site, pair: tuple[Service, Service], door: str) -> None:
    """A connection that is dropped in the middle of a send: it is saved, cached and emitted, or not at all; the next seq follows."""
    alice, bob = site.settle(pair[0]), site.settle(pair[1])
    await bob.connect()
    for number in range(20):
        gone = await alice.at(pair[0])
        asked = {"receiverId": bob.id, "text": f"hung up {number}"}
        if door == "http":
            task = asyncio.create_task(gone.http.post("/api/messages/send", json=asked))
            await asyncio.sleep(0.001 * number)  # in another moment of the send each time
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        else:
            socket = await gone.connect()
            await socket.emit("sendMessage", asked)
            await asyncio.sleep(0.0005 * number)  # in another moment of the send each time
            await socket.eio.ws.close()
        await gone.close()
    last = await alice.send(bob, "last")
    seen = (await bob.read(alice)).json()
    assert seen == (await bob.read(alice, fresh=True)).json()
    assert [message["seq"] for message in seen] == list(range(1, last["seq"] + 1))
    await bob.hears("newMessage", len(seen))
    assert sorted(message["seq"] for message in bob.heard("newMessage")) == [message["seq"] for message in seen]
    await asyncio.gather(alice.close(), bob.close())
