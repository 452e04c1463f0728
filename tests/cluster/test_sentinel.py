"""Redis with Sentinel: a failover fails no request, and no window of the old primary is trusted."""

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import redis
from faults import Deployment, Proxy, frozen
from live import Service, User
from load import more_answers, watched_load
from own_servers import own_redis
from read_both import read, read_both
from sentinels import SentinelGroup, Server
from shared_service import meet
from waiting import PATIENT_LIMIT_S, block_until, wait_until

from chatlab.domain.ids import conversation_of

TTL_S = 600  # longer than any test takes
SHORT_TTL_S = 1.0
ROUNDS = 3


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelGroup]:
    """Return a primary, two replicas and three Sentinels."""
    with contextlib.closing(SentinelGroup(tmp_path_factory.mktemp("sentinels"))) as group:
        yield group


@pytest.fixture(scope="module")
def pair(deployment: Deployment, group: SentinelGroup) -> tuple[Service, Service]:
    """Two processes of one service, which know only the Sentinels."""
    settings = {"REDIS_URL": group.url, "CACHE_TTL": str(TTL_S)}
    return deployment.start_patient(**settings), deployment.start_patient(**settings)


def window_at(server: Server, key: str) -> str:
    """Return the window that a server has, as one text."""
    return str(server.client.lrange(key, 0, -1))


@pytest.mark.slow
async def test_after_a_failover_no_window_of_the_old_primary_is_trusted(
    deployment: Deployment, group: SentinelGroup, pair: tuple[Service, Service]
) -> None:
    """The new primary has the windows of the old one, but lacks a change. No request fails."""
    alice, bob = (deployment.create_user(service) for service in pair)
    await meet(alice, bob)
    window = f"{deployment.space}:messages:{conversation_of(alice.id, bob.id)}"
    sent = await alice.send(bob, "old")
    await wait_until(partial(read_both, alice, bob, text="old"), "hits", is_reached={"hit"}.__eq__)
    old = group.primary()
    for server in group.servers:
        block_until(partial(server.client.exists, window), "the window to arrive")

    with group.without_replication() as replicas:
        edited = await alice.http.patch(f"/api/messages/{sent['_id']}", json={"text": "new"})
        assert edited.status_code == 200
        assert all('"text":"old"' in window_at(server, window) for server in replicas)
        old.kill()
    failing_over = asyncio.create_task(asyncio.to_thread(group.wait_for_another_primary, old))
    while not failing_over.done():
        await read_both(alice, bob, text="new")
    await failing_over
    await wait_until(partial(read_both, alice, bob, text="new"), "hits", is_reached={"hit"}.__eq__)

    await wait_until(partial(is_told, alice, bob), "an event over the new primary")
    await asyncio.to_thread(old.start)
    await asyncio.to_thread(group.wait_until_complete)
    await asyncio.gather(alice.close(), bob.close())


async def is_told(alice: User, bob: User) -> bool:
    """Let Alice type, and return whether Bob, at the other process, has received such an event."""
    await alice.ask("typing", {"receiverId": bob.id, "typing": True})
    return bool(bob.received("typing"))


async def test_a_new_connection_trusts_no_older_window(
    deployment: Deployment, tmp_path: Path
) -> None:
    """An idle process notices no outage. Its next connection leads to a replica that lacks a write."""
    paths = [str(tmp_path / name) for name in ("old", "new")]
    with contextlib.ExitStack() as stack:
        old, new = (
            stack.enter_context(own_redis(tmp_path / str(n), "--unixsocket", path))
            for n, path in enumerate(paths)
        )
        proxy = stack.enter_context(contextlib.closing(Proxy(paths[0])))
        service = deployment.start_patient(
            REDIS_URL=proxy.url,
            REDIS_TIMEOUT=str(PATIENT_LIMIT_S),
            CACHE_TTL=str(TTL_S),
            KEY_PREFIX="idle:",
        )
        alice, bob = deployment.create_user(service), deployment.create_user(service)
        conversation = conversation_of(alice.id, bob.id)
        await alice.send(bob, "old")
        is_hit = {("hit", "old")}.__contains__
        await wait_until(partial(read, alice, bob), "a hit", is_reached=is_hit)
        at_old, at_new = (stack.enter_context(redis.Redis(port=port)) for port in (old, new))
        at_new.replicaof("127.0.0.1", str(old))
        window = f"idle:messages:{conversation}"
        await wait_until(lambda: at_new.exists(window), "the window to arrive")
        at_new.replicaof("NO", "ONE")
        deployment.database["messages"].update_one(
            {"conversation": conversation}, {"$set": {"text": "new"}}
        )
        assert await read(alice, bob) == ("hit", "old")

        proxy._target = paths[1]
        at_old.client_kill_filter(_type="normal", skipme=True)
        assert await read(alice, bob) != ("hit", "old")
        is_hit = {("hit", "new")}.__contains__
        await wait_until(partial(read, alice, bob), "a hit", is_reached=is_hit)
        await asyncio.gather(alice.close(), bob.close())


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_failovers_under_load_fail_no_request(
    deployment: Deployment, group: SentinelGroup, fault: str
) -> None:
    """Every send and every read is answered, and no read lacks what was sent a TTL before it."""
    settings = {"REDIS_URL": group.url, "CACHE_TTL": str(SHORT_TTL_S), "KEY_PREFIX": f"{fault}:"}
    services = deployment.start_patient(**settings), deployment.start_patient(**settings)
    async with watched_load(deployment, services, ttl_s=SHORT_TTL_S, may_fail=False) as account:
        for _ in range(ROUNDS):
            old = await asyncio.to_thread(group.primary)
            with frozen(old.pid):
                if fault == "kill":
                    old.kill()
                await asyncio.to_thread(group.wait_for_another_primary, old)
                await more_answers(account, 50)
            if fault == "kill":
                await asyncio.to_thread(old.start)
            await asyncio.to_thread(group.wait_until_complete)
            await more_answers(account, 50)
