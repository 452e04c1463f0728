"""The shared engines of all benchmarks, and the servers that are started on them."""

import contextlib
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from pymongo import MongoClient
from redis import Redis

from benchmarks.processes import Server, free_port, running, wait_until_ready
from benchmarks.result import MeasurementError
from benchmarks.users import (
    BenchUser,
    Json,
    drop_database,
    insert_chatlab_data,
    insert_peer_data,
    make_users,
)
from chatlab.local.engines import Engines, open_engines
from chatlab.settings import load_settings

HERE = Path(__file__).parent
EXPRESS = HERE / "peers" / "express"
MESSAGES = 50  # in each conversation that is read
CONNECTIONS = 32
FLOOR = "bench-floor"  # the database for MongoDB alone
MISSING_EXPRESS = (
    "The Express server is not installed. It needs Node: npm ci --prefix benchmarks/peers/express"
)


class Environment:
    """The engines, a temporary folder, and how long and how often to measure.

    Each benchmark starts its servers here; `stop_servers` stops them after it.
    """

    def __init__(
        self,
        engines: Engines,
        folder: Path,
        *,
        seconds: float,
        rounds: int,
        users: int,
        without: set[str],
    ) -> None:
        self.engines, self.folder = engines, folder
        self.seconds, self.rounds, self.users, self.without = seconds, rounds, users, without
        self.mongo = MongoClient[Json](engines.mongo.url)
        self.redis = Redis.from_url(engines.redis.url)
        self._servers = contextlib.ExitStack()
        self._redis_databases = 0

    @property
    def full_size(self) -> bool:
        """Return whether to use the full numbers of sockets, keys and messages.

        Runs shorter than a second only test the benchmarks and use smaller numbers.
        """
        return self.seconds >= 1

    def close(self) -> None:
        """Stop all servers and close the connections."""
        self.stop_servers()
        self.mongo.drop_database(FLOOR)
        self.mongo.close()
        self.redis.close()

    def stop_servers(self) -> None:
        """Stop all servers and delete their data."""
        self._servers.close()
        self.redis.flushall()
        self._redis_databases = 0

    # --- chatlab -------------------------------------------------------------------------------

    def chatlab(
        self,
        name: str = "chatlab",
        *,
        messages: int = 0,
        users: list[BenchUser] | None = None,
        max_files: int = 0,
        **settings: str,
    ) -> Server:
        """Start the service as shipped, but without a rate limit.

        `settings` are named without the prefix `CHATLAB_`. `max_files` limits the file descriptors
        of the service, unless it is 0.
        """
        database, redis_url = self._new_databases()
        users = users or make_users(self.users)
        insert_chatlab_data(self.mongo[database], users, messages)
        return self._start_chatlab(name, database, redis_url, users, settings, max_files)

    def chatlab_like(self, other: Server, name: str, **settings: str) -> Server:
        """Start the service with the users and messages of `other`, but with its own Redis keys."""
        return self._start_chatlab(
            name, other.database, self._new_databases()[1], other.users, settings
        )

    def _start_chatlab(
        self,
        name: str,
        database: str,
        redis_url: str,
        users: list[BenchUser],
        settings: dict[str, str],
        max_files: int = 0,
    ) -> Server:
        # Redis pub/sub is shared by all databases, so a prefix separates the services there.
        prefix = "" if self._redis_databases == 1 else f"{self._redis_databases}:"
        defaults = {
            "MONGO_URL": self.engines.mongo.url,
            "REDIS_URL": redis_url,
            "DATABASE": database,
            "KEY_PREFIX": prefix,
            "RATE_LIMIT": "0",
            "LOG_LEVEL": "WARNING",
        }
        variables = {f"CHATLAB_{key}": value for key, value in (defaults | settings).items()}
        command = [
            sys.executable,
            "-m",
            "chatlab",
            "serve",
            "--attached",
            "--port",
            str(port := free_port()),
        ]
        if max_files:
            command = ["sh", "-c", f'ulimit -n {max_files}; exec "$@"', "sh", *command]
        return self._start(name, command, variables, port, users, database)

    # --- the peers and the floor ---------------------------------------------------------------

    def peers(self, *, messages: int = 0, cache: bool = True) -> list[Server]:
        """Start the peers that are installed and wanted."""
        servers = (self._express(messages, cache=cache), self._plain_fastapi(messages, cache=cache))
        return [server for server in servers if server]

    def floor(self, replies: dict[str, bytes]) -> Server:
        """Start a bare application that reads its reply from Redis. `replies` maps user ids."""
        variables = self._peer_variables(cache=True)
        with contextlib.closing(Redis.from_url(variables["REDIS_URL"])) as redis:
            for user_id, reply in replies.items():
                redis.set(f"floor:{user_id}", reply)
        return self._start_uvicorn(
            "bare ASGI + GET", "floor_redis_get", variables, make_users(self.users)
        )

    def _express(self, messages: int, *, cache: bool) -> Server | None:
        if "express" in self.without or not has_express():
            return None
        variables = self._peer_variables(cache=cache)
        users = self._insert_peer_users(variables, messages)
        variables |= {"PORT": str(port := free_port()), "NODE_ENV": "production"}
        command = ["node", str(EXPRESS / "server.js")]
        return self._start("Express", command, variables, port, users, variables["DATABASE"])

    def _plain_fastapi(self, messages: int, *, cache: bool) -> Server | None:
        if "plain" in self.without:
            return None
        variables = self._peer_variables(cache=cache)
        users = self._insert_peer_users(variables, messages)
        return self._start_uvicorn("plain FastAPI", "plain_fastapi", variables, users)

    def _insert_peer_users(self, variables: dict[str, str], messages: int) -> list[BenchUser]:
        users = make_users(self.users)
        insert_peer_data(self.mongo[variables["DATABASE"]], users, messages)
        return users

    def _peer_variables(self, *, cache: bool) -> dict[str, str]:
        database, redis_url = self._new_databases()
        return {
            "MONGO_URL": self.engines.mongo.url,
            "REDIS_URL": redis_url,
            "DATABASE": database,
            "CACHE": "on" if cache else "off",
        }

    # --- any server ----------------------------------------------------------------------------

    def _new_databases(self) -> tuple[str, str]:
        """Return the name of a new MongoDB database and the URL of a new Redis database."""
        self._redis_databases += 1
        return (
            f"bench-{secrets.token_hex(4)}",
            f"{self.engines.redis.url}?db={self._redis_databases - 1}",
        )

    def _start_uvicorn(
        self, name: str, module: str, variables: dict[str, str], users: list[BenchUser]
    ) -> Server:
        command = [sys.executable, "-m", "benchmarks.peers", module, str(port := free_port())]
        return self._start(name, command, variables, port, users, variables["DATABASE"])

    def _start(
        self,
        name: str,
        command: list[str],
        variables: dict[str, str],
        port: int,
        users: list[BenchUser],
        database: str,
    ) -> Server:
        self._servers.callback(drop_database, self.engines.mongo.url, database)
        log = self._servers.enter_context((self.folder / f"{name}-{port}.log").open("w+b"))
        process = self._servers.enter_context(running(command, variables, log))
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, log)
        return Server(name, url, psutil.Process(process.pid), users, database)


