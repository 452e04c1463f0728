"""A Redis Cluster: a failover fails no request, and costs only the keys of the node that failed."""

import asyncio
import contextlib
import itertools
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from cluster_nodes import (
    begin_move,
    direct,
    end_move,
    move_slot,
    primary_of,
    replica_of,
    wait_for_another_primary,
)
from faults import Deployment, frozen
from http_clients import fetch
from live import Service, User
from load import Account, more_answers, watched_load
from members import kill, restart
from read_both import read, read_both
from redis_clients import open_keys
from shared_service import meet
from waiting import LIMIT_S, PATIENT_LIMIT_S, block_until, wait_until

from chatlab.cache.cache import Cache
from chatlab.cache.cluster_nodes import ClusterNodes
from chatlab.connections.cluster import Cluster
from chatlab.connections.pipeline import is_redirection
from chatlab.connections.resp import Command, RedisConnection
from chatlab.domain.ids import conversation_of
from chatlab.domain.trace import EventBus
from chatlab.local.binaries import NODES, Member
from chatlab.local.cluster_places import read_places
from chatlab.settings import load_settings

log = logging.getLogger(__name__)

DOCS = Path(__file__).parent.parent.parent / "docs"
TTL_S = 600  # longer than any test takes
SHORT_TTL_S = 1.0
ROUNDS = 10
Pair = tuple[Service, Service]


@pytest.fixture(scope="module")
def deployment(clustered_deployment: Deployment) -> Deployment:
    """Use a Redis Cluster with three primaries and three replicas."""
    return clustered_deployment


@pytest.fixture(scope="module")
def pair(deployment: Deployment) -> Pair:
    """Two processes of one service."""
    settings = {"CACHE_TTL": str(TTL_S)}
    return deployment.start_patient(**settings), deployment.start_patient(**settings)


def window_of(deployment: Deployment, one: User, other: User) -> str:
    """Return the key of the window of two users."""
    return f"{deployment.space}:messages:{conversation_of(one.id, other.id)}"


async def users_elsewhere(deployment: Deployment, pair: Pair, node: Member) -> list[User]:
    """Return two new users, one of each process, whose window is on another node than this one."""
    while True:
        users = [deployment.create_user(service) for service in pair]
        if primary_of(deployment, window_of(deployment, *users)) != node:
            return users
        await asyncio.gather(*(user.close() for user in users))


async def is_told(alice: User, bob: User) -> bool:
    """Let Alice type, and return whether Bob, at the other process, has received such an event."""
    await alice.ask("typing", {"receiverId": bob.id, "typing": True})
    return bool(bob.received("typing"))


async def test_each_node_has_its_own_outage(deployment: Deployment, pair: Pair) -> None:
    """While a node is frozen, conversations of other nodes are read from the cache as before."""
    alice, bob = (deployment.create_user(service) for service in pair)
    node = primary_of(deployment, window_of(deployment, alice, bob))
    carol, dan = await users_elsewhere(deployment, pair, node)
    for one, another in ((alice, bob), (carol, dan)):
        await one.send(another, "hello")
        hits = partial(read_both, one, another, text="hello")
        await wait_until(hits, "hits", is_reached={"hit"}.__eq__)
    replica = replica_of(deployment, node)
    await asyncio.to_thread(deployment.engines.stop, replica)  # so nobody takes over
    with frozen(deployment.pid(node)):
        of_node = partial(read_both, alice, bob, text="hello")
        await wait_until(of_node, "the outage", is_reached={"bypass"}.__eq__)
        elsewhere = partial(read_both, carol, dan, text="hello")
        await wait_until(elsewhere, "hits", is_reached={"hit"}.__eq__)
    await wait_until(of_node, "hits", is_reached={"hit"}.__eq__)
    await asyncio.to_thread(restart, deployment, replica)
    await asyncio.gather(*(user.close() for user in (alice, bob, carol, dan)))


@contextlib.contextmanager
def lagging(deployment: Deployment, replica: Member, window: str) -> Iterator[redis.Redis]:
    """Let a replica have this window, but get no more from its primary until the block ends."""
    with direct(deployment, replica) as client:
        client.execute_command("READONLY")
        block_until(partial(client.exists, window), "the window to arrive")
        password = str(client.config_get("masterauth")["masterauth"])
        client.config_set("masterauth", "wrong")
        client.client_kill_filter(_type="master")
        try:
            yield client
        finally:
            client.config_set("masterauth", password)


