"""A Socket.IO client that sends exactly the frames that a test gives it. It only answers pings."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from live import Service, User
from waiting import LIMIT_S
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed


class RawSocket:
    """One websocket. `frames` holds every frame received so far, except pings."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.frames: list[str] = []
        self._acks = 0

    @property
    def is_closed(self) -> bool:
        return self._connection.close_code is not None

    async def send(self, *frames: str | bytes) -> None:
        """Send frames until the service closes the connection."""
        with contextlib.suppress(ConnectionClosed):
            for frame in frames:
                await self._connection.send(frame)

    async def receive(self) -> str | None:
        """Return the next frame that is not a ping, or None if the service closes the connection.

        Raises TimeoutError if neither happens within LIMIT_S seconds.
        """
        try:
            async with asyncio.timeout(LIMIT_S):
                while (frame := str(await self._connection.recv())) == "2":
                    await self._connection.send("3")
        except ConnectionClosed:
            return None
        self.frames.append(frame)
        return frame

    async def receive_until(self, prefix: str) -> str | None:
        """Return the next frame with this prefix, or None if the connection closes first."""
        while (frame := await self.receive()) is not None:
            if frame.startswith(prefix):
                return frame
        return None

    async def ask(self, event: str, *payload: object, namespace: str = "") -> Any:
        """Send an event and return its acknowledgement, or None if the connection closes first."""
        self._acks += 1
        await self.send(f"42{namespace}{self._acks}{json.dumps([event, *payload])}")
        answer = await self.receive_until(f"43{namespace}{self._acks}[")
        return None if answer is None else json.loads(answer[answer.index("[") :])[0]

    async def is_alive(self) -> bool:
        """Return whether the service still acknowledges events of this socket."""
        return await self.ask("no such event") is not None


@contextlib.asynccontextmanager
async def unauthenticated(service: Service) -> AsyncIterator[RawSocket]:
    """Open a websocket that has not sent a token yet."""
    address = f"ws://127.0.0.1:{service.port}/socket.io/?EIO=4&transport=websocket"
    async with connect(
        address, max_size=None, compression=None, open_timeout=LIMIT_S, close_timeout=1
    ) as connection:
        socket = RawSocket(connection)
        await socket.receive_until("0")
        yield socket


@contextlib.asynccontextmanager
async def raw_socket(user: User, namespace: str = "") -> AsyncIterator[RawSocket]:
    """Open a websocket and connect it to a namespace as this user."""
    async with unauthenticated(user.service) as socket:
        await socket.send(f"40{namespace}{json.dumps({'token': user.token})}")
        await socket.receive_until(f"40{namespace}")
        yield socket
