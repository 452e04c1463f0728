"""What a server answers reaches the operator: in the greeting, in `chatlab doctor` and in the log."""

import contextlib
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pymongo
import pytest
import redis
from documents import ROOT
from live import Service, User
from own_servers import (
    Certificate,
    answering,
    initiate,
    own_mongod,
    own_redis,
    tls_in_front_of,
)
from redis.asyncio import Redis
from waiting import LIMIT_S, block_until, wait_until

from chatlab.cache.cache import Cache
from chatlab.connections.mongo import MongoDatabase
from chatlab.domain.trace import EventBus
from chatlab.errors import StoreUnavailable
from chatlab.local import readiness
from chatlab.local.engines import Engine, Engines
from chatlab.local.readiness import check_configured
from chatlab.run.console import describe_engine
from chatlab.run.doctor import mongodb
from chatlab.run.doctor import redis as doctor_of_redis
from chatlab.settings import load_settings
from chatlab.store.migrations import migrate_until_done

OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
ROOT_USER, READER, MINIMAL = "root:geheim", "reader:geheim", "chatlab:geheim"


@dataclass
class Mongo:
    """A mongod with users and TLS. `before` is what was said of it before it was initiated."""

    port: int
    certificate: Certificate
    before: Engine

    def url(self, user: str = "", options: str = "") -> str:
        at = f"{user}@" if user else ""
        return f"mongodb://{at}127.0.0.1:{self.port}/?{options}"

    def client(self) -> pymongo.MongoClient[dict[str, Any]]:
        return pymongo.MongoClient(self.url(ROOT_USER))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Return a certificate of an authority that no one knows."""
    return Certificate.create(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def mongo(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Mongo]:
    """Return a mongod with three users: an administrator, a reader and the documented one."""
    folder = tmp_path_factory.mktemp("mongod")
    key = folder / "key"
    key.write_text("a key that members of the set share".replace(" ", ""))
    key.chmod(0o600)
    options = f"--keyFile {key} --tlsMode preferTLS --tlsCertificateKeyFile {certificate.with_key}"
    options += f" --tlsCAFile {certificate.file} --tlsAllowConnectionsWithoutCertificates"
    with own_mongod(folder / "data", *options.split()) as port:
        url = f"mongodb://127.0.0.1:{port}"
        before = check_configured("mongo", load_settings(mongo_url=url))
        initiate(port)
        with pymongo.MongoClient[dict[str, Any]](f"{url}/?directConnection=true") as client:
            client.admin.command("createUser", "root", pwd="geheim", roles=["root"])
        mongo = Mongo(port, certificate, before)
        with mongo.client() as client:
            reader = [{"role": "read", "db": "chatlab"}]
            client.admin.command("createUser", "reader", pwd="geheim", roles=reader)
            create_documented_user(client)
        yield mongo


def create_documented_user(client: pymongo.MongoClient[dict[str, Any]]) -> None:
    """Create the user of docs/operations.md."""
    found = re.search(r'roles: \[\{role: "(\w+)", db: "(\w+)"\}\]', OPERATIONS)
    assert found
    roles = [{"role": found[1], "db": found[2]}]
    client.admin.command("createUser", "chatlab", pwd="geheim", roles=roles)


def check(name: Any, url: str) -> Engine:
    """Ask a server as `chatlab serve` does. The doctor says the same, and neither shows the password."""
    settings = load_settings(**{f"{name}_url": url})
    engine = check_configured(name, settings)
    findings = list(mongodb(settings) if name == "mongo" else doctor_of_redis(settings))
    assert [one.text for one in findings if str(engine.warning) in one.text or not engine.warning]
    assert findings[0].ok is False or engine.version
    assert "geheim" not in describe_engine(engine) + repr(findings) + repr(engine)
    return engine


# --- MongoDB --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "options", "warning", "fix"),
    [
        ("root:wrong", "", "refuses the user name or the password", "CHATLAB_MONGO_URL"),
        (MINIMAL, "authSource=chatlab", "refuses the user name or the password", "authSource"),
        ("", "", "requires a user name and a password", "user:password@"),
    ],
)
def test_mongodb_says_that_it_refuses_a_user(
    mongo: Mongo, user: str, options: str, warning: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A MongoDB that answers with an error is not one that does not answer."""
    monkeypatch.setattr(readiness, "VERSION_TIMEOUT_S", LIMIT_S)  # a busy machine takes its time
    engine = check("mongo", mongo.url(user, options))
    assert (engine.version, warning in str(engine.warning)) == ("", True), engine.warning
    assert fix in engine.fix


