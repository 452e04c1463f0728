"""Disconnect clients that do not authenticate, do not read, or send anything but packets."""

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

SCOPE_KEY = "chatlab.guard"  # of the ASGI scope: the WatchedSocket of this connection
POLICY_VIOLATION = 1008  # websocket close code
DISCONNECTED = {"type": "websocket.disconnect", "code": POLICY_VIOLATION}
# The Engine.IO packets of a client that sends no binary attachments.
PACKET = re.compile(r"[1-6]$|3probe$|4[0-4]")

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class SocketGuard:
    """ASGI middleware that closes a websocket in three cases.

    The client has not authenticated within `connect_timeout` seconds, it has not read for
    `stalled_timeout` seconds, or it has sent something that is not a packet. In the last case the
    library alone would stop reading, but keep the connection.
    """

    def __init__(
        self, app: Callable[..., Awaitable[None]], *, connect_timeout: float, stalled_timeout: float
    ) -> None:
        self._app = app
        self._connect_timeout, self._stalled_timeout = connect_timeout, stalled_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
        else:
            watched = scope[SCOPE_KEY] = WatchedSocket(
                receive, send, self._connect_timeout, self._stalled_timeout
            )
            await self._app(scope, watched.receive, watched.send)


class WatchedSocket:
    """One guarded websocket. Its client must show a valid token in time."""

    def __init__(
        self, receive: Receive, send: Send, connect_timeout: float, stalled_timeout: float
    ) -> None:
        self._authenticated = False
        self._receive, self._send = receive, send
        self._deadline = asyncio.get_running_loop().time() + connect_timeout
        self._stalled_timeout = stalled_timeout
        self._is_closed = False
        self._task = asyncio.current_task()  # serves this connection
        self._sending: asyncio.Timeout | None = None  # the time limit of the send under way

    def accept_token(self) -> None:
        """Note that the client has shown a valid token."""
        self._authenticated = True

    async def receive(self) -> Message:
        """Return the client's next message, or a disconnection if we have closed the connection."""
        if self._is_closed:
            return DISCONNECTED
        if self._authenticated:
            return await self._check(await self._receive())
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._check(await self._receive())
        except TimeoutError:
            return await self._reject("no valid token in time")

    async def _check(self, message: Message) -> Message:
        if message["type"] != "websocket.receive" or PACKET.match(message.get("text") or ""):
            return message
        return await self._reject("not an Engine.IO packet")

    async def _reject(self, reason: str) -> Message:
        await self.send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": reason})
        self._is_closed = True
        return DISCONNECTED

    async def send(self, message: Message) -> None:
        """Send a message, or drop it if the connection is closed.

        A client that does not read in time is disconnected.
        """
        if self._is_closed:
            return
        try:
            async with asyncio.timeout(self._stalled_timeout) as self._sending:
                await self._send(message)
        except TimeoutError:
            self._sending = None
            self.abort("the client does not read")
        finally:
            self._sending = None

    async def close(self, reason: str) -> None:
        """Send a close frame and end the connection."""
        await self._reject(reason)
        self.abort(reason)

    def abort(self, reason: str) -> None:
        """End the connection at once and drop what has not been sent."""
        self._is_closed = True
        if self._sending:
            self._sending.reschedule(0)  # end the send under way too
            self._sending = None
        if self._task:
            self._task.cancel(reason)
            self._task = None  # a second cancellation would interrupt the library's clean-up
