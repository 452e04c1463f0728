"""One Socket.IO connection that sends and waits, as bare as `chatlab.bench.raw_http` is for HTTP."""

import json
import socket
import time
from urllib.parse import urlsplit

from benchmarks.load import UPGRADE, frame, frames
from chatlab.bench.raw_http import END_OF_HEAD, REPLY_TIMEOUT_S, Reply, encode_request


class OneSocket:
    """Connected and authenticated."""

    def __init__(self, url: str, token: str) -> None:
        place = urlsplit(url)
        self._socket = socket.create_connection((place.hostname or "", place.port or 80), REPLY_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(encode_request("GET", "/socket.io/?EIO=4&transport=websocket", UPGRADE.format(host=place.netloc), b""))
        self._data, self._packets, self._turn = b"", list[bytes](), 0
        while END_OF_HEAD not in self._data:
            self._data += self._socket.recv(65_536)
        self._packets, self._data = frames(self._data.partition(END_OF_HEAD)[2])  # the first packet may have come along
        self._until(b"0")
        self._socket.sendall(frame(b"40" + json.dumps({"token": token}).encode()))
        self._until(b"40")

    def send(self, receiver: str, text: str) -> Reply:
        """A message; its ack."""
        self._turn += 1
        packet = b"42%d" % self._turn + json.dumps(["sendMessage", {"receiverId": receiver, "text": text}]).encode()
        started = time.perf_counter()
        self._socket.sendall(frame(packet))
        ack = self._until(b"43%d[" % self._turn)
        took = (time.perf_counter() - started) * 1000
        return Reply(200 if b'"ok":true' in ack else 500, "", ack, took)

    def close(self) -> None:
        """Gone, for the server too."""
        self._socket.close()

    def _until(self, beginning: bytes) -> bytes:
        """The next packet that begins so; pings are answered, events passed over."""
        while True:
            while self._packets:
                packet = self._packets.pop(0)
                if packet == b"2":
                    self._socket.sendall(frame(b"3"))
                if packet.startswith(beginning):
                    return packet
            data = self._socket.recv(65_536)
            if not data:
                raise ConnectionError("The server closed the socket.")
            self._packets, self._data = frames(self._data + data)