@pytest.mark.parametrize(
    ("user", "options", "warning", "fix"),
    [
        (ROOT_USER, "replicaSet=other", "another replica set than other", "replicaSet"),
        (
            ROOT_USER,
            "replicaSet=other&directConnection=true",
            "belongs to the replica set rs0, but CHATLAB_MONGO_URL names other",
            "replicaSet",
        ),
        (ROOT_USER, "tls=true", "certificate of an authority that this machine", "tlsCAFile"),
    ],
)
def test_mongodb_says_what_is_wrong(
    mongo: Mongo, user: str, options: str, warning: str, fix: str
) -> None:
    """The driver finds no server that it may use, and waits for one until the limit."""
    engine = check("mongo", mongo.url(user, options))
    assert (engine.version, warning in str(engine.warning)) == ("", True), engine.warning
    assert fix in engine.fix


def test_a_replica_set_that_is_not_initiated(mongo: Mongo) -> None:
    """The fix is rs.initiate()."""
    assert "is not a member of a working replica set" in str(mongo.before.warning)
    assert "rs.initiate()" in mongo.before.fix


def test_a_certificate_for_another_name(mongo: Mongo) -> None:
    """The name in the URL must be one of the certificate."""
    url = mongo.url(ROOT_USER, f"tls=true&tlsCAFile={mongo.certificate.file}")
    engine = check("mongo", url.replace("127.0.0.1", "localhost"))
    assert "a certificate for another name" in str(engine.warning)


def test_a_check_that_is_switched_off_is_a_warning(mongo: Mongo) -> None:
    """Without a check of the certificate, the server can be used, and greeting and doctor warn."""
    engine = check("mongo", mongo.url(ROOT_USER, "tls=true&tlsInsecure=true"))
    assert engine.version
    assert "because of tlsInsecure" in str(engine.warning)


@contextlib.asynccontextmanager
async def opened(url: str, name: str) -> Any:
    """Yield a database of the service."""
    database = MongoDatabase(url, name, migrate_until_done)
    await database.open()
    yield database
    await database.close()


async def test_a_missing_right_names_the_command(
    mongo: Mongo, caplog: pytest.LogCaptureFixture
) -> None:
    """With the right to read only, the log names the command that MongoDB forbids, and the role."""
    async with opened(mongo.url(READER), "chatlab") as database:
        assert database.breaker.is_open
    assert "it forbids this user the command createIndexes on the database chatlab" in caplog.text
    assert "grant the user the role readWrite on chatlab" in caplog.text
    assert "does not answer" not in caplog.text


async def test_an_index_of_somebody_else_is_named(
    mongo: Mongo, caplog: pytest.LogCaptureFixture
) -> None:
    """Another index with the name of one of ours contradicts it, and so do two messages with one place."""
    place = {"conversation": "a:b", "seq": 1}
    with mongo.client() as client:
        client["conflict"]["messages"].create_index("text", name="place")
        client["equal"]["messages"].insert_many([place | {"_id": 1}, place | {"_id": 2}])
    for name in ("conflict", "equal"):
        async with opened(mongo.url(ROOT_USER), name) as database:
            assert database.breaker.is_open
    assert "it has an index that contradicts one of chatlab" in caplog.text
    assert 'existing index: { v: 2, key: { text: 1 }, name: "place" }' in caplog.text
    assert "it has documents that contradict a unique index of chatlab: E11000" in caplog.text


async def test_a_full_disk_is_named(mongo: Mongo, caplog: pytest.LogCaptureFixture) -> None:
    """MongoDB answers a write with code 14031 when its disk is full. A failpoint of MongoDB does so here."""
    failure = {"failCommands": ["insert"], "errorCode": 14031, "appName": "full"}
    with mongo.client() as client:
        client.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=failure)
        async with opened(mongo.url(ROOT_USER, "appName=full"), "full") as database:
            with pytest.raises(StoreUnavailable):
                await database.execute(database.database["messages"].insert_one({"a": 1}))
        client.admin.command("configureFailPoint", "failCommand", mode="off")
    assert "MongoDB rejected a call: it has no space left on its disk" in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_primary_that_steps_down_is_not_read_any_more(
    mongo: Mongo, caplog: pytest.LogCaptureFixture
) -> None:
    """With directConnection the driver would read old messages from a secondary. It is used again as a primary."""
    url = mongo.url(ROOT_USER, "directConnection=true")
    async with opened(url, "stepping") as database:
        with pymongo.MongoClient[dict[str, Any]](url) as client:
            client.admin.command("replSetStepDown", 600, force=True)
            await wait_until(lambda: database.breaker.is_open, "the circuit to open")
            with pytest.raises(StoreUnavailable):
                await database.execute(database.database["messages"].find_one())
            assert "secondary, which accepts no writes" in str(check("mongo", url).warning)
            client.admin.command("replSetFreeze", 0)
        await wait_until(lambda: not database.breaker.is_open, "the circuit to close")
    assert "it is a secondary, which accepts no writes" in caplog.text


