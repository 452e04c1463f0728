"""One HTTP connection that stays open, as bare as it can be: what is measured through it is the service, not the client.

A general client (httpx) takes about as long for a request as the service does; this one takes some ten microseconds.
"""

import socket
import time
from typing import NamedTuple, Self
from urllib.parse import urlsplit

PATIENCE = 20.0  # seconds for an answer
IDLE = 2.0  # seconds after which the connection is made anew: servers close one that rests (uvicorn after 5 s)
END_OF_HEAD, END_OF_CHUNKS = b"\r\n\r\n", b"0\r\n\r\n"


class Reply(NamedTuple):
    """`took_ms`: from the first byte that goes to the last that comes. `cache`: the X-Cache header."""

    status: int
    cache: str
    body: bytes
    took_ms: float


class Wire:
    """A connection to the service at `url`, of the user with this token."""

    def __init__(self, url: str, token: str = "") -> None:
        place = urlsplit(url)
        self._address = (place.hostname or "", place.port or 80)
        self._head = f"Host: {place.netloc}\r\nAuthorization: Bearer {token}\r\n"
        self._socket, self._used = self._connected(), time.monotonic()

    def _connected(self) -> socket.socket:
        connection = socket.create_connection(self._address, PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def ask(self, method: str, path: str, body: bytes = b"") -> Reply:
        request = request_bytes(method, path, self._head, body)
        if time.monotonic() - self._used > IDLE:
            self._socket.close()
            self._socket = self._connected()
        started = time.perf_counter()
        self._socket.sendall(request)
        head, answer = self._answer()
        self._used = time.monotonic()
        return Reply(int(head[9:12]), header(head, b"x-cache"), answer, (time.perf_counter() - started) * 1000)

    def _answer(self) -> tuple[bytes, bytes]:
        data = b""
        while END_OF_HEAD not in data:
            data += self._more()
        head, _, body = data.partition(END_OF_HEAD)
        length = header(head, b"content-length")
        pieces, there = [body], len(body)
        while there < int(length) if length else not pieces[-1].endswith(END_OF_CHUNKS):
            pieces.append(self._more())
            there += len(pieces[-1])
        return head, b"".join(pieces)

    def _more(self) -> bytes:
        data = self._socket.recv(262_144)
        if not data:
            raise ConnectionError("The service closed the connection.")
        return data

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def request_bytes(method: str, path: str, head: str, body: bytes) -> bytes:
    """An HTTP/1.1 request. `head`: header lines, each with its end."""
    about_body = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\n{head}{about_body}\r\n".encode() + body


def header(head: bytes, name: bytes) -> str:
    """The value of a header; empty when it is not there."""
    start = head.lower().find(b"\r\n" + name + b":")
    return head[start + len(name) + 3 :].partition(b"\r\n")[0].decode().strip() if start >= 0 else ""