@pytest.mark.slow
async def test_after_a_failover_no_window_of_the_old_primary_is_trusted(
    deployment: Deployment, pair: Pair
) -> None:
    """The replica has the window of its primary, but lacks a change. No request fails."""
    alice, bob = (deployment.create_user(service) for service in pair)
    await meet(alice, bob)
    window = window_of(deployment, alice, bob)
    sent = await alice.send(bob, "old")
    await wait_until(partial(read_both, alice, bob, text="old"), "hits", is_reached={"hit"}.__eq__)
    old = primary_of(deployment, window)
    with lagging(deployment, replica_of(deployment, old), window) as replica:
        await edit(alice, sent, "new")
        assert '"text":"old"' in str(replica.lrange(window, 0, -1))
        await asyncio.to_thread(kill, deployment, old)
    failing_over = asyncio.create_task(
        asyncio.to_thread(wait_for_another_primary, deployment, window, old)
    )
    while not failing_over.done():
        await read_both(alice, bob, text="new")
    await failing_over
    await wait_until(partial(read_both, alice, bob, text="new"), "hits", is_reached={"hit"}.__eq__)

    late = await alice.at(
        deployment.start_patient(CACHE_TTL=str(TTL_S))
    )  # it never knew the old primary
    await wait_until(partial(read, late, bob), "a hit", is_reached=("hit", "new").__eq__)
    await wait_until(partial(is_told, alice, bob), "an event over the new primary")
    await asyncio.to_thread(restart, deployment, old)
    await asyncio.gather(alice.close(), bob.close(), late.close())


def another_primary(deployment: Deployment, node: Member) -> Member:
    """Return a primary that is not this one."""
    owners = (primary_of(deployment, f"{{{number}}}") for number in itertools.count())
    return next(owner for owner in owners if owner != node)


async def edit(sender: User, message: dict[str, str], text: str) -> None:
    """Change the text of a message."""
    answer = await sender.http.patch(f"/api/messages/{message['_id']}", json={"text": text})
    assert answer.status_code == 200, answer.text


async def test_a_slot_moves(deployment: Deployment, pair: Pair) -> None:
    """The window goes with its slot. What another node has written is not trusted."""
    alice, bob = (deployment.create_user(service) for service in pair)
    await meet(alice, bob)
    window = window_of(deployment, alice, bob)
    sent = await alice.send(bob, "old")
    await wait_until(partial(read_both, alice, bob, text="old"), "hits", is_reached={"hit"}.__eq__)
    source = primary_of(deployment, window)
    target = another_primary(deployment, source)
    await asyncio.to_thread(move_slot, deployment, window, target)
    assert "hit" not in await read_both(alice, bob, text="old")
    await edit(alice, sent, "new")
    await wait_until(partial(read_both, alice, bob, text="new"), "hits", is_reached={"hit"}.__eq__)
    with direct(deployment, target) as client:
        assert '"text":"new"' in str(client.lrange(window, 0, -1))

    await asyncio.to_thread(begin_move, deployment, window, source)
    await edit(alice, sent, "newer")  # the window is at the one node, the slot at the other
    assert "hit" not in await read_both(alice, bob, text="newer")
    await asyncio.to_thread(end_move, deployment, window, source)
    hits = partial(read_both, alice, bob, text="newer")
    await wait_until(hits, "hits", is_reached={"hit"}.__eq__)
    await asyncio.gather(alice.close(), bob.close())


class Clock:
    """Lets the time of this process, also that of its event loop, pass at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead_s = 0.0
        for name in ("monotonic", "perf_counter"):
            monkeypatch.setattr(time, name, partial(self._now_s, getattr(time, name)))

    def _now_s(self, real: Callable[[], float]) -> float:
        return real() + self._ahead_s

    def advance(self, seconds: float) -> None:
        """Let this many seconds pass."""
        self._ahead_s += seconds


@contextlib.asynccontextmanager
async def slowly_redirected(
    deployment: Deployment, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Cache, asyncio.Event]]:
    """Open a cache of this process, in which nine tenths of the limit pass until a redirection.

    The event says that a redirection is followed.
    """
    is_followed, follow, execute = asyncio.Event(), ClusterNodes.follow, RedisConnection.execute

    async def follow_and_say_so(nodes: ClusterNodes, command: Command, left_s: float) -> object:
        is_followed.set()
        return await follow(nodes, command, left_s)

    async def execute_slowly(connection: RedisConnection, *request: Any) -> list[Any]:
        replies = await execute(connection, *request)
        if any(map(is_redirection, replies)):
            clock.advance(0.9 * PATIENT_LIMIT_S)
        return replies

    monkeypatch.setattr(ClusterNodes, "follow", follow_and_say_so)
    monkeypatch.setattr(RedisConnection, "execute", execute_slowly)
    given = {"key_prefix": f"{deployment.space}-limit:", "redis_timeout": PATIENT_LIMIT_S}
    cluster = Cluster(deployment.engines.redis.url, 4 * PATIENT_LIMIT_S)
    cache = Cache(cluster, load_settings(**given), EventBus())
    await cache.open()
    yield cache, is_followed
    await cache.close()


async def test_a_redirected_command_has_one_time_limit(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node that redirects it needs nine tenths of the limit, and the other one is silent."""
    clock = Clock(monkeypatch)
    async with slowly_redirected(deployment, clock, monkeypatch) as (cache, is_followed):
        key = cache.keys.message("0" * 24)
        node = cache.servers.of(key)
        await wait_until(lambda: node.pipe.is_usable, "the cache to reach the node")
        target = another_primary(deployment, primary_of(deployment, key))
        await asyncio.to_thread(move_slot, deployment, key, target)
        with frozen(deployment.pid(target)):
            reply = node.pipe.execute("GET", key)
            await is_followed.wait()
            assert not reply.done()
            clock.advance(0.2 * PATIENT_LIMIT_S)
            await wait_until(reply.done, "the command to be given up")
            assert reply.result() is None