# --- Redis ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Return the port of a Redis whose configuration the tests may change."""
    with own_redis(tmp_path_factory.mktemp("redis"), "--requirepass", "geheim") as port:
        yield port


@pytest.mark.parametrize(
    ("login", "path", "warning"),
    [
        ("", "", "requires a password"),
        (":wrong@", "", "refuses the user name or the password"),
        ("nobody:geheim@", "", "refuses the user name or the password"),
        (":geheim@", "/99", "has no database with the number in CHATLAB_REDIS_URL"),
    ],
)
def test_redis_says_what_is_wrong(own: int, login: str, path: str, warning: str) -> None:
    """A Redis that answers with an error is not one that does not answer."""
    engine = check("redis", f"redis://{login}127.0.0.1:{own}{path}")
    assert (engine.version, engine.warning) == ("", f"Redis {warning}")
    assert engine.fix


def test_a_user_without_the_right_to_select(own: int) -> None:
    """The command is named."""
    with redis.Redis(port=own, password="geheim") as client:
        client.acl_setuser("narrow", enabled=True, passwords="+geheim", commands=["+ping"])
    engine = check("redis", f"redis://narrow:geheim@127.0.0.1:{own}/1")
    assert "forbids this user a command, a key or a channel: select" in str(engine.warning)


async def log_of_cache(url: str, caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Open a cache there, and wait until its circuit is open and the log has this text."""
    cache = Cache(Redis.from_url(url), load_settings(), EventBus())
    await cache.open()
    await wait_until(lambda: text in caplog.text, f"{text!r} in the log")
    assert cache.servers.all()[0].breaker.is_open
    await cache.close()


async def test_a_replica_a_cluster_and_a_sentinel(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The greeting calls each by its name, with the version, and the log says why the cache is not used."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(own_redis(tmp_path / "first"))
        replica = stack.enter_context(
            own_redis(tmp_path / "replica", "--replicaof", f"127.0.0.1 {first}")
        )
        cluster = stack.enter_context(own_redis(tmp_path / "a", "--cluster-enabled", "yes"))
        with redis.Redis(port=cluster) as client:
            slot = ("CLUSTER", "ADDSLOTS", 0)
            client.execute_command(*slot)
        sentinel = stack.enter_context(own_redis(tmp_path / "sentinel", "--sentinel"))
        for port, text in (
            (replica, "is a replica, which accepts no writes"),
            (cluster, "is a node of a Redis Cluster"),
            (sentinel, "is a Sentinel"),
        ):
            engine = check("redis", f"redis://127.0.0.1:{port}")
            assert engine.version
            assert text in str(engine.warning)
            await log_of_cache(f"redis://127.0.0.1:{port}", caplog, f"it {text}")
        for port, text in (
            (first, "Redis is not a Redis Cluster"),
            (cluster, "has a primary for 1 of its 16384 slots only"),
        ):
            assert text in str(check("redis", f"redis+cluster://127.0.0.1:{port}").warning)
    assert "does not answer" not in caplog.text


async def test_a_full_memory_and_a_full_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis answers writes with OOM or MISCONF. The disk is a folder that is gone."""
    folder = tmp_path / "saves"
    with (
        own_redis(folder, "--save", "3600 1000") as port,
        redis.Redis(port=port) as client,
    ):
        client.config_set("maxmemory", 1)
        await log_of_cache(f"redis://127.0.0.1:{port}", caplog, "it has no memory left for writes")
        client.config_set("maxmemory", 0)
        shutil.rmtree(folder)
        client.bgsave()
        block_until(
            lambda: client.info("persistence")["rdb_last_bgsave_status"],
            "the save to fail",
            is_reached=lambda status: status == "err",
        )
        await log_of_cache(f"redis://127.0.0.1:{port}", caplog, "it cannot write to its disk")


# --- the network ----------------------------------------------------------------------------------


def test_the_certificate_of_redis(engines: Engines, certificate: Certificate) -> None:
    """An unknown authority, another name, and a port without TLS each have their own text."""
    with tls_in_front_of(urlsplit(engines.redis.url).path, certificate) as port:
        good = f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate.file}"
        assert check("redis", good).version
        for url, text in (
            (f"rediss://127.0.0.1:{port}", "certificate of an authority that this machine"),
            (good.replace("127.0.0.1", "localhost"), "a certificate for another name"),
        ):
            engine = check("redis", url)
            assert (engine.version, text in str(engine.warning)) == ("", True), engine.warning
        unchecked = check("redis", f"rediss://127.0.0.1:{port}?ssl_cert_reqs=none")
    assert unchecked.version
    assert "because of ssl_cert_reqs" in str(unchecked.warning)


