"""Close a port without losing a request.

Linux completes the handshake of a new connection by itself, and keeps the connection in a queue
until the process accepts it. Those in the queue are reset when the port closes, although their
clients may have sent a request already. A reverse proxy cannot repeat a POST then: it does not know
whether it was processed.

So before the port closes, Linux drops the first packet of each new connection. Its client sends the
packet again a second later, and is refused: no request was sent, so a proxy tries another process.
Meanwhile the process accepts all others, and reads their requests.
"""

import asyncio
import contextlib
import ctypes
import socket
import struct
import sys

import uvicorn

SO_ATTACH_FILTER = 26  # of Linux
# A program for the packet filter of Linux: (operation, jump if true, jump if false, value).
DROP_FIRST_PACKETS = (
    (0x30, 0, 0, 13),  # load the flags of the TCP header
    (0x45, 0, 1, 0x02),  # SYN, the first packet of a connection?
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # pass all others
)
TURNS, TURN_S = 10, 0.05  # of the event loop, which accepts and reads in each


class QuietServer(uvicorn.Server):
    """Uvicorn's server, which accepts all connections that exist before it closes the port."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop in this order: no new connections, no port, no open requests."""
        for listener in sockets or []:
            drop_new_connections(listener)
        for _ in range(TURNS):
            await asyncio.sleep(TURN_S)
        await super().shutdown(sockets)


def drop_new_connections(listener: socket.socket) -> None:
    """Drop the first packet of each new connection to a listening socket, if the system can.

    Linux can. A sandbox may not allow it; then a request may be lost.
    """
    if sys.platform == "linux":
        program = b"".join(struct.pack("HBBI", *line) for line in DROP_FIRST_PACKETS)
        buffer = ctypes.create_string_buffer(program)
        pointer = struct.pack("HL", len(DROP_FIRST_PACKETS), ctypes.addressof(buffer))
        with contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, pointer)
