"""HTTP requests: as fast as possible, or at a constant rate."""

import asyncio
import collections
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from benchmarks.load.common import (
    LAST_REPLIES_TIMEOUT_S,
    Spec,
    connect,
    make_figures,
    wait_for_last_replies,
)
from chatlab.bench.raw_http import END_OF_CHUNKS, END_OF_HEAD, encode_request, find_header

LEAD_S = 0.05  # from connecting to the first request at a constant rate


class HttpConnection(asyncio.Protocol):
    """A connection for one request at a time. It calls `on_reply(self, status)` for each reply."""

    def __init__(self, on_reply: Callable[["HttpConnection", int], None]) -> None:
        self._on_reply, self._data = on_reply, b""
        self.transport: asyncio.Transport
        self.due = 0.0  # when the pending request was due

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop has its own class

    def send(self, request: bytes, due: float) -> None:
        """Send a request that was due at `due`."""
        self.due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Collect the reply until it is complete."""
        self._data += data
        head, end, body = self._data.partition(END_OF_HEAD)
        if not end:
            return
        length = find_header(head, b"content-length")
        if len(body) >= int(length) if length else body.endswith(END_OF_CHUNKS):
            self._data = b""
            self._on_reply(self, int(head[9:12]))


async def _open_connections(
    spec: Spec, on_reply: Callable[[HttpConnection, int], None]
) -> list[HttpConnection]:
    return [
        await connect(spec, lambda: HttpConnection(on_reply)) for _ in range(spec["connections"])
    ]


def _read_requests(spec: Spec) -> list[bytes]:
    """Return the requests of the file as bytes."""
    host = urlsplit(spec["url"]).netloc
    lines = [
        line.split("\t") for line in Path(spec["requests"]).read_text(encoding="utf-8").splitlines()
    ]
    return [
        encode_request(
            method, path, f"Host: {host}\r\nAuthorization: Bearer {token}\r\n", body.encode()
        )
        for method, path, token, body in lines
    ]


async def closed_loop(spec: Spec) -> dict[str, float]:
    """Send the next request on each connection as soon as it has a reply, as wrk does."""
    requests, sent, latencies_ms, failed = _read_requests(spec), 0, list[float](), 0
    all_finished, busy = asyncio.Event(), spec["connections"]

    def send_next(connection: HttpConnection) -> None:
        nonlocal sent
        sent += 1
        connection.send(requests[sent % len(requests)], time.perf_counter())

    def on_reply(connection: HttpConnection, status: int) -> None:
        nonlocal failed, busy
        now = time.perf_counter()
        latencies_ms.append((now - connection.due) * 1000)
        failed += status != 200
        if now < end:
            send_next(connection)
            return
        busy -= 1
        if not busy:
            all_finished.set()

    connections = await _open_connections(spec, on_reply)
    started = time.perf_counter()
    end = started + spec["seconds"]
    for connection in connections:
        send_next(connection)
    await asyncio.wait_for(all_finished.wait(), spec["seconds"] + LAST_REPLIES_TIMEOUT_S)
    return make_figures(latencies_ms, time.perf_counter() - started, failed)


async def constant_rate(spec: Spec) -> dict[str, float]:
    """Send request n at n / rate, and measure its latency from then (an open loop).

    If a server stops for 100 ms, all requests that were due meanwhile have a higher latency. This
    avoids coordinated omission.
    """
    requests, queue = _read_requests(spec), _PacedQueue(max(1, int(spec["rate"] * spec["seconds"])))
    queue.free.extend(await _open_connections(spec, queue.on_reply))
    started = time.perf_counter() + LEAD_S
    for number in range(queue.count):
        due = started + number / spec["rate"]
        if (early_s := due - time.perf_counter()) > 0:
            await asyncio.sleep(early_s)
        queue.send(requests[number % len(requests)], due)
    await wait_for_last_replies(queue.done)
    missing = [LAST_REPLIES_TIMEOUT_S * 1000] * (queue.count - len(queue.latencies_ms))
    return make_figures(
        [*queue.latencies_ms, *missing], time.perf_counter() - started, queue.failed
    )


class _PacedQueue:
    """Free connections, requests that wait for one, and the latencies of `count` requests."""

    def __init__(self, count: int) -> None:
        self.count, self.failed, self.latencies_ms, self.done = (
            count,
            0,
            list[float](),
            asyncio.Event(),
        )
        self.free = list[HttpConnection]()
        self._waiting = collections.deque[tuple[bytes, float]]()

    def send(self, request: bytes, due: float) -> None:
        if self.free:
            self.free.pop().send(request, due)
        else:
            self._waiting.append((request, due))

    def on_reply(self, connection: HttpConnection, status: int) -> None:
        self.latencies_ms.append((time.perf_counter() - connection.due) * 1000)
        self.failed += status != 200
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            self.free.append(connection)
        if len(self.latencies_ms) == self.count:
            self.done.set()
