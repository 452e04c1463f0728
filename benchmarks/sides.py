"""The place and the sides: one MongoDB and one Redis for all, and on them the service as shipped, the peers and the floor, as processes."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import psutil
from pymongo import MongoClient
from redis import Redis

from benchmarks.people import Json, Person, forget, people, settle_in_chatlab, settle_in_peer
from benchmarks.result import MeasurementError
from chatlab.bench.raw_http import RawHttpClient
from chatlab.local.engines import Engines, open_engines
from chatlab.settings import load_settings

HERE = Path(__file__).parent
EXPRESS = HERE / "peers" / "express"
MESSAGES = 50  # in each conversation that is read
CONNECTIONS = 32
READY_WITHIN, STOP_WITHIN = 60.0, 10.0  # seconds
MISSING_EXPRESS = "the Express server needs Node: npm ci --prefix benchmarks/peers/express"


class Side(NamedTuple):
    """A running server, with its own people, database and Redis database on the common engines."""

    name: str
    url: str
    process: psutil.Process
    people: list[Person]
    database: str

    def wire(self, number: int = 0) -> RawHttpClient:
        """A connection of one of its people."""
        return RawHttpClient(self.url, self.people[number].token)

    def processes(self) -> list[psutil.Process]:
        """The server, and its workers if it has some."""
        return [self.process, *self.process.children(recursive=True)]

    def resident(self) -> int:
        """Bytes of memory."""
        return sum(process.memory_info().rss for process in self.processes())

    def cpu_seconds(self) -> float:
        """Used so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())


class Place:
    """The engines, a folder for what is made here, and how long and how often to measure. Sides are of one row: `fresh` ends them."""

    def __init__(self, engines: Engines, folder: Path, *, seconds: float, rounds: int, users: int, without: set[str]) -> None:
        self.engines, self.folder = engines, folder
        self.seconds, self.rounds, self.users, self.without = seconds, rounds, users, without
        self.mongo = MongoClient[Json](engines.mongo.url)
        self.redis = Redis.from_url(engines.redis.url)
        self._sides = contextlib.ExitStack()
        self._count = 0

    @property
    def full_size(self) -> bool:
        """Return True if the numbers of sockets, keys and messages are those of the table. A shorter run tests the benchmark itself."""
        return self.seconds >= 1

    def close(self) -> None:
        """Stop everything that still runs."""
        self.fresh()
        self.mongo.close()
        self.redis.close()

    def fresh(self) -> None:
        """End the sides, forget what they stored."""
        self._sides.close()
        self.redis.flushall()
        self._count = 0

    # --- the sides -------------------------------------------------------------------------------------------------------------

    def chatlab(self, name: str = "chatlab", *, messages: int = 0, who: list[Person] | None = None, **settings: str) -> Side:
        """The service as shipped, but that one user may ask as often as it can answer. `settings`: without the prefix."""
        database, redis_url = self._rooms()
        who = who or people(self.users)
        settle_in_chatlab(self.mongo[database], who, messages)
        return self._serve(name, database, redis_url, who, settings)

    def chatlab_beside(self, other: Side, name: str, **settings: str) -> Side:
        """The same people and messages, but other settings and keys."""
        return self._serve(name, other.database, self._rooms()[1], other.people, settings)

    def _serve(self, name: str, database: str, redis_url: str, who: list[Person], settings: dict[str, str]) -> Side:
        given = {
            "MONGO_URL": self.engines.mongo.url,
            "REDIS_URL": redis_url,
            "DATABASE": database,
            "KEY_PREFIX": "" if self._count == 1 else f"{self._count}:",  # pub/sub knows no databases: two sides must not meet there
            "RATE_LIMIT": "0",
            "LOG_LEVEL": "WARNING",
        }
        environment = {f"CHATLAB_{key}": value for key, value in (given | settings).items()}
        command = [sys.executable, "-m", "chatlab", "serve", "--attached", "--port", str(port := _free_port())]
        return self._side(name, command, environment, port, who, database)

    def express(self, name: str = "Express", *, messages: int = 0, cache: bool = True) -> Side | None:
        """The Express server; None when it is not wanted or not installed."""
        if "express" in self.without or not express_is_there():
            return None
        environment = self._peer(cache=cache)
        who = people(self.users)
        settle_in_peer(self.mongo[environment["DATABASE"]], who, messages)
        environment |= {"PORT": str(port := _free_port()), "NODE_ENV": "production"}
        return self._side(name, ["node", str(EXPRESS / "server.js")], environment, port, who, environment["DATABASE"])

    def plain(self, name: str = "plain FastAPI", *, messages: int = 0, cache: bool = True) -> Side | None:
        """The plain FastAPI server; None when it is not wanted."""
        if "plain" in self.without:
            return None
        environment = self._peer(cache=cache)
        who = people(self.users)
        settle_in_peer(self.mongo[environment["DATABASE"]], who, messages)
        return self._uvicorn(name, "plain_fastapi", environment, who)

    def floor(self, answers: dict[str, bytes]) -> Side:
        """The bare application: one GET of Redis. `answers`: for each user id what it gives."""
        environment = self._peer(cache=True)
        with contextlib.closing(Redis.from_url(environment["REDIS_URL"])) as redis:
            for name, answer in answers.items():
                redis.set(f"floor:{name}", answer)
        return self._uvicorn("bare ASGI + GET", "floor_redis_get", environment, people(self.users))

    def peers(self, **how: bool | int) -> list[Side]:
        """Express and plain FastAPI, as far as they are there."""
        return [side for side in (self.express(**how), self.plain(**how)) if side]  # type: ignore[arg-type]

    def _peer(self, *, cache: bool) -> dict[str, str]:
        database, redis_url = self._rooms()
        return {"MONGO_URL": self.engines.mongo.url, "REDIS_URL": redis_url, "DATABASE": database, "CACHE": "on" if cache else "off"}

    def _rooms(self) -> tuple[str, str]:
        """A database and a Redis database that no other side has."""
        self._count += 1
        return f"bench-{secrets.token_hex(4)}", f"{self.engines.redis.url}?db={self._count - 1}"

    def _uvicorn(self, name: str, module: str, environment: dict[str, str], who: list[Person]) -> Side:
        command = [sys.executable, "-m", "benchmarks.peers", module, str(port := _free_port())]
        return self._side(name, command, environment, port, who, environment["DATABASE"])

    def _side(self, name: str, command: list[str], environment: dict[str, str], port: int, who: list[Person], database: str) -> Side:
        self._sides.callback(forget, self.engines.mongo.url, database)
        log = self._sides.enter_context((self.folder / f"{name}-{port}.log").open("w+b"))
        process = self._sides.enter_context(running(command, environment, log))
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, log)
        return Side(name, url, psutil.Process(process.pid), who, database)


