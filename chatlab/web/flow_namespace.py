"""The Socket.IO namespace `/flow`: stage events for the page /lab and for other watchers."""

from collections.abc import Callable
from typing import Any

import socketio

from chatlab.domain.trace import EventBus, StageEvent
from chatlab.realtime.task_set import TaskSet
from chatlab.web.lab_access import LabAccess
from chatlab.web.socket_sessions import SocketSessions

NAMESPACE = "/flow"


class FlowNamespace(socketio.AsyncNamespace):  # type: ignore[misc]  # the library has no types
    """Sends the stage events of this process, as event `flow`.

    Its clients have the token of a user or a key of the page `/lab`.

    It subscribes to the event bus only while a client is connected: stage events cost nothing
    without a listener.
    """

    def __init__(self, events: EventBus, sessions: SocketSessions, access: LabAccess) -> None:
        super().__init__(NAMESPACE)
        self._events, self._sessions, self._access = events, sessions, access
        self._watchers: set[str] = set()  # socket ids
        self._unsubscribe: Callable[[], None] | None = None
        self._emits = TaskSet()

    async def on_connect(self, sid: str, environ: dict[str, Any], auth: object = None) -> None:
        token = auth.get("token") if isinstance(auth, dict) else None
        if self._access.role_of(token):
            self._sessions.accept_guest(NAMESPACE, sid, environ)
        else:
            await self._sessions.connect(NAMESPACE, sid, environ, auth)
        self._watchers.add(sid)
        self._unsubscribe = self._unsubscribe or self._events.subscribe(self._send)

    async def on_disconnect(self, sid: str, _reason: str) -> None:
        self._sessions.disconnect(NAMESPACE, sid)
        self._watchers.discard(sid)
        if not self._watchers and self._unsubscribe:
            self._unsubscribe()
            self._unsubscribe = None

    def _send(self, event: StageEvent) -> None:
        self._emits.start(self.emit("flow", event))
