"""A real service for tests: `chatlab serve` as a child on the engines of the test run, and people who use it by both doors."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import socketio

PASSWORD = "correct horse battery"


def free_port() -> int:
    """A TCP port that nobody has right now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def eventually(condition: Callable[[], object], within: float = 10.0, every: float = 0.02) -> Any:
    """Wait until the condition is true, and give what it gave. Fails after `within` seconds."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not true within {within} s"
        await asyncio.sleep(every)
    return found


class Service:
    """One `chatlab serve`. `settings`: environment variables without the prefix, e.g. `CACHE_TTL="1"`."""

    def __init__(self, mongo_url: str, redis_url: str, log: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {"MONGO_URL": mongo_url, "REDIS_URL": redis_url, "PORT": str(self.port), "RATE_LIMIT": "0", **settings}
        self.log = log
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CHATLAB_")}
        environment |= {f"CHATLAB_{name}": value for name, value in self.settings.items()}
        with self.log.open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "chatlab", "serve"], env=environment, stdout=log, stderr=log)

    def wait_until_ready(self, within: float = 30.0) -> "Service":
        """Until `/healthz` answers at all (a service without MongoDB answers 503)."""
        deadline = time.monotonic() + within
        while True:
            assert self.process.poll() is None, f"the service ended: {self.log.read_text()}"
            try:
                httpx.get(f"{self.url}/healthz", timeout=5)
            except httpx.TransportError:
                assert time.monotonic() < deadline, f"the service is not ready: {self.log.read_text()}"
                time.sleep(0.03)
            else:
                return self

    def restart(self) -> "Service":
        """The same service again, on the same port, after it has ended."""
        self.process.wait(15)
        self.process = self._start()
        return self.wait_until_ready()

    def kill(self) -> None:
        """`kill -9`: no time for a last word."""
        self.process.kill()
        self.process.wait(10)

    def stop(self, within: float = 15.0) -> int:
        """SIGTERM, and its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within)


@dataclass
class Person:
    """A signed-up user with an HTTP client, and as many sockets as wanted. `events` holds what the sockets heard, in order."""

    service: Service
    id: str
    token: str
    http: httpx.AsyncClient
    events: list[tuple[str, Any]] = field(default_factory=list)
    sockets: list[socketio.AsyncClient] = field(default_factory=list)

    @classmethod
    async def sign_up(cls, service: Service, name: str) -> "Person":
        http = httpx.AsyncClient(base_url=service.url, timeout=20)
        answer = await http.post("/api/auth/signup", json={"username": name, "password": PASSWORD})
        assert answer.status_code == 201, answer.text
        token = answer.json()["token"]
        http.headers["authorization"] = f"Bearer {token}"
        return cls(service, name, token, http)

    async def at(self, service: Service) -> "Person":
        """The same person (and token) at another process of the service."""
        http = httpx.AsyncClient(base_url=service.url, timeout=20, headers={"authorization": f"Bearer {self.token}"})
        return Person(service, self.id, self.token, http)

    async def connect(self, events: list[tuple[str, Any]] | None = None) -> socketio.AsyncClient:
        """A new socket; what it hears goes to `events` (default: the person's own list)."""
        heard = self.events if events is None else events
        client = socketio.AsyncClient(reconnection=False)
        client.on("*", lambda event, *payload: heard.append((event, payload[0] if payload else None)))
        await client.connect(self.service.url, auth={"token": self.token}, transports=["websocket"], wait_timeout=10)
        self.sockets.append(client)
        return client

    async def ask(self, event: str, payload: object) -> Any:
        """Emit on the first socket and give the ack."""
        if not self.sockets:
            await self.connect()
        return await self.sockets[0].call(event, payload, timeout=20)

    async def send(self, to: "Person | str", text: str, *, door: str = "http", **more: object) -> Any:
        """A message by this door; the message as JSON, or what refused it."""
        payload: Mapping[str, object] = {"receiverId": to if isinstance(to, str) else to.id, "text": text, **more}
        if door == "http":
            return (await self.http.post("/api/messages/send", json=payload)).json()
        ack: Any = await self.ask("sendMessage", payload)
        return ack["message"] if ack["ok"] else ack["error"]

    async def read(self, other: "Person | str", *, fresh: bool = False, **page: int) -> httpx.Response:
        headers = {"cache-control": "no-cache"} if fresh else {}
        return await self.http.get(f"/api/messages/{other if isinstance(other, str) else other.id}", params=page, headers=headers)

    def heard(self, event: str) -> list[Any]:
        """The payloads of all events of this name so far."""
        return [payload for name, payload in self.events if name == event]

    async def hears(self, event: str, count: int = 1, within: float = 10.0) -> list[Any]:
        """Wait until this many events of this name have come."""
        await eventually(lambda: len(self.heard(event)) >= count, within)
        return self.heard(event)

    async def close(self) -> None:
        for client in self.sockets:
            await client.disconnect()
        await self.http.aclose()


PersonMaker = Callable[..., Awaitable[Person]]
ServiceMaker = Callable[..., Service]