@contextlib.contextmanager
def open_place(*, seconds: float, rounds: int, users: int, without: set[str]) -> Iterator[Place]:
    """Engines in a folder that goes afterwards, with everything else."""
    with tempfile.TemporaryDirectory(prefix="chatlab-benchmarks-", ignore_cleanup_errors=True) as folder:
        settings = load_settings().model_copy(update={"mongo_url": None, "redis_url": None, "data_dir": Path(folder, "data")})
        with open_engines(settings) as engines:
            place = Place(engines, Path(folder), seconds=seconds, rounds=rounds, users=users, without=without)
            with contextlib.closing(place):
                yield place


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str], log: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """A child that ends with the block, and with this process: it watches its standard input. Ctrl-C does not reach it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CHATLAB_")}
    process = subprocess.Popen(
        command, env=inherited | environment, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=HERE.parent, start_new_session=True
    )
    try:
        yield process
    finally:
        assert process.stdin
        process.stdin.close()
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_WITHIN)
        process.kill()
        process.wait()


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
    """Until `/healthz` answers."""
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/healthz", timeout=2):  # noqa: S310 - http
            return
        time.sleep(0.02)  # another process, which nothing tells about
    log.seek(0)
    raise MeasurementError(f"A side did not start: {log.read().decode(errors='replace')[-2000:]}")


def missing(place: Place) -> list[str]:
    """What to say of a side that is wanted and not there."""
    return [] if "express" in place.without or express_is_there() else [MISSING_EXPRESS]


def express_is_there() -> bool:
    """Node, and what npm installs."""
    return shutil.which("node") is not None and (EXPRESS / "node_modules" / "express").is_dir()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
