"""Graceful shutdown: answer the requests in flight, close every socket, exit with status 0."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import websockets
from faults import Deployment, frozen
from http_clients import fetch
from live import Service, User
from load import Account, check, write
from shared_service import store_messages
from waiting import LIMIT_S, wait_until

MESSAGE_COUNT, TEXT = 4_000, "x" * 4_000  # a history of 17 MB, larger than any socket buffer
# uvicorn logs this when it cancels a request that is still in flight.
CANCEL_MESSAGE = "timeout graceful shutdown exceeded"


async def stop(service: Service, signal_number: signal.Signals = signal.SIGTERM) -> None:
    """Send the signal, and wait until the service exits with status 0.

    A service that does not stop in time exits with another status (`ExitDeadline`).
    """
    service.process.send_signal(signal_number)
    assert await asyncio.to_thread(service.process.wait, LIMIT_S) == 0, service.log.read_text()


@contextlib.asynccontextmanager
async def bare_socket(user: User) -> AsyncIterator[websockets.ClientConnection]:
    """Connect to Socket.IO with a plain websocket, which shows the close code of the server."""
    url = f"ws{user.service.url.removeprefix('http')}/socket.io/?EIO=4&transport=websocket"
    async with websockets.connect(url, close_timeout=0.1) as bare:
        await bare.recv()
        await bare.send("40" + json.dumps({"token": user.token}))
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


@pytest.mark.parametrize(
    ("workers", "signal_number"),
    [
        ("1", signal.SIGTERM),
        pytest.param("1", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("1", signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param("2", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("2", signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
async def test_stopping_loses_no_answered_message_and_closes_every_socket(
    deployment: Deployment, workers: str, signal_number: signal.Signals
) -> None:
    """Every acknowledged message is saved, and every socket is closed with code 1012.

    Six clients write messages over both transports when the service stops.
    """
    service = deployment.start_patient(WORKERS=workers, SHUTDOWN_TIMEOUT=str(LIMIT_S))
    alice, bob = deployment.create_user(service), deployment.create_user(service)
    account = Account()
    senders = [await user.at(service) for user in (alice, bob, alice, bob, alice, bob)]
    writers = [
        asyncio.create_task(
            write(
                account,
                sender,
                {alice.id: bob.id, bob.id: alice.id}[sender.id],
                transport=("http", "socket")[place // 3],
            )
        )
        for place, sender in enumerate(senders)
    ]
    async with bare_socket(alice) as one, bare_socket(bob) as two:
        codes = [asyncio.create_task(close_code(bare)) for bare in (one, two)]
        await wait_until(
            lambda: len(account.answered), "answers", is_reached=lambda count: count > 100
        )
        await stop(service, signal_number)
        assert await asyncio.gather(*codes) == [1012, 1012]
    account.stop = True
    await asyncio.gather(*writers)
    after = deployment.start_patient()
    reader = await bob.at(after)
    check(account, (await reader.read(alice, fresh=True)).json())
    check(account, (await reader.read(alice)).json())
    await asyncio.gather(*(user.close() for user in [alice, bob, reader, *senders]))
    assert after.stop() == 0


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
async def test_a_service_that_drains_is_alive_but_not_ready(
    deployment: Deployment, workers: str
) -> None:
    """From SIGTERM on, `/readyz` answers 503, while new connections are accepted and served.

    The service stops at the second Ctrl-C, which reaches all its processes.
    """
    service = deployment.start_patient(WORKERS=workers, DRAIN_SECONDS=str(LIMIT_S))
    alice, bob = deployment.create_user(service), deployment.create_user(service)
    parent = psutil.Process(service.process.pid)
    family = [parent.pid, *(child.pid for child in parent.children())]
    service.process.send_signal(signal.SIGTERM)

    def readiness() -> list[tuple[int, str]]:
        answers = [fetch(f"{service.url}/readyz") for _ in range(4)]  # of any worker
        return [(answer.status_code, answer.json()["status"]) for answer in answers]

    await wait_until(
        readiness, "readiness to end", is_reached=lambda seen: set(seen) == {(503, "stopping")}
    )
    answer = fetch(f"{service.url}/healthz")
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"  # so the next request goes to another process
    async with bare_socket(bob) as bare:
        assert (await alice.send(bob, "while draining"))["seq"] == 1
        code = asyncio.create_task(close_code(bare))
        for pid in family:
            os.kill(pid, signal.SIGINT)
        assert await asyncio.to_thread(service.process.wait, LIMIT_S) == 0
        assert await code == 1012
    await asyncio.gather(alice.close(), bob.close())


async def test_the_drain_period_ends(deployment: Deployment) -> None:
    """The service stops by itself after the drain period."""
    service = deployment.start_patient(DRAIN_SECONDS="0.5")
    await stop(service)
    assert "Stopping in 0.5 s" in service.log.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems reset these connections")
async def test_no_request_is_lost_when_the_port_closes(deployment: Deployment) -> None:
    """Requests are answered whose connections Linux accepted before the port closes.

    The process is frozen until the drain period is over, so it has not seen these connections.
    """
    service = deployment.start_patient(DRAIN_SECONDS="0.5", SHUTDOWN_TIMEOUT=str(LIMIT_S))
    await wait_until(lambda: fetch(f"{service.url}/readyz").status_code, "readiness")
    service.process.send_signal(signal.SIGTERM)
    await wait_until(lambda: "Stopping in 0.5 s" in service.log.read_text(), "the drain period")
    with contextlib.ExitStack() as stack:
        with frozen(service.process.pid):
            clients = [stack.enter_context(connected(service)) for _ in range(20)]
            for client in clients:
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            over = time.monotonic() + 0.5
            await wait_until(lambda: time.monotonic() > over, "the drain period to end")
        answers = await asyncio.gather(
            *(asyncio.to_thread(client.recv, 65_536) for client in clients)
        )
        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 20
    assert await asyncio.to_thread(service.process.wait, LIMIT_S) == 0


def connected(service: Service) -> socket.socket:
    """Connect to the port of a service."""
    return socket.create_connection(("127.0.0.1", service.port), LIMIT_S)


def request_without_reading(user: User, other: User) -> socket.socket:
    """Request a history, and read only the first bytes of the response."""
    address = urlsplit(user.service.url)
    client = socket.create_connection((address.hostname, address.port), LIMIT_S)
    client.sendall(
        f"GET /api/messages/{other.id} HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {user.token}\r\n\r\n".encode()
    )
    assert client.recv(12) == b"HTTP/1.1 200"
    return client


async def test_a_response_in_flight_is_completed(deployment: Deployment) -> None:
    """A client receives all of a long response when the service stops after the first chunk."""
    service = deployment.start_patient(SHUTDOWN_TIMEOUT=str(LIMIT_S))
    alice, bob = deployment.create_user(service), deployment.create_user(service)
    store_messages(deployment.database, alice.id, bob.id, [TEXT] * MESSAGE_COUNT)
    async with alice.http.stream("GET", f"/api/messages/{bob.id}") as answer:
        pieces = answer.aiter_bytes()
        received = [await anext(pieces)]
        ending = asyncio.create_task(stop(service))
        received += [piece async for piece in pieces]
    await ending
    assert len(json.loads(b"".join(received))) == MESSAGE_COUNT
    assert CANCEL_MESSAGE not in service.log.read_text()
    await asyncio.gather(alice.close(), bob.close())


async def test_clients_that_do_not_read_do_not_delay_shutdown(deployment: Deployment) -> None:
    """Clients that do not read responses or events are cut off after SHUTDOWN_TIMEOUT."""
    service = deployment.start_patient(SHUTDOWN_TIMEOUT="1", STALLED_TIMEOUT="3600")
    alice, bob = deployment.create_user(service), deployment.create_user(service)
    store_messages(deployment.database, alice.id, bob.id, [TEXT] * MESSAGE_COUNT)
    with request_without_reading(alice, bob):
        async with bare_socket(bob) as unread:
            unread.transport.pause_reading()
            for number in range(200):
                await alice.send(bob, f"{number} {TEXT[:3900]}")
            await stop(service)
    assert CANCEL_MESSAGE in service.log.read_text()
    await asyncio.gather(alice.close(), bob.close())


async def test_a_silent_mongodb_does_not_delay_shutdown(deployment: Deployment) -> None:
    """The service stops although MongoDB does not answer an insert.

    The sender gets 503 or a closed connection, never a success.
    """
    with deployment.mongo_proxy() as proxy:
        service = deployment.start(MONGO_URL=proxy.mongo_url, SHUTDOWN_TIMEOUT="30")
        alice, bob = deployment.create_user(service), deployment.create_user(service)
        await alice.send(bob, "before")
        with proxy.holding("in flight", "request") as hold:
            sending = asyncio.create_task(
                alice.http.post(
                    "/api/messages/send", json={"receiverId": bob.id, "text": "in flight"}
                )
            )
            await wait_until(hold.is_reached.is_set, "the insert")
            with frozen(deployment.pid("mongo")):
                await stop(service)
                with contextlib.suppress(httpx.TransportError):
                    assert (await sending).status_code == 503
    await asyncio.gather(alice.close(), bob.close())
