"""What can break, broken on purpose: engines of a test's own that may be stopped, frozen and filled, and a proxy that can talk nonsense."""

import contextlib
import os
import secrets
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymongo
import redis
from house import settle
from live import Person, Service
from pymongo.database import Database

from chatlab.engines import Engines, open_engines
from chatlab.settings import load_settings


@dataclass
class Site:
    """Engines that a test may break, and as many processes of one service on them as it starts."""

    engines: Engines
    database: Database[dict[str, Any]]
    keys: redis.Redis
    folder: Path
    space: str = field(default_factory=lambda: f"site{secrets.token_hex(4)}")
    services: list[Service] = field(default_factory=list)

    def start(self, **settings: str) -> Service:
        """One more process of the service."""
        given = {"DATABASE": self.database.name, "KEY_PREFIX": f"{self.space}:", **settings}
        mongo_url, redis_url = given.pop("MONGO_URL", self.engines.mongo.url), given.pop("REDIS_URL", self.engines.redis.url)
        self.services.append(Service(mongo_url, redis_url, self.folder / f"{self.space}-{len(self.services)}.log", **given))
        return self.services[-1].wait_until_ready()

    def settle(self, service: Service, name: str | None = None) -> Person:
        """Somebody who can use this process at once."""
        return settle(self.database, service, name)

    def pid(self, name: Any) -> int:
        pid = self.engines.pid(name)
        assert pid, f"{name} does not run"
        return pid


@contextlib.contextmanager
def open_site(folder: Path) -> Iterator[Site]:
    """Engines of its own, and no service yet. Everything ends with it."""
    with (
        open_engines(load_settings(data_dir=folder / "engines", mongo_url=None, redis_url=None)) as engines,
        pymongo.MongoClient[dict[str, Any]](engines.mongo.url) as mongo,
        redis.Redis.from_url(engines.redis.url) as keys,
    ):
        site = Site(engines, mongo[f"site{secrets.token_hex(4)}"], keys, folder)
        try:
            yield site
        finally:
            for service in site.services:
                if service.process.poll() is None:
                    service.kill()


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that holds its connections and says nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Proxy:
    """A TCP door to a unix socket. `garble` turns each reply into another; None: nothing gets through, and nothing is said."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._door.getsockname()[1]}"
        self.garble: Callable[[bytes], bytes] | None = bytes
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the door has been closed
            while True:
                client, _ = self._door.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, selectors.DefaultSelector() as ready, contextlib.suppress(OSError):
            server.connect(self._target)
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in ready.select():
                    assert isinstance(key.fileobj, socket.socket)
                    if not (said := key.fileobj.recv(65_536)):
                        return
                    self._pass(said, key.data, is_reply=key.data is client)

    def _pass(self, said: bytes, to: socket.socket, *, is_reply: bool) -> None:
        if self.garble is not None:
            to.sendall(self.garble(said) if is_reply else said)

    def close(self) -> None:
        self._door.close()


class Stopwatch:
    """How long each of many requests took."""

    def __init__(self) -> None:
        self.times: list[float] = []

    @contextlib.contextmanager
    def lap(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.times.append(time.monotonic() - began)

    def over(self, limit: float) -> list[float]:
        """The laps that took longer."""
        return [took for took in self.times if took > limit]
