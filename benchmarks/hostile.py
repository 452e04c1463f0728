"""Benchmarks of hostile clients: how long everyone else waits while one client attacks.

Each attack runs against a service of its own. Meanwhile a bystander reads a conversation, each time
on a new connection.
"""

import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks.environment import MESSAGES, Environment
from benchmarks.load.websocket import UPGRADE_HEADERS, UPGRADE_PATH, encode_frame
from benchmarks.processes import Server
from benchmarks.result import Check, Result
from chatlab.bench.samples import percentile

DESCRIPTORS = 1024  # of the service: what many systems allow by default
CONNECTIONS = 1100  # that an attack keeps open: more than that
FLOOD_BYTES_PER_S = 2_000_000
FLOOD_INTERVAL_S = 0.01
BYSTANDER_INTERVAL_S = 0.02
UNREAD_PER_S = 50  # more would be a flood of large responses, which is another attack
MAX_P95_MS = 500
TIMEOUT_S = 20.0

Attack = Callable[[Server, threading.Event], None]  # runs in a thread until the event is set


def measure_hostile(environment: Environment) -> Result:
    """Measure the latency of a bystander, and the memory of the service, during each attack."""
    series: dict[str, list[float]] = {}
    checks = []
    for name, attack in ATTACKS.items():
        found = []
        for _ in range(environment.rounds):
            server = environment.chatlab(messages=MESSAGES, max_files=DESCRIPTORS)
            found.append(_measure_attack(server, attack, environment.seconds))
            environment.stop_servers()
        for percent in (50, 95, 100):
            label = "max" if percent == 100 else f"p{percent}"
            series[f"{label}, {name}"] = [percentile(one.times_ms, percent) for one in found]
        p95 = series[f"p95, {name}"]
        checks += [
            Check(f"{name}: p95 of the bystander, ms", p95, MAX_P95_MS, at_least=False),
            Check(f"{name}: failed requests", [one.failed for one in found], 0, at_least=False),
            Check(f"{name}: MB of memory added", [one.added_mb for one in found]),
        ]
    settings = {
        "file descriptors": DESCRIPTORS,
        "connections": CONNECTIONS,
        "bytes a second of a flood": FLOOD_BYTES_PER_S,
        "seconds": environment.seconds,
    }
    return Result("ms", series, checks, settings, [])


class _Found(NamedTuple):
    times_ms: list[float]
    failed: int
    added_mb: float


def _measure_attack(server: Server, attack: Attack, seconds: float) -> _Found:
    """Read as the bystander during the attack. A failed request counts with the time it took."""
    _read(server)
    before = peak = server.resident_bytes()
    times_ms, failed = list[float](), 0
    with _running(server, attack):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            started = time.perf_counter()
            failed += not _read(server)
            times_ms.append((time.perf_counter() - started) * 1000)
            peak = max(peak, server.resident_bytes())
            time.sleep(BYSTANDER_INTERVAL_S)
    return _Found(times_ms, failed, (peak - before) / 1e6)


def _read(server: Server) -> bool:
    """Return whether a read on a new connection succeeds."""
    try:
        with server.connect() as client:
            path = f"/api/messages/{server.users[0].partner}?limit={MESSAGES}"
            return client.request("GET", path).status == 200
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _running(server: Server, attack: Attack) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=attack, args=(server, stop), daemon=True)
    thread.start()
    time.sleep(min(1.0, FLOOD_INTERVAL_S * 100))  # until the attack is under way
    try:
        yield
    finally:
        stop.set()
        thread.join(TIMEOUT_S)


# --- floods: one connection at a time ------------------------------------------------------------


def _flood(connect: Callable[[Server], socket.socket], data: bytes) -> Attack:
    """Return an attack that sends this data again and again, and reconnects when it is closed."""
    size = round(FLOOD_BYTES_PER_S * FLOOD_INTERVAL_S)
    piece = data * (size // len(data))

    def run(server: Server, stop: threading.Event) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), connect(server) as connection:
                connection.settimeout(1)
                while not stop.wait(FLOOD_INTERVAL_S):
                    _send_all(connection, piece, stop)

    return run


