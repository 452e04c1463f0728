"""The service does not mistake its own load, or a mistake in its configuration, for an outage of a server."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import psutil
import pytest
from documents import ROOT
from faults import REDIS_TIMEOUT_S, Deployment, Proxy, frozen
from http_clients import fetch
from live import Service, User
from pymongo.errors import PyMongoError
from shared_service import meet
from waiting import block_until, wait_until

from chatlab.connections import mongo as mongo_module
from chatlab.connections.mongo import MongoDatabase
from chatlab.errors import StoreUnavailable
from chatlab.protect.loop_lag import LoopLag
from chatlab.store.migrations import migrate

OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
LONG_TTL = "600"  # no window expires during a test
REQUESTS = 100  # of each kind


class DroppingProxy(Proxy):
    """A proxy that drops the first request that contains `text`, and freezes the service that sent it.

    The request then gets no reply, and its time limit passes while the event loop is late.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.text, self.service_pid = b"", 0
        self.has_dropped = threading.Event()

    def drop(self, text: bytes, service: Service) -> None:
        """Drop the next request with this text."""
        self.has_dropped.clear()
        self.text, self.service_pid = text, service.process.pid

    def _pass(self, received: bytes, to: socket.socket, *, is_reply: bool) -> None:
        if self.text and not is_reply and self.text in received:
            self.text = b""
            os.kill(self.service_pid, signal.SIGSTOP)
            self.has_dropped.set()
            return
        super()._pass(received, to, is_reply=is_reply)


@pytest.fixture
def redis_proxy(deployment: Deployment) -> Iterator[DroppingProxy]:
    """Return a proxy in front of Redis."""
    proxy = DroppingProxy(urlsplit(deployment.engines.redis.url).path)
    yield proxy
    proxy.close()


@pytest.fixture
def mongo_proxy(deployment: Deployment) -> Iterator[DroppingProxy]:
    """Return a proxy in front of MongoDB."""
    proxy = DroppingProxy(unquote(urlsplit(deployment.engines.mongo.url).netloc))
    yield proxy
    proxy.close()


async def let_time_limit_pass(proxy: DroppingProxy, service: Service, seconds: float) -> None:
    """Wait until the service is frozen after a dropped request, and continue it when its time limit has passed."""
    process = psutil.Process(service.process.pid)
    await wait_until(proxy.has_dropped.is_set, "a request to be dropped")
    await wait_until(
        process.status, "the service to stop", is_reached=lambda seen: seen == psutil.STATUS_STOPPED
    )
    await asyncio.sleep(seconds)
    os.kill(service.process.pid, signal.SIGCONT)


def metric(service: Service, name: str, part: str) -> float:
    """Return the value of a metric of this process."""
    text = fetch(f"{service.url}/metrics").text
    found = re.search(rf'^{name}{{part="{part}"}} (\S+)$', text, re.MULTILINE)
    assert found, name
    return float(found[1])


def outages(service: Service, part: str) -> float:
    """Return how often the circuit breaker of this server has opened."""
    return metric(service, "chatlab_breaker_opened_total", part)


@contextlib.asynccontextmanager
async def two_users(deployment: Deployment, here: Service, there: Service) -> AsyncIterator[Any]:
    """Yield two users, each a client of one of these processes."""
    alice, bob = deployment.create_user(here), deployment.create_user(there)
    try:
        yield alice, bob
    finally:
        await asyncio.gather(alice.close(), bob.close())


async def is_hit(reader: User, other: User) -> bool:
    """Return whether a read of their conversation is served by Redis alone."""
    return (await reader.read(other)).headers["x-cache"] == "hit"


# --- a late event loop ----------------------------------------------------------------------------


