"""Several processes of one service share one order of messages. Workers may be killed."""

import asyncio
import contextlib
import os
import re
import secrets
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from faults import Deployment, frozen
from http_clients import fetch
from live import Service, User
from load import Account, check, write
from shared_service import meet, presence_channel
from waiting import LIMIT_S, block_until, wait_until

MESSAGES_PER_WRITER = 12


@pytest.fixture(scope="module")
def pair(deployment: Deployment) -> tuple[Service, Service]:
    """Two processes of one service."""
    return deployment.start_patient(), deployment.start_patient()


async def test_eight_writers_make_one_order(
    deployment: Deployment, pair: tuple[Service, Service]
) -> None:
    """Eight writers use both transports of two processes.

    Everyone reads and receives the same messages, seq 1 to n.
    """
    alice, bob, carol = (deployment.create_user(pair[place % 2]) for place in range(3))
    account, aside = Account(), Account()
    writers = [
        await user.at(service) for user in (alice, bob) for service in pair for _ in range(2)
    ]
    receivers = [await user.at(service) for user in (alice, bob) for service in pair]
    await meet(*receivers)
    other = {alice.id: bob.id, bob.id: alice.id}
    work = [
        write(
            account,
            user,
            other[user.id],
            transport=("http", "socket")[place % 2],
            repeat=place % 4 < 2,
            count=MESSAGES_PER_WRITER,
        )
        for place, user in enumerate(writers)
    ]
    work += [
        write(aside, carol, receiver.id, transport="http", repeat=True, count=MESSAGES_PER_WRITER)
        for receiver in (alice, carol)
    ]
    await asyncio.gather(*work)
    for receiver in receivers:
        await receives_each_once(receiver, alice, bob)
    for reader, partner, fresh in (
        (alice, bob, False),
        (alice, bob, True),
        (bob, alice, False),
        (bob, alice, True),
    ):
        check(account, (await reader.read(partner, fresh=fresh)).json())
    for partner in (alice, carol):
        assert [message["seq"] for message in (await carol.read(partner)).json()] == list(
            range(1, MESSAGES_PER_WRITER + 1)
        )
    await asyncio.gather(*(user.close() for user in [alice, bob, carol, *writers, *receivers]))


async def receives_each_once(receiver: User, alice: User, bob: User) -> None:
    """Wait until this socket has received each message of the conversation exactly once."""
    participants = {alice.id, bob.id}

    async def difference() -> list[Any]:
        heard = [
            message
            for message in receiver.received("newMessage")
            if {message["senderId"], message["receiverId"]} == participants
        ]
        saved = (await alice.read(bob, fresh=True)).json()
        heard.sort(key=lambda message: message["seq"])
        return [] if heard == saved else [len(heard), len(saved), heard[-1:], saved[-1:]]

    await wait_until(difference, "one event for each message", is_reached=lambda seen: not seen)


# --- workers of one parent ------------------------------------------------------------------------


def workers_of(service: Service) -> list[psutil.Process]:
    """Return the processes that serve.

    The parent has one more child: the resource tracker of Python.
    """
    return [
        child
        for child in psutil.Process(service.process.pid).children()
        if is_running(child) and is_worker(child)
    ]


def is_worker(process: psutil.Process) -> bool:
    """Return whether this child was spawned as a worker."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return "spawn_main" in " ".join(process.cmdline())
    return False


def is_running(process: psutil.Process) -> bool:
    """Return whether the process has not ended. A zombie has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def metric(service: Service, name: str) -> float:
    """Return one value of /metrics, requested on a new connection: any worker may answer."""
    found = re.search(
        rf"^{re.escape(name)} (\S+)$",
        fetch(f"{service.url}/metrics").text,
        re.MULTILINE,
    )
    return float(found[1]) if found else 0.0


@contextlib.contextmanager
def only(worker: psutil.Process, service: Service) -> Iterator[None]:
    """Let one of two workers accept all connections, by freezing the other one.

    The parent is frozen too: it would replace a worker that does not answer.
    """
    (other,) = (one for one in workers_of(service) if one.pid != worker.pid)
    with frozen(service.process.pid), frozen(other.pid):
        yield


async def clients(user: User, worker: psutil.Process, service: Service) -> list[User]:
    """Return four clients of this user, connected to this worker over both transports."""
    found = [await user.at(service) for _ in range(4)]
    with only(worker, service):
        await asyncio.gather(*(client.connect() for client in found))
        assert {(await client.http.get("/api/auth/me")).status_code for client in found} == {200}
    return found


@pytest.fixture
def service(deployment: Deployment) -> Service:
    """One service with two workers. Both have subscribed to the presence channel."""
    prefix = f"workers{secrets.token_hex(4)}:"
    service = deployment.start_patient(WORKERS="2", KEY_PREFIX=prefix)
    block_until(
        lambda: deployment.keys.pubsub_numsub(presence_channel(deployment.database, prefix)),
        "two workers",
        is_reached=lambda channels: channels[0][1] == 2,
    )
    return service


async def test_a_killed_worker_comes_back(deployment: Deployment, service: Service) -> None:
    """After SIGKILL of a worker, the other one keeps serving and a new one starts.

    Counters keep their values, and the sockets of the killed worker are no longer counted.
    """
    alice, bob = deployment.create_user(service), deployment.create_user(service)
    killed, survivor = workers_of(service)
    lost, kept = await clients(alice, killed, service), await clients(bob, survivor, service)
    await asyncio.gather(
        *(client.send(bob, "before") for client in lost),
        *(client.send(alice, "before") for client in kept),
    )
    assert {metric(service, 'chatlab_sends_total{door="http"}') for _ in range(8)} == {8}
    assert metric(service, "chatlab_sockets") == 8

    killed.kill()
    await wait_until(
        lambda: {worker.pid for worker in workers_of(service)} - {killed.pid, survivor.pid},
        "a new worker",
    )
    assert f"Worker {killed.pid} died (exit code -9)" in service.log.read_text()
    await wait_until(
        lambda: metric(service, "chatlab_sockets"),
        "the sockets of the killed worker to go",
        is_reached=lambda count: count == 4,
    )
    await wait_until(
        lambda: not any(client.sockets[0].connected for client in lost),
        "the clients of the killed worker to notice",
    )
    assert all(client.sockets[0].connected for client in kept)
    await alice.send(bob, "after")
    assert metric(service, 'chatlab_sends_total{door="http"}') == 9
    await asyncio.gather(*(user.close() for user in [alice, bob, *lost, *kept]))
    assert service.stop() == 0


@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL]
)
async def test_no_worker_outlives_its_parent(
    deployment: Deployment, service: Service, how: signal.Signals
) -> None:
    """All child processes end, however the parent ends."""
    family = psutil.Process(service.process.pid).children(recursive=True)
    assert len(family) >= 2
    os.kill(service.process.pid, how)
    status = await asyncio.to_thread(service.process.wait, LIMIT_S)
    assert status == (-signal.SIGKILL if how is signal.SIGKILL else 0)
    await wait_until(
        lambda: [child for child in family if is_running(child)],
        "all children to end",
        is_reached=lambda left: not left,
    )
