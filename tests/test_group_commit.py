"""Group commit: sends that arrive while an insert is in flight share the next one; an idle service inserts at once; no seq is left out."""

import asyncio
import re
from collections.abc import Iterator

import httpx
import pytest
from faults import Site, Stopwatch, open_site
from live import Person, Service

from chatlab.identity import UserId
from chatlab.message import Draft, create
from chatlab.store import Store

PAIRS, EACH = 10, 12  # conversations, and sends in each at once


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Engines of this file alone: MongoDB's own counters are exact."""
    with open_site(tmp_path_factory.mktemp("groups")) as site:
        yield site


@pytest.fixture(scope="module")
def service(site: Site) -> Service:
    """One process, with its defaults."""
    return site.start()


def inserts(site: Site) -> int:
    """Insert commands that MongoDB has answered."""
    return int(site.database.command("serverStatus")["metrics"]["commands"]["insert"]["total"])


def tried(service: Service) -> int:
    """Messages that this process has put into inserts, those that were refused included."""
    found = re.search(r"^chatlab_save_batch_messages_sum (\S+)$", httpx.get(f"{service.url}/metrics").text, re.MULTILINE)
    assert found
    return int(float(found[1]))


def couples(site: Site, service: Service) -> list[tuple[Person, Person]]:
    """Pairs of people who have not spoken yet."""
    return [(site.settle(service), site.settle(service)) for _ in range(PAIRS)]


async def seqs(reader: Person, other: Person) -> list[int]:
    """The places of a conversation, as MongoDB has them."""
    return [message["seq"] for message in (await reader.read(other, fresh=True)).json()]


async def test_sends_that_wait_share_an_insert(site: Site, service: Service) -> None:
    """Sends of many conversations at once need far fewer inserts than there are messages, and are in the order of their answers."""
    pairs = couples(site, service)
    before = inserts(site)
    await asyncio.gather(*(one.send(other, f"message {number}") for number in range(EACH) for one, other in pairs))
    assert inserts(site) - before <= PAIRS * EACH / 2
    for one, other in pairs:
        assert await seqs(one, other) == list(range(1, EACH + 1))
    await asyncio.gather(*(person.close() for pair in pairs for person in pair))


async def test_an_idle_service_inserts_at_once(site: Site, service: Service) -> None:
    """One send after the other: an insert for each, and nobody waits for company."""
    one, other = site.settle(service), site.settle(service)
    await one.send(other, "the first learns what is there")
    before, watch = inserts(site), Stopwatch()
    for number in range(10):
        with watch.lap():
            await one.send(other, f"message {number}")
    assert inserts(site) - before == 10
    assert sorted(watch.times)[5] < 0.1  # seconds; a busy machine included
    await asyncio.gather(one.close(), other.close())


async def test_a_refusal_inside_a_batch_leaves_no_hole(site: Site, service: Service) -> None:
    """Two processes send to the same conversations at once: the places that one takes from the other are tried again, none is left out."""
    second = site.start()
    pairs = couples(site, service)
    there = [await one.at(second) for one, _ in pairs]
    before = tried(service)
    sends = [
        sender.send(other, f"message {number}")
        for number in range(EACH)
        for (one, other), elsewhere in zip(pairs, there, strict=True)
        for sender in (one, elsewhere)
    ]
    await asyncio.gather(*sends)
    assert tried(service) - before + tried(second) > len(sends), "nothing was refused: the test has shown nothing"
    for one, other in pairs:
        assert await seqs(one, other) == list(range(1, 2 * EACH + 1))
    await asyncio.gather(*(person.close() for person in [*there, *(person for pair in pairs for person in pair)]))


async def test_a_caller_who_gives_up_leaves_the_commit_whole(site: Site) -> None:
    """A cancelled save is saved all the same, takes its place, and takes no answer from another who waits for the same client id."""
    store = Store(site.engines.mongo.url, f"{site.space}-store", clock=lambda: 0)
    await store.open()

    def draft(text: str, client_id: str | None = None) -> Draft:
        return create(UserId("alice"), UserId("bob"), text, client_id)

    gives_up = [asyncio.create_task(store.save(draft("one", "c"))), asyncio.create_task(store.save(draft("two")))]
    waits = asyncio.create_task(store.save(draft("one", "c")))
    await asyncio.sleep(0)  # all three are on their way
    for task in gives_up:
        task.cancel()
    assert (await waits).message.seq == 1
    after = (await store.save(draft("three"))).message
    saved = await store.newest(after.conversation, 10)
    assert [(message.seq, message.text) for message in saved] == [(1, "one"), (2, "two"), (3, "three")]
    await store.close()
