"""The load that wrk cannot give: requests at a constant rate, sockets that send and hear, sockets that rest; and wrk's own where it is not.

A process of its own, `python -m benchmarks.load`: what to do comes as a line of JSON, what was found goes out as one. It speaks both
protocols bare, on uvloop, so that a request costs it some ten microseconds: it shares the cores with what it measures.
"""

import asyncio
import collections
import contextlib
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import uvloop

from chatlab.bench.raw_http import END_OF_CHUNKS, END_OF_HEAD, encode_request, find_header
from chatlab.bench.samples import percentile

Spec = dict[str, Any]
Protocol = TypeVar("Protocol", bound=asyncio.Protocol)
LAST_ANSWERS = 30.0  # seconds to wait for the answers that are missing when the time is up


def main() -> None:
    """Do what the line on standard input says."""
    spec = json.loads(sys.stdin.readline())
    work = {"closed": closed, "paced": paced, "sockets": sockets, "idle": idle}[spec["kind"]]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(work(spec))
    print(json.dumps(found))


def figures(latencies: list[float], seconds: float, failed: int) -> dict[str, float]:
    """What wrk's script gives too. `latencies` in ms."""
    some = latencies or [0.0]
    percents = {f"p{percent}": percentile(some, percent) for percent in (50, 95, 99)}
    return {"requests": len(latencies), "seconds": seconds, "failed": failed} | percents


# --- HTTP --------------------------------------------------------------------------------------------------------------------------


class HttpConnection(asyncio.Protocol):
    """One request at a time; `answered(status)` when its answer is whole."""

    def __init__(self, answered: Callable[["HttpConnection", int], None]) -> None:
        self._answered, self._data = answered, b""
        self.transport: asyncio.Transport
        self.since = 0.0  # when the request was due

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own kind

    def ask(self, request: bytes, since: float) -> None:
        """Write it."""
        self.since = since
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """A piece of the answer."""
        self._data += data
        head, end, body = self._data.partition(END_OF_HEAD)
        if not end:
            return
        length = find_header(head, b"content-length")
        if len(body) >= int(length) if length else body.endswith(END_OF_CHUNKS):
            self._data = b""
            self._answered(self, int(head[9:12]))


async def connected(spec: Spec, protocol: Callable[[], Protocol]) -> Protocol:
    """A connection to the side."""
    place = urlsplit(spec["url"])
    assert place.hostname
    assert place.port
    return (await asyncio.get_running_loop().create_connection(protocol, place.hostname, place.port))[1]


async def connections(spec: Spec, answered: Callable[[HttpConnection, int], None]) -> list[HttpConnection]:
    """As many as the spec says."""
    return [await connected(spec, lambda: HttpConnection(answered)) for _ in range(spec["connections"])]


def read_requests(spec: Spec) -> list[bytes]:
    """The requests of the file, ready to be written."""
    host = urlsplit(spec["url"]).netloc
    lines = [line.split("\t") for line in Path(spec["requests"]).read_text(encoding="utf-8").splitlines()]
    return [
        encode_request(method, path, f"Host: {host}\r\nAuthorization: Bearer {token}\r\n", body.encode())
        for method, path, token, body in lines
    ]


async def closed(spec: Spec) -> dict[str, float]:
    """Each connection asks again as soon as it has its answer. This is what wrk does, in Python."""
    requests, turn, latencies, failed = read_requests(spec), 0, list[float](), 0
    resting, open_ = asyncio.Event(), spec["connections"]

    def ask(connection: HttpConnection) -> None:
        nonlocal turn
        turn += 1
        connection.ask(requests[turn % len(requests)], time.perf_counter())

    def answered(connection: HttpConnection, status: int) -> None:
        nonlocal failed, open_
        now = time.perf_counter()
        latencies.append((now - connection.since) * 1000)
        failed += status != 200
        if now < until:
            ask(connection)
            return
        open_ -= 1
        if not open_:
            resting.set()

    all_of_them = await connections(spec, answered)
    started = time.perf_counter()
    until = started + spec["seconds"]
    for connection in all_of_them:
        ask(connection)
    await asyncio.wait_for(resting.wait(), spec["seconds"] + LAST_ANSWERS)
    return figures(latencies, time.perf_counter() - started, failed)