async def test_the_channel_of_a_user_moves(deployment: Deployment, pair: Pair) -> None:
    """The process subscribes at the new node, and the user reads what may have been lost."""
    alice, bob = (deployment.create_user(service) for service in pair)
    await meet(alice, bob)
    installation = deployment.database["installation"].find_one()
    assert installation
    channel = f"{deployment.space}:{installation['id']}:user:{bob.id}"
    target = another_primary(deployment, primary_of(deployment, channel))
    await asyncio.to_thread(move_slot, deployment, channel, target)
    await wait_until(lambda: bob.received("resync"), "a resync")
    assert not bob.received("typing")
    await wait_until(partial(is_told, alice, bob), "an event over the new node")
    await asyncio.gather(alice.close(), bob.close())


@pytest.mark.slow
async def test_each_expired_key_is_reported_once(deployment: Deployment) -> None:
    """One process sweeps a node, and the keys of all nodes are swept."""
    prefix = f"{deployment.space}-swept:"
    settings = {"KEY_PREFIX": prefix, "CACHE_TTL": "3"}  # each key meets several sweeps
    services = [deployment.start_patient(**settings) for _ in range(2)]
    alice, bob = (deployment.create_user(service) for service in services)
    sent = [(await alice.send(bob, f"{number}"))["_id"] for number in range(20)]
    keys = [f"Cache cleaned {prefix}message:{message_id} " for message_id in sent]

    def reports() -> list[int]:
        log = "".join(service.log.read_text() for service in services)
        return [log.count(key) for key in keys]

    await wait_until(lambda: min(reports()), "a report of each key")
    assert set(reports()) == {1}
    nodes = {primary_of(deployment, f"{prefix}message:{message_id}") for message_id in sent}
    assert len(nodes) == 3
    await asyncio.gather(alice.close(), bob.close())


def documented_rights() -> list[str]:
    """Return the rules for a user of a cluster: those for any Redis, and some more."""
    places = (
        ("operations.md", r"ACL SETUSER chatlab (.*?)\n```"),
        ("scaling.md", r"Minimal rights, in addition to .*?: `(\+command.*?)`"),
    )
    found = [re.search(pattern, (DOCS / page).read_text(), re.DOTALL) for page, pattern in places]
    return [rule for match in found if match for rule in match[1].split()]


@pytest.mark.slow
async def test_the_documented_rights_are_enough(deployment: Deployment) -> None:
    """Two processes get hits and events, also after the slot has moved, and nothing is refused."""
    for node in NODES:
        with direct(deployment, node) as client:
            client.execute_command("ACL SETUSER", "chatlab", *documented_rights())
    url = re.sub("//.*@", "//chatlab:password@", deployment.engines.redis.url)
    services = [deployment.start_patient(REDIS_URL=url, CACHE_TTL=str(TTL_S)) for _ in range(2)]
    alice, bob = (deployment.create_user(service) for service in services)
    await meet(alice, bob)
    window = window_of(deployment, alice, bob)
    sent = await alice.send(bob, "old")
    await wait_until(partial(read_both, alice, bob, text="old"), "hits", is_reached={"hit"}.__eq__)
    target = another_primary(deployment, primary_of(deployment, window))
    await asyncio.to_thread(begin_move, deployment, window, target)
    await edit(alice, sent, "new")
    await asyncio.to_thread(end_move, deployment, window, target)
    await wait_until(partial(read_both, alice, bob, text="new"), "hits", is_reached={"hit"}.__eq__)
    await wait_until(partial(is_told, alice, bob), "an event")
    assert "refuses" not in "".join(service.log.read_text() for service in services)
    await asyncio.gather(alice.close(), bob.close())


