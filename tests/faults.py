"""Fault injection: private servers to stop or freeze, and a proxy that disturbs the traffic."""

import contextlib
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import psutil
import pymongo
import redis
from live import GenerousService, Service, User
from pymongo.database import Database
from redis_clients import open_keys
from shared_service import create_user
from waiting import LIMIT_S, block_until

from chatlab.local.engines import Engines

REDIS_TIMEOUT_S = 1.0  # a stalled machine reaches the usual 0.2 s too often
CACHE_TTL_S = 25  # the grace period is 5 s


class StrictService(Service):
    """A `chatlab serve` for tests of outages."""

    command = (sys.executable, str(Path(__file__).with_name("no_excuses.py")), "serve")


class PatientStrictService(GenerousService):
    """It waits for MongoDB longer than usual."""

    command = StrictService.command


@dataclass
class Deployment:
    """MongoDB and Redis that a test may stop or freeze, and the processes of one service on them."""

    engines: Engines
    database: Database[dict[str, Any]]
    keys: redis.Redis
    folder: Path
    space: str = field(default_factory=lambda: f"deployment{secrets.token_hex(4)}")
    services: list[Service] = field(default_factory=list)

    def start(self, **settings: str) -> Service:
        """Start one more process of the service, which a stall of the machine does not disturb."""
        return self._start(StrictService, settings)

    def start_patient(self, **settings: str) -> Service:
        """Do the same for a test that is not about MongoDB: the process waits longer for it."""
        return self._start(PatientStrictService, settings)

    def _start(self, service_type: type[Service], settings: dict[str, str]) -> Service:
        given = {
            "DATABASE": self.database.name,
            "KEY_PREFIX": f"{self.space}:",
            "CACHE_TTL": str(CACHE_TTL_S),
            "REDIS_TIMEOUT": str(REDIS_TIMEOUT_S),
            **settings,
        }
        mongo_url, redis_url = (
            given.pop("MONGO_URL", self.engines.mongo.url),
            given.pop("REDIS_URL", self.engines.redis.url),
        )
        self.services.append(
            service_type(
                mongo_url,
                redis_url,
                self.folder / f"{self.space}-{len(self.services)}.log",
                **given,
            )
        )
        return self.services[-1].wait_until_ready()

    def create_user(self, service: Service, name: str | None = None) -> User:
        """Return a new user who is logged in at this process."""
        return create_user(self.database, service, name)

    def pid(self, name: Any) -> int:
        """Return the process id of MongoDB or Redis, which must run."""
        pid = self.engines.pid(name)
        assert pid, f"{name} is not running"
        return pid

    @contextlib.contextmanager
    def mongo_proxy(self) -> Iterator["Proxy"]:
        """Open a proxy in front of MongoDB. A service uses it with `MONGO_URL=proxy.mongo_url`."""
        proxy = Proxy(unquote(urlsplit(self.engines.mongo.url).netloc))
        try:
            yield proxy
        finally:
            proxy.close()


@contextlib.contextmanager
def open_deployment(engines: Engines, folder: Path) -> Iterator[Deployment]:
    """Use these servers for one service, of which no process is started yet.

    The processes stop when the block ends.
    """
    with (
        pymongo.MongoClient[dict[str, Any]](engines.mongo.url) as mongo,
        open_keys(engines.redis.url) as keys,
    ):
        deployment = Deployment(engines, mongo[f"deployment{secrets.token_hex(4)}"], keys, folder)
        try:
            yield deployment
        finally:
            for service in deployment.services:
                service.end()


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Freeze a process with SIGSTOP until the block ends.

    Its connections stay open, but it answers nothing. It may be killed meanwhile.
    """
    os.kill(pid, signal.SIGSTOP)
    try:
        process = psutil.Process(pid)
        block_until(
            process.status,
            f"process {pid} to stop",
            is_reached=lambda status: status == psutil.STATUS_STOPPED,
        )
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


Point = Literal["request", "reply"]


class Hold:
    """A point at which a proxy stops.

    That is before it passes on the request that contains `text`, or before the reply to it.
    """

    def __init__(self, text: bytes, point: Point) -> None:
        self.text, self.point = text, point
        self.is_reached, self.is_over = threading.Event(), threading.Event()

    def stop(self, request: bytes, point: Point) -> None:
        """Block the thread of the connection until the hold is over, if this is the point."""
        if point == self.point and self.text in request and not self.is_over.is_set():
            self.is_reached.set()
            self.is_over.wait(LIMIT_S)


class Proxy:
    """A TCP proxy in front of a unix socket.

    `garble` changes each reply. If it is None, nothing passes in either direction. `holding` stops
    a request or its reply.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url, self.mongo_url = (
            f"redis://{address}",
            f"mongodb://{address}/?directConnection=true",
        )
        self.garble: Callable[[bytes], bytes] | None = bytes
        self._hold: Hold | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    @contextlib.contextmanager
    def holding(self, text: str, point: Point) -> Iterator[Hold]:
        """Hold the request that contains this text, or the reply to it.

        When the block ends, the bytes pass.
        """
        hold = self._hold = Hold(text.encode(), point)
        try:
            yield hold
        finally:
            self._hold = None
            hold.is_over.set()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with (
            client,
            socket.socket(socket.AF_UNIX) as server,
            selectors.DefaultSelector() as ready,
            contextlib.suppress(OSError),
        ):
            server.connect(self._target)
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            request = b""
            while True:
                for key, _ in ready.select():
                    assert isinstance(key.fileobj, socket.socket)
                    if not (received := key.fileobj.recv(65_536)):
                        return
                    is_reply = key.data is client
                    request = request if is_reply else received
                    if self._hold is not None:
                        self._hold.stop(request, "reply" if is_reply else "request")
                    self._pass(received, key.data, is_reply=is_reply)

    def _pass(self, received: bytes, to: socket.socket, *, is_reply: bool) -> None:
        if self.garble is not None:
            to.sendall(self.garble(received) if is_reply else received)

    def close(self) -> None:
        self._listener.close()


class Stopwatch:
    """Measures many requests. `times` are their durations in seconds."""

    def __init__(self) -> None:
        self.times: list[float] = []

    @contextlib.contextmanager
    def lap(self) -> Iterator[None]:
        """Measure the block."""
        began = time.monotonic()
        yield
        self.times.append(time.monotonic() - began)

    def over(self, limit: float) -> list[float]:
        """Return the durations above a limit in seconds."""
        return [took for took in self.times if took > limit]
