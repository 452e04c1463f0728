"""A user in a notebook: a client of both transports whose sends return a trace."""

from typing import Self

from chatlab import client
from chatlab.client import Json
from chatlab.lab.event_log import EventLog
from chatlab.lab.sentences import SessionEnded
from chatlab.lab.trace import Trace

# It protects nothing: the service is private and short-lived.
PASSWORD = "everybody here has this one"  # noqa: S105


class User(client.ChatClient):
    """A user of a session. After the session has ended, `send` and `read` raise SessionEnded.

    `http` is an ordinary `httpx.AsyncClient` with the user's token, `socket` an ordinary
    `socketio.AsyncClient`. `received` has the events for which `socket` has no handler of its own.
    """

    def __init__(self, url: str, user: Json, token: str, events: EventLog) -> None:
        super().__init__(url, user, token)
        self.events = events

    async def send(self, other: Self, text: str, *, transport: str = "http") -> Trace:
        """Send over this transport (`http` or `socket`).

        Raises the error that the service returns.
        """
        self._check_open()
        send = self.send_by_socket if transport == "socket" else self.send_by_http
        result = await send(other.id, text)
        events = await self.events.trace_events(result.message["_id"])
        return Trace(result.message, result.took_ms, events)

    async def read(self, other: str, *, fresh: bool = False, **page: int) -> client.ReadResult:
        """Read as any client does."""
        self._check_open()
        return await super().read(other, fresh=fresh, **page)

    def _check_open(self) -> None:
        if self.http.is_closed:
            raise SessionEnded

    def __repr__(self) -> str:
        return f"{self.id}, signed up and logged in"
