"""What one client can do with connections: bytes, frames, time and numbers are limited.

Each attack is small. Without its limit, a test waits until it fails.
"""

import contextlib
import json
import select
import socket
from collections.abc import Iterator

import pytest
from http_clients import fetch
from live import GenerousService, Service, ServiceMaker, User
from raw_socket import raw_socket, unauthenticated
from shared_service import SharedService, start_shared_service, store_messages
from waiting import LIMIT_S, block_until, wait_until
from websockets.http11 import MAX_NUM_HEADERS

from chatlab.local.engines import Engines
from chatlab.web.http_protocol import MAX_CHUNKS, MAX_HEADER_LINES, MAX_PIPELINED
from chatlab.web.websocket_protocol import MAX_FIRST_BYTES, MAX_FRAGMENTS

FILES = 320  # file descriptors of the service `crowded`
PER_ADDRESS = 20
SHORT = {
    "HEAD_TIMEOUT": "1",
    "KEEP_ALIVE_TIMEOUT": "10",
    "STALLED_TIMEOUT": "1",
    "CONNECT_TIMEOUT": "3600",
}
LONG = {
    "HEAD_TIMEOUT": "3600",
    "KEEP_ALIVE_TIMEOUT": "3600",
    "STALLED_TIMEOUT": "3600",
    "CONNECT_TIMEOUT": "3600",
}
POST = b"POST /api/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET = b"GET /api/auth/me HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
EMPTY = b"\x80\0\0\0\0"  # the rest of a frame without data, with a mask of zeros
PACKET = b"\x81\x81\0\0\0\0" + b"3"
PING, PONG, CONTINUATION, UNFINISHED_TEXT = b"\x89", b"\x8a", b"\x00", b"\x01"


class SmallService(GenerousService):
    """A service that may open few files."""

    command = ("sh", "-c", f'ulimit -n {FILES}; exec "$@"', "sh", *GenerousService.command)


@pytest.fixture(scope="module")
def impatient(
    engines: Engines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SharedService]:
    """A service with short time limits."""
    log = tmp_path_factory.mktemp("impatient") / "service.log"
    with start_shared_service(engines, log, GenerousService, **SHORT) as shared:
        yield shared
        assert_unharmed(shared.service)


