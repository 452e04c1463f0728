"""The Socket.IO door: parse, call the service, acknowledge. The twin of `http_api`; touches neither store nor cache.

One handler at a time for a socket, so what a client sends stays in its order. A socket that does not authenticate,
or does not read what it is told, is dropped.
"""

import asyncio
import logging
import re
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple, TypeVar

import msgspec
import socketio
from socketio.exceptions import ConnectionRefusedError as Refused

from chatlab import metrics
from chatlab.accounts import TOKEN_CACHE_S, Accounts
from chatlab.domain.ids import UserId
from chatlab.domain.message import Message
from chatlab.domain.requests import Edit, MarkRead, React, Request, Send, Target, Typing
from chatlab.domain.trace import EventBus, StageEvent, Trace
from chatlab.errors import ChatlabError, StoreUnavailable, Unauthenticated
from chatlab.realtime.hub import Hub, TextPacket
from chatlab.service import Service

log = logging.getLogger(__name__)
_quiet = logging.getLogger("sockets")  # its own tracebacks for hostile packets say nothing new
_quiet.setLevel(logging.CRITICAL)

GUARD = "chatlab.guard"  # key of the ASGI scope of a websocket: who watches it
PACKET = re.compile(r"[1-6]$|3probe$|4[0-4]")  # of Engine.IO, as a client without binary attachments sends them
GONE = {"type": "websocket.disconnect", "code": 1008}
RECHECK = TOKEN_CACHE_S / 2  # seconds between two looks whether the sessions of open sockets still live
LOOK = 1.0  # seconds between two looks at what waits for open sockets
FEW = 100  # frames that may wait whatever their size
MOST_WAITING = 4 << 20  # bytes of events that may wait for one socket

Ack = dict[str, Any]
Asked = TypeVar("Asked", bound=Request)
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Sender = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _Session(NamedTuple):
    user: UserId
    token: str
    guard: "_Watched"


def socket_server(max_body: int) -> socketio.AsyncServer:
    """The Socket.IO server of this process: websocket only, text only. Any origin may connect, since a token is needed, not a cookie."""
    return socketio.AsyncServer(
        async_mode="asgi",
        async_handlers=False,
        transports=["websocket"],
        cors_allowed_origins="*",
        max_http_buffer_size=max_body,
        serializer=TextPacket,
        logger=_quiet,
        engineio_logger=_quiet,
    )