@pytest.mark.slow
def test_the_command_starts_a_private_cluster(deployment: Deployment, tmp_path: Path) -> None:
    """`chatlab serve --redis-cluster` uses it, and stops it at the end."""
    given = {
        "CHATLAB_MONGO_URL": deployment.engines.mongo.url,
        "CHATLAB_DATABASE": f"{deployment.space}-command",
        "CHATLAB_DATA_DIR": str(tmp_path),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHATLAB_")}
    command = [sys.executable, "-m", "chatlab", "serve", "--redis-cluster"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*command, "--attached", "--port", "0"], env=kept | given, stdin=pipe, stdout=pipe
    ) as process:
        assert process.stdin
        assert process.stdout
        url = process.stdout.readline().decode().strip()
        status = partial(answer_of, f"{url}/readyz")
        block_until(status, "the service", is_reached=lambda seen: '"status":"ok"' in seen)
        places = read_places(tmp_path / "cluster.json")
        with redis.Redis(port=places.nodes[0].port) as client:
            with pytest.raises(redis.AuthenticationError):
                client.ping()
            process.stdin.close()
            assert process.wait(LIMIT_S) == 0
            with pytest.raises(redis.ConnectionError, match="refused"):
                client.ping()
    refused = subprocess.run(
        command,
        env=kept | {"CHATLAB_REDIS_URL": "redis://h"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "--redis-cluster is for a private Redis" in refused.stderr


def answer_of(url: str) -> str:
    """Return what the service answers, or nothing while it does not listen."""
    with contextlib.suppress(httpx.TransportError):
        return fetch(url).text.replace(" ", "")
    return ""


async def until_ready(services: Pair) -> None:
    """Wait until these processes use all nodes."""
    for service in services:
        status = partial(answer_of, f"{service.url}/readyz")
        await wait_until(status, "all nodes", is_reached=lambda seen: '"status":"ok"' in seen)


async def until_cached(account: Account, began: float) -> float:
    """Wait until both readers get hits again. Return how long after `began` that was."""
    again_s: float = await wait_until(
        lambda: account.cached_again_s(began), "hits", is_reached=lambda seen: seen is not None
    )
    return again_s


async def window_under_load(deployment: Deployment, prefix: str) -> str:
    """Return the key of the only window with this prefix."""
    with open_keys(deployment.engines.redis.url) as client:
        keys = partial(client.scan_iter, f"{prefix}messages:*")
        (window,) = await wait_until(lambda: list(keys()), "a window")
    return str(window.decode())


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_failovers_under_load_fail_no_request(deployment: Deployment, fault: str) -> None:
    """Every send and every read is answered, and no read lacks what was sent a TTL before it."""
    prefix = f"{deployment.space}-{fault}:"
    settings = {"CACHE_TTL": str(SHORT_TTL_S), "KEY_PREFIX": prefix}
    services = deployment.start_patient(**settings), deployment.start_patient(**settings)
    async with watched_load(deployment, services, ttl_s=SHORT_TTL_S, may_fail=False) as account:
        window = await window_under_load(deployment, prefix)
        for _ in range(ROUNDS):
            old = await asyncio.to_thread(primary_of, deployment, window)
            with frozen(deployment.pid(old)):
                began = time.monotonic()
                if fault == "kill":
                    await asyncio.to_thread(kill, deployment, old)
                await asyncio.to_thread(wait_for_another_primary, deployment, window, old)
                elected_s = time.monotonic() - began
                cached_s = await until_cached(account, began)
            log.info("%s: new primary after %.1f s, hits after %.1f s", fault, elected_s, cached_s)
            if fault == "kill":
                await asyncio.to_thread(restart, deployment, old)
            await until_ready(services)
            await more_answers(account, 50)


@pytest.mark.slow
async def test_slots_move_under_load(deployment: Deployment) -> None:
    """The slot of a conversation goes from primary to primary."""
    prefix = f"{deployment.space}-moving:"
    settings = {"CACHE_TTL": str(SHORT_TTL_S), "KEY_PREFIX": prefix}
    services = deployment.start_patient(**settings), deployment.start_patient(**settings)
    async with watched_load(deployment, services, ttl_s=SHORT_TTL_S, may_fail=False) as account:
        tags = ("{0}", "{1}", "{2}", "{3}", "{4}", "{5}")
        primaries = {await asyncio.to_thread(primary_of, deployment, tag) for tag in tags}
        key = await window_under_load(deployment, prefix)
        source = await asyncio.to_thread(primary_of, deployment, key)
        for target in itertools.islice(itertools.cycle((*primaries - {source}, source)), ROUNDS):
            began = time.monotonic()
            await asyncio.to_thread(begin_move, deployment, key, target)
            await more_answers(account, 20)
            await asyncio.to_thread(end_move, deployment, key, target)
            log.info("moved: hits after %.1f s", await until_cached(account, began))
            await until_ready(services)