@pytest.fixture(scope="module")
def crowded(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    """A service with few file descriptors and few connections for each address."""
    log = tmp_path_factory.mktemp("crowded") / "service.log"
    numbers = {"CONNECTIONS_PER_ADDRESS": str(PER_ADDRESS)}
    with start_shared_service(engines, log, SmallService, **LONG, **numbers) as shared:
        yield shared
        assert_unharmed(shared.service)


@pytest.fixture
def service(impatient: SharedService) -> Iterator[Service]:
    """Return the impatient service. After each test it must be unharmed."""
    yield impatient.service
    assert_unharmed(impatient.service)


def assert_unharmed(service: Service) -> None:
    """Check that the service answers a bystander, and that its log has no traceback."""
    assert fetch(f"{service.url}/healthz").status_code == 200
    assert "Traceback" not in service.log.read_text()


def connect(service: Service, data: bytes = b"") -> socket.socket:
    """Open a connection and send these bytes."""
    connection = socket.create_connection(("127.0.0.1", service.port), LIMIT_S)
    with contextlib.suppress(ConnectionError):  # the service may close it before it has read all
        connection.sendall(data)
    return connection


def answer_of(connection: socket.socket) -> bytes:
    """Return everything that arrives until the service closes the connection."""
    answer = b""
    with connection, contextlib.suppress(ConnectionError):
        while data := connection.recv(65_536):
            answer += data
    return answer


def problem_of(connection: socket.socket) -> tuple[int, str]:
    """Return the status and the code of the problem with which a connection was closed."""
    head, _, body = answer_of(connection).rpartition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head, head
    problem = json.loads(body)
    return problem["status"], problem["code"]


def closed(service: Service, reason: str) -> int:
    """Return how many connections the service has closed for this reason."""
    text = fetch(f"{service.url}/metrics").text
    name = f'chatlab_connections_closed_total{{reason="{reason}"}} '
    return sum(
        int(float(line.removeprefix(name))) for line in text.splitlines() if line.startswith(name)
    )


# --- frames ----------------------------------------------------------------------------------------


def websocket(service: Service, frames: bytes) -> socket.socket:
    """Open a websocket without a token, and send these frames."""
    connection = connect(service, UPGRADE + b"Host: localhost\r\n\r\n")
    answer = b""
    while b"pingInterval" not in answer:
        answer += connection.recv(4096)
    with contextlib.suppress(ConnectionError):
        connection.sendall(frames)
    return connection


@pytest.mark.parametrize(
    "frames",
    [
        (PING + EMPTY) * 1000,
        (PONG + EMPTY) * 1000,
        PACKET + (PONG + EMPTY) * 1000,
        b"\x01\xfe\xff\xff\0\0\0\0" + b"4" * (2 * MAX_FIRST_BYTES),
    ],
    ids=["pings", "pongs", "pongs after a packet", "bytes"],
)
def test_a_socket_may_send_little_before_its_token(service: Service, frames: bytes) -> None:
    """A socket without a valid token is closed after a few frames or bytes of any kind."""
    before = closed(service, "frames")
    assert b"too much before a valid token" in answer_of(websocket(service, frames))
    assert closed(service, "frames") == before + 1


@pytest.mark.parametrize(
    "frame", [PING + EMPTY, PONG + EMPTY, PACKET], ids=["pings", "pongs", "packets"]
)
def test_frames_of_a_user_wait(impatient: SharedService, service: Service, frame: bytes) -> None:
    """A socket that sends too many frames is not read any more. Others are served.

    Its client cannot send 4 MB: the buffers of the system are full earlier.
    """
    token = json.dumps({"token": impatient.create_user().token}).encode()
    with websocket(
        service, b"\x81" + bytes([0x80 | len(token) + 2]) + b"\0\0\0\0" + b"40" + token
    ) as flood:
        received = b""
        while b"40{" not in received:
            data = flood.recv(65_536)
            assert data, f"the service closed the connection: {received!r}"
            received += data
        flood.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        flood.setblocking(False)
        sent, data, is_held_back = 0, frame * (65_536 // len(frame)), False
        while sent < 4 << 20 and not is_held_back:
            try:
                sent += flood.send(data)
            except BlockingIOError:
                for _ in range(20):
                    assert fetch(f"{service.url}/healthz").status_code == 200
                is_held_back = not select.select([], [flood], [], 0)[1]
        assert is_held_back
    assert sent < 4 << 20


def test_a_message_of_many_fragments_closes_its_socket(service: Service) -> None:
    """Empty fragments have no bytes that count towards the size of a message."""
    fragments = UNFINISHED_TEXT + EMPTY + (CONTINUATION + EMPTY) * (MAX_FRAGMENTS + 1)
    assert b"fragments" in answer_of(websocket(service, fragments))


def test_a_text_that_is_not_utf8_closes_its_socket(service: Service) -> None:
    """The close code is 1007. The log has no traceback."""
    answer = answer_of(websocket(service, b"\x81\x81\0\0\0\0\xff"))
    assert (1007).to_bytes(2, "big") in answer


def test_a_handshake_that_the_library_refuses_is_closed(service: Service) -> None:
    """A head with more lines than the websocket library reads does not stay open."""
    lines = b"X: y\r\n" * (MAX_NUM_HEADERS + 1)
    assert answer_of(connect(service, UPGRADE + lines + b"Host: localhost\r\n\r\n")) == b""


# --- requests --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_bytes",
    [
        CHUNKED + b"1\r\nx\r\n" * (MAX_CHUNKS + 1),
        CHUNKED + b"1\r\nx\r\n0\r\n" + b"X: y\r\n" * MAX_HEADER_LINES,
        GET * (MAX_PIPELINED + 2),
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: localhost\r\nHost: y\r\n\r\n",
        UPGRADE + b"\r\n",
        UPGRADE + b"Host: localhost\r\nHost: y\r\n\r\n",
        UPGRADE + b"X: y\r\n" * MAX_HEADER_LINES + b"Host: localhost\r\n\r\n",
    ],
    ids=[
        "chunks",
        "trailers",
        "pipelined requests",
        "no host",
        "two hosts",
        "two hosts of HTTP/1.0",
        "a websocket without a host",
        "a websocket with two hosts",
        "a websocket with many header lines",
    ],
)
def test_an_unacceptable_request_is_rejected(service: Service, request_bytes: bytes) -> None:
    """The answer is a problem with status 400, and the connection is closed."""
    assert problem_of(connect(service, request_bytes)) == (400, "invalid")


def test_http_1_0_needs_no_host(service: Service) -> None:
    """HTTP/1.0 has no Host header."""
    answer = answer_of(connect(service, b"GET /healthz HTTP/1.0\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("request_bytes", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", "head"),
        (GET + b"GET / HT", "head"),
        (POST + b"Content-Length: 1000\r\n\r\n{", "body"),
        (CHUNKED + b"1;" + b"x" * 5000, "body"),
    ],
    ids=["a head", "a second head", "a body", "an endless chunk header"],
)
def test_a_request_that_does_not_arrive_is_closed(
    service: Service, request_bytes: bytes, reason: str
) -> None:
    """The answer is a problem with status 408."""
    before = closed(service, reason)
    assert problem_of(connect(service, request_bytes)) == (408, "timeout")
    assert closed(service, reason) == before + 1


def test_a_connection_without_a_request_is_closed(service: Service) -> None:
    """Its client waits for no answer, so there is none."""
    before = closed(service, "idle")
    assert answer_of(connect(service)) == b""
    assert closed(service, "idle") == before + 1


