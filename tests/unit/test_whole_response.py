"""The head of a response leaves together with the first piece of its body."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState
from waiting import LIMIT_S

from chatlab.settings import load_settings
from chatlab.web.connection_limits import LIMITS_KEY, ConnectionLimits
from chatlab.web.http_protocol import LimitedHttpProtocol
from chatlab.web.stopping import Drain

Application = Callable[[Any, Any, Any], Awaitable[None]]
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]}
FIRST = {"type": "http.response.body", "body": b"ab", "more_body": True}
LAST = {"type": "http.response.body", "body": b"cd"}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[Application], Awaitable[Client]]]:
    """A function that serves an application and returns a connection to it."""
    servers, writers = list[asyncio.Server](), list[asyncio.StreamWriter]()

    async def connect(application: Application) -> Client:
        config, state = uvicorn.Config(application, log_config=None), ServerState()
        limits = {LIMITS_KEY: ConnectionLimits(load_settings(), 100, Drain(0))}
        server = await asyncio.get_running_loop().create_server(
            lambda: LimitedHttpProtocol(config, state, limits), "127.0.0.1", 0
        )
        servers.append(server)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writers.append(writer)
        return reader, writer

    async with asyncio.timeout(LIMIT_S):
        yield connect
    for writer in writers:
        writer.close()
    for server in servers:
        server.close()


def request(method: str = "GET", headers: str = "") -> bytes:
    """Return the head of a request."""
    return f"{method} / HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode()


async def test_the_head_waits_for_the_first_piece_of_the_body(connect: Any) -> None:
    """A later piece is sent at once."""
    is_started, may_go_on, may_end = (asyncio.Event() for _ in range(3))

    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        await send(START)
        is_started.set()
        await may_go_on.wait()
        await send(FIRST)
        await may_end.wait()
        await send(LAST)

    reader, writer = await connect(application)
    writer.write(request())
    arriving = asyncio.create_task(reader.read(1000))
    await is_started.wait()
    for _ in range(10):  # turns of the event loop, in which the head would arrive
        await asyncio.sleep(0)
    assert not arriving.done()

    may_go_on.set()
    assert await arriving == HEAD + b"ab"  # before the end of the body
    may_end.set()
    assert await reader.readexactly(2) == b"cd"


async def test_a_response_to_head_has_no_body_to_wait_for(connect: Any) -> None:
    """What uvicorn writes is only its head."""

    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        await send(START)
        await send(FIRST)
        await send(LAST)

    reader, writer = await connect(application)
    writer.write(request("HEAD"))
    assert await reader.readexactly(len(HEAD)) == HEAD


async def test_a_client_that_waits_for_100_continue_gets_it_at_once(connect: Any) -> None:
    """That is not the head of the response yet."""

    async def application(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        await send(FIRST | {"body": b"abcd", "more_body": False})

    reader, writer = await connect(application)
    writer.write(request("POST", "Content-Length: 3\r\nExpect: 100-continue\r\n"))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"xyz")
    assert await reader.readexactly(len(HEAD) + 4) == HEAD + b"abcd"


async def test_a_response_that_fails_after_its_head_closes_the_connection(connect: Any) -> None:
    """The client gets the head first, as without `WholeResponse`."""

    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        await send(START)
        raise ValueError("on purpose")

    reader, writer = await connect(application)
    writer.write(request())
    assert await reader.read() == HEAD


async def test_pipelined_requests_have_their_responses_in_order(connect: Any) -> None:
    """Each response waits for its own body."""

    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        await send(START)
        await send(FIRST)
        await send(LAST)

    reader, writer = await connect(application)
    writer.write(request() * 3)
    response = HEAD + b"abcd"
    assert await reader.readexactly(3 * len(response)) == 3 * response
