"""Many writers, two processes, one order: what several processes of the service do together looks like the work of one."""

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from faults import Site, open_site
from live import Person, Service, eventually
from load import Account, check, write

EACH = 30  # messages of a writer


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Engines of this file, which counts what they do."""
    with open_site(tmp_path_factory.mktemp("processes")) as site:
        yield site


@pytest.fixture(scope="module")
def pair(site: Site) -> tuple[Service, Service]:
    """Two processes of one service."""
    return site.start(), site.start()


async def test_eight_writers_make_one_order(site: Site, pair: tuple[Service, Service]) -> None:
    """Eight writers, both doors, two processes, one conversation and two others: seq 1 to n in each, one order for all, nothing doubled."""
    alice, bob, carol = (site.settle(pair[place % 2]) for place in range(3))
    account, aside = Account(), Account()
    writers = [await person.at(service) for person in (alice, bob) for service in pair for _ in range(2)]
    hearers = [await person.at(service) for person in (alice, bob) for service in pair]
    await asyncio.gather(*(hearer.connect() for hearer in hearers))
    other = {alice.id: bob.id, bob.id: alice.id}
    work = [
        write(account, person, other[person.id], door=("http", "socket")[place % 2], count=EACH) for place, person in enumerate(writers)
    ]
    work += [write(aside, carol, receiver.id, door="http", count=EACH) for receiver in (alice, carol)]
    await asyncio.gather(*work)
    for reader, partner, fresh in ((alice, bob, False), (alice, bob, True), (bob, alice, False), (bob, alice, True)):
        check(account, (await reader.read(partner, fresh=fresh)).json())
    for partner in (alice, carol):
        assert [message["seq"] for message in (await carol.read(partner)).json()] == list(range(1, EACH + 1))
    for hearer in hearers:
        await heard_once(hearer, account, {alice.id, bob.id})
    await asyncio.gather(*(person.close() for person in [alice, bob, carol, *writers, *hearers]))


async def heard_once(hearer: Person, account: Account, participants: set[str]) -> None:
    """This socket has heard each message of the conversation exactly once."""

    def heard() -> list[Any]:
        return [message for message in hearer.heard("newMessage") if {message["senderId"], message["receiverId"]} == participants]

    assert not account.unanswered
    await eventually(lambda: len(heard()) >= len(account.answered))
    assert len(heard()) == len(account.answered)
    assert {message["text"]: message for message in heard()} == account.answered


# --- workers of one parent -------------------------------------------------------------------------------------------------------


def workers_of(service: Service) -> list[psutil.Process]:
    """The processes that serve (there is one more, of Python's own, that looks after what they share)."""
    living = [child for child in psutil.Process(service.process.pid).children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in living if "spawn_main" in " ".join(child.cmdline())]


def metric(service: Service, name: str) -> float:
    """One value of /metrics, asked on a new connection: any worker may answer."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{service.url}/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.fixture
def crowd(site: Site) -> Service:
    """One service of two workers."""
    return site.start(WORKERS="2")


async def test_a_killed_worker_comes_back(site: Site, crowd: Service) -> None:
    """`kill -9` of a worker: the other one serves on, a new one comes, the counts go on, and its sockets are counted no more."""
    alice, bob = site.settle(crowd), site.settle(crowd)
    people = [await person.at(crowd) for person in (alice, bob) for _ in range(8)]  # connections enough for both workers
    await asyncio.gather(*(person.connect() for person in people))
    await asyncio.gather(*(person.send(bob, f"message {number}") for number, person in enumerate(people)))
    assert {metric(crowd, 'chatlab_sends_total{door="http"}') for _ in range(8)} == {len(people)}
    assert metric(crowd, "chatlab_sockets") == len(people)

    killed = workers_of(crowd)[0]
    killed.kill()
    await eventually(lambda: len(workers_of(crowd)) == 2 and killed.pid not in {worker.pid for worker in workers_of(crowd)})
    await eventually(lambda: metric(crowd, "chatlab_sockets") == sum(person.sockets[0].connected for person in people))
    lost = [person for person in people if not person.sockets[0].connected]
    assert 0 < len(lost) < len(people), "one worker had all connections: the test has shown nothing"
    await alice.send(bob, "after")
    assert metric(crowd, 'chatlab_sends_total{door="http"}') == len(people) + 1
    await asyncio.gather(*(person.close() for person in [alice, bob, *people]))
    assert crowd.stop() == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_the_end_of_the_parent_is_the_end_of_all(site: Site, crowd: Service, how: signal.Signals) -> None:
    """No process is left behind, however the parent ends."""
    family = psutil.Process(crowd.process.pid).children(recursive=True)
    assert len(family) >= 2
    os.kill(crowd.process.pid, how)
    status = await asyncio.to_thread(crowd.process.wait, 10)
    assert status == (-signal.SIGKILL if how is signal.SIGKILL else 0)
    await eventually(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in family))
