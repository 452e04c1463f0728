"""Fixtures for all tests: real servers, a database per test, services as child processes, users."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

# It replaces the manager of comms, so it must be imported before the first widget, as in a kernel.
import ipykernel.ipkernel  # noqa: F401
import pymongo
import pytest
import redis
from faults import Deployment, open_deployment
from generous import mongodb_limits
from live import GenerousService, Service, ServiceMaker, SignUp, User
from pymongo.database import Database
from redis_clients import open_keys
from sentinels import SentinelGroup
from shared_service import SharedService, UserMaker, start_shared_service
from waiting import LIMIT_S

import chatlab.connections.mongo
from chatlab.local.engines import Engines, open_engines
from chatlab.settings import load_settings


@pytest.fixture(scope="session")
def engines(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engines]:
    """Return a real MongoDB and a real Redis for this test run.

    If one is missing, tests fail; they are never skipped.
    """
    option = request.config.getoption
    with contextlib.ExitStack() as stack:
        url = None
        if option("--sentinel"):
            group = SentinelGroup(tmp_path_factory.mktemp("sentinels"))
            url = stack.enter_context(contextlib.closing(group)).url
        yield stack.enter_context(
            _open_private(
                tmp_path_factory,
                "engines",
                redis_url=url,
                replica_set=option("--replica-set"),
                redis_cluster=option("--redis-cluster"),
            )
        )


def _open_private(
    folders: pytest.TempPathFactory,
    name: str,
    *,
    redis_url: str | None = None,
    replica_set: bool = False,
    redis_cluster: bool = False,
) -> Engines:
    """Start private servers in a new folder. The Redis with a URL runs already."""
    settings = load_settings(data_dir=folders.mktemp(name), mongo_url=None, redis_url=redis_url)
    return open_engines(settings, replica_set=replica_set, redis_cluster=redis_cluster)


@pytest.fixture(scope="session")
def breakable_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Return private servers that tests may freeze and stop. Each test starts them again."""
    with _open_private(tmp_path_factory, "breakable") as found:
        yield found


@pytest.fixture(scope="module")
def deployment(
    breakable_engines: Engines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """Return a deployment of one module, whose servers its tests may freeze, stop and count."""
    with open_deployment(breakable_engines, tmp_path_factory.mktemp("deployment")) as deployment:
        yield deployment


@pytest.fixture(scope="session")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Return a MongoDB with three members, and a Redis. Tests may stop and freeze them."""
    with _open_private(tmp_path_factory, "members", replica_set=True) as found:
        yield found


@pytest.fixture(scope="module")
def replicated_deployment(
    replica_set: Engines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """Return a deployment of one module on the replica set."""
    with open_deployment(replica_set, tmp_path_factory.mktemp("deployment")) as deployment:
        yield deployment


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Return a Redis Cluster of six nodes, and a MongoDB. Tests may stop and freeze them."""
    with _open_private(tmp_path_factory, "nodes", redis_cluster=True) as found:
        yield found


@pytest.fixture(scope="module")
def clustered_deployment(
    redis_cluster: Engines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """Return a deployment of one module on the Redis Cluster."""
    with open_deployment(redis_cluster, tmp_path_factory.mktemp("deployment")) as deployment:
        yield deployment


@pytest.fixture
def patient_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the calls to MongoDB of this process wait longer than usual."""
    for name, limit in mongodb_limits(LIMIT_S).items():
        monkeypatch.setattr(chatlab.connections.mongo, name, limit)


@pytest.fixture
def space() -> str:
    """Return a name that only this test uses: for its database and as a prefix of its keys."""
    return f"t{secrets.token_hex(5)}"


@pytest.fixture
def database(engines: Engines, space: str) -> Iterator[Database[dict[str, Any]]]:
    """Return the database of this test, to read and change documents without the service."""
    with pymongo.MongoClient[dict[str, Any]](engines.mongo.url) as client:
        yield client[space]
        client.drop_database(space)


@pytest.fixture
def keys(engines: Engines, space: str) -> Iterator[redis.Redis]:
    """Return Redis, to read and change keys without the service.

    After the test, all its keys must have an expiry.
    """
    with open_keys(engines.redis.url) as client:
        yield client
        leaked = [key for key in client.scan_iter(f"{space}:*") if client.pttl(key) == -1]
        assert not leaked, f"keys without an expiry: {leaked}"


@pytest.fixture
def start(engines: Engines, space: str, tmp_path: Path) -> Iterator[ServiceMaker]:
    """Return a function that starts one more process of this test's service, with these settings."""
    with contextlib.ExitStack() as stack:

        def start_process(**settings: str) -> Service:
            chosen = {"DATABASE": space, "KEY_PREFIX": f"{space}:", **settings}
            mongo_url, redis_url = (
                chosen.pop("MONGO_URL", engines.mongo.url),
                chosen.pop("REDIS_URL", engines.redis.url),
            )
            service = GenerousService(
                mongo_url, redis_url, tmp_path / f"service-{secrets.token_hex(3)}.log", **chosen
            )
            stack.callback(service.end)
            return service.wait_until_ready()

        yield start_process


@pytest.fixture
def service(start: ServiceMaker, database: Database[dict[str, Any]], keys: redis.Redis) -> Service:
    """Return a service with default settings that publishes its stage events."""
    return start(FLOW="1")


@pytest.fixture
async def sign_up(request: pytest.FixtureRequest, space: str) -> AsyncIterator[SignUp]:
    """Return a function that signs a user up, at the fixture `service` or at another one."""
    users: list[User] = []

    async def maker(name: str, at: Service | None = None) -> User:
        target: Service = at or request.getfixturevalue("service")
        users.append(await User.sign_up(target, name))
        return users[-1]

    yield maker
    await asyncio.gather(*(user.close() for user in users), return_exceptions=True)


@pytest.fixture(scope="session")
def shared(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    """Return the service shared by all tests that need no special settings.

    It has data of other tests.
    """
    with start_shared_service(engines, tmp_path_factory.mktemp("shared") / "service.log") as shared:
        yield shared


@pytest.fixture
async def new_user(shared: SharedService) -> AsyncIterator[UserMaker]:
    """Return a function that creates a logged-in user of the shared service: `new_user()`."""
    users: list[User] = []

    def maker(name: str | None = None, at: Service | None = None) -> User:
        users.append(shared.create_user(name, at))
        return users[-1]

    yield maker
    await asyncio.gather(*(user.close() for user in users), return_exceptions=True)
