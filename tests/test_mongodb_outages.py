"""MongoDB is the truth: while it is away nothing is promised, everybody is told at once, and the service finds it again by itself."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from faults import Site, Stopwatch, frozen, open_site
from live import Person, Service, eventually

PATIENCE = 2.5  # seconds after which everybody has been told
AT_ONCE = 0.25  # seconds for an answer while it is known that MongoDB is away
BACK = 8.0  # seconds; a MongoDB that was stopped looks through its journal first
Outage = Callable[[Site], contextlib.AbstractContextManager[None]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Engines that may be broken."""
    with open_site(tmp_path_factory.mktemp("mongodb")) as site:
        yield site


@pytest.fixture(scope="module")
def service(site: Site) -> Service:
    """The one process of this file that knew MongoDB before."""
    return site.start()


@pytest.fixture
async def pair(site: Site, service: Service) -> AsyncIterator[tuple[Person, Person]]:
    """Two people with sockets, one message between them."""
    alice, bob = site.settle(service), site.settle(service)
    await alice.connect()
    await bob.connect()
    await alice.send(bob, "before")
    await bob.hears("newMessage")
    yield alice, bob
    await asyncio.gather(alice.close(), bob.close())


@contextlib.contextmanager
def stopped(site: Site) -> Iterator[None]:
    """Connections are refused."""
    site.engines.stop("mongo")
    yield
    site.engines.start("mongo")


@contextlib.contextmanager
def black_holed(site: Site) -> Iterator[None]:
    """Connections are accepted, and nothing is said."""
    with frozen(site.pid("mongo")):
        yield


def body(receiver: Person, text: str, client_id: str | None = None) -> dict[str, Any]:
    """What a send asks."""
    return {"receiverId": receiver.id, "text": text, "clientId": client_id}


async def refused(sender: Person, receiver: Person, text: str, client_id: str | None = None) -> None:
    """A send must be answered with 503 and Retry-After, and not with a message."""
    answer = await sender.http.post("/api/messages/send", json=body(receiver, text, client_id))
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable"), answer.text
    assert int(answer.headers["retry-after"]) >= 1


async def sends_again(sender: Person, receiver: Person, text: str, client_id: str | None = None) -> Any:
    """The first send that is answered with a message, after any number of 503."""
    deadline = time.monotonic() + BACK
    while (answer := await sender.http.post("/api/messages/send", json=body(receiver, text, client_id))).status_code != 200:
        assert answer.status_code == 503, answer.text
        assert time.monotonic() < deadline, "the service does not come back"
        await asyncio.sleep(0.05)  # between two tries
    return answer.json()


@pytest.mark.parametrize("outage", [stopped, black_holed])
async def test_an_outage_is_told_in_time_and_ends_by_itself(site: Site, pair: tuple[Person, Person], outage: Outage) -> None:
    """503 with Retry-After within PATIENCE, then at once, at both doors; /readyz names MongoDB; it ends by itself, nothing half done."""
    alice, bob = pair
    first, later = Stopwatch(), Stopwatch()
    with outage(site):
        with first.lap():
            await refused(alice, bob, "nobody may see this")
        for _ in range(5):
            with later.lap():
                await refused(alice, bob, "nor this")
            with later.lap():
                assert (await alice.send(bob, "nor that", door="socket"))["code"] == "store_unavailable"
            with later.lap():
                assert (await alice.read(bob, fresh=True)).status_code == 503
        ready = await alice.http.get("/readyz")
        assert (ready.status_code, ready.json()["mongodb"]) == (503, "down")
    after = await sends_again(alice, bob, "after")
    texts = [message["text"] for message in (await bob.read(alice, fresh=True)).json()]
    assert texts in (["before", "after"], ["before", "nobody may see this", "after"]), "a refused send is there once or not at all"
    assert after["seq"] == len(texts)
    assert max(first.times) < PATIENCE
    assert len(later.over(AT_ONCE)) <= 1, later.times


async def test_many_who_wait_are_told_together(site: Site, pair: tuple[Person, Person]) -> None:
    """Of a hundred sends that wait behind one another when MongoDB falls silent, none waits longer than the first."""
    alice, bob = pair
    with black_holed(site):
        began = time.monotonic()
        await asyncio.gather(*(refused(alice, bob, f"one of many {number}") for number in range(100)))
        assert time.monotonic() - began < PATIENCE + 1  # for a hundred requests on a busy machine
    await sends_again(alice, bob, "after")
    seqs = [message["seq"] for message in (await bob.read(alice, fresh=True)).json()]
    assert seqs == list(range(1, len(seqs) + 1))


@pytest.mark.parametrize("client_id", ["the same", None])
async def test_a_send_that_was_saved_unseen_is_finished(site: Site, pair: tuple[Person, Person], client_id: str | None) -> None:
    """Saved by a MongoDB that thawed after the 503: it is in every read, a repeat gives it, and the other one hears of it exactly once."""
    alice, bob = pair
    with black_holed(site):
        await refused(alice, bob, "saved unseen", client_id)
    if client_id:
        repeated = [await sends_again(alice, bob, "saved unseen", client_id) for _ in range(3)]
        assert [message["seq"] for message in repeated] == [2, 2, 2]
    else:
        await eventually(lambda: site.database["messages"].find_one({"text": "saved unseen", "senderId": alice.id}), BACK)
    await bob.hears("newMessage", 2)
    after = await alice.send(bob, "after")
    await bob.hears("newMessage", 3)
    assert [message["text"] for message in bob.heard("newMessage")] == ["before", "saved unseen", "after"]
    assert [message["text"] for message in (await bob.read(alice)).json()] == ["before", "saved unseen", "after"]
    assert after["seq"] == 3


async def test_a_service_starts_without_mongodb(site: Site) -> None:
    """Not there when the service starts: 503 until it comes, and the indexes are there before the first message is."""
    with stopped(site):
        late = site.start(DATABASE=f"{site.space}late")
        async with httpx.AsyncClient(base_url=late.url, timeout=10) as nobody:
            answer = await nobody.post("/api/auth/signup", json={"username": "alice", "password": "correct horse"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    await eventually(lambda: httpx.get(f"{late.url}/readyz").status_code == 200, BACK)
    database = site.database.client[f"{site.space}late"]
    assert {"place", "once"} <= set(database["messages"].index_information())
    assert database["messages"].count_documents({}) == 0
    assert late.stop() == 0
