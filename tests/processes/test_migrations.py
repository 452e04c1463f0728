"""Migrations: indexes are built without a limit in time, and the service reports this meanwhile."""

import asyncio
import logging
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from urllib.parse import unquote, urlsplit

import pytest
from faults import Deployment, Proxy
from http_clients import fetch, open_client
from live import Service
from shared_service import store_messages
from waiting import LIMIT_S, wait_until

from chatlab.connections.mongo import MongoDatabase
from chatlab.errors import EngineError
from chatlab.store import migrations
from chatlab.store.migrations import SCHEMA_VERSION, find_version, migrate, migrate_until_done

PROGRESS = "Building indexes: place and once of messages, for "


class CountingProxy(Proxy):
    """A proxy that counts the requests to build the indexes of messages."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.builds = 0

    def _pass(self, received: bytes, to: socket.socket, *, is_reply: bool) -> None:
        self.builds += not is_reply and b"createIndexes" in received and b"place" in received
        super()._pass(received, to, is_reply=is_reply)


@pytest.fixture
def name(deployment: Deployment) -> str:
    """Return the name of a new database with two messages and without indexes."""
    name = f"old{secrets.token_hex(4)}"
    store_messages(deployment.database.client[name], "alice", "bob", ["one", "two"])
    return name


@pytest.fixture
async def mongo(deployment: Deployment, name: str) -> AsyncIterator[MongoDatabase]:
    """Return this database, as the service uses it."""
    mongo = MongoDatabase(deployment.engines.mongo.url, name, migrate_until_done)
    yield mongo
    await mongo.close()


async def test_a_long_build_is_not_cut_and_readiness_says_so(
    deployment: Deployment, name: str
) -> None:
    """While the indexes are being built, the process is alive, not ready, and logs its progress.

    The build is requested once, however long it takes. Then the service saves messages.
    """
    proxy = CountingProxy(unquote(urlsplit(deployment.engines.mongo.url).netloc))
    try:
        with proxy.holding("createIndexes", "reply"):
            service = deployment.start(DATABASE=name, MONGO_URL=proxy.mongo_url)
            await wait_until(lambda: PROGRESS in service.log.read_text(), "the progress")
            assert fetch(f"{service.url}/healthz").status_code == 200
            ready = fetch(f"{service.url}/readyz")
            assert (ready.status_code, ready.json()) == (
                503,
                {"status": "migrating", "mongodb": "up", "redis": "up"},
            )
            await sign_up(service, "alice", status=503)
        await wait_until(lambda: fetch(f"{service.url}/readyz").is_success, "the migration")
        await sign_up(service, "alice", status=201)
        assert proxy.builds == 1
        assert service.stop() == 0
    finally:
        proxy.close()
    database = deployment.database.client[name]
    assert {"place", "once"} <= set(database["messages"].index_information())
    assert database["meta"].find_one() == {"_id": "schema", "version": SCHEMA_VERSION}


async def sign_up(service: Service, user: str, *, status: int) -> None:
    """Sign up, and check the status of the answer."""
    async with open_client(service.url) as client:
        account = {"username": user, "password": "correct horse battery"}
        answer = await client.post("/api/auth/signup", json=account)
    assert answer.status_code == status, answer.text


async def test_a_failed_build_is_explained_and_tried_again(
    deployment: Deployment,
    name: str,
    mongo: MongoDatabase,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two messages with the same seq prevent the unique index until somebody removes one."""
    monkeypatch.setattr(migrations, "RETRY_INTERVAL_S", 0.01)
    database = deployment.database.client[name]
    store_messages(database, "alice", "bob", ["another second one"], first_seq=2)
    migrating = asyncio.create_task(migrate_until_done(mongo))
    await wait_until(lambda: "Fix: remove or correct one" in caplog.text, "the error")
    assert "alice:bob" in caplog.text
    assert not migrating.done()
    database["messages"].delete_one({"text": "two"})
    await migrating
    assert await find_version(mongo) == SCHEMA_VERSION


async def test_a_migration_that_is_done_builds_nothing(
    deployment: Deployment, name: str, mongo: MongoDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """An index with the same key and options is used under any name, and nothing is built twice."""
    messages = deployment.database.client[name]["messages"]
    messages.create_index({"conversation": 1, "seq": 1}, unique=True, name="mine")
    await asyncio.gather(migrate(mongo), migrate(mongo))
    assert {"_id_", "mine", "once"} == set(messages.index_information())
    caplog.clear()
    await migrate(mongo)
    assert caplog.text == ""


async def test_an_index_with_other_options_is_an_error(
    deployment: Deployment, name: str, mongo: MongoDatabase
) -> None:
    """An index on the same fields that is not unique is refused."""
    messages = deployment.database.client[name]["messages"]
    messages.create_index({"conversation": 1, "seq": 1}, name="place")
    with pytest.raises(EngineError) as caught:
        await migrate(mongo)
    assert "drop that index" in caught.value.fix


async def test_a_database_of_a_newer_version_is_used(
    deployment: Deployment, name: str, mongo: MongoDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning names both versions, and the newer one stays in the database."""
    newer = SCHEMA_VERSION + 1
    deployment.database.client[name]["meta"].insert_one({"_id": "schema", "version": newer})
    with caplog.at_level(logging.WARNING):
        await migrate(mongo)
    assert f"has schema version {newer}, and this version of chatlab knows {SCHEMA_VERSION}" in (
        caplog.text
    )
    assert await find_version(mongo) == newer


def test_chatlab_migrate(deployment: Deployment, name: str) -> None:
    """The command builds the indexes and prints the version; without MongoDB it exits with 1."""
    done = chatlab_migrate(deployment.engines.mongo.url, name)
    assert done.returncode == 0, done.stderr
    assert f"The database {name} has schema version {SCHEMA_VERSION}." in done.stderr
    assert "place" in deployment.database.client[name]["messages"].index_information()
    failed = chatlab_migrate("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100", name)
    assert failed.returncode == 1
    assert "was not migrated" in failed.stderr


def chatlab_migrate(mongo_url: str, database: str) -> "subprocess.CompletedProcess[str]":
    """Run `chatlab migrate` with these settings."""
    settings = {"CHATLAB_MONGO_URL": mongo_url, "CHATLAB_DATABASE": database, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "chatlab", "migrate"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