@contextlib.contextmanager
def open_environment(
    *,
    seconds: float,
    rounds: int,
    users: int,
    without: set[str],
    mongo_url: str | None = None,
    redis_url: str | None = None,
) -> Iterator[Environment]:
    """Start the engines in a temporary folder, and stop and delete everything after the block.

    An engine with a URL is used as it is. Raises MeasurementError if that Redis has keys, because
    they would be deleted.
    """
    with tempfile.TemporaryDirectory(
        prefix="chatlab-benchmarks-", ignore_cleanup_errors=True
    ) as folder:
        chosen = {
            "mongo_url": mongo_url,
            "redis_url": redis_url,
            "data_dir": Path(folder, "data"),
        }
        with open_engines(load_settings().model_copy(update=chosen)) as engines:
            environment = Environment(
                engines, Path(folder), seconds=seconds, rounds=rounds, users=users, without=without
            )
            if redis_url and environment.redis.info("keyspace"):
                raise MeasurementError(
                    f"The Redis at {redis_url} has keys, which the benchmarks would delete. Use an empty one."
                )
            with contextlib.closing(environment):
                yield environment


def missing_servers(environment: Environment) -> list[str]:
    """Return a remark if the Express server is wanted but not installed."""
    return [] if "express" in environment.without or has_express() else [MISSING_EXPRESS]


def has_express() -> bool:
    """Return whether Node and the packages of the Express server are installed."""
    return shutil.which("node") is not None and (EXPRESS / "node_modules" / "express").is_dir()
