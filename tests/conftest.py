"""What every test stands on: real engines of the test run, a database and a key prefix of its own, services as child processes."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
import redis
from live import Service, ServiceMaker, SignUp, User
from pymongo.database import Database
from shared_service import SharedService, UserMaker, start_shared_service

from chatlab.local.engines import Engines, open_engines
from chatlab.settings import load_settings


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """A real MongoDB and a real Redis for this test run. A missing one fails, it never skips."""
    with open_engines(load_settings(data_dir=tmp_path_factory.mktemp("engines"), mongo_url=None, redis_url=None)) as found:
        yield found


@pytest.fixture
def space() -> str:
    """A name that only this test uses: its database, and the beginning of its keys and users."""
    return f"t{secrets.token_hex(5)}"


@pytest.fixture
def database(engines: Engines, space: str) -> Iterator[Database[dict[str, Any]]]:
    """MongoDB as a test looks into it, behind the back of the service."""
    with pymongo.MongoClient[dict[str, Any]](engines.mongo.url) as client:
        yield client[space]
        client.drop_database(space)


@pytest.fixture
def keys(engines: Engines, space: str) -> Iterator[redis.Redis]:
    """Redis as a test looks into it. Every key of the test must have an expiry when it ends."""
    with redis.Redis.from_url(engines.redis.url) as client:
        yield client
        leaked = [key for key in client.scan_iter(f"{space}:*") if client.pttl(key) == -1]
        assert not leaked, f"keys without an expiry: {leaked}"


@pytest.fixture
def start(engines: Engines, space: str, tmp_path: Path) -> Iterator[ServiceMaker]:
    """How to start a service of this test; used again, it gives another process of the same one."""
    with contextlib.ExitStack() as stack:

        def starter(**settings: str) -> Service:
            chosen = {"DATABASE": space, "KEY_PREFIX": f"{space}:", **settings}
            mongo_url, redis_url = chosen.pop("MONGO_URL", engines.mongo.url), chosen.pop("REDIS_URL", engines.redis.url)
            service = Service(mongo_url, redis_url, tmp_path / f"service-{secrets.token_hex(3)}.log", **chosen)
            stack.callback(_end, service)
            return service.wait_until_ready()

        yield starter


def _end(service: Service) -> None:
    if service.process.poll() is None:
        service.kill()


@pytest.fixture
def service(start: ServiceMaker, database: Database[dict[str, Any]], keys: redis.Redis) -> Service:
    """The service with its defaults, on the flow."""
    return start(FLOW="1")


@pytest.fixture
async def sign_up(request: pytest.FixtureRequest, space: str) -> AsyncIterator[SignUp]:
    """How a test signs somebody up: by name, at the test's own service unless another is given."""
    people: list[User] = []

    async def maker(name: str, at: Service | None = None) -> User:
        where: Service = at or request.getfixturevalue("service")
        people.append(await User.sign_up(where, name))
        return people[-1]

    yield maker
    await asyncio.gather(*(someone.close() for someone in people), return_exceptions=True)


@pytest.fixture(scope="session")
def shared(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    """One service for all tests that need no settings of their own: quick to use, never empty."""
    with start_shared_service(engines, tmp_path_factory.mktemp("house") / "service.log") as shared:
        yield shared


@pytest.fixture
async def new_user(shared: SharedService) -> AsyncIterator[UserMaker]:
    """Somebody with a name of their own in the house: `new_user()`."""
    people: list[User] = []

    def maker(name: str | None = None, at: Service | None = None) -> User:
        people.append(shared.create_user(name, at))
        return people[-1]

    yield maker
    await asyncio.gather(*(someone.close() for someone in people), return_exceptions=True)
