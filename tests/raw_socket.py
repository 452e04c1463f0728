"""A Socket.IO client that sends exactly the frames a test gives it, and answers only pings by itself."""

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
    """One websocket; `heard` holds every frame that came, `gone` is true once the service has closed it."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.heard: list[str] = []
        self._acks = 0

    @property
    def gone(self) -> bool:
        return self._connection.close_code is not None

    async def say(self, *frames: str | bytes) -> None:
        """Send frames, as far as the service lets us."""
        with contextlib.suppress(ConnectionClosed):
            for frame in frames:
                await self._connection.send(frame)

    async def hear(self) -> str | None:
        """Return the next frame that is not a ping, or None when the service has closed the connection.

        Raises TimeoutError when there is neither for LIMIT_S.
        """
        try:
            async with asyncio.timeout(LIMIT_S):
                while (frame := str(await self._connection.recv())) == "2":
                    await self._connection.send("3")
        except ConnectionClosed:
            return None
        self.heard.append(frame)
        return frame

    async def until(self, beginning: str) -> str | None:
        """The next frame that begins so; None when the connection ends before."""
        while (frame := await self.hear()) is not None:
            if frame.startswith(beginning):
                return frame
        return None

    async def ask(self, event: str, *payload: object, namespace: str = "") -> Any:
        """The ack of an event; None when the connection ends instead."""
        self._acks += 1
        await self.say(f"42{namespace}{self._acks}{json.dumps([event, *payload])}")
        answer = await self.until(f"43{namespace}{self._acks}[")
        return None if answer is None else json.loads(answer[answer.index("[") :])[0]

    async def alive(self) -> bool:
        """True when the service still answers an event here."""
        return await self.ask("no such event") is not None


@contextlib.asynccontextmanager
async def unauthenticated(service: Service) -> AsyncIterator[RawSocket]:
    """A websocket that has not said who it is."""
    address = f"ws://127.0.0.1:{service.port}/socket.io/?EIO=4&transport=websocket"
    async with connect(address, max_size=None, compression=None, open_timeout=LIMIT_S, close_timeout=1) as connection:
        socket = RawSocket(connection)
        await socket.until("0")
        yield socket


@contextlib.asynccontextmanager
async def raw_socket(person: User, namespace: str = "") -> AsyncIterator[RawSocket]:
    """A websocket of this person."""
    async with unauthenticated(person.service) as socket:
        await socket.say(f"40{namespace}{json.dumps({'token': person.token})}")
        await socket.until(f"40{namespace}")
        yield socket
