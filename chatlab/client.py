"""A client of the service for one user, by HTTP and Socket.IO. The demo and the notebooks use it.

It knows the public API only. When the service rejects a request, it raises the error of
`chatlab.errors` with the same code. Without a connection, httpx and socketio raise their errors.
"""

import asyncio
import functools
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, Self

import httpx
import socketio

from chatlab.errors import ChatlabError

Json = dict[str, Any]
ERRORS = {kind.code: kind for kind in ChatlabError.__subclasses__()}
REPLY_TIMEOUT_S = 10
RESYNC_MESSAGES = 50  # read of a conversation of which the socket has received none


class SendResult(NamedTuple):
    """`status`: `200 OK` or `ack ok`. `took_ms`: the round trip as the client measured it."""

    message: Json
    status: str
    took_ms: float


class ReadResult(NamedTuple):
    """A conversation. `cache` is the value of its X-Cache header."""

    messages: list[Json]
    cache: str
    took_ms: float


class ReceivedEvent(NamedTuple):
    """An event that the socket received. `at` is in milliseconds since 1970, by the local clock."""

    event: str
    payload: Any
    at: float


class ChatClient:
    """One signed-up user. `received` holds the events of the chat socket, oldest first.

    After a `resync` it also holds the new messages that the socket has missed.
    """

    def __init__(self, url: str, user: Json, token: str) -> None:
        self.url, self.user, self.token = url, user, token
        self.id: str = user["id"]
        self.received: list[ReceivedEvent] = []
        self.http = _open_http(url, headers={"authorization": f"Bearer {token}"})
        self.socket = _new_socket()
        self.socket.on("*", self._receive)
        self.socket.on("resync", self._resync)
        self.connect_requested = False  # whether it succeeded is in `socket.connected`
        self._flow_sockets: list[socketio.AsyncClient] = []

    @classmethod
    async def sign_up(cls, url: str, name: str, password: str, **options: Any) -> Self:
        """Create a user on the service at `url`, and return their client.

        `options` are further arguments of a subclass's constructor.
        """
        account = {"username": name, "password": password}
        async with _open_http(url) as http:
            session = _checked(await http.post("/api/auth/signup", json=account)).json()
        return cls(url, session["user"], session["token"], **options)

    async def connect(self) -> None:
        """Connect the chat socket, unless it is connected."""
        self.connect_requested = True
        if not self.socket.connected:
            await self._connect(self.socket)

    async def watch_flow(self, listener: Callable[[Json], None]) -> None:
        """Call `listener` with each stage event. The service needs CHATLAB_FLOW=1."""
        socket = _new_socket()
        socket.on("flow", listener, namespace="/flow")
        self._flow_sockets = [*filter(_is_connected, self._flow_sockets), socket]
        await self._connect(socket, namespaces=["/flow"])

    @property
    def is_watching_flow(self) -> bool:
        """False after the connection of `watch_flow` was lost."""
        return any(map(_is_connected, self._flow_sockets))

    async def _connect(self, socket: socketio.AsyncClient, **options: Any) -> None:
        await socket.connect(
            self.url,
            auth={"token": self.token},
            transports=["websocket"],
            wait_timeout=REPLY_TIMEOUT_S,
            **options,
        )

    async def send_by_http(self, receiver: str, text: str, **fields: Any) -> SendResult:
        """Send a message. `fields` are optional fields of the request, such as `clientId`."""
        started = time.perf_counter()
        request = {"receiverId": receiver, "text": text, **fields}
        reply = _checked(await self.http.post("/api/messages/send", json=request))
        status = f"{reply.status_code} {reply.reason_phrase}"
        return SendResult(reply.json(), status, _ms_since(started))

    async def send_by_socket(self, receiver: str, text: str, **fields: Any) -> SendResult:
        """Send a message by the chat socket, as `send_by_http` does."""
        started = time.perf_counter()
        request = {"receiverId": receiver, "text": text, **fields}
        ack = await self.socket.call("sendMessage", request, timeout=REPLY_TIMEOUT_S)
        if not ack["ok"]:
            raise _error(ack["error"])
        return SendResult(ack["message"], "ack ok", _ms_since(started))

    async def read(self, other: str, *, fresh: bool = False, **page: int) -> ReadResult:
        """Read the conversation with another user. With `fresh`, the service bypasses the cache."""
        started = time.perf_counter()
        headers = {"cache-control": "no-cache"} if fresh else {}
        path = f"/api/messages/{other}"
        reply = _checked(await self.http.get(path, params=page, headers=headers))
        return ReadResult(reply.json(), reply.headers["x-cache"], _ms_since(started))

    async def update_settings(self, settings: Json) -> Json:
        """Change `cacheTtl` (seconds) or `cacheMode` of the running service, as `/lab` does.

        Return the new settings. The service needs CHATLAB_FLOW=1.
        """
        return dict(_checked(await self.http.put("/api/lab/settings", json=settings)).json())

    def _receive(self, event: str, *payload: Any) -> None:
        now_ms = time.time() * 1000
        self.received.append(ReceivedEvent(event, payload[0] if payload else None, now_ms))

    async def _resync(self, lost: Json) -> None:
        """Read the new messages that the socket may have missed, and add them to `received`."""
        self._receive("resync", lost)
        known = [event.payload for event in self.received if event.event == "newMessage"]
        async for other in self._partners(since=lost["since"]):
            users = {self.id, other}
            seqs = [one["seq"] for one in known if {one["senderId"], one["receiverId"]} == users]
            page = {"after": max(seqs)} if seqs else {"limit": RESYNC_MESSAGES}
            for message in (await self.read(other, **page)).messages:
                if seqs or message["createdAt"] >= lost["since"]:
                    self._receive("newMessage", message)

    async def _partners(self, since: str) -> AsyncIterator[str]:
        """Yield the other users of the conversations with a message since then."""
        page: Json = {"next": ""}
        while page["next"] is not None:
            before = {"before": page["next"]} if page["next"] else {}
            page = _checked(await self.http.get("/api/conversations", params=before)).json()
            for row in page["items"]:
                if row["lastMessage"]["createdAt"] < since:
                    return
                yield row["user"]["id"]

    async def disconnect(self) -> None:
        """Close the sockets. `connect` and `watch_flow` open them again."""
        sockets = (self.socket, *self._flow_sockets)
        closing = [asyncio.create_task(socket.disconnect()) for socket in sockets]
        self._flow_sockets.clear()
        # The library may never stop waiting for the end of a lost connection, and then also
        # ignore a cancellation.
        closed, lost = await asyncio.wait(closing, timeout=REPLY_TIMEOUT_S)
        for task in lost:
            task.cancel()
        for task in closed:
            task.result()

    async def close(self) -> None:
        """Close the sockets and the HTTP connections."""
        await self.disconnect()
        await self.http.aclose()


def _open_http(url: str, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=url, timeout=REPLY_TIMEOUT_S, verify=_tls(), trust_env=False, **options
    )


@functools.cache
def _tls() -> ssl.SSLContext:
    """Return the TLS context of all clients: to create it needs 60 ms of processor time."""
    return httpx.create_ssl_context(trust_env=False)


def _new_socket() -> socketio.AsyncClient:
    """Return a socket that does not reconnect by itself, so that a lost connection is visible.

    It leaves Ctrl-C to the program: the library's handler would cancel all tasks of the program.
    """
    return socketio.AsyncClient(reconnection=False, handle_sigint=False)


def _is_connected(socket: socketio.AsyncClient) -> bool:
    return bool(socket.connected)


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _checked(reply: httpx.Response) -> httpx.Response:
    if reply.is_error:
        raise _error(reply.json())
    return reply


def _error(body: Json) -> ChatlabError:
    return ERRORS.get(body["code"], ChatlabError)(body["detail"])