def _send_all(connection: socket.socket, data: bytes, stop: threading.Event) -> None:
    """Send the data, which may take long: a service that limits its clients reads slowly."""
    while data and not stop.is_set():
        with contextlib.suppress(TimeoutError):
            data = data[connection.send(data) :]


def _connect(server: Server) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname or "", parts.port or 80), TIMEOUT_S)


def _request(head: str) -> Callable[[Server], socket.socket]:
    """Return a function that opens a connection and sends the beginning of a request."""

    def connect(server: Server) -> socket.socket:
        connection = _connect(server)
        connection.sendall(head.encode())
        return connection

    return connect


def _websocket(server: Server) -> socket.socket:
    """Return a websocket that has not shown a token."""
    head = UPGRADE_HEADERS.format(host=urlsplit(server.url).netloc)
    connection = _request(f"GET {UPGRADE_PATH} HTTP/1.1\r\n{head}\r\n")(server)
    _receive_until(connection, b"pingInterval")
    return connection


def _authenticated(server: Server) -> socket.socket:
    connection = _websocket(server)
    token = json.dumps({"token": server.users[2].token})
    connection.sendall(encode_frame(b"40" + token.encode()))
    _receive_until(connection, b"40{")
    return connection


def _unfinished_message(server: Server) -> socket.socket:
    connection = _websocket(server)
    connection.sendall(bytes([TEXT_FRAME & ~FINAL]) + EMPTY)
    return connection


def _receive_until(connection: socket.socket, end: bytes) -> None:
    answer = b""
    while end not in answer:
        answer += _receive(connection)


def _receive(connection: socket.socket) -> bytes:
    data = connection.recv(65_536)
    if not data:
        raise ConnectionError("The service closed the connection.")
    return data


# --- many connections ------------------------------------------------------------------------------


def _hold(
    connect: Callable[[Server], socket.socket], drip: bytes, per_second: float = math.inf
) -> Attack:
    """Return an attack that keeps CONNECTIONS connections open and sends `drip` on each.

    It opens those again that the service closes, but not more than `per_second`.
    """

    def run(server: Server, stop: threading.Event) -> None:
        connections: list[socket.socket] = []
        while not stop.is_set():
            wanted = min(CONNECTIONS - len(connections), per_second)
            until = time.monotonic() + 1
            with contextlib.suppress(OSError):
                while wanted > 0 and not stop.is_set():
                    connections.append(connect(server))
                    wanted -= 1
            connections = [one for one in connections if _still_open(one, drip)]
            stop.wait(max(0.0, until - time.monotonic()))
        for connection in connections:
            connection.close()

    return run


def _still_open(connection: socket.socket, drip: bytes) -> bool:
    try:
        connection.send(drip, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        connection.close()
        return False
    return True


def _unread(server: Server) -> socket.socket:
    """Ask for large responses without reading them."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    parts = urlsplit(server.url)
    connection.settimeout(TIMEOUT_S)
    connection.connect((parts.hostname, parts.port))
    connection.sendall(
        b"GET /static/swagger/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    return connection


EMPTY = b"\x80\0\0\0\0"  # the rest of a frame without data, with a mask of zeros
FINAL, TEXT_FRAME, CONTINUATION, PING, PONG = 0x80, 0x81, 0x00, 0x89, 0x8A
CHUNKED = "POST /api/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
TRICKLED = "POST /api/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n"

ATTACKS: dict[str, Attack] = {
    "pings": _flood(_websocket, bytes([PING]) + EMPTY),
    "pongs": _flood(_websocket, bytes([PONG]) + EMPTY),
    "continuation frames": _flood(_unfinished_message, bytes([CONTINUATION]) + EMPTY),
    "pings of an account": _flood(_authenticated, bytes([PING]) + EMPTY),
    "packets of an account": _flood(_authenticated, encode_frame(b"3")),
    "one-byte chunks": _flood(_request(CHUNKED), b"1\r\nx\r\n"),
    "pipelined requests": _flood(_connect, b"GET /api/auth/me HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "unfinished heads": _hold(_request("GET / HTTP/1.1\r\nHost: localhost\r\n"), b"X"),
    "trickled bodies": _hold(_request(TRICKLED), b" "),
    "unread responses": _hold(_unread, b"", UNREAD_PER_S),
}
