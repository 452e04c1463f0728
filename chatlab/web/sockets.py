"""The Socket.IO transport: parse an event, call the service, acknowledge.

`http` does the same for HTTP requests.

The server handles one event of a socket at a time, so that the messages of a client keep their
order.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import socketio

from chatlab import metrics
from chatlab.domain.ids import UserId
from chatlab.domain.message import Message
from chatlab.domain.requests import Edit, MarkRead, React, Request, Send, Target, Typing
from chatlab.domain.trace import EventBus, Trace
from chatlab.errors import ChatlabError
from chatlab.realtime.broadcast import Broadcast
from chatlab.realtime.task_set import TaskSet
from chatlab.service import Service
from chatlab.web.request_log import RequestLog
from chatlab.web.socket_sessions import MAIN_NAMESPACE, SocketSessions

log = logging.getLogger(__name__)

Ack = dict[str, Any]
RequestType = TypeVar("RequestType", bound=Request)


class SocketApi:
    """Handles the events that clients send, which are documented at /docs.

    Identity comes from the session of the socket, never from a payload.
    """

    def __init__(
        self,
        sockets: socketio.AsyncServer,
        sessions: SocketSessions,
        service: Service,
        broadcast: Broadcast,
        events: EventBus,
        requests: RequestLog,
    ) -> None:
        self._sockets, self._sessions, self._requests = sockets, sessions, requests
        self._service, self._broadcast, self._events = service, broadcast, events
        self._tasks = TaskSet()

    def open(self) -> None:
        """Register a handler for each event, and start to check the sessions of open sockets."""
        self._sockets.on("connect", self._connect)
        self._sockets.on("disconnect", self._disconnect)
        self._answer("sendMessage", Send, self._send)
        self._answer("editMessage", Edit, self._edit)
        self._answer("deleteMessage", Target, self._delete)
        self._answer("addReaction", React, self._add_reaction)
        self._answer("removeReaction", React, self._remove_reaction)
        self._answer("markRead", MarkRead, self._mark_read)
        self._answer("typing", Typing, self._typing)
        self._answer("alive", Request, self._alive)
        self._sockets.on("*", self._unknown)
        self._sessions.open()

    async def close(self) -> None:
        await self._sessions.close()
        await self._tasks.cancel()

    async def _connect(self, sid: str, environ: dict[str, Any], auth: object = None) -> None:
        user = await self._sessions.connect(MAIN_NAMESPACE, sid, environ, auth)
        await self._sockets.enter_room(sid, user)
        await self._broadcast.joined(user)
        metrics.SOCKETS.inc()
        # In a task, because this handler must return before the connection is confirmed.
        self._tasks.start(self._broadcast.presence.partners.introduce(user, sid))

    async def _disconnect(self, sid: str, _reason: str) -> None:
        user = self._sessions.disconnect(MAIN_NAMESPACE, sid)
        if user:
            self._broadcast.left(user)
            metrics.SOCKETS.dec()

    def _answer(
        self,
        event: str,
        request_type: type[RequestType],
        act: Callable[[UserId, RequestType, Trace], Awaitable[Message | None]],
    ) -> None:
        """Let an event authenticate, parse its payload, call `act` and acknowledge."""

        async def handle(sid: str, *payload: object) -> Ack:
            began_s = self._requests.begin()
            ack = await answer(sid, payload)
            self._requests.end_event(event, "ok" if ack["ok"] else ack["error"]["code"], began_s)
            return ack

        async def answer(sid: str, payload: tuple[object, ...]) -> Ack:
            trace = self._events.start_trace("socket")
            try:
                user = await self._sessions.authenticate(sid)
                request = request_type.from_payload(payload[0] if len(payload) == 1 else None)
                trace.record("request", user=user)
                # Shielded: it completes even if the socket closes.
                message = await asyncio.shield(act(user, request, trace))
            except ChatlabError as error:
                return _refusal(error.code, error.detail)
            except Exception:  # every event gets an acknowledgement
                log.exception("Unexpected error in a socket event")
                return _refusal("internal", "Something went wrong here; it has been logged.")
            return _acknowledged(message, trace)

        self._sockets.on(event, handle)

    async def _unknown(self, _event: str, sid: str, *_payload: object) -> Ack:
        try:
            await self._sessions.authenticate(sid)  # unknown events count for the rate limit too
        except ChatlabError as error:
            return _refusal(error.code, error.detail)
        return _refusal("invalid", "There is no such event.")

    # --- one method for each event ---

    async def _send(self, user: UserId, request: Send, trace: Trace) -> Message:
        message = await self._service.send(
            user,
            request.receiverId,
            request.text,
            request.clientId,
            trace,
            reply_to=request.replyTo,
        )
        metrics.SENDS["socket"].inc()
        return message

    async def _edit(self, user: UserId, request: Edit, trace: Trace) -> Message:
        return await self._service.edit(user, request.messageId, request.text, trace)

    async def _delete(self, user: UserId, request: Target, trace: Trace) -> Message:
        return await self._service.delete(user, request.messageId, trace)

    async def _add_reaction(self, user: UserId, request: React, trace: Trace) -> Message:
        return await self._service.react(user, request.messageId, request.emoji, trace)

    async def _remove_reaction(self, user: UserId, request: React, trace: Trace) -> Message:
        return await self._service.unreact(user, request.messageId, request.emoji, trace)

    async def _mark_read(self, user: UserId, request: MarkRead, _trace: Trace) -> None:
        await self._service.mark_read(user, request.userId, request.seq)

    async def _typing(self, user: UserId, request: Typing, _trace: Trace) -> None:
        await self._service.typing(user, request.receiverId, typing=request.typing)

    async def _alive(self, _user: UserId, _request: Request, _trace: Trace) -> None:
        """Do nothing: the acknowledgement shows that the connection works."""


def _acknowledged(message: Message | None, trace: Trace) -> Ack:
    if message is None:
        return {"ok": True}
    trace.record("respond", messageId=message.id)
    return {"ok": True, "message": msgspec.Raw(message.json)}


def _refusal(code: str, detail: str) -> Ack:
    metrics.count_error("socket", code)
    return {"ok": False, "error": {"code": code, "detail": detail}}
