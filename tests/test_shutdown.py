"""A service that is told to stop answers what is in flight, tells every socket, and is gone within ten seconds with exit status 0."""

import asyncio
import contextlib
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx
import pytest
import websockets
from bson import ObjectId
from faults import Site, frozen, open_site
from live import Person, Service, eventually
from load import Account, check, write

SOON = 10.0  # seconds
LONG, TEXT = 4_000, "x" * 4_000  # a history of 17 MB, which no socket buffer holds


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Engines of this file, which outlive its services."""
    with open_site(tmp_path_factory.mktemp("shutdown")) as site:
        yield site


async def ends(service: Service, how: signal.Signals = signal.SIGTERM) -> float:
    """Tell the service to stop; the seconds until it has, with exit status 0."""
    began = time.monotonic()
    service.process.send_signal(how)
    assert await asyncio.to_thread(service.process.wait, 2 * SOON) == 0, service.log.read_text()
    return time.monotonic() - began


@contextlib.asynccontextmanager
async def bare_socket(person: Person) -> AsyncIterator[websockets.ClientConnection]:
    """A connected Socket.IO socket without a library's manners: what the server says is seen as it is."""
    url = f"ws{person.service.url.removeprefix('http')}/socket.io/?EIO=4&transport=websocket"
    async with websockets.connect(url, close_timeout=0.1) as bare:
        await bare.recv()
        await bare.send("40" + json.dumps({"token": person.token}))
        while not str(await bare.recv()).startswith("40"):
            pass
        yield bare


async def close_code(bare: websockets.ClientConnection) -> int | None:
    """Read to the end; the code that the server closed with."""
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            await bare.recv()
    return bare.close_code


@pytest.mark.parametrize(("workers", "how"), [("1", signal.SIGTERM), ("1", signal.SIGINT), ("2", signal.SIGTERM)])
async def test_nothing_answered_is_lost_and_everybody_is_told(site: Site, workers: str, how: signal.Signals) -> None:
    """Stopped under writers at both doors: every answered message is there, every socket is closed with 1012, and it ends soon."""
    service = site.start(WORKERS=workers)
    alice, bob = site.settle(service), site.settle(service)
    account = Account()
    senders = [await person.at(service) for person in (alice, bob, alice, bob, alice, bob)]
    writers = [
        asyncio.create_task(write(account, sender, {alice.id: bob.id, bob.id: alice.id}[sender.id], door=("http", "socket")[place // 3]))
        for place, sender in enumerate(senders)
    ]
    async with bare_socket(alice) as one, bare_socket(bob) as two:
        codes = [asyncio.create_task(close_code(bare)) for bare in (one, two)]
        await eventually(lambda: len(account.answered) > 100)
        took = await ends(service, how)
        assert await asyncio.gather(*codes) == [1012, 1012]
    account.stop = True
    await asyncio.gather(*writers)
    assert took < SOON
    after = site.start()
    reader = await bob.at(after)
    check(account, (await reader.read(alice, fresh=True)).json())
    check(account, (await reader.read(alice)).json())
    await asyncio.gather(*(person.close() for person in [alice, bob, reader, *senders]))
    assert after.stop() == 0


def write_history(site: Site, one: Person, other: Person) -> None:
    """A long conversation, straight into MongoDB."""
    first, second = sorted((one.id, other.id))
    same = {"conversation": f"{first}:{second}", "version": 1, "senderId": first, "receiverId": second, "text": TEXT, "reactions": {}}
    times = {"createdAt": datetime.now(UTC), "editedAt": None, "deletedAt": None}
    site.database["messages"].insert_many({"_id": ObjectId(), "seq": seq, **same, **times} for seq in range(1, LONG + 1))


def ask_and_never_read(person: Person, other: Person) -> socket.socket:
    """A history is asked for, and nobody reads the answer."""
    address = urlsplit(person.service.url)
    deaf = socket.create_connection((address.hostname, address.port))
    deaf.sendall(f"GET /api/messages/{other.id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {person.token}\r\n\r\n".encode())
    assert deaf.recv(12) == b"HTTP/1.1 200"
    return deaf


async def test_who_reads_gets_all_and_who_does_not_holds_nobody_up(site: Site) -> None:
    """A long answer in flight is read to its end after SIGTERM; one that nobody reads, or a socket that nobody reads, does not delay it."""
    service = site.start()
    alice, bob = site.settle(service), site.settle(service)
    write_history(site, alice, bob)
    with ask_and_never_read(alice, bob):
        async with bare_socket(bob) as deaf, alice.http.stream("GET", f"/api/messages/{bob.id}") as answer:
            deaf.transport.pause_reading()
            for number in range(200):
                await alice.send(bob, f"{number} {TEXT[:3900]}")
            pieces = answer.aiter_bytes()
            got = [await anext(pieces)]
            ending = asyncio.create_task(ends(service))
            got += [piece async for piece in pieces]
            assert await ending < SOON
    assert len(json.loads(b"".join(got))) >= LONG
    await asyncio.gather(alice.close(), bob.close())


async def test_a_silent_mongodb_holds_nobody_up(site: Site) -> None:
    """Told to stop while MongoDB has fallen silent with a send in flight, the service ends all the same, and has promised nothing."""
    service = site.start()
    alice, bob = site.settle(service), site.settle(service)
    await alice.send(bob, "before")
    with frozen(site.pid("mongo")):
        sending = asyncio.create_task(alice.http.post("/api/messages/send", json={"receiverId": bob.id, "text": "in flight"}))
        await asyncio.sleep(0.2)  # the send is on its way
        assert await ends(service) < SOON
        with contextlib.suppress(httpx.TransportError):
            assert (await sending).status_code == 503
    await asyncio.gather(alice.close(), bob.close())