class SocketApi:
    def __init__(self, sockets: socketio.AsyncServer, service: Service, accounts: Accounts, hub: Hub, flow: EventBus) -> None:
        self._sockets, self._service, self._accounts, self._hub, self._flow = sockets, service, accounts, hub, flow
        self._sessions: dict[str, _Session] = {}
        self._watchers: FlowNamespace | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Hear every event of the contract, and look after the sessions of open sockets."""
        on = self._sockets.on
        on("connect", self._connect)
        on("disconnect", self._disconnect)
        on("sendMessage", self._handler(Send, self._send))
        on("editMessage", self._handler(Edit, lambda user, asked, trace: self._service.edit(user, asked.messageId, asked.text, trace)))
        on("deleteMessage", self._handler(Target, lambda user, asked, trace: self._service.delete(user, asked.messageId, trace)))
        on("addReaction", self._handler(React, lambda user, asked, trace: self._service.react(user, asked.messageId, asked.emoji, trace)))
        on(
            "removeReaction",
            self._handler(React, lambda user, asked, trace: self._service.unreact(user, asked.messageId, asked.emoji, trace)),
        )
        on("markRead", self._handler(MarkRead, lambda user, asked, _: self._service.mark_read(user, asked.userId, asked.seq)))
        on("typing", self._handler(Typing, lambda user, asked, _: self._service.typing(user, asked.receiverId, typing=asked.typing)))
        on("*", self._unknown)
        self._spawn(self._recheck())
        self._spawn(self._drop_the_slow())

    def open_flow(self) -> None:
        """Let whoever has a token watch the flow."""
        self._watchers = FlowNamespace(self._flow, self._identify)
        self._sockets.register_namespace(self._watchers)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- coming and going ----------------------------------------------------------------------------------------------------

    async def _connect(self, sid: str, environ: dict[str, Any], auth: object = None) -> None:
        session = await self._identify(auth, environ)
        self._sessions[sid] = session
        await self._sockets.enter_room(sid, session.user)
        await self._hub.joined(session.user)
        metrics.SOCKETS.inc()
        self._spawn(self._sockets.emit("onlineUsers", self._hub.online(), to=sid))  # runs once the connection has been confirmed

    async def _identify(self, auth: object, environ: dict[str, Any]) -> _Session:
        """The session of `auth: {token}`. A refusal carries the code and the detail."""
        token = auth.get("token") if isinstance(auth, dict) else None
        try:
            if not isinstance(token, str):
                raise Unauthenticated("Connect with auth: {token}; log in to get a token.")
            user = await self._accounts.admit(token)
        except ChatlabError as error:
            metrics.count_error("socket", error.code)
            raise Refused(error.code, {"code": error.code, "detail": error.detail}) from None
        guard: _Watched = environ["asgi.scope"][GUARD]
        guard.authenticated = True
        environ.pop("wsgi.input", None)  # the body that a socket does not have: of a class of its own each time, 2.5 KB
        return _Session(user, token, guard)

    async def _disconnect(self, sid: str, _reason: str) -> None:
        session = self._sessions.pop(sid, None)
        if session:
            self._hub.left(session.user)
            metrics.SOCKETS.dec()

    def _open_sessions(self) -> list[tuple[str, str, _Session]]:
        """Namespace, sid and session of every connection."""
        watching = self._watchers.watching if self._watchers else {}
        both = {"/": self._sessions, "/flow": watching}
        return [(namespace, sid, session) for namespace, sessions in both.items() for sid, session in sessions.items()]

    async def end(self, token: str) -> None:
        """Close every socket of this token: a word to the client, then the connection."""
        for namespace, sid, session in self._open_sessions():
            if session.token == token:
                connection = self._sockets.manager.eio_sid_from_sid(sid, namespace)
                await self._sockets.disconnect(sid, namespace)
                self._spawn(self._hang_up(connection, session.guard))  # not waited for: the client may not read

    async def _hang_up(self, connection: str, guard: "_Watched") -> None:
        await self._sockets.eio.disconnect(connection)  # asks the client to go
        await guard.hang_up("the session has ended")

    async def _recheck(self) -> None:
        """A log-out in another process reaches the sockets here too."""
        while True:
            await asyncio.sleep(RECHECK)
            try:
                for token in await self._accounts.ended_tokens({session.token for _, _, session in self._open_sessions()}):
                    await self.end(token)
            except StoreUnavailable:
                continue  # nobody is thrown out because MongoDB is away

    async def _drop_the_slow(self) -> None:
        """Who reads, but more slowly than there is to read, may not fill the memory: a client that comes back catches up by seq."""
        while True:
            await asyncio.sleep(LOOK)
            for namespace, sid, session in self._open_sessions():
                if self._waiting(sid, namespace) > MOST_WAITING:
                    session.guard.cut_off("the client reads too slowly")

    def _waiting(self, sid: str, namespace: str) -> int:
        """Bytes of events that wait for this socket. A few are not looked at."""
        connection = self._sockets.eio.sockets.get(self._sockets.manager.eio_sid_from_sid(sid, namespace))
        if connection is None or connection.queue.qsize() <= FEW:
            return 0
        return sum(sys.getsizeof(packet.data) for packet in connection.queue._queue if packet)  # noqa: SLF001 - a look must not take

    # --- events --------------------------------------------------------------------------------------------------------------

    def _handler(
        self, asked_as: type[Asked], act: Callable[[UserId, Asked, Trace], Awaitable[Message | None]]
    ) -> Callable[..., Awaitable[Ack]]:
        async def handle(sid: str, *payload: object) -> Ack:
            trace = self._flow.start_trace("socket")
            try:
                user = await self._user(sid)
                asked = asked_as.from_payload(payload[0] if len(payload) == 1 else None)
                trace.record("request")
                message = await asyncio.shield(act(user, asked, trace))  # whole, even if the socket ends meanwhile
            except ChatlabError as error:
                return _refusal(error.code, error.detail)
            except Exception:  # the client gets an answer whatever happens
                log.exception("unexpected error")
                return _refusal("internal", "Something went wrong here; it has been logged.")
            return _acknowledged(message, trace)

        return handle

    async def _user(self, sid: str) -> UserId:
        session = self._sessions.get(sid)
        if session is None:
            raise Unauthenticated("This socket has no session.")
        try:
            return await self._accounts.admit(session.token)
        except Unauthenticated:
            self._spawn(self.end(session.token))
            raise

    async def _send(self, user: UserId, asked: Send, trace: Trace) -> Message:
        message = await self._service.send(user, asked.receiverId, asked.text, asked.clientId, trace)
        metrics.SENDS["socket"].inc()
        return message

    async def _unknown(self, _event: str, sid: str, *_payload: object) -> Ack:
        try:
            await self._user(sid)  # counts as a use like any other
        except ChatlabError as error:
            return _refusal(error.code, error.detail)
        return _refusal("invalid", "There is no such event.")


def _acknowledged(message: Message | None, trace: Trace) -> Ack:
    if message is None:
        return {"ok": True}
    trace.record("respond", messageId=message.id)
    return {"ok": True, "message": msgspec.Raw(message.json)}


def _refusal(code: str, detail: str) -> Ack:
    metrics.count_error("socket", code)
    return {"ok": False, "error": {"code": code, "detail": detail}}


class FlowNamespace(socketio.AsyncNamespace):  # type: ignore[misc]  # the library has no types
    """`/flow`: every box that is passed in this process, as event `flow`, to whoever shows a token. Listens only while somebody does."""

    def __init__(self, flow: EventBus, identify: Callable[[object, dict[str, Any]], Awaitable[_Session]]) -> None:
        super().__init__("/flow")
        self._flow, self._identify = flow, identify
        self.watching: dict[str, _Session] = {}
        self._stop: Callable[[], None] | None = None
        self._emitting: set[asyncio.Task[None]] = set()

    async def on_connect(self, sid: str, environ: dict[str, Any], auth: object = None) -> None:
        self.watching[sid] = await self._identify(auth, environ)
        self._stop = self._stop or self._flow.subscribe(self._tell)

    async def on_disconnect(self, sid: str, _reason: str) -> None:
        self.watching.pop(sid, None)
        if not self.watching and self._stop:
            self._stop()
            self._stop = None

    def _tell(self, event: StageEvent) -> None:
        task = asyncio.get_running_loop().create_task(self.emit("flow", event))
        self._emitting.add(task)
        task.add_done_callback(self._emitting.discard)


class SocketGuard:
    """ASGI: ends a websocket that has not authenticated after `connect_timeout` seconds, or has not read for `stalled_timeout` seconds,
    or says what is no packet: the library would stop listening to it, and keep it.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], *, connect_timeout: float, stalled_timeout: float) -> None:
        self._app, self._connect_timeout, self._stalled_timeout = app, connect_timeout, stalled_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Sender) -> None:
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
        else:
            watched = scope[GUARD] = _Watched(receive, send, self._connect_timeout, self._stalled_timeout)
            await self._app(scope, watched.hear, watched.say)