async def paced(spec: Spec) -> dict[str, float]:
    """An open loop: request n is due at n / rate, whatever became of the others, and its time counts from then.

    A server that stops for 100 ms so shows in all the requests that were due meanwhile (no coordinated omission).
    """
    requests, pace = read_requests(spec), _Pace(max(1, int(spec["rate"] * spec["seconds"])))
    pace.free.extend(await connections(spec, pace.answered))
    started = time.perf_counter() + 0.05
    for number in range(pace.count):
        due = started + number / spec["rate"]
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        pace.ask(requests[number % len(requests)], due)
    await soon(pace.done)
    missing = [LAST_ANSWERS * 1000] * (pace.count - len(pace.latencies))
    return figures([*pace.latencies, *missing], time.perf_counter() - started, pace.failed)


class _Pace:
    """What is free, what waits for a free connection, and how long the others took."""

    def __init__(self, count: int) -> None:
        self.count, self.failed, self.latencies, self.done = count, 0, list[float](), asyncio.Event()
        self.free = list[HttpConnection]()
        self._waiting = collections.deque[tuple[bytes, float]]()

    def ask(self, request: bytes, due: float) -> None:
        if self.free:
            self.free.pop().ask(request, due)
        else:
            self._waiting.append((request, due))

    def answered(self, connection: HttpConnection, status: int) -> None:
        self.latencies.append((time.perf_counter() - connection.since) * 1000)
        self.failed += status != 200
        if self._waiting:
            connection.ask(*self._waiting.popleft())
        else:
            self.free.append(connection)
        if len(self.latencies) == self.count:
            self.done.set()


async def soon(done: asyncio.Event) -> None:
    """Give what is still on its way its time."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), LAST_ANSWERS)


# --- Socket.IO ---------------------------------------------------------------------------------------------------------------------

UPGRADE = (
    "Host: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


def frame(text: bytes) -> bytes:
    """A websocket frame of a client. Its mask is 0, which leaves the text as it is."""
    size = len(text)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + length + b"\0\0\0\0" + text


def frames(data: bytes) -> tuple[list[bytes], bytes]:
    """The texts of the whole frames of a server, and what is left over."""
    texts, place = [], 0
    while len(data) - place >= 2:
        size, start = data[place + 1], place + 2
        if size >= 126:
            wide = 2 if size == 126 else 8
            size, start = int.from_bytes(data[start : start + wide], "big"), start + wide
        if len(data) < start + size:
            break
        texts.append(data[start : start + size])
        place = start + size
    return texts, data[place:]


class SocketConnection(asyncio.Protocol):
    """One person's Socket.IO connection; `heard(self, packet)` for acks and events."""

    def __init__(self, url: str, person: dict[str, str], heard: Callable[["SocketConnection", bytes], None]) -> None:
        self._host, self.person, self._heard, self._data = urlsplit(url).netloc, person, heard, b""
        self._is_open = False
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport
        self.since, self.turn = 0.0, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a websocket."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own kind
        self.transport.write(encode_request("GET", "/socket.io/?EIO=4&transport=websocket", UPGRADE.format(host=self._host), b""))

    def connection_lost(self, exc: Exception | None) -> None:
        """Before it was there: an error."""
        if not self.connected.done():
            self.connected.set_exception(exc or ConnectionError("The server closed the socket."))

    def say(self, text: bytes) -> None:
        """One packet."""
        self.transport.write(frame(text))

    def data_received(self, data: bytes) -> None:
        """Frames, once the answer to the upgrade is through."""
        self._data += data
        if not self._is_open:
            _, end, rest = self._data.partition(END_OF_HEAD)
            if not end:
                return
            self._is_open, self._data = True, rest
        texts, self._data = frames(self._data)
        for text in texts:
            self._packet(text)

    def _packet(self, text: bytes) -> None:
        if text[:1] == b"0":
            self.say(b"40" + json.dumps({"token": self.person["token"]}).encode())
        elif text[:2] == b"40":
            self.connected.set_result(None)
        elif text == b"2":
            self.say(b"3")
        elif text[:2] in (b"42", b"43"):
            self._heard(self, text)


