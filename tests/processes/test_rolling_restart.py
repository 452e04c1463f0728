"""Three processes behind a real nginx are restarted one after the other, and no client notices."""

import asyncio
import contextlib
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import socketio
from faults import Deployment, open_deployment
from live import PASSWORD, Service, User
from load import Account, check, write
from nginx import FILES, running_nginx
from waiting import LIMIT_S, wait_until

from chatlab.local.engines import open_engines
from chatlab.settings import load_settings

pytestmark = pytest.mark.slow

PAUSE_S = 0.02  # between two requests of a client: the processes need time to start meanwhile
PROCESSES = 3


@pytest.fixture(scope="module")
def whole_deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Return a deployment on the servers of deploy/compose.yaml: a cluster and a replica set."""
    settings = load_settings(data_dir=tmp_path_factory.mktemp("w"), mongo_url=None, redis_url=None)
    with (
        open_engines(settings, replica_set=True, redis_cluster=True) as engines,
        open_deployment(engines, tmp_path_factory.mktemp("whole")) as deployment,
    ):
        yield deployment


def start_processes(deployment: Deployment) -> list[Service]:
    """Start the processes. They drain for longer than nginx keeps its connections open."""
    keepalive_s = re.findall(r"keepalive_timeout (\d+)s", (FILES / "upstream.conf").read_text())
    settings = {
        "TRUSTED_PROXIES": "127.0.0.1",
        "DRAIN_SECONDS": str(int(keepalive_s[0]) + 2),
        "SHUTDOWN_TIMEOUT": "60",  # a busy machine stops a process slowly
    }
    return [deployment.start_patient(**settings) for _ in range(PROCESSES)]


@contextlib.contextmanager
def behind_nginx(folder: Path, services: list[Service]) -> Iterator[Service]:
    """Run nginx in front of the processes, and yield a service that has its URL."""
    with running_nginx(folder, "root.conf", *services) as url:
        yield cast("Service", SimpleNamespace(url=url))


@dataclass
class Traffic:
    """What the HTTP clients got. They never repeat a request, so every failure is seen."""

    account: Account = field(default_factory=Account)
    failures: list[str] = field(default_factory=list)
    reads: int = 0

    async def send(self, sender: User, receiver: User) -> None:
        """Send messages on one connection until the test is over."""
        number = 0
        while not self.account.stop:
            number += 1
            text = f"{id(sender)}-{number}"
            message = await self.ask(
                sender, "POST", "/api/messages/send", json={"receiverId": receiver.id, "text": text}
            )
            self.account.note(text, message)
            await asyncio.sleep(PAUSE_S)

    async def read(self, reader: User, partner: User) -> None:
        """Read the newest messages, each time on a new connection, until the test is over."""
        while not self.account.stop:
            reader_now = await reader.at(reader.service)
            await self.ask(reader_now, "GET", f"/api/messages/{partner.id}?limit=5")
            await reader_now.close()
            self.reads += 1
            await asyncio.sleep(PAUSE_S)

    async def wait_for_answers(self, count: int) -> None:
        """Wait until `count` more messages are saved."""
        wanted = len(self.account.answered) + count
        await wait_until(lambda: len(self.account.answered) >= wanted, f"{count} more answers")

    async def ask(self, user: User, method: str, path: str, **options: Any) -> Any:
        """Return the answer as JSON. If the request fails, note that and return None."""
        try:
            answer = await user.http.request(method, path, **options)
        except httpx.TransportError as error:
            self.failures.append(f"{method} {path}: {error!r}")
            return None
        if answer.status_code != 200:
            self.failures.append(f"{method} {path}: {answer.status_code} {answer.text}")
            return None
        return answer.json()


@dataclass
class Listener:
    """A client with a socket at one process.

    It reads what it may have missed after each connection and each `resync`, and at no other time.
    """

    user: User
    partner: User
    traffic: Traffic
    heard: dict[int, Any] = field(default_factory=dict)  # by seq
    connections: int = 0
    events: int = 0
    is_over: bool = False
    socket: socketio.AsyncClient = field(default_factory=socketio.AsyncClient)

    async def listen(self, at: Service) -> None:
        """Connect again whenever the connection has ended, until `close`."""
        while not self.is_over:
            self.socket = socketio.AsyncClient(reconnection=False)
            self.socket.on("newMessage", self._hear)
            self.socket.on("resync", self._catch_up)
            with contextlib.suppress(socketio.exceptions.ConnectionError):
                auth = {"token": self.user.token}
                await self.socket.connect(at.url, auth=auth, transports=["websocket"])
                self.connections += 1
                await self._catch_up()
                await self.socket.eio.wait()
            await asyncio.sleep(PAUSE_S)

    async def wait_for(self, messages: list[Any]) -> None:
        """Wait until the client has all these messages, which are its whole conversation."""
        wanted = {message["seq"]: message for message in messages}
        await wait_until(lambda: self.heard, "all messages", is_reached=wanted.__eq__)

    async def close(self) -> None:
        """End the connection, which must be open."""
        self.is_over = True
        await self.socket.disconnect()
        await self.user.close()

    def _hear(self, message: Any) -> None:
        if self.partner.id in (message["senderId"], message["receiverId"]):
            self.events += 1
            self.heard[message["seq"]] = message

    async def _catch_up(self, _lost: object = None) -> None:
        """Read the messages after the last one before which none is missing."""
        last = next(seq for seq in range(len(self.heard) + 1) if seq + 1 not in self.heard)
        path = f"/api/messages/{self.partner.id}?after={last}"
        for message in await self.traffic.ask(self.user, "GET", path) or ():
            self.heard[message["seq"]] = message


def work(
    traffic: Traffic, sockets: Account, clients: list[User], carol: User
) -> list[asyncio.Task[None]]:
    """Let Alice and Bob write to each other, Bob read, and Alice write to Carol over a socket."""
    alice, bob, reader, over_socket = clients
    return [
        asyncio.create_task(one)
        for one in (
            traffic.send(alice, bob),
            traffic.send(bob, alice),
            traffic.read(reader, alice),
            write(sockets, over_socket, carol.id, transport="socket", repeat=True),
        )
    ]


async def wait_for_events(listeners: list[Listener]) -> None:
    """Wait until each listener has received another event."""
    for listener in listeners:
        listener.events = 0
    await wait_until(lambda: min(one.events for one in listeners), "events everywhere")


async def restart(service: Service, listener: Listener) -> None:
    """Stop a process with SIGTERM and start it again, until its listener is connected again."""
    connections = listener.connections
    service.process.send_signal(signal.SIGTERM)
    status = await asyncio.to_thread(service.process.wait, LIMIT_S)
    assert status == 0, service.log.read_text()
    await asyncio.to_thread(service.restart)
    await wait_until(lambda: listener.connections > connections, "the listener to come back")


@pytest.mark.parametrize("name", ["deployment", "whole_deployment"])
async def test_no_request_fails_while_processes_restart(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Every request over HTTP is answered at the first try, also sends without a client id.

    A socket is closed with its process. Its client connects again, through nginx to another
    process, and repeats the send that was not acknowledged, with the same client id. Each process
    has a listener, who misses no message: what came while it was away it reads when it connects.
    """
    deployment: Deployment = request.getfixturevalue(name)
    services = start_processes(deployment)
    with behind_nginx(tmp_path / "nginx", services) as proxy:
        alice, bob, carol = (deployment.create_user(proxy) for _ in range(3))
        traffic, sockets = Traffic(), Account()
        listeners = [Listener(await bob.at(proxy), alice, traffic) for _ in services]
        listening = [
            asyncio.create_task(listener.listen(service))
            for listener, service in zip(listeners, services, strict=True)
        ]
        clients = [await one.at(proxy) for one in 2 * (alice, bob, bob, alice)]
        tasks = [
            *work(traffic, sockets, clients[:4], carol),
            *work(traffic, sockets, clients[4:], carol),
        ]
        for service, listener in zip(services, listeners, strict=True):
            await wait_for_events(listeners)
            await restart(service, listener)
            await traffic.wait_for_answers(20)
        traffic.account.stop = sockets.stop = True
        await asyncio.gather(*tasks)
        assert traffic.failures == []
        assert traffic.account.unanswered == sockets.unanswered == []
        assert traffic.reads > 20
        truth = (await alice.read(bob, fresh=True)).json()
        check(traffic.account, truth)
        check(sockets, (await alice.read(carol, fresh=True)).json())
        for listener in listeners:
            await listener.wait_for(truth)
        assert traffic.failures == []
        await asyncio.gather(*(listener.close() for listener in listeners))
        await asyncio.gather(*listening, *(user.close() for user in (*clients, alice, bob, carol)))


async def test_the_others_serve_when_a_process_is_killed(
    whole_deployment: Deployment, tmp_path: Path
) -> None:
    """Users log in, send, read and receive through nginx, before and after the kill."""
    services = start_processes(whole_deployment)
    with behind_nginx(tmp_path / "nginx", services) as proxy:
        alice, bob = [await User.sign_up(proxy, name) for name in ("alice", "bob")]
        for service in [None, *services[:-1]]:
            if service:
                service.kill()
            account = {"username": "alice", "password": PASSWORD}
            assert (await alice.http.post("/api/auth/login", json=account)).status_code == 200
            sockets = [await user.connect() for user in (alice, bob)]
            sent = [await alice.send(bob, way, transport=way) for way in ("http", "socket")]
            assert (await bob.read(alice)).json()[-2:] == sent
            received = await wait_until(
                lambda: bob.received("newMessage")[-2:],
                "both events",
                is_reached=lambda seen: len(seen) == 2,
            )
            assert received == sent
            for socket in sockets:
                await socket.disconnect()
            for user in (alice, bob):
                user.sockets.clear()
                user.events.clear()
        await asyncio.gather(alice.close(), bob.close())
