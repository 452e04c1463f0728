"""Without MongoDB the service saves nothing and answers 503 at once. It recovers by itself when MongoDB is back."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from faults import Deployment, frozen
from http_clients import fetch, open_client
from live import Service, User
from waiting import wait_until

Outage = Callable[[Deployment], contextlib.AbstractContextManager[None]]


@pytest.fixture(scope="module")
def service(deployment: Deployment) -> Service:
    """The process of this file. It has reached MongoDB before each outage."""
    return deployment.start()


@pytest.fixture
async def pair(deployment: Deployment, service: Service) -> AsyncIterator[tuple[User, User]]:
    """Two users with sockets and one message between them. MongoDB has recovered from the outage of the previous test."""
    await wait_until(
        lambda: fetch(f"{service.url}/readyz").status_code == 200,
        "MongoDB to be up",
    )
    alice, bob = deployment.create_user(service), deployment.create_user(service)
    await alice.connect()
    await bob.connect()
    await sends_again(alice, bob, "before")
    await bob.wait_for_events("newMessage")
    yield alice, bob
    await asyncio.gather(alice.close(), bob.close())


@contextlib.contextmanager
def stopped(deployment: Deployment) -> Iterator[None]:
    """Stop MongoDB: it refuses connections."""
    deployment.engines.stop("mongo")
    try:
        yield
    finally:
        deployment.engines.start("mongo")


@contextlib.contextmanager
def black_holed(deployment: Deployment) -> Iterator[None]:
    """Freeze MongoDB: it accepts connections and answers nothing."""
    with frozen(deployment.pid("mongo")):
        yield


def body(receiver: User, text: str, client_id: str | None = None) -> dict[str, Any]:
    """Return the body of a send."""
    return {"receiverId": receiver.id, "text": text, "clientId": client_id}


async def refused(sender: User, receiver: User, text: str, client_id: str | None = None) -> None:
    """Send a message, and check that the answer is 503 with Retry-After."""
    answer = await sender.http.post("/api/messages/send", json=body(receiver, text, client_id))
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable"), answer.text
    assert int(answer.headers["retry-after"]) >= 1


async def sends_again(sender: User, receiver: User, text: str, client_id: str | None = None) -> Any:
    """Repeat a send until it is answered with a message, and return the message. Every other answer must be 503.

    Without a client id the text is used, so that a repeat saves nothing twice.
    """

    async def send() -> httpx.Response:
        answer = await sender.http.post(
            "/api/messages/send", json=body(receiver, text, client_id or text)
        )
        assert answer.status_code in (200, 503), answer.text
        return answer

    return (
        await wait_until(
            send, "MongoDB to be back", is_reached=lambda answer: answer.status_code == 200
        )
    ).json()


def is_open(service: Service) -> bool:
    """Return whether the circuit breaker of MongoDB is open: requests are rejected without asking MongoDB."""
    metrics = fetch(f"{service.url}/metrics").text
    return bool(re.search(r'^chatlab_breaker_open\{part="mongodb"\} 1\.0$', metrics, re.MULTILINE))


@pytest.mark.parametrize("outage", [stopped, black_holed])
async def test_an_outage_is_a_503_and_ends_by_itself(
    deployment: Deployment, service: Service, pair: tuple[User, User], outage: Outage
) -> None:
    """The first request opens the circuit breaker; then both transports answer without asking MongoDB, until it is back."""
    alice, bob = pair
    with outage(deployment):
        await refused(alice, bob, "first")
        assert is_open(service)
        for _ in range(5):
            await refused(alice, bob, "later")
            assert (await alice.send(bob, "later", transport="socket"))[
                "code"
            ] == "store_unavailable"
            assert (await alice.read(bob, fresh=True)).status_code == 503
        ready = await alice.http.get("/readyz")
        assert (ready.status_code, ready.json()["mongodb"]) == (503, "down")
        assert (await alice.http.head("/readyz")).status_code == 503
        assert (await alice.http.get("/healthz")).status_code == 200
        assert is_open(service)
    after = await sends_again(alice, bob, "after")
    texts = [message["text"] for message in (await bob.read(alice, fresh=True)).json()]
    assert texts in (["before", "after"], ["before", "first", "after"]), (
        "the first send was asked of MongoDB, the later ones were not"
    )
    assert after["seq"] == len(texts)


async def test_sends_that_wait_for_a_silent_mongodb_are_refused_together(
    deployment: Deployment, service: Service, pair: tuple[User, User]
) -> None:
    """When a hundred sends of one conversation wait for MongoDB, the first insert without a reply rejects all of them."""
    alice, bob = pair
    with black_holed(deployment):
        await asyncio.gather(
            *(refused(alice, bob, f"one of many {number}") for number in range(100))
        )
        assert is_open(service)
    await sends_again(alice, bob, "after")
    saved = (await bob.read(alice, fresh=True)).json()
    assert [message["seq"] for message in saved] == list(range(1, len(saved) + 1))
    assert sum("one of many" in message["text"] for message in saved) <= 1, (
        "only one of them was asked of MongoDB"
    )


@pytest.mark.parametrize("client_id", ["the same", None])
async def test_an_uncertain_write_that_was_saved_is_emitted_once(
    deployment: Deployment, pair: tuple[User, User], client_id: str | None
) -> None:
    """A message that MongoDB saves after the 503 is in every read, a repeat returns it, and the receiver gets one event."""
    alice, bob = pair
    with black_holed(deployment):
        await refused(alice, bob, "saved after the 503", client_id)
    if client_id:
        repeated = [
            await sends_again(alice, bob, "saved after the 503", client_id) for _ in range(3)
        ]
        assert [message["seq"] for message in repeated] == [2, 2, 2]
    await bob.wait_for_events("newMessage", 2)
    after = await sends_again(alice, bob, "after")
    await bob.wait_for_events("newMessage", 3)
    texts = ["before", "saved after the 503", "after"]
    assert [message["text"] for message in bob.received("newMessage")] == texts
    assert [message["text"] for message in (await bob.read(alice)).json()] == texts
    assert after["seq"] == 3


async def test_an_uncertain_change_that_was_made_is_emitted(deployment: Deployment) -> None:
    """A change whose result does not arrive in time is in the next reads, and the receiver gets it."""
    with deployment.mongo_proxy() as proxy:
        service = deployment.start(MONGO_URL=proxy.mongo_url)
        alice, bob = deployment.create_user(service), deployment.create_user(service)
        await bob.connect()
        message = await sends_again(alice, bob, "before")
        assert await reads_again(bob, alice) == [message]
        with proxy.holding("edited", "reply") as hold:

            async def edit() -> bool:
                path = f"/api/messages/{message['_id']}"
                answer = await alice.http.patch(path, json={"text": "edited"})
                assert answer.status_code == 503, answer.text
                return hold.is_reached.is_set()

            await wait_until(edit, "the change to be made")
        changed = (await bob.wait_for_events("messageUpdated"))[-1]
        assert changed | {"editedAt": None} == message | {"text": "edited", "version": 2}
        assert await reads_again(bob, alice) == [changed]
        await asyncio.gather(alice.close(), bob.close())
        assert service.stop() == 0


async def reads_again(reader: User, other: User) -> Any:
    """Repeat a read until MongoDB answers in time, and return the messages."""
    answer = await wait_until(
        lambda: reader.read(other), "a read", is_reached=lambda answer: answer.status_code == 200
    )
    return answer.json()


async def test_a_service_starts_without_mongodb(deployment: Deployment) -> None:
    """A service that starts without MongoDB answers 503 until MongoDB is up, and creates the indexes before it saves a message."""
    with stopped(deployment):
        late = deployment.start(DATABASE=f"{deployment.space}late")
        async with open_client(late.url) as client:
            answer = await client.post(
                "/api/auth/signup", json={"username": "alice", "password": "correct horse"}
            )
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    await wait_until(
        lambda: fetch(f"{late.url}/readyz").status_code == 200,
        "the service to find MongoDB",
    )
    database = deployment.database.client[f"{deployment.space}late"]
    assert {"place", "once"} <= set(database["messages"].index_information())
    assert database["messages"].count_documents({}) == 0
    assert late.stop() == 0