def say(text: bytes) -> Any:
    """Return a handler that sends this text after the first request."""

    def handle(client: socket.socket) -> None:
        client.recv(65_536)
        client.sendall(text)

    return handle


@pytest.mark.parametrize(
    ("name", "url", "text"),
    [
        ("redis", "redis://127.0.0.1:{}", "is not a Redis"),
        ("mongo", "mongodb://127.0.0.1:{}", "is not a MongoDB"),
        ("redis", "rediss://127.0.0.1:{}", "does not speak TLS on this port"),
        ("mongo", "mongodb://127.0.0.1:{}/?tls=true", "does not speak TLS on this port"),
        ("redis", "redis://no.such.host.invalid", "has a host name without an address"),
        ("mongo", "mongodb://no.such.host.invalid", "has a host name without an address"),
        ("mongo", "mongodb+srv://no.such.host.invalid", "has a host name without an address"),
    ],
)
def test_something_else_at_this_address(name: str, url: str, text: str) -> None:
    """A web server, a port without TLS, and a name that no one knows."""
    with answering(say(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        engine = check(name, url.format(port))
    assert (engine.version, text in str(engine.warning)) == ("", True), engine.warning


@pytest.mark.parametrize(
    ("name", "url"), [("redis", "redis://127.0.0.1:{}"), ("mongo", "mongodb://127.0.0.1:{}")]
)
def test_a_server_that_is_not_there_does_not_answer(name: Any, url: str) -> None:
    """Only then the text mentions it."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # without `listen` the kernel refuses every connection
        engine = check_configured(
            name, load_settings(**{f"{name}_url": url.format(silent.getsockname()[1])})
        )
    assert "does not answer yet" in str(engine.warning)


# --- minimal rights -------------------------------------------------------------------------------


async def test_the_documented_rights_are_enough(
    mongo: Mongo, engines: Engines, tmp_path: Path, space: str, keys: redis.Redis
) -> None:
    """A service with the documented users, and TLS to both servers, is refused nothing."""
    rules = re.search(r"ACL SETUSER chatlab on >password (.*?)```", OPERATIONS, re.DOTALL)
    assert rules
    keys.execute_command("ACL", "SETUSER", space, "reset", "on", ">geheim", *rules[1].split())  # type: ignore[no-untyped-call]  # redis has no types for it
    keys.acl_log_reset()
    options = f"tls=true&tlsCAFile={mongo.certificate.file}"
    with tls_in_front_of(urlsplit(engines.redis.url).path, mongo.certificate) as port:
        service = Service(
            mongo.url(MINIMAL, options),
            f"rediss://{space}:geheim@127.0.0.1:{port}/1?ssl_ca_certs={mongo.certificate.file}",
            tmp_path / "service.log",
            DATABASE="chatlab",
            KEY_PREFIX=f"{space}:",
        )
        try:
            service.wait_until_ready()
            await use_everything(service)
        finally:
            service.end()
    log = service.log.read_text()
    assert not re.search("forbids|refuses|rejected|Traceback", log), log
    refused = [entry for entry in keys.acl_log() if entry["username"] == space]
    assert refused == []
    keys.acl_deluser(space)


async def use_everything(service: Service) -> None:
    """Do as two users what the API offers."""
    alice, bob = [await User.sign_up(service, name) for name in ("alice", "bob")]
    await bob.connect()
    sent = await alice.send(bob, "old", clientId="one")
    assert await bob.wait_for_events("newMessage") == [sent]
    message = f"/api/messages/{sent['_id']}"
    for answer in (
        await alice.http.patch(message, json={"text": "new"}),
        await bob.http.put(f"{message}/reactions/👍"),
        await bob.http.post("/api/messages/alice/read", json={"seq": 1}),
        await bob.http.get("/api/users"),
        await bob.read(alice),
        await bob.read(alice, fresh=True),
        await alice.http.delete(message),
        await alice.http.post("/api/auth/logout"),
    ):
        assert answer.status_code in (200, 204), answer.text
    await wait_until(
        lambda: bob.read(alice), "a hit", is_reached=lambda read: read.headers["x-cache"] == "hit"
    )
    await alice.close()
    await bob.close()
