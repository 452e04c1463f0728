"""A client: one person at both doors, and the flow as it comes. Knows the contract, nothing of the inside; for the demo and the notebooks.

What the service refuses is raised as the error of the same code in `errors`; where there is no service, what httpx or socketio raise.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import httpx
import socketio

from chatlab.errors import ChatlabError

Json = dict[str, Any]
ERRORS = {kind.code: kind for kind in ChatlabError.__subclasses__()}
PATIENCE = 10  # seconds for an answer


class SendResult(NamedTuple):
    """`status`: `200 OK`, or `ack ok`. `took_ms`: from the request to the answer, as the client sees it."""

    message: Json
    status: str
    took_ms: float


class ReadResult(NamedTuple):
    """A conversation as a GET gives it; `cache` is its X-Cache."""

    messages: list[Json]
    cache: str
    took_ms: float


class ReceivedEvent(NamedTuple):
    """An event of the person's socket. `at` is in milliseconds since 1970, on this machine's clock."""

    event: str
    payload: Any
    at: float


class ChatClient:
    """A signed-up user. `connect` opens the chat socket; `heard` holds what it heard, in order."""

    def __init__(self, url: str, user: Json, token: str) -> None:
        self.url, self.user, self.token = url, user, token
        self.id: str = user["id"]
        self.received: list[ReceivedEvent] = []
        self.http = httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=PATIENCE, trust_env=False)
        self.socket = _socket()
        self.socket.on("*", self._hear)
        self.connect_requested = False  # it has been told to; whether it can is `socket.connected`
        self._watching: list[socketio.AsyncClient] = []

    @classmethod
    async def sign_up(cls, url: str, name: str, password: str) -> Self:
        """A new user with a session."""
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as http:
            session = _checked(await http.post("/api/auth/signup", json={"username": name, "password": password})).json()
        return cls(url, session["user"], session["token"])

    async def connect(self) -> None:
        self.connect_requested = True
        await self.socket.connect(self.url, auth={"token": self.token}, transports=["websocket"], wait_timeout=PATIENCE)

    async def watch_flow(self, listener: Callable[[Json], None]) -> None:
        """Hear every flow event of the service, on a socket of its own. The service needs CHATLAB_FLOW=1."""
        socket = _socket()
        socket.on("flow", listener, namespace="/flow")
        self._watching.append(socket)
        await socket.connect(self.url, auth={"token": self.token}, transports=["websocket"], namespaces=["/flow"], wait_timeout=PATIENCE)

    async def send_by_http(self, receiver: str, text: str, **more: Any) -> SendResult:
        started = time.perf_counter()
        answer = _checked(await self.http.post("/api/messages/send", json={"receiverId": receiver, "text": text, **more}))
        return SendResult(answer.json(), f"{answer.status_code} {answer.reason_phrase}", _since(started))

    async def send_by_socket(self, receiver: str, text: str, **more: Any) -> SendResult:
        started = time.perf_counter()
        ack = await self.socket.call("sendMessage", {"receiverId": receiver, "text": text, **more}, timeout=PATIENCE)
        if not ack["ok"]:
            raise _error(ack["error"])
        return SendResult(ack["message"], "ack ok", _since(started))

    async def read(self, other: str, *, fresh: bool = False, **page: int) -> ReadResult:
        """The conversation with another user; `fresh` asks MongoDB, whatever the cache has."""
        started = time.perf_counter()
        headers = {"cache-control": "no-cache"} if fresh else {}
        answer = _checked(await self.http.get(f"/api/messages/{other}", params=page, headers=headers))
        return ReadResult(answer.json(), answer.headers["x-cache"], _since(started))

    async def update_settings(self, settings: Json) -> Json:
        """Other settings of a running service, as `/lab` turns them: `cacheTtl` (s), `cacheMode`. The service needs CHATLAB_FLOW=1."""
        return dict(_checked(await self.http.put("/api/lab/settings", json=settings)).json())

    def _hear(self, event: str, *payload: Any) -> None:
        self.received.append(ReceivedEvent(event, payload[0] if payload else None, time.time() * 1000))

    async def disconnect(self) -> None:
        """Close the sockets; `connect` and `watch` open them again."""
        for socket in (self.socket, *self._watching):
            await socket.disconnect()
        self._watching.clear()

    async def close(self) -> None:
        await self.disconnect()
        await self.http.aclose()


def _socket() -> socketio.AsyncClient:
    """No reconnection, so that nothing is hidden. Ctrl-C stays the program's own affair: the library would cancel every task there is."""
    return socketio.AsyncClient(reconnection=False, handle_sigint=False)


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        raise _error(answer.json())
    return answer


def _error(told: Json) -> ChatlabError:
    return ERRORS.get(told["code"], ChatlabError)(told["detail"])
