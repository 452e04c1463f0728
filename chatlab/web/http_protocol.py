"""HTTP connections: uvicorn's, with limits for what a client sends and for how long it takes."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from chatlab.web.connection_limits import CLIENT_KEY, LimitedConnection, Reason, Step
from chatlab.web.problems import PROBLEM_JSON, problem_body

# uvicorn logs each invalid request of a client as a warning. This logger is not below `uvicorn` or
# `chatlab`: the logging configuration would reset its level.
quiet_log = logging.getLogger("http")
quiet_log.setLevel(logging.ERROR)

MAX_HEAD_BYTES = 65_536
MAX_HEADER_LINES = 200  # of a request, together with those that may follow a body in chunks
MAX_CHUNKS = 1000  # of a body; each costs as much time as a kilobyte
MAX_PIPELINED = 16  # requests that wait for the response to an earlier one
SOCKET_IO = b"/socket.io/"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"  # as uvicorn writes it
WEBSOCKETS_ONLY = (
    "Socket.IO is served over websockets only, without long polling. Connect with "
    "transports=['websocket'] in Python, or with {transports: ['websocket']} in JavaScript."
)


class RejectedError(Exception):
    """Stops the parser: the request is not acceptable."""


class WholeResponse:
    """Sends the head of a response together with the first piece of its body.

    uvicorn writes the head alone, which costs a system call and a packet: a tenth of the CPU time
    of a cached read.
    """

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = None  # empty once it is sent

    def write(self, data: bytes) -> None:
        """Write a piece of the response, or keep it if it is the head."""
        if self._head:
            data, self._head = self._head + data, b""
        elif self._head is None and data != CONTINUE:
            self._head = data
            return
        self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        """Write the head if it waits for its body, and close the connection."""
        if self._head:
            self.write(b"")
        self._transport.close()


class LimitedHttpProtocol(LimitedConnection, HttpToolsProtocol):
    """Reject requests that are invalid, too large, in too many pieces, or too slow.

    A rejected request gets status 400 or 408 as a problem, like every other error. The methods that
    run for every request do as little as possible: `check` finds out the rest once a second. The
    list `headers` is new for each request, so it also tells one request from another.
    """

    cycle: RequestResponseCycle | None  # type: ignore[assignment]  # None until the first request
    scope: Any  # the same; uvicorn adds the method when the head is complete
    _head_bytes = _body_bytes = _chunks = 0
    _measured: object = None  # the headers of the request that `_head_bytes` is about
    _chunked: object = None  # the same for `_chunks`
    _earlier: Sequence[RequestResponseCycle] = ()  # pipelined requests without the newest one
    _rejected = ""  # why
    _waits_for_upgrade = False  # to a websocket, in the queue

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.logger = quiet_log

    # --- calls of the parser ---

    def on_headers_complete(self) -> None:
        hosts = 0
        for name, _ in self.headers:
            if name == b"host":
                hosts += 1
        if hosts != 1 and (hosts or self.parser.get_http_version() == "1.1"):
            self._reject("A request needs one Host header, and not more.")
        if self.url.startswith(SOCKET_IO) and not self.parser.should_upgrade():
            self._refuse_polling()
        self.scope["state"][CLIENT_KEY] = self.remote
        earlier = self.cycle
        super().on_headers_complete()
        cycle = self.cycle
        if cycle and cycle is not earlier and self.scope["method"] != "HEAD":  # that has no body
            cycle.transport = WholeResponse(self.transport)  # type: ignore[assignment]
        if self.limits.drain.has_begun and self.cycle:
            self.cycle.keep_alive = False  # the client sends its next request elsewhere
        if self.pipeline:
            cycles = (*self._earlier, earlier)
            self._earlier = [one for one in cycles if one and not one.response_complete]
            if len(self.pipeline) > MAX_PIPELINED:
                self._reject(f"More than {MAX_PIPELINED} requests wait for their responses.")

    def _refuse_polling(self) -> None:
        """Say what to do instead, in one piece with the head of the response.

        python-socketio closes its connection when it has read the head, and misses the rest.
        """
        self._close_with_problem(400, "invalid", WEBSOCKETS_ONLY)
        raise RejectedError

    def on_chunk_header(self) -> None:
        if self._chunked is not self.headers:
            self._chunked, self._chunks = self.headers, 0
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            self._reject(f"The body has more than {MAX_CHUNKS} chunks.")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def _reject(self, reason: str) -> None:
        """Stop the parser. uvicorn then calls `send_400_response`."""
        self._rejected = reason
        raise RejectedError

    # --- calls of the event loop and of uvicorn ---

    def data_received(self, data: bytes) -> None:
        """Parse the data; reject the request if its head is too large."""
        if self._waits_for_upgrade:
            self.give_up(Reason.INVALID)  # RFC 6455, section 4.1: the client must wait too
            return
        super().data_received(data)
        if not self.scope or "method" not in self.scope:
            self._limit_head(len(data))
        elif len(self.headers) > MAX_HEADER_LINES:
            self._close_as_invalid(f"The request has more than {MAX_HEADER_LINES} header lines.")

    def _limit_head(self, more_bytes: int) -> None:
        if self._measured is not self.headers:
            self._measured, self._head_bytes = self.headers, 0
        self._head_bytes += more_bytes
        if self._head_bytes > MAX_HEAD_BYTES:
            too_large = f"The request line and the headers have more than {MAX_HEAD_BYTES} bytes."
            self._close_as_invalid(too_large)

    def handle_websocket_upgrade(self) -> None:
        """Let the connection wait until it is its turn to become a websocket."""
        self._waits_for_upgrade = True
        self.limits.upgrades.add(self._upgrade)

    def _upgrade(self) -> bool:
        """Hand the connection to the websocket protocol, which counts it itself.

        Return False if it has been closed in the meantime.
        """
        if self.transport.is_closing():
            return False
        self.limits.remove(self)
        try:
            super().handle_websocket_upgrade()
        except Exception:  # the event loop closes a connection only if `data_received` fails
            self.transport.abort()
            raise
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """End the requests of the connection. uvicorn forgets all but the newest one."""
        for cycle in self._earlier:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Send status 400 as a problem, and close the connection. uvicorn calls this."""
        self._close_as_invalid(self._rejected or msg)

    # --- time limits ---

    def next_step(self) -> Step | None:
        """Return what the client must do next, or None while the service must answer."""
        return super().next_step() or (None if self._waits_for_upgrade else self._next_part())

    def _next_part(self) -> Step | None:
        limits, cycle = self.limits, self.cycle
        if self.scope and "method" not in self.scope:
            return Step(self.headers, 0, limits.head_timeout, Reason.HEAD)
        if cycle is None:
            return Step(None, 0, limits.head_timeout, Reason.IDLE)
        if cycle.response_complete:
            # The limit of uvicorn ends with the first byte, which may belong to no request.
            idle_s = max(limits.head_timeout, self.timeout_keep_alive)
            return Step(cycle, 0, idle_s, Reason.IDLE)
        if cycle.more_body and not self.flow.read_paused:
            return Step(cycle, self._body_bytes, limits.stalled_timeout, Reason.BODY)
        return None

    def give_up(self, reason: Reason) -> None:
        """Send status 408 if the client waits for a response, and close the connection."""
        if reason in (Reason.HEAD, Reason.BODY):
            self.limits.count(reason, self.remote)
            self._close_with_problem(408, "timeout", "The request did not arrive in time.")
        else:
            super().give_up(reason)

    # --- the last response ---

    def _close_as_invalid(self, detail: str) -> None:
        if not self.transport.is_closing():
            self.limits.count(Reason.INVALID, self.remote)
            self._close_with_problem(400, "invalid", detail)

    def _close_with_problem(self, status: int, code: str, detail: str) -> None:
        """Send a problem, unless a response is under way, and close the connection."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = problem_body(status, code, detail)
            headers = [*self.server_state.default_headers, (b"content-type", PROBLEM_JSON.encode())]
            headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
            headers += [(b"cache-control", b"no-store")]
            lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + body)
        self.transport.close()
