"""Connections become websockets one at a time, so that requests need not wait for a crowd."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState
from waiting import LIMIT_S, wait_until

from chatlab.settings import load_settings
from chatlab.web.connection_limits import LIMITS_KEY, ConnectionLimits
from chatlab.web.http_protocol import LimitedHttpProtocol
from chatlab.web.stopping import Drain
from chatlab.web.websocket_protocol import LimitedWebSocketProtocol

CROWD = 30
UPGRADE = (
    "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
REQUEST = b"GET /request HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Service:
    """The protocol classes with an application that notes what begins, and in which turn.

    It closes each websocket, and does not answer a request.
    """

    def __init__(self) -> None:
        self.turn, self.began = 0, list[tuple[str, int]]()
        self.one_has_begun = asyncio.Event()
        self.limits = ConnectionLimits(load_settings(), 100, Drain(0))
        self.state, self.port = ServerState(), 0
        self.config = uvicorn.Config(
            self, ws=LimitedWebSocketProtocol, ws_per_message_deflate=False, log_config=None
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve during the block."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._create_protocol, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._count_turns()
        async with server:
            yield
            for connection in list(self.state.connections):
                connection.transport.abort()
            await wait_until(lambda: not self.state.tasks, "all tasks to end")
        self._counting.cancel()

    def _create_protocol(self) -> LimitedHttpProtocol:
        return LimitedHttpProtocol(self.config, self.state, {LIMITS_KEY: self.limits})

    def _count_turns(self) -> None:
        self.turn += 1
        self._counting = asyncio.get_running_loop().call_soon(self._count_turns)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.began.append((scope["path"], self.turn))
        self.one_has_begun.set()
        await receive()
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            await receive()  # until the client goes

    @property
    def paths(self) -> list[str]:
        """What has begun, in order."""
        return [path for path, _ in self.began]


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """Return a service in this event loop."""
    service = Service()
    async with service.running():
        yield service


@pytest.fixture
async def crowd(service: Service) -> AsyncIterator[list[socket.socket]]:
    """Connections that are open, but have sent nothing."""
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", service.port)
        clients = [
            stack.enter_context(socket.create_connection(address, LIMIT_S)) for _ in range(CROWD)
        ]
        await wait_until(lambda: len(service.state.connections) == CROWD, "all connections")
        yield clients


def ask_for_websockets(clients: list[socket.socket]) -> list[str]:
    """Send the requests of all clients before the service can read one. Return their paths."""
    paths = [f"/{number}" for number in range(len(clients))]
    for client, path in zip(clients, paths, strict=True):
        client.sendall(UPGRADE.format(path).encode())
    return paths


async def test_one_websocket_begins_in_each_turn(
    service: Service, crowd: list[socket.socket]
) -> None:
    """All of them begin, and none is refused."""
    paths = ask_for_websockets(crowd)
    await wait_until(lambda: len(service.began) == CROWD, "all websockets to begin")
    assert sorted(service.paths) == sorted(paths)
    assert len({turn for _, turn in service.began}) == CROWD


async def test_a_request_does_not_wait_for_the_crowd(
    service: Service, crowd: list[socket.socket]
) -> None:
    """It was sent last, and begins before the second websocket."""
    bystander = crowd.pop()
    ask_for_websockets(crowd)
    bystander.sendall(REQUEST)
    await wait_until(lambda: len(service.began) == CROWD, "everything to begin")
    assert "/request" in service.paths[:2]


async def test_a_client_that_gives_up_is_skipped(
    service: Service, crowd: list[socket.socket]
) -> None:
    """The handshakes that remain are not delayed by those of clients that have gone."""
    others = ask_for_websockets(crowd)[:-1]
    crowd[-1].close()
    await wait_until(lambda: not service.state.connections, "all connections to end")
    assert sorted(service.paths) == sorted(others)


async def test_a_client_must_not_send_before_its_turn(
    service: Service, crowd: list[socket.socket]
) -> None:
    """RFC 6455, section 4.1. The connection is closed, and the others are not."""
    others = ask_for_websockets(crowd)[:-1]
    await service.one_has_begun.wait()
    crowd[-1].sendall(REQUEST)
    await wait_until(lambda: not service.state.connections, "all connections to end")
    assert sorted(service.paths) == sorted(others)


async def test_no_time_limit_ends_the_wait(service: Service, crowd: list[socket.socket]) -> None:
    """The limits are for clients that are slow, and here the service is."""
    ask_for_websockets(crowd)
    await service.one_has_begun.wait()
    connections: list[Any] = list(service.state.connections)
    for now_s in (0, 1_000_000):
        for connection in connections:
            connection.check(now_s)
    await wait_until(lambda: len(service.began) == CROWD, "all websockets to begin")
