"""A real service for tests: `chatlab serve` as a child process, and users of both transports."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import prefork
import shard_keys
import socketio
from http_clients import fetch, open_client
from waiting import LIMIT_S, MONGODB_LIMIT, block_until, wait_until

PASSWORD = "correct horse battery"
ANSWERED = "answered"
JSON = {"content-type": "application/json"}  # for a body that a test writes itself


def free_port() -> int:
    """Return a TCP port that is free right now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Service:
    """One process of the service.

    `settings` are environment variables without the prefix, e.g. `CACHE_TTL="1"`.
    """

    command: tuple[str, ...] = (sys.executable, "-m", "chatlab", "serve")
    waits_for_mongodb = False  # whether it waits longer than usual

    def __init__(self, mongo_url: str, redis_url: str, log: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {
            "MONGO_URL": mongo_url,
            "REDIS_URL": redis_url,
            "PORT": str(self.port),
            "RATE_LIMIT": "0",
            "LOGIN_ADDRESS_LIMIT": "0",  # all clients of a test have one address
            "SIGNUP_LIMIT": "0",
            **settings,
        }
        self.log = log
        self.process = self._start()

    def _start(self) -> "prefork.ForkedProcess | subprocess.Popen[bytes]":
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("CHATLAB_")
        }
        environment |= {f"CHATLAB_{name}": value for name, value in self.settings.items()}
        if self.waits_for_mongodb:
            environment[MONGODB_LIMIT] = str(LIMIT_S)
        program, *arguments = self.command
        if program == sys.executable:
            return prefork.start(arguments, environment, self.log)
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, env=environment, stdout=log, stderr=log)

    def wait_until_ready(self) -> Self:
        """Wait until `/healthz` answers: the process responds, perhaps without its servers."""
        block_until(self._answers, "/healthz to answer", is_reached=lambda seen: seen == ANSWERED)
        return self

    def _answers(self) -> str:
        """Return ANSWERED, or the log of the service so far."""
        assert self.process.poll() is None, f"the service ended: {self.log.read_text()}"
        try:
            fetch(f"{self.url}/healthz")
        except httpx.TransportError:
            return self.log.read_text()
        return ANSWERED

    def restart(self) -> Self:
        """Wait until the process has ended, and start it again on the same port."""
        self.process.wait(LIMIT_S)
        self.process = self._start()
        return self.wait_until_ready()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait(LIMIT_S)

    def stop(self) -> int:
        """End it with SIGTERM and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)

    def end(self) -> None:
        """Stop it, which saves the coverage of its code. If it does not stop, kill it and fail.

        Fail as well if it has sent MongoDB a command without the shard key.
        """
        try:
            self.stop()
        finally:
            self.kill()
        shard_keys.check_log(self.log)


class GenerousService(Service):
    """A service that waits for MongoDB longer than usual."""

    command: tuple[str, ...] = (
        sys.executable,
        str(Path(__file__).with_name("generous.py")),
        "serve",
    )
    waits_for_mongodb = True
    ready_statuses: tuple[str, ...] = ("ok", "degraded")  # of a service that has reached MongoDB

    def wait_until_ready(self) -> Self:
        """Wait until the service answers and has reached the servers that it needs."""
        super().wait_until_ready()
        block_until(
            lambda: fetch(f"{self.url}/readyz").json()["status"],
            f"the status of the service to be {' or '.join(self.ready_statuses)}",
            is_reached=self.ready_statuses.__contains__,
        )
        return self


@dataclass
class User:
    """A signed-up user with an HTTP client and any number of sockets.

    `events` are the name and payload of each event that the sockets received, in order.
    """

    service: Service
    id: str
    token: str
    http: httpx.AsyncClient
    events: list[tuple[str, Any]] = field(default_factory=list)
    sockets: list[socketio.AsyncClient] = field(default_factory=list)

    @classmethod
    async def sign_up(cls, service: Service, name: str) -> "User":
        """Sign up over HTTP."""
        http = open_client(service.url)
        answer = await http.post("/api/auth/signup", json={"username": name, "password": PASSWORD})
        assert answer.status_code == 201, answer.text
        token = answer.json()["token"]
        http.headers["authorization"] = f"Bearer {token}"
        return cls(service, name, token, http)

    async def at(self, service: Service) -> "User":
        """Return the same user, with the same token, as a client of another process of the service."""
        http = open_client(service.url, headers={"authorization": f"Bearer {self.token}"})
        return User(service, self.id, self.token, http)

    async def connect(self, events: list[tuple[str, Any]] | None = None) -> socketio.AsyncClient:
        """Open a socket. The events it receives go to `events`, or to the user's own list."""
        received = self.events if events is None else events
        client = socketio.AsyncClient(reconnection=False)
        client.on(
            "*", lambda event, *payload: received.append((event, payload[0] if payload else None))
        )
        await client.connect(
            self.service.url,
            auth={"token": self.token},
            transports=["websocket"],
            wait_timeout=int(LIMIT_S),
        )
        self.sockets.append(client)
        return client

    async def ask(self, event: str, payload: object) -> Any:
        """Emit on the first socket and return the acknowledgement."""
        if not self.sockets:
            await self.connect()
        return await self.sockets[0].call(event, payload, timeout=LIMIT_S)

    async def send(
        self, to: "User | str", text: str, *, transport: str = "http", **more: object
    ) -> Any:
        """Send a message over this transport. Return it as JSON, or the error."""
        payload: Mapping[str, object] = {
            "receiverId": to if isinstance(to, str) else to.id,
            "text": text,
            **more,
        }
        if transport == "http":
            return (await self.http.post("/api/messages/send", json=payload)).json()
        ack: Any = await self.ask("sendMessage", payload)
        return ack["message"] if ack["ok"] else ack["error"]

    async def read(
        self, other: "User | str", *, fresh: bool = False, **page: int
    ) -> httpx.Response:
        """Read a conversation. With `fresh`, the service must not use the cache."""
        headers = {"cache-control": "no-cache"} if fresh else {}
        return await self.http.get(
            f"/api/messages/{other if isinstance(other, str) else other.id}",
            params=page,
            headers=headers,
        )

    async def row_of(self, other: "User") -> Any:
        """Return the row of another user in the list of users."""
        rows = (await self.http.get("/api/users", params={"query": other.id})).json()
        return next(row for row in rows if row["id"] == other.id)

    def received(self, event: str) -> list[Any]:
        """Return the payloads of all events of this name received so far."""
        return [payload for name, payload in self.events if name == event]

    async def wait_for_events(self, event: str, count: int = 1) -> list[Any]:
        """Wait for this many events of this name, and return the payloads."""
        return list(
            await wait_until(
                lambda: self.received(event),
                f"{count} {event}",
                is_reached=lambda payloads: len(payloads) >= count,
            )
        )

    async def close(self) -> None:
        """Close all connections."""
        for client in self.sockets:
            await client.disconnect()
        await self.http.aclose()


SignUp = Callable[..., Awaitable[User]]
ServiceMaker = Callable[..., Service]
