"""The Socket.IO server of this process."""

import logging
from typing import Any

import socketio

from chatlab.realtime.packets import TextPacket

# The library logs the text of messages, and a traceback for each malformed packet of a client.
# This logger is not below `chatlab`: the logging configuration would reset its level.
quiet_log = logging.getLogger("sockets")
quiet_log.setLevel(logging.CRITICAL)

# The server closes a socket that does not answer a ping for this long. It pings every 25 s. Clients
# learn both numbers when they connect: python-socketio gives up without a ping for 5 s longer.
PING_TIMEOUT_S = 20.0


class RoomsOfSockets(socketio.AsyncManager):  # type: ignore[misc]  # the library has no types
    """The library's rooms, except that a disconnection looks only at the rooms of its own socket.

    The library looks at all rooms. With 2,000 users that takes 0.7 ms, so when all of them lose
    their connection at the same time, nothing else happens for more than a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rooms_of: dict[tuple[str, str], list[str | None]] = {}  # by namespace and socket id

    def basic_enter_room(
        self, sid: str, namespace: str, room: str | None, eio_sid: str | None = None
    ) -> None:
        """Let a socket enter a room, and remember it."""
        super().basic_enter_room(sid, namespace, room, eio_sid=eio_sid)
        self._rooms_of.setdefault((namespace, sid), []).append(room)

    def basic_disconnect(self, sid: str, namespace: str, **options: Any) -> None:
        """Let a socket leave its rooms, by hiding all others from the library."""
        everything = self.rooms.get(namespace, {})
        entered = self._rooms_of.pop((namespace, sid), [])
        self.rooms[namespace] = {room: everything[room] for room in entered if room in everything}
        super().basic_disconnect(sid, namespace, **options)
        left = self.rooms.pop(namespace, {})
        for room in entered:
            if room not in left:  # the library removes a room with its last socket
                everything.pop(room, None)
        if everything:
            self.rooms[namespace] = everything


def create_socket_server(max_body: int) -> socketio.AsyncServer:
    """Return a server for text packets of up to `max_body` bytes over websockets.

    Long polling is off: it would need sticky sessions. The library does not check the origin of a
    page, because `OriginCheck` does.
    """
    return socketio.AsyncServer(
        client_manager=RoomsOfSockets(),
        async_mode="asgi",
        async_handlers=False,  # a socket's messages keep their order
        transports=["websocket"],
        cors_allowed_origins=[],
        max_http_buffer_size=max_body,
        ping_timeout=PING_TIMEOUT_S,
        serializer=TextPacket,
        logger=quiet_log,
        engineio_logger=quiet_log,
    )
