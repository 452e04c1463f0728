"""Websocket connections: uvicorn's, with limits for the number of frames.

uvicorn parses everything that has arrived at once, up to 256 KB: 40,000 pings, which took half a
second, and 40,000 answers. Here it parses a few kilobytes at a time. Frames beyond the limit close
the socket before its client has shown a valid token, and wait afterwards.
"""

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request
from websockets.protocol import State

from chatlab.web.connection_limits import CLIENT_KEY, LimitedConnection, Reason

PIECE_BYTES = 2048  # at most 341 frames, which take 4 ms
MAX_FRAMES_PER_S = 1000  # of one socket; more would wait for MongoDB anyway
# Before a valid token. A client needs one frame to send it; the others are room for a second try.
MAX_FIRST_FRAMES = 32
MAX_FIRST_BYTES = 16_384
MAX_FRAGMENTS = 100  # of a message; browsers send a message in one frame


class LimitedWebSocketProtocol(LimitedConnection, WebSocketsSansIOProtocol):
    """Limit the frames of a client: text, pings, pongs and empty fragments alike."""

    _unparsed = b""  # has arrived, but must wait
    _is_held_back = False  # reading is paused because of that
    _frames = 0  # since the last check; before a valid token, since the beginning
    _first_bytes = 0  # before a valid token

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated:
            self._unparsed += data
            self._parse()
            return
        super().data_received(data)  # the whole head, which the HTTP protocol has read
        if not self.handshake_initiated:
            self.give_up(Reason.INVALID)

    def _parse(self) -> None:
        """Parse what has arrived, until a complete message waits or a limit is reached."""
        while self._unparsed and self._may_parse():
            piece, self._unparsed = self._unparsed[:PIECE_BYTES], self._unparsed[PIECE_BYTES:]
            if not self.remote.authenticated:
                self._first_bytes += len(piece)
            super().data_received(piece)
        if self.transport.is_closing():
            self._unparsed = b""
        elif self._unparsed:
            self._is_held_back = True
            self.read_paused = False  # otherwise uvicorn would resume reading after a message
            self.transport.pause_reading()
        elif self._is_held_back:
            self._is_held_back = False
            if self.queue.empty():
                self.transport.resume_reading()
            else:
                self.read_paused = True  # uvicorn resumes reading after the last message

    def _may_parse(self) -> bool:
        if self.queue.qsize() and not self.close_sent:
            return False  # the next call of `receive` continues
        if self.remote.authenticated:
            return self._frames <= MAX_FRAMES_PER_S  # the next check continues
        if self._frames > MAX_FIRST_FRAMES or self._first_bytes > MAX_FIRST_BYTES:
            self._end(CloseCode.POLICY_VIOLATION, "too much before a valid token", Reason.FRAMES)
        return bool(self._unparsed)

    def receive(self) -> Any:
        """Return the next message, when it is awaited, and continue to parse after the last one.

        It is no coroutine, which would cost each idle socket 500 bytes.
        """
        if self._unparsed and self.queue.empty():
            self.loop.call_soon(self._parse)
        return super().receive()

    def check(self, now_s: float) -> None:
        """Allow frames for another second."""
        if self._frames and self.remote.authenticated:
            self._frames = 0
            if self._unparsed:
                self._parse()
        super().check(now_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unparsed = b""
        super().connection_lost(exc)

    # --- events of the parser ---

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            self.scope["state"][CLIENT_KEY] = self.remote
        self.request = None  # type: ignore[assignment]  # uvicorn keeps 1 KB that it does not need

    def handle_events(self) -> None:
        self._frames += len(self.conn.events)
        super().handle_events()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) < MAX_FRAGMENTS:
            super().handle_cont(event)
        else:
            reason = f"a message has more than {MAX_FRAGMENTS} fragments"
            self._end(CloseCode.MESSAGE_TOO_BIG, reason, Reason.INVALID)

    def send_receive_event_to_app(self) -> None:
        """Close the socket if a text is not UTF-8. uvicorn would log a traceback."""
        try:
            if self.curr_msg_data_type == "text":
                b"".join(self.frames).decode()
        except UnicodeDecodeError:
            self._end(CloseCode.INVALID_DATA, "a text is not UTF-8", Reason.INVALID)
        else:
            super().send_receive_event_to_app()

    def _end(self, code: CloseCode, text: str, reason: Reason) -> None:
        """Send a close frame and end the connection."""
        self._unparsed = b""
        if self.transport.is_closing():
            return
        if self.conn.state is State.OPEN:
            self.limits.count(reason, self.remote)
            self.conn.fail(code, text)
            self.handle_parser_exception()
        else:  # not accepted yet, or closed already
            self.give_up(reason)
