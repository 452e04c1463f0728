"""Socket.IO connections: sending messages to each other, or staying open without sending."""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import cast
from urllib.parse import urlsplit

from benchmarks.load.common import Spec, connect, make_figures, wait_for_last_replies
from benchmarks.load.websocket import UPGRADE_HEADERS, UPGRADE_PATH, decode_frames, encode_frame
from chatlab.bench.raw_http import END_OF_HEAD, encode_request
from chatlab.web.descriptors import raise_limit

CONNECT_SIZE = 50  # sockets that connect at the same time
CONNECT_TIMEOUT_S = 30
LAST_EVENTS_S = 1.0  # after the last connection


class SocketConnection(asyncio.Protocol):
    """One user's connection. `on_packet(self, packet)` is called for acks and events."""

    def __init__(
        self, url: str, user: dict[str, str], on_packet: Callable[["SocketConnection", bytes], None]
    ) -> None:
        self._host, self.user, self._on_packet = urlsplit(url).netloc, user, on_packet
        self._data, self._is_upgraded = b"", False
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport
        self.sent_at, self.ack_id = 0.0, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Request the upgrade to a websocket."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop has its own class
        self.transport.write(
            encode_request("GET", UPGRADE_PATH, UPGRADE_HEADERS.format(host=self._host), b"")
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail `connected` if the connection was lost before it was ready."""
        if not self.connected.done():
            self.connected.set_exception(exc or ConnectionError("The server closed the socket."))

    def send_packet(self, packet: bytes) -> None:
        """Send one Socket.IO packet."""
        self.transport.write(encode_frame(packet))

    def data_received(self, data: bytes) -> None:
        """Skip the response to the upgrade, then handle each complete packet."""
        self._data += data
        if not self._is_upgraded:
            _, end, rest = self._data.partition(END_OF_HEAD)
            if not end:
                return
            self._is_upgraded, self._data = True, rest
        packets, self._data = decode_frames(self._data)
        for packet in packets:
            self._handle(packet)

    def _handle(self, packet: bytes) -> None:
        if packet[:1] == b"0":
            self.send_packet(b"40" + json.dumps({"token": self.user["token"]}).encode())
        elif packet[:2] == b"40":
            self.connected.set_result(None)
        elif packet == b"2":
            self.send_packet(b"3")
        elif packet[:2] in (b"42", b"43"):
            self._on_packet(self, packet)


async def _connect_all(
    spec: Spec, on_packet: Callable[[SocketConnection, bytes], None]
) -> list[SocketConnection]:
    """Connect all users, some at a time."""
    connections: list[SocketConnection] = []
    for start in range(0, len(spec["users"]), CONNECT_SIZE):
        users = spec["users"][start : start + CONNECT_SIZE]
        new = [
            await connect(spec, partial(SocketConnection, spec["url"], user, on_packet))
            for user in users
        ]
        await asyncio.wait_for(asyncio.gather(*(one.connected for one in new)), CONNECT_TIMEOUT_S)
        connections += new
    return connections


async def socket_sends(spec: Spec) -> dict[str, float]:
    """Let every user send to their partner, and again after each acknowledgement.

    This ends when the time is up and at least one acknowledgement has come. `lost` is the number of
    messages that the partner's socket did not receive.
    """
    conversation = _Conversation(spec["text"])
    connections = await _connect_all(spec, conversation.on_packet)
    started = time.perf_counter()
    for connection in connections:
        conversation.send(connection)
    await wait_for_last_replies(conversation.acknowledged)
    await asyncio.sleep(started + spec["seconds"] - time.perf_counter())
    latencies_ms, took_s = list(conversation.latencies_ms), time.perf_counter() - started
    conversation.stop()
    await wait_for_last_replies(conversation.all_delivered)
    figures = make_figures(latencies_ms, took_s, conversation.failed)
    return figures | {"delivered": conversation.delivered, "lost": len(conversation.undelivered)}


class _Conversation:
    """Sends messages and counts what arrives.

    The first two words of a message identify it: the sender, and the number of its send.
    """

    def __init__(self, text: str) -> None:
        self._text, self._is_sending = text, True
        self.failed, self.delivered, self.latencies_ms = 0, 0, list[float]()
        self.acknowledged, self.all_delivered = asyncio.Event(), asyncio.Event()
        self.undelivered: set[tuple[bytes, bytes]] = set()

    def send(self, connection: SocketConnection) -> None:
        connection.ack_id += 1
        connection.sent_at = time.perf_counter()
        user, number = connection.user, connection.ack_id
        self.undelivered.add((user["id"].encode(), b"%d" % number))
        payload = {"receiverId": user["partner"], "text": f"{user['id']} {number} {self._text}"}
        connection.send_packet(b"42%d" % number + json.dumps(["sendMessage", payload]).encode())

    def on_packet(self, connection: SocketConnection, packet: bytes) -> None:
        if packet[:2] == b"43":
            self.latencies_ms.append((time.perf_counter() - connection.sent_at) * 1000)
            self.failed += b'"ok":true' not in packet
            self.acknowledged.set()
            if self._is_sending:
                self.send(connection)
        elif packet[:15] == b'42["newMessage"':
            sender, number, _ = packet.partition(b'"text":"')[2].split(b" ", 2)
            if sender.decode() == connection.user["partner"]:  # the sender's socket receives it too
                self.delivered += 1
                self.undelivered.discard((sender, number))
                self._check_delivered()

    def stop(self) -> None:
        """Send no more messages, and set `all_delivered` when all have arrived."""
        self._is_sending = False
        self._check_delivered()

    def _check_delivered(self) -> None:
        if not self._is_sending and not self.undelivered:
            self.all_delivered.set()


async def joining_sockets(spec: Spec) -> dict[str, float]:
    """Connect all users one after the other, evenly over the time, and stay.

    `bytes` and `frames` are those that all sockets have received from the service by then, without
    the answers to the connections themselves. The latencies are those of the connections.
    """
    raise_limit(len(spec["users"]))
    received = list[int]()
    started, latencies_ms = time.perf_counter(), list[float]()
    connecting: list[asyncio.Task[None]] = []

    async def join(user: dict[str, str]) -> None:
        began = time.perf_counter()
        protocol = partial(
            SocketConnection, spec["url"], user, lambda _, packet: received.append(len(packet))
        )
        connection = await connect(spec, protocol)
        await asyncio.wait_for(connection.connected, CONNECT_TIMEOUT_S)
        latencies_ms.append((time.perf_counter() - began) * 1000)

    pause_s = spec["seconds"] / len(spec["users"])
    for number, user in enumerate(spec["users"]):
        await asyncio.sleep(started + number * pause_s - time.perf_counter())
        connecting.append(asyncio.create_task(join(user)))
    await asyncio.gather(*connecting)
    await asyncio.sleep(LAST_EVENTS_S)
    figures = make_figures(latencies_ms, time.perf_counter() - started, 0)
    return figures | {"bytes": sum(received), "frames": len(received)}


async def idle_sockets(spec: Spec) -> dict[str, float]:
    """Keep all sockets open until standard input ends; print their number when they are open."""
    raise_limit(len(spec["users"]))
    connections = await _connect_all(spec, lambda _connection, _packet: None)
    print(json.dumps({"sockets": len(connections)}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    return {"sockets": sum(not connection.transport.is_closing() for connection in connections)}