class _Watched:
    """One websocket under the guard's eyes."""

    def __init__(self, receive: Receive, send: Sender, connect_timeout: float, stalled_timeout: float) -> None:
        self.authenticated = False  # set once it has shown a token
        self._receive, self._send = receive, send
        self._deadline = asyncio.get_running_loop().time() + connect_timeout
        self._stalled_timeout, self._given_up = stalled_timeout, False
        self._task = asyncio.current_task()
        self._patience: asyncio.Timeout | None = None  # with what is being said now

    async def hear(self) -> MutableMapping[str, Any]:
        """The next message; a disconnection once the client has been given up."""
        if self._given_up:
            return GONE
        if self.authenticated:
            return await self._checked(await self._receive())
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._checked(await self._receive())
        except TimeoutError:
            return await self._give_up("authenticate sooner")

    async def _checked(self, message: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if message["type"] != "websocket.receive" or PACKET.match(message.get("text") or ""):
            return message
        return await self._give_up("this is no packet")

    async def _give_up(self, reason: str) -> MutableMapping[str, Any]:
        await self.say({"type": "websocket.close", "code": 1008, "reason": reason})
        self._given_up = True
        return GONE

    async def say(self, message: MutableMapping[str, Any]) -> None:
        """Pass on; a client that has left its events unread for too long is given up, and what else is for it is dropped."""
        if self._given_up:
            return
        try:
            async with asyncio.timeout(self._stalled_timeout) as self._patience:
                await self._send(message)
        except TimeoutError:
            self._patience = None
            self.cut_off("the client does not read")
        finally:
            self._patience = None

    async def hang_up(self, reason: str) -> None:
        """End the connection from our side."""
        await self._give_up(reason)
        self.cut_off(reason)

    def cut_off(self, reason: str) -> None:
        """Give the client up, and what waits for it."""
        self._given_up = True
        if self._patience:
            self._patience.reschedule(0)  # what is being said to it now is not waited for either
            self._patience = None
        if self._task:
            self._task.cancel(reason)
            self._task = None  # once: a second time would end the library's tidying up