def test_a_connection_without_another_request_is_closed(service: Service) -> None:
    """Bytes that belong to no request do not keep it open.

    They are an empty line, and a part of a body after the answer.
    """
    before = closed(service, "idle")
    unneeded = b"POST /api/messages/send HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    connections = [connect(service, GET), connect(service, unneeded)]
    for connection, byte in zip(connections, (b"\r\n", b"x"), strict=True):
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 401")
        connection.sendall(byte)
    assert [answer_of(one) for one in connections] == [b"", b""]
    assert closed(service, "idle") == before + 2


def test_a_response_that_is_not_read_is_dropped(service: Service) -> None:
    """The rest of a large response does not stay in memory."""
    before = closed(service, "unread")
    path = b"/static/swagger/swagger-ui-bundle.js"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(LIMIT_S)
        connection.connect(("127.0.0.1", service.port))
        connection.sendall((b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n") * 8)
        block_until(
            lambda: closed(service, "unread"),
            "the connection to be closed",
            is_reached=lambda count: count == before + 1,
        )
        size = len(fetch(service.url + path.decode()).content)
        assert len(answer_of(connection)) < 8 * size


def test_a_stream_that_the_client_leaves_is_not_an_error(
    impatient: SharedService, service: Service
) -> None:
    """A client that goes away while it receives a long history leaves no traceback in the log."""
    ann, bob = impatient.create_user(), impatient.create_user()
    store_messages(impatient.database, ann.id, bob.id, ["x" * 4000] * 3000)
    head = f"GET /api/messages/{bob.id} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ann.token}\r\n\r\n"
    for _ in range(3):
        with connect(service, head.encode()) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    # The fixture `service` looks for tracebacks.


# --- numbers ---------------------------------------------------------------------------------------


def open_ones(connections: list[socket.socket]) -> list[socket.socket]:
    """Return those that the service has not closed."""

    def is_open(connection: socket.socket) -> bool:
        connection.setblocking(False)
        try:
            return connection.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except ConnectionError:
            return False

    return [one for one in connections if is_open(one)]


def test_one_address_has_few_connections_without_a_token(crowded: SharedService) -> None:
    """The newest ones stay open, so an attacker cannot keep others out. The log has one line.

    There are more connections than file descriptors.
    """
    service = crowded.service
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(connect(service, b"GET / HTTP/1.1")) for _ in range(FILES)
        ]
        assert fetch(f"{service.url}/readyz").status_code == 200
        last = block_until(
            lambda: open_ones(connections),
            "all but the newest connections to be closed",
            is_reached=lambda still_open: len(still_open) < PER_ADDRESS,
        )
        assert last == connections[-len(last) :]
    assert closed(service, "address") > FILES - PER_ADDRESS
    line = block_until(
        lambda: [line for line in service.log.read_text().splitlines() if "token from one" in line],
        "a line in the log",
    )
    assert len(line) == 1
    assert "127.0.0.1" in line[0]


async def test_connections_with_a_token_are_not_counted(crowded: SharedService) -> None:
    """Sockets and requests of users behind one address are limited only until they have a token."""
    ann = crowded.create_user()
    async with contextlib.AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(raw_socket(ann)) for _ in range(2 * PER_ADDRESS)]
        assert await wait_until(
            lambda: outlives_strangers(crowded.service, ann), "a kept connection"
        )
        assert all([await one.is_alive() for one in sockets])
    await ann.close()


async def outlives_strangers(service: Service, user: User) -> bool:
    """Return whether a connection with a token stays open while newer ones take its place.

    The service closes a connection that is idle for 10 s too, which a slow machine may reach.
    """
    head = f"GET /api/messages/{user.id} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {user.token}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(connect(service))
        assert request_once(kept, head).startswith(b"HTTP/1.1 200")
        for _ in range(2 * PER_ADDRESS):
            stack.enter_context(connect(service, b"GET /"))
        assert (await user.http.get("/readyz")).status_code == 200
        return request_once(kept, head).startswith(b"HTTP/1.1 200")


def request_once(connection: socket.socket, head: str) -> bytes:
    """Return the response to a request, as far as it arrives. It ends with `[]`."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        connection.sendall(head.encode())
        while not answer.endswith(b"[]") and (data := connection.recv(4096)):
            answer += data
    return answer


async def test_a_class_behind_one_address_is_served(
    start: ServiceMaker, database: object, keys: object
) -> None:
    """With the default numbers, 40 browsers with 6 connections each, and 40 sockets, are no attack."""
    service = start(**LONG)
    with contextlib.ExitStack() as stack:
        browsers = [stack.enter_context(connect(service)) for _ in range(240)]
        async with contextlib.AsyncExitStack() as sockets:
            for _ in range(40):
                await sockets.enter_async_context(unauthenticated(service))
            for browser in browsers:
                browser.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert {browser.recv(15) for browser in browsers} == {b"HTTP/1.1 200 OK"}