async def sockets_of(spec: Spec, heard: Callable[[SocketConnection, bytes], None]) -> list[SocketConnection]:
    """Everybody connects, some at a time."""
    found: list[SocketConnection] = []
    for start in range(0, len(spec["people"]), 50):
        made = [await connected(spec, partial(SocketConnection, spec["url"], one, heard)) for one in spec["people"][start : start + 50]]
        await asyncio.wait_for(asyncio.gather(*(connection.connected for connection in made)), 30)
        found += made
    return found


async def sockets(spec: Spec) -> dict[str, float]:
    """Let every user send to their partner, and again after each acknowledgement, until the time is up and one has come.

    `lost` is the number of messages that the partner's socket did not receive.
    """
    talk = _Talk(spec["text"])
    everybody = await sockets_of(spec, talk.heard)
    started = time.perf_counter()
    for connection in everybody:
        talk.send(connection)
    await soon(talk.acknowledged)
    await asyncio.sleep(started + spec["seconds"] - time.perf_counter())
    acked, took = list(talk.latencies), time.perf_counter() - started
    talk.end()
    await soon(talk.quiet)
    return figures(acked, took, talk.failed) | {"delivered": talk.delivered, "lost": len(talk.under_way)}


class _Talk:
    """A message is known by its first two words: who sent it, and their how manieth it is."""

    def __init__(self, text: str) -> None:
        self._text, self._goes_on = text, True
        self.failed, self.delivered, self.latencies, self.quiet = 0, 0, list[float](), asyncio.Event()
        self.acknowledged = asyncio.Event()
        self.under_way: set[tuple[bytes, bytes]] = set()

    def send(self, connection: SocketConnection) -> None:
        connection.turn += 1
        connection.since = time.perf_counter()
        self.under_way.add((connection.person["id"].encode(), b"%d" % connection.turn))
        payload = {"receiverId": connection.person["partner"], "text": f"{connection.person['id']} {connection.turn} {self._text}"}
        connection.say(b"42%d" % connection.turn + json.dumps(["sendMessage", payload]).encode())

    def heard(self, connection: SocketConnection, packet: bytes) -> None:
        if packet[:2] == b"43":
            self.latencies.append((time.perf_counter() - connection.since) * 1000)
            self.failed += b'"ok":true' not in packet
            self.acknowledged.set()
            if self._goes_on:
                self.send(connection)
        elif packet[:15] == b'42["newMessage"':
            sender, turn, _ = packet.partition(b'"text":"')[2].split(b" ", 2)
            if sender.decode() == connection.person["partner"]:  # the sender's own socket hears it too
                self.delivered += 1
                self.under_way.discard((sender, turn))
                self._look()

    def end(self) -> None:
        """No more; `quiet` when all have been heard."""
        self._goes_on = False
        self._look()

    def _look(self) -> None:
        if not self._goes_on and not self.under_way:
            self.quiet.set()


async def idle(spec: Spec) -> dict[str, float]:
    """Everybody connects and rests, until standard input ends. A first line says that they are there."""
    everybody = await sockets_of(spec, lambda _connection, _packet: None)
    print(json.dumps({"sockets": len(everybody)}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    return {"sockets": sum(not connection.transport.is_closing() for connection in everybody)}


if __name__ == "__main__":
    main()
