"""A minimal Socket.IO client on one connection, like `chatlab.bench.raw_http` for HTTP."""

import json
import socket
import time
from urllib.parse import urlsplit

from benchmarks.load.websocket import UPGRADE_HEADERS, UPGRADE_PATH, decode_frames, encode_frame
from chatlab.bench.raw_http import END_OF_HEAD, REPLY_TIMEOUT_S, Reply, encode_request


class RawSocketClient:
    """A connection that is authenticated when the constructor returns."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection(
            (parts.hostname or "", parts.port or 80), REPLY_TIMEOUT_S
        )
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(
            encode_request("GET", UPGRADE_PATH, UPGRADE_HEADERS.format(host=parts.netloc), b"")
        )
        data = b""
        while END_OF_HEAD not in data:
            data += self._socket.recv(65_536)
        # The first packet may arrive together with the response.
        self._packets, self._data = decode_frames(data.partition(END_OF_HEAD)[2])
        self._ack_id = 0
        self._receive_until(b"0")
        self._socket.sendall(encode_frame(b"40" + json.dumps({"token": token}).encode()))
        self._receive_until(b"40")

    def send(self, receiver: str, text: str) -> Reply:
        """Send a message and wait for its acknowledgement."""
        self._ack_id += 1
        event = json.dumps(["sendMessage", {"receiverId": receiver, "text": text}]).encode()
        started = time.perf_counter()
        self._socket.sendall(encode_frame(b"42%d" % self._ack_id + event))
        ack = self._receive_until(b"43%d[" % self._ack_id)
        took_ms = (time.perf_counter() - started) * 1000
        return Reply(200 if b'"ok":true' in ack else 500, "", ack, took_ms)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _receive_until(self, prefix: bytes) -> bytes:
        """Return the next packet with this prefix. Answer pings and skip other packets."""
        while True:
            while self._packets:
                packet = self._packets.pop(0)
                if packet == b"2":
                    self._socket.sendall(encode_frame(b"3"))
                if packet.startswith(prefix):
                    return packet
            data = self._socket.recv(65_536)
            if not data:
                raise ConnectionError("The server closed the socket.")
            self._packets, self._data = decode_frames(self._data + data)
