"""An answered message is saved exactly once: after SIGKILL of MongoDB or of the service, and when a send is repeated."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import httpx
import psutil
import pytest
from faults import Deployment, Point, Proxy, frozen
from live import Service, User
from load import Account, more_answers, under_load
from shared_service import meet
from waiting import wait_until


@pytest.fixture(scope="module")
def pair(deployment: Deployment) -> tuple[Service, Service]:
    """Two processes of one service."""
    return deployment.start(), deployment.start()


@pytest.fixture(scope="module")
def proxy(deployment: Deployment) -> Iterator[Proxy]:
    """A proxy in front of MongoDB, which can hold one insert or its reply."""
    with deployment.mongo_proxy() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def behind(deployment: Deployment, proxy: Proxy) -> Service:
    """A third process, which reaches MongoDB through the proxy."""
    return deployment.start(MONGO_URL=proxy.mongo_url)


@contextlib.asynccontextmanager
async def sends_in_flight(
    deployment: Deployment, account: Account, services: tuple[Service, ...]
) -> AsyncIterator[None]:
    """Freeze MongoDB, and wait until each of these processes has a send that waits for MongoDB."""
    with frozen(deployment.pid("mongo")):
        await wait_until(lambda: set(services) <= set(account.waiting.values()), "sends in flight")
        yield


def is_replaced(deployment: Deployment, killed: int) -> bool:
    """Return whether another mongod runs."""
    return deployment.engines.pid("mongo") not in (None, killed)


async def test_killing_mongodb_loses_nothing(
    deployment: Deployment, pair: tuple[Service, Service]
) -> None:
    """After SIGKILL of mongod with sends in flight, answered messages are saved once, others at most once, and no seq is missing."""
    async with under_load(deployment, pair) as (account, _, _):
        for _ in range(2):
            async with sends_in_flight(deployment, account, pair):
                killed = deployment.pid("mongo")
                os.kill(killed, signal.SIGKILL)
            await wait_until(partial(is_replaced, deployment, killed), "a new mongod")
            await more_answers(account, 50)


async def test_killing_the_service_loses_nothing(
    deployment: Deployment, pair: tuple[Service, Service]
) -> None:
    """After SIGKILL of a process with sends in flight, answered messages are saved once, others at most once, and no seq is missing."""
    async with under_load(deployment, pair) as (account, _, _):
        for service in pair:
            async with sends_in_flight(deployment, account, (service,)):
                service.kill()
            await asyncio.to_thread(service.restart)
            await more_answers(account, 50)


@pytest.mark.parametrize("point", ["request", "reply"])
async def test_killing_the_service_between_insert_and_answer(
    deployment: Deployment, proxy: Proxy, behind: Service, point: Point
) -> None:
    """After SIGKILL before MongoDB receives the insert, or before the service gets its reply, a repeat saves no second message."""
    alice, bob = deployment.create_user(behind), deployment.create_user(behind)
    await alice.send(bob, "before")
    with proxy.holding("in flight", point) as hold:
        sending = asyncio.create_task(say(alice, bob, "in flight", "c"))
        await wait_until(hold.is_reached.is_set, f"the {point} of the insert")
        if point == "reply":
            await wait_until(
                lambda: deployment.database["messages"].find_one(
                    {"text": "in flight", "senderId": alice.id}
                ),
                "the saved message",
            )
        behind.kill()
    with contextlib.suppress(httpx.TransportError):
        assert (await sending).status_code == 503, "MongoDB was held for longer than a send waits"
    await asyncio.to_thread(behind.restart)
    answer = (await say(alice, bob, "in flight", "c")).json()
    assert (await bob.read(alice, fresh=True)).json()[1:] == [answer]
    assert (await alice.send(bob, "after"))["seq"] == 3
    await asyncio.gather(alice.close(), bob.close())


# --- client ids ------------------------------------------------------------------------------------------------------------------


async def say(sender: User, receiver: User, text: str, client_id: str) -> httpx.Response:
    """Send a message with a client id over HTTP."""
    return await sender.http.post(
        "/api/messages/send", json={"receiverId": receiver.id, "text": text, "clientId": client_id}
    )


async def test_a_client_id_repeated_a_hundred_times_at_once_is_one_message(
    deployment: Deployment, pair: tuple[Service, Service]
) -> None:
    """A hundred concurrent sends with one client id, over both transports of two processes, save one message and emit one event."""
    alice, bob = deployment.create_user(pair[0]), deployment.create_user(pair[1])
    there = await alice.at(pair[1])
    await meet(alice, there, bob)
    ways = [(alice, "http"), (alice, "socket"), (there, "http"), (there, "socket")] * 25
    answers = await asyncio.gather(
        *(who.send(bob, "once", transport=transport, clientId="c") for who, transport in ways)
    )
    assert all(answer == answers[0] for answer in answers), answers
    assert (await bob.read(alice)).json() == [answers[0]]
    await alice.send(bob, "after")
    await bob.wait_for_events("newMessage", 2)
    assert [message["text"] for message in bob.received("newMessage")] == ["once", "after"]
    await asyncio.gather(*(person.close() for person in (alice, bob, there)))


async def test_a_client_id_is_remembered_after_restarts_and_changes(
    deployment: Deployment, pair: tuple[Service, Service]
) -> None:
    """After restarts, an edit and a deletion, a repeat returns the first message in its current state, and another text gets 409."""
    alice, bob = deployment.create_user(pair[0]), deployment.create_user(pair[1])
    first = (await say(alice, bob, "first", "c")).json()
    for service in pair:
        service.stop()
        service.restart()
    assert (await say(alice, bob, "first", "c")).json() == first
    edited = (
        await alice.http.patch(f"/api/messages/{first['_id']}", json={"text": "edited"})
    ).json()
    assert (await say(alice, bob, "first", "c")).json() == edited
    assert (await say(alice, bob, "edited", "c")).status_code == 409, (
        "the edited text is not the text that was sent"
    )
    deleted = (await alice.http.delete(f"/api/messages/{first['_id']}")).json()
    assert (await say(alice, bob, "first", "c")).json() == deleted
    assert (await bob.read(alice)).json() == [deleted]
    await asyncio.gather(alice.close(), bob.close())


async def test_a_repeat_is_found_by_an_index(
    deployment: Deployment, pair: tuple[Service, Service]
) -> None:
    """MongoDB examines one document to find the message of a client id, even in a long conversation."""
    alice, bob = deployment.create_user(pair[0]), deployment.create_user(pair[1])
    await asyncio.gather(
        *(say(alice, bob, f"number {number}", f"c{number}") for number in range(100))
    )
    last = (await say(alice, bob, "last", "c")).json()
    deployment.database.command("profile", 2)
    try:
        assert (await say(alice, bob, "last", "c")).json() == last
    finally:
        deployment.database.command("profile", 0)
    found = list(
        deployment.database["system.profile"].find(
            {"op": "query", "command.filter.clientId": {"$exists": True}}
        )
    )
    assert [(query["docsExamined"], query["nreturned"]) for query in found] == [(1, 1)]
    await asyncio.gather(alice.close(), bob.close())


async def test_a_client_id_belongs_to_a_sender_in_a_conversation(
    deployment: Deployment, pair: tuple[Service, Service]
) -> None:
    """A client id with another text gets 409, even concurrently. With another sender or conversation it is a new message."""
    alice, bob, carol = (
        deployment.create_user(pair[0]),
        deployment.create_user(pair[1]),
        deployment.create_user(pair[1]),
    )
    both = await asyncio.gather(say(alice, bob, "one", "c"), say(alice, bob, "two", "c"))
    assert sorted(answer.status_code for answer in both) == [200, 409]
    others: list[Any] = [
        answer.json()
        for answer in (await say(bob, alice, "one", "c"), await say(alice, carol, "one", "c"))
    ]
    assert [message["seq"] for message in others] == [2, 1]
    assert len((await bob.read(alice)).json()) == 2
    await asyncio.gather(alice.close(), bob.close(), carol.close())


@pytest.mark.parametrize("point", ["request", "reply"])
@pytest.mark.parametrize("transport", ["http", "socket"])
async def test_a_send_is_completed_after_its_sender_disconnects(
    deployment: Deployment, proxy: Proxy, behind: Service, transport: str, point: Point
) -> None:
    """The sender disconnects before MongoDB receives the insert, or before the reply: the message is saved, cached and emitted once."""
    alice, bob = deployment.create_user(behind), deployment.create_user(behind)
    await bob.connect()
    before = connections(behind)
    with proxy.holding("hung up", point) as hold:
        await hang_up(await alice.at(behind), bob, transport, hold.is_reached)
        await wait_until(
            lambda: connections(behind),
            "the service to close the connection",
            is_reached=lambda count: count == before,
        )
    await bob.wait_for_events("newMessage")
    last = await alice.send(bob, "last")
    await bob.wait_for_events("newMessage", 2)
    seen = (await bob.read(alice)).json()
    assert [(message["seq"], message["text"]) for message in seen] == [(1, "hung up"), (2, "last")]
    assert bob.received("newMessage") == seen == (await bob.read(alice, fresh=True)).json()
    assert last == seen[-1]
    await asyncio.gather(alice.close(), bob.close())


def connections(service: Service) -> int:
    """Return the number of open client connections of this process."""
    found = psutil.Process(service.process.pid).net_connections("tcp")
    return sum(
        bool(connection.raddr) and connection.laddr.port == service.port for connection in found
    )


async def hang_up(
    sender: User, receiver: User, transport: str, is_reached: threading.Event
) -> None:
    """Send a message, and close the connection when `is_reached` is set."""
    request = {"receiverId": receiver.id, "text": "hung up"}
    if transport == "http":
        sending = asyncio.create_task(sender.http.post("/api/messages/send", json=request))
        await wait_until(is_reached.is_set, "the insert")
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    else:
        socket = await sender.connect()
        await socket.emit("sendMessage", request)
        await wait_until(is_reached.is_set, "the insert")
        await socket.eio.ws.close()
    await sender.close()