async def test_a_late_event_loop_is_no_outage_of_redis(
    deployment: Deployment, redis_proxy: DroppingProxy
) -> None:
    """An edit whose cache update timed out while its process was frozen opens no circuit, and no process shows the old text."""
    limit_s = 4 * REDIS_TIMEOUT_S  # which no other command exceeds, however busy the machine is
    options = {"CACHE_TTL": LONG_TTL, "REDIS_TIMEOUT": str(limit_s)}
    late = deployment.start_patient(REDIS_URL=redis_proxy.url, **options)
    other = deployment.start_patient(**options)
    async with two_users(deployment, late, other) as (alice, bob):
        sent = await alice.send(bob, "old")
        await wait_until(lambda: is_hit(alice, bob), "a hit in the one process")
        await wait_until(lambda: is_hit(bob, alice), "a hit in the other process")
        before = outages(late, "redis")
        redis_proxy.drop(b'"text":"new"', late)
        editing = asyncio.create_task(
            alice.http.patch(f"/api/messages/{sent['_id']}", json={"text": "new"})
        )
        await let_time_limit_pass(redis_proxy, late, 1.2 * limit_s)
        assert (await editing).json()["text"] == "new"
        assert (await alice.read(bob)).json()[0]["text"] == "new"
        await wait_until(
            lambda: bob.read(alice),
            "the window to be fenced for the other process",
            is_reached=lambda answer: answer.json()[0]["text"] == "new",
        )
        assert outages(late, "redis") == before
        assert metric(late, "chatlab_own_load_timeouts_total", "redis") >= 1
        await wait_until(lambda: is_hit(alice, bob), "hits again")


async def test_a_late_event_loop_is_no_outage_of_mongodb(
    deployment: Deployment, mongo_proxy: DroppingProxy
) -> None:
    """A send whose insert timed out while its process was frozen gets its 503. The circuit stays closed for all others."""
    url = f"{mongo_proxy.mongo_url}&appname=late"
    late = deployment.start(MONGO_URL=url, CACHE_MODE="off")
    async with two_users(deployment, late, late) as (alice, bob):
        await alice.send(bob, "before")
        before = outages(late, "mongodb")
        mongo_proxy.drop(b"dropped", late)
        sending = asyncio.create_task(
            alice.http.post("/api/messages/send", json={"receiverId": bob.id, "text": "dropped"})
        )
        limit_s = mongo_module.CALL_LIMIT_S
        await let_time_limit_pass(mongo_proxy, late, limit_s + 0.5)
        assert (await sending).status_code == 503
        assert (await alice.read(bob, fresh=True)).status_code == 200
        assert outages(late, "mongodb") == before
        assert metric(late, "chatlab_own_load_timeouts_total", "mongodb") >= 1


def test_the_lag_of_a_frozen_process_counts_at_once() -> None:
    """A call that ends after a stall sees the delay, even if the measuring task has not run yet."""

    async def stall() -> tuple[bool, bool]:
        lag = LoopLag()
        measuring = asyncio.create_task(lag.run())
        await asyncio.sleep(0)
        before = lag.sum_s
        block_until(lambda: lag.was_late(before, 0.2), "the delay to be seen")  # blocks the loop
        was_late, is_late = lag.was_late(before, 0.2), lag.was_late(lag.sum_s, 0.2)
        measuring.cancel()
        return was_late, is_late

    assert asyncio.run(stall()) == (True, False)


# --- a queue in front of the connections ----------------------------------------------------------


@pytest.fixture
async def narrow(
    deployment: Deployment,
) -> AsyncIterator[MongoDatabase]:
    """Return a database with a single connection."""
    url = f"{deployment.engines.mongo.url}&maxPoolSize=1"
    mongo = MongoDatabase(url, deployment.database.name, migrate)
    await mongo.open()
    document = {"_id": 1}
    await mongo.execute(mongo.database["slow"].replace_one(document, document, upsert=True))
    yield mongo
    await mongo.close()


async def outcome(mongo: MongoDatabase, call: Any) -> str:
    """Return `answered`, or the error of the driver."""
    try:
        await mongo.execute(call)
    except StoreUnavailable as refused:
        return type(refused.__cause__).__name__
    return "answered"


