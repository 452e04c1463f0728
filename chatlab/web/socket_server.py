"""The Socket.IO server of this process."""

import logging

import socketio

from chatlab.realtime.packets import TextPacket

# The library logs the text of messages, and a traceback for each malformed packet of a client.
# This logger is not below `chatlab`: the logging configuration would reset its level.
quiet_log = logging.getLogger("sockets")
quiet_log.setLevel(logging.CRITICAL)

# The server closes a socket that does not answer a ping for this long. It pings every 25 s. Clients
# learn both numbers when they connect: python-socketio gives up without a ping for 5 s longer.
PING_TIMEOUT_S = 20.0


def create_socket_server(max_body: int) -> socketio.AsyncServer:
    """Return a server for text packets of up to `max_body` bytes over websockets.

    Long polling is off: it would need sticky sessions. The library does not check the origin of a
    page, because `OriginCheck` does.
    """
    return socketio.AsyncServer(
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
