"""A whole service on servers as a deployment has them: TLS, users with minimal rights, a database
number, a backup.

Set CHATLAB_REDIS_SERVER or CHATLAB_MONGOD to run these tests with another version of a server.
"""

import asyncio
import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo
import pytest
import redis
from documents import ROOT
from live import Service, User
from own_servers import Certificate, initiate, own_mongod, own_redis, tls_in_front_of
from patient import PatientService
from shared_service import meet
from waiting import wait_until

from chatlab.local.engines import open_engines
from chatlab.settings import load_settings

OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
USER = "chatlab:password"
TTL_S = 2


@dataclass
class Secured:
    """Both servers with the users of docs/operations.md. `keys` and `mongo` may do everything."""

    mongo_url: str
    redis_url: str
    keys: redis.Redis
    mongo: "pymongo.MongoClient[dict[str, Any]]"


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    """Start both servers with TLS and passwords."""
    certificate = Certificate.create(tmp_path)
    with contextlib.ExitStack() as stack:
        mongo_url, mongo = stack.enter_context(secured_mongod(tmp_path, certificate))
        redis_url, keys = stack.enter_context(secured_redis(tmp_path, certificate))
        yield Secured(mongo_url, redis_url, keys, mongo)


@contextlib.contextmanager
def secured_mongod(
    folder: Path, certificate: Certificate
) -> Iterator[tuple[str, "pymongo.MongoClient[dict[str, Any]]"]]:
    """Run a mongod with TLS, and yield the URL of the documented user and a client of an
    administrator.
    """
    key = folder / "key"
    key.write_text("thekeythatthemembersshare")
    key.chmod(0o600)
    options = f"--keyFile {key} --tlsMode preferTLS --tlsCertificateKeyFile {certificate.with_key}"
    options += f" --tlsCAFile {certificate.file} --tlsAllowConnectionsWithoutCertificates"
    with own_mongod(folder / "mongo", *options.split()) as port:
        initiate(port)
        place = f"127.0.0.1:{port}/?directConnection=true"
        with pymongo.MongoClient[dict[str, Any]](f"mongodb://{place}") as client:
            client.admin.command("createUser", "root", pwd="password", roles=["root"])
        with pymongo.MongoClient[dict[str, Any]](f"mongodb://root:password@{place}") as client:
            roles = [{"role": "readWrite", "db": "chatlab"}]
            client.admin.command("createUser", "chatlab", pwd="password", roles=roles)
            tls = f"tls=true&tlsCAFile={certificate.file}"
            yield f"mongodb://{USER}@127.0.0.1:{port}/?replicaSet=rs0&{tls}", client


@contextlib.contextmanager
def secured_redis(folder: Path, certificate: Certificate) -> Iterator[tuple[str, redis.Redis]]:
    """Run a Redis behind TLS, and yield the URL of the documented user and a client of an
    administrator.
    """
    rule = re.search(r"ACL SETUSER chatlab (.*?)\n```", OPERATIONS, re.DOTALL)
    assert rule
    path = folder / "redis.sock"
    with (
        own_redis(folder / "redis", "--unixsocket", str(path)) as port,
        redis.Redis(port=port, db=3) as keys,
        tls_in_front_of(str(path), certificate) as tls_port,
    ):
        keys.execute_command("ACL", "SETUSER", "chatlab", *rule[1].split())
        tls = f"ssl_ca_certs={certificate.file}"
        yield f"rediss://{USER}@127.0.0.1:{tls_port}/3?{tls}", keys


async def test_a_service_works_with_tls_and_minimal_rights(
    secured: Secured, tmp_path: Path
) -> None:
    """Two processes of a service use both servers with no more rights than documented.

    Messages of both transports are saved, cached, sent to both processes, and expire.
    """
    urls = secured.mongo_url, secured.redis_url
    services = [
        PatientService(*urls, tmp_path / f"{number}.log", CACHE_TTL=str(TTL_S)) for number in (1, 2)
    ]
    try:
        for service in services:
            service.wait_until_ready()
        alice = await User.sign_up(services[0], "alice")
        bob = await User.sign_up(services[1], "bob")
        await meet(alice, bob)
        sent = [
            await alice.send(bob, transport, transport=transport)
            for transport in ("http", "socket")
        ]
        assert await bob.wait_for_events("newMessage", 2) == sent
        answers = [await bob.read(alice), await bob.read(alice)]
        assert [answer.json() for answer in answers] == [sent, sent]
        assert answers[1].headers["x-cache"] == "hit"
        assert secured.keys.pttl(f"message:{sent[1]['_id']}") > 0
        await wait_until(lambda: not secured.keys.keys("message:*"), "the entries to expire")
        names = {"messages", "users", "sessions", "reads", "meta"}
        assert names <= set(secured.mongo["chatlab"].list_collection_names())
        await asyncio.gather(alice.close(), bob.close())
    finally:
        for service in services:
            service.end()
    logs = "".join(service.log.read_text() for service in services)
    for problem in ("refuses", "rejected", "Traceback"):
        assert problem not in logs, logs


@pytest.mark.slow
async def test_a_restored_backup_is_used(tmp_path: Path) -> None:
    """After a restore, the messages, users and sessions of the backup are back.

    The next message gets the next `seq` of the backup. The backup is a copy of the data folder,
    made while nothing used it.
    """
    data, backup = tmp_path / "data", tmp_path / "backup"
    with running_service(data, tmp_path) as service:
        alice, bob = await User.sign_up(service, "alice"), await User.sign_up(service, "bob")
        kept = await alice.send(bob, "before the backup")
        await asyncio.gather(alice.close(), bob.close())
    shutil.copytree(data, backup, ignore=shutil.ignore_patterns("run"))
    with running_service(data, tmp_path) as service:
        alice = await alice.at(service)
        await alice.send(bob, "after the backup")
        await alice.close()
    shutil.rmtree(data)
    backup.rename(data)
    with running_service(data, tmp_path) as service:
        alice, bob = await alice.at(service), await bob.at(service)
        assert (await bob.read(alice)).json() == [kept]
        assert (await bob.send(alice, "after the restore"))["seq"] == 2
        assert len((await alice.read(bob)).json()) == 2
        await asyncio.gather(alice.close(), bob.close())


@contextlib.contextmanager
def running_service(data: Path, folder: Path) -> Iterator[Service]:
    """Run private servers with this data folder, and a service that uses them."""
    with open_engines(load_settings(data_dir=data, mongo_url=None, redis_url=None)) as engines:
        urls = engines.mongo.url, engines.redis.url
        service = PatientService(*urls, folder / "service.log", CACHE_TTL="60")
        try:
            yield service.wait_until_ready()
        finally:
            service.end()
