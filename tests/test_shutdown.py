"""A service that is told to stop answers the requests in flight, closes every socket, and ends with exit status 0."""

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx
import pytest
import websockets
from bson import ObjectId
from faults import Deployment, frozen, open_deployment
from live import Service, User
from load import Account, check, write
from waiting import LIMIT_S, wait_until

LONG, TEXT = 4_000, "x" * 4_000  # a history of 17 MB, larger than any socket buffer
CUT_OFF = "timeout graceful shutdown exceeded"  # the server logs it when it ends a request that is still in flight


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Private engines, which outlive the services of this file."""
    with open_deployment(tmp_path_factory.mktemp("shutdown")) as deployment:
        yield deployment


async def ends(service: Service, how: signal.Signals = signal.SIGTERM) -> None:
    """Tell the service to stop, and wait until it has ended with exit status 0.

    A service that does not end by itself in time ends with another status (`ExitDeadline`).
    """
    service.process.send_signal(how)
    assert await asyncio.to_thread(service.process.wait, LIMIT_S) == 0, service.log.read_text()


@contextlib.asynccontextmanager
async def bare_socket(person: User) -> AsyncIterator[websockets.ClientConnection]:
    """Connect a Socket.IO socket without a Socket.IO client, to see the frames and the close code of the server."""
    url = f"ws{person.service.url.removeprefix('http')}/socket.io/?EIO=4&transport=websocket"
    async with websockets.connect(url, close_timeout=0.1) as bare:
        await bare.recv()
        await bare.send("40" + json.dumps({"token": person.token}))
        while not str(await bare.recv()).startswith("40"):
            pass
        yield bare


async def close_code(bare: websockets.ClientConnection) -> int | None:
    """Read until the server closes the connection, and return its close code."""
    with contextlib.suppress(websockets.ConnectionClosed):
        async with asyncio.timeout(LIMIT_S):
            while True:
                await bare.recv()
    return bare.close_code


@pytest.mark.parametrize(("workers", "how"), [("1", signal.SIGTERM), ("1", signal.SIGINT), ("2", signal.SIGTERM)])
async def test_stopping_loses_no_answered_message_and_closes_every_socket(
    deployment: Deployment, workers: str, how: signal.Signals
) -> None:
    """Stopped under writers on both transports: every answered message is saved, and every socket is closed with 1012."""
    service = deployment.start(WORKERS=workers, SHUTDOWN_TIMEOUT=str(LIMIT_S))
    alice, bob = deployment.create_user(service), deployment.create_user(service)
    account = Account()
    senders = [await person.at(service) for person in (alice, bob, alice, bob, alice, bob)]
    writers = [
        asyncio.create_task(write(account, sender, {alice.id: bob.id, bob.id: alice.id}[sender.id], door=("http", "socket")[place // 3]))
        for place, sender in enumerate(senders)
    ]
    async with bare_socket(alice) as one, bare_socket(bob) as two:
        codes = [asyncio.create_task(close_code(bare)) for bare in (one, two)]
        await wait_until(lambda: len(account.answered), "answers", is_reached=lambda count: count > 100)
        await ends(service, how)
        assert await asyncio.gather(*codes) == [1012, 1012]
    account.stop = True
    await asyncio.gather(*writers)
    after = deployment.start()
    reader = await bob.at(after)
    check(account, (await reader.read(alice, fresh=True)).json())
    check(account, (await reader.read(alice)).json())
    await asyncio.gather(*(person.close() for person in [alice, bob, reader, *senders]))
    assert after.stop() == 0


def write_history(deployment: Deployment, one: User, other: User) -> None:
    """Insert a long conversation into MongoDB."""
    first, second = sorted((one.id, other.id))
    same = {"conversation": f"{first}:{second}", "version": 1, "senderId": first, "receiverId": second, "text": TEXT, "reactions": {}}
    times = {"createdAt": datetime.now(UTC), "editedAt": None, "deletedAt": None}
    deployment.database["messages"].insert_many({"_id": ObjectId(), "seq": seq, **same, **times} for seq in range(1, LONG + 1))


def request_without_reading(person: User, other: User) -> socket.socket:
    """Request a history, read the first bytes of the answer, and no more."""
    address = urlsplit(person.service.url)
    client = socket.create_connection((address.hostname, address.port), LIMIT_S)
    client.sendall(f"GET /api/messages/{other.id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {person.token}\r\n\r\n".encode())
    assert client.recv(12) == b"HTTP/1.1 200"
    return client


async def test_an_answer_in_flight_is_sent_to_its_end(deployment: Deployment) -> None:
    """A client that reads a long answer gets all of it, although the service was told to stop after the first piece."""
    service = deployment.start(SHUTDOWN_TIMEOUT=str(LIMIT_S))
    alice, bob = deployment.create_user(service), deployment.create_user(service)
    write_history(deployment, alice, bob)
    async with alice.http.stream("GET", f"/api/messages/{bob.id}") as answer:
        pieces = answer.aiter_bytes()
        received = [await anext(pieces)]
        ending = asyncio.create_task(ends(service))
        received += [piece async for piece in pieces]
    await ending
    assert len(json.loads(b"".join(received))) == LONG
    assert CUT_OFF not in service.log.read_text()
    await asyncio.gather(alice.close(), bob.close())


async def test_clients_that_do_not_read_do_not_stop_the_service_from_ending(deployment: Deployment) -> None:
    """A client that does not read its answer is cut off after SHUTDOWN_TIMEOUT; a socket that does not read its events is closed too."""
    service = deployment.start(SHUTDOWN_TIMEOUT="1", STALLED_TIMEOUT="3600")
    alice, bob = deployment.create_user(service), deployment.create_user(service)
    write_history(deployment, alice, bob)
    with request_without_reading(alice, bob):
        async with bare_socket(bob) as deaf:
            deaf.transport.pause_reading()
            for number in range(200):
                await alice.send(bob, f"{number} {TEXT[:3900]}")
            await ends(service)
    assert CUT_OFF in service.log.read_text()
    await asyncio.gather(alice.close(), bob.close())


async def test_a_silent_mongodb_does_not_stop_the_service_from_ending(deployment: Deployment) -> None:
    """A service that is told to stop while MongoDB does not answer an insert ends, and has promised nothing to the sender."""
    with deployment.mongo_proxy() as proxy:
        service = deployment.start(MONGO_URL=proxy.mongo_url, SHUTDOWN_TIMEOUT="30")
        alice, bob = deployment.create_user(service), deployment.create_user(service)
        await alice.send(bob, "before")
        with proxy.holding("in flight", "request") as hold:
            sending = asyncio.create_task(alice.http.post("/api/messages/send", json={"receiverId": bob.id, "text": "in flight"}))
            await wait_until(hold.is_reached.is_set, "the insert")
            with frozen(deployment.pid("mongo")):
                await ends(service)
                with contextlib.suppress(httpx.TransportError):
                    assert (await sending).status_code == 503
    await asyncio.gather(alice.close(), bob.close())