async def test_a_queue_for_connections_is_no_outage(narrow: MongoDatabase) -> None:
    """Calls that wait too long for a connection, while MongoDB answers others, fail without opening the circuit."""
    slow = narrow.database["slow"]
    too_slow = {"$where": "sleep(60000) || true"}
    outcomes = await asyncio.gather(
        outcome(narrow, slow.find_one()),
        *(outcome(narrow, slow.find_one(too_slow)) for _ in range(3)),
    )
    assert [one == "answered" for one in outcomes] == [True, False, False, False]
    assert not narrow.breaker.is_open


async def test_a_queue_in_front_of_a_silent_mongodb_is_an_outage(
    deployment: Deployment, narrow: MongoDatabase
) -> None:
    """If MongoDB answers no one, the queue does not excuse it."""
    with frozen(deployment.pid("mongo")):
        outcomes = await asyncio.gather(
            *(outcome(narrow, narrow.database["slow"].find_one()) for _ in range(5))
        )
        assert "answered" not in outcomes
        assert narrow.breaker.is_open


async def test_a_rejected_call_is_logged_once(
    narrow: MongoDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that MongoDB rejects each time, such as one without permission, does not fill the log."""
    for _ in range(5):
        with pytest.raises(StoreUnavailable) as refused:
            await narrow.execute(narrow.database.command("noSuchCommand"))
        assert isinstance(refused.value.__cause__, PyMongoError)
    assert sum("MongoDB rejected a call" in line for line in caplog.messages) == 1
    assert not narrow.breaker.is_open


# --- commands that Redis refuses ------------------------------------------------------------------


class Restricted:
    """A user of Redis whose commands a test may forbid, and a service that connects as this user."""

    def __init__(self, deployment: Deployment, proxy: Proxy) -> None:
        self._keys, self.name, self.proxy = deployment.keys, "restricted", proxy
        self.allow("reset", "on", ">secret", "~*", "&*", "+@all")
        url = proxy.url.replace("//", f"//{self.name}:secret@")
        self.service = deployment.start_patient(REDIS_URL=url)

    def allow(self, *rules: str) -> None:
        """Change the rules of this user. `-evalsha` forbids a command."""
        self._keys.execute_command("ACL", "SETUSER", self.name, *rules)  # type: ignore[no-untyped-call]

    def logged(self, text: str) -> int:
        """Return the number of log lines that contain this text."""
        return self.service.log.read_text().count(text)

    def is_open(self) -> bool:
        return metric(self.service, "chatlab_breaker_open", "redis") == 1


@pytest.fixture(scope="module")
def restricted(deployment: Deployment) -> Iterator[Restricted]:
    """Return a service whose user of Redis a test may restrict."""
    proxy = Proxy(urlsplit(deployment.engines.redis.url).path)
    yield Restricted(deployment, proxy)
    proxy.close()


def refused_evalsha(deployment: Deployment) -> int:
    """Return how often Redis has refused the command EVALSHA."""
    calls = deployment.keys.info("commandstats")
    return int(calls.get("cmdstat_evalsha", {}).get("rejected_calls", 0))


@pytest.mark.parametrize("command", ["publish", "get", "script", "evalsha"])
async def test_a_forbidden_command_is_logged_once_and_opens_no_circuit(
    deployment: Deployment, restricted: Restricted, command: str
) -> None:
    """Without one command, sends and reads succeed, reads are hits, and the log names the command once. EVAL serves for EVALSHA."""
    service = restricted.service
    before = outages(service, "redis")
    restricted.allow(f"-{command}")
    deployment.keys.config_resetstat()
    try:
        if command == "script":
            deployment.keys.script_flush()
        async with two_users(deployment, service, service) as (alice, bob):
            for number in range(20):
                sent = await alice.send(bob, f"number {number}")
                await alice.http.patch(f"/api/messages/{sent['_id']}", json={"text": "edited"})
                assert (await bob.read(alice)).status_code == 200
            await wait_until(lambda: is_hit(bob, alice), "a hit")
        assert outages(service, "redis") == before
        lines = restricted.logged(f"Redis refuses the command {command.upper()} ")
        assert lines == (command != "script")
        assert refused_evalsha(deployment) <= 5, "EVAL is used from the first refusal on"
    finally:
        restricted.allow("+@all")


async def test_the_documented_commands_are_enough(
    deployment: Deployment, restricted: Restricted
) -> None:
    """A user with the commands of docs/operations.md is refused nothing, in requests and in sweeps."""
    rules = re.search(r"ACL SETUSER chatlab on >password (.*?)```", OPERATIONS, re.DOTALL)
    assert rules
    deployment.keys.execute_command(
        "ACL", "SETUSER", "minimal", "reset", "on", ">secret", *rules[1].split()
    )  # type: ignore[no-untyped-call]  # redis has no types for it
    url = restricted.proxy.url.replace("//", "//minimal:secret@")
    one, two = (deployment.start_patient(REDIS_URL=url, KEY_PREFIX="minimal:") for _ in range(2))
    deployment.keys.set("minimal:message:leaked", "x")
    async with two_users(deployment, one, two) as (alice, bob):
        await meet(alice, bob)
        sent = await alice.send(bob, "old")
        assert await bob.wait_for_events("newMessage") == [sent]
        await alice.http.patch(f"/api/messages/{sent['_id']}", json={"text": "new"})
        await wait_until(lambda: is_hit(bob, alice), "a hit")
        await wait_until(
            lambda: deployment.keys.pttl("minimal:message:leaked") != -1, "the key to get an expiry"
        )
    for service in (one, two):
        logged = service.log.read_text()
        assert "refuses" not in logged, logged


async def test_without_scripts_the_circuit_stays_open_and_closes_when_they_are_allowed(
    deployment: Deployment, restricted: Restricted
) -> None:
    """If Redis refuses all scripts, requests succeed without the cache, and neither the log nor the work grows with them."""
    service = restricted.service
    async with two_users(deployment, service, service) as (alice, bob):
        await alice.send(bob, "before")
        restricted.allow("-evalsha", "-eval")
        await alice.send(bob, "first")
        await wait_until(restricted.is_open, "the circuit to open")
        opened, lines = outages(service, "redis"), restricted.logged("Redis")
        for number in range(REQUESTS):
            await alice.send(bob, f"number {number}")
            answer = await bob.read(alice)
            assert (answer.headers["x-cache"], len(answer.json())) == ("bypass", number + 3)
        assert outages(service, "redis") == opened
        assert restricted.logged("refuses the command EVAL ") == 1
        assert restricted.logged("Redis") - lines < REQUESTS / 10, "some are logged once a minute"
        restricted.allow("+@all")
        await wait_until(lambda: is_hit(bob, alice), "a hit")


@pytest.mark.slow
async def test_a_circuit_that_opens_again_and_again_is_logged_once(
    deployment: Deployment, restricted: Restricted
) -> None:
    """A command of requests that fails although the probe succeeds costs one outage a second at most, and one line a minute."""
    service = restricted.service
    async with two_users(deployment, service, service) as (alice, bob):
        await alice.send(bob, "before")
        lines = restricted.logged("Redis is unavailable")
        restricted.allow("-lset")  # only the script `change` calls it, not the probe
        try:
            before = outages(service, "redis")
            for number in range(60):
                sent = await alice.send(bob, f"number {number}")
                await alice.http.patch(f"/api/messages/{sent['_id']}", json={"text": "edited"})
                assert (await bob.read(alice)).json()[-1]["text"] == "edited"
            await wait_until(
                lambda: outages(service, "redis"),
                "the circuit to open",
                is_reached=lambda opened: opened > before,
            )
            assert restricted.logged("Redis is unavailable") - lines <= 1
            assert restricted.logged("refuses the command LSET ") == 1
        finally:
            restricted.allow("+@all")
