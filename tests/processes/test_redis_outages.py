"""Redis is an optimization: whether it is stopped, silent, full, read-only or garbled, no request fails and no message is lost.

A request that gets no valid reply opens the breaker. Until it closes, no other request asks Redis, so none can wait for it.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from faults import Deployment, Proxy, frozen
from http_clients import fetch
from live import Service, User
from waiting import wait_until

from chatlab.cache.claim import DIGEST
from chatlab.client import ChatClient

Outage = Callable[["Three"], contextlib.AbstractContextManager[None]]


class CountingProxy(Proxy):
    """A proxy that counts the pipelines of requests, which run a script and are no probe."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.pipelines = 0

    def _pass(self, received: bytes, to: socket.socket, *, is_reply: bool) -> None:
        super()._pass(received, to, is_reply=is_reply)
        is_of_requests = b"EVALSHA" in received and b"probe" not in received
        self.pipelines += not is_reply and is_of_requests


class Three:
    """Three processes of one service: two that reach Redis directly, and one through a proxy."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.proxy = CountingProxy(urlsplit(deployment.engines.redis.url).path)
        self.one, self.two = (
            deployment.start_patient(),
            deployment.start_patient(),
        )
        self.behind = deployment.start_patient(REDIS_URL=self.proxy.url)


@pytest.fixture(scope="module")
def three(deployment: Deployment) -> Iterator[Three]:
    """Start the processes of this file, on servers that the tests may break."""
    three = Three(deployment)
    yield three
    three.proxy.close()


class Talk:
    """A conversation of two users, each connected to one process, and the messages that it must contain."""

    def __init__(self, deployment: Deployment, here: Service, there: Service) -> None:
        self.alice, self.bob = deployment.create_user(here), deployment.create_user(there)
        self.truth: dict[int, Any] = {}

    def note(self, message: Any) -> None:
        assert "seq" in message, message
        self.truth[message["seq"]] = message

    async def send(self, sender: User, *, transport: str = "http") -> None:
        self.note(
            await sender.send(
                self.bob if sender is self.alice else self.alice,
                f"{transport} {len(self.truth)}",
                transport=transport,
            )
        )

    async def edit(self) -> None:
        oldest = self.truth[min(self.truth)]
        answer = await self.alice.http.patch(
            f"/api/messages/{oldest['_id']}", json={"text": f"edited {oldest['version']}"}
        )
        self.note(answer.json())

    async def read(self, reader: User) -> str:
        """Read the conversation, check that it is complete, and return X-Cache."""
        answer = await reader.read(self.bob if reader is self.alice else self.alice)
        assert answer.json() == [self.truth[seq] for seq in sorted(self.truth)], answer.headers.get(
            "x-cache", answer.text
        )
        return str(answer.headers["x-cache"])

    async def sources(self) -> list[str]:
        """Read the conversation as both users, and return X-Cache of both."""
        return [await self.read(self.alice), await self.read(self.bob)]

    async def reach_hits(self) -> None:
        """Read until both reads are hits."""
        await wait_until(
            self.sources,
            "both reads to be hits",
            is_reached=lambda sources: sources == ["hit", "hit"],
        )

    async def is_cached(self) -> bool:
        """Return whether both users read the whole conversation from the cache."""
        answers = [await self.alice.read(self.bob), await self.bob.read(self.alice)]
        truth = [self.truth[seq] for seq in sorted(self.truth)]
        return all(
            answer.headers["x-cache"] == "hit" and answer.json() == truth for answer in answers
        )

    async def close(self) -> None:
        await asyncio.gather(self.alice.close(), self.bob.close())


@contextlib.asynccontextmanager
async def talk_between(three: Three, here: Service, there: Service) -> AsyncIterator[Talk]:
    """Start a conversation that is cached, with both users connected."""
    talk = Talk(three.deployment, here, there)
    await talk.alice.connect()
    await talk.bob.connect()
    await talk.send(talk.alice)
    await talk.send(talk.bob)
    # If a process stalled and missed a write, the window lacks it for up to one TTL.
    await wait_until(talk.is_cached, "the conversation to be in the cache")
    try:
        yield talk
    finally:
        await talk.close()


# --- outages -------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stopped(three: Three) -> Iterator[None]:
    """Stop Redis: connections are refused, and its data is lost."""
    three.deployment.engines.stop("redis")
    try:
        yield
    finally:
        three.deployment.engines.start("redis")


@contextlib.contextmanager
def black_holed(three: Three) -> Iterator[None]:
    """Freeze Redis: connections are accepted, and no reply comes."""
    with frozen(three.deployment.pid("redis")):
        yield


@contextlib.contextmanager
def full(three: Three) -> Iterator[None]:
    """Fill Redis: reads are answered, and writes that need memory are refused."""
    keys = three.deployment.keys
    before = {name: str(keys.config_get(name)[name]) for name in ("maxmemory", "maxmemory-policy")}
    keys.config_set("maxmemory-policy", "noeviction")
    keys.config_set("maxmemory", 1)
    try:
        yield
    finally:
        for name, value in before.items():
            keys.config_set(name, value)


@contextlib.contextmanager
def read_only(three: Three) -> Iterator[None]:
    """Make Redis a replica of a server that does not exist: reads are answered, writes are refused."""
    three.deployment.keys.replicaof("127.0.0.1", "1")  # no server listens there
    try:
        yield
    finally:
        three.deployment.keys.replicaof("NO", "ONE")


def garbled(garble: Callable[[bytes], bytes] | None) -> Outage:
    """Return an outage in which the proxy changes each reply. With None it passes neither requests nor replies."""

    @contextlib.contextmanager
    def outage(three: Three) -> Iterator[None]:
        three.proxy.garble = garble
        try:
            yield
        finally:
            three.proxy.garble = bytes

    return outage


DIRECT = {"stopped": stopped, "black-holed": black_holed, "full": full, "read-only": read_only}
GARBLED = {
    "silent": garbled(None),
    "not Redis at all": garbled(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "OK to everything": garbled(lambda _: b"+OK\r\n" * 20),
    "numbers": garbled(lambda _: b":7\r\n" * 20),
    "the wrong shape": garbled(lambda _: b"*7\r\n+a\r\n+b\r\n+c\r\n+d\r\n+e\r\n+f\r\n$-1\r\n" * 20),
    "half a reply": garbled(lambda said: said[: len(said) // 2]),
}


@pytest.mark.parametrize("outage", DIRECT.values(), ids=DIRECT.keys())
async def test_no_outage_of_redis_fails_a_request_or_loses_a_message(
    three: Three, outage: Outage
) -> None:
    """While Redis is away, every request succeeds and every read is complete. Afterwards there are hits again."""
    async with talk_between(three, three.one, three.two) as talk:
        with outage(three):
            await work(talk)
            losses = [times_lost(service) for service in (three.one, three.two)]
            for _ in range(2):
                await work(talk)
            assert await talk.sources() == ["bypass", "bypass"]
            for service in (three.one, three.two):
                assert readiness(service) == (200, "degraded")
            assert [
                times_lost(service) for service in (three.one, three.two)
            ] == losses  # the breaker stays open
        await talk.reach_hits()
        await talk.edit()
        await talk.reach_hits()


@pytest.mark.parametrize("outage", GARBLED.values(), ids=GARBLED.keys())
async def test_no_invalid_reply_from_redis_fails_a_request_or_loses_a_message(
    three: Three, outage: Outage
) -> None:
    """If Redis sends nonsense, responses are right without it, and hits return once the replies are valid.

    At most one request sends commands to Redis; then the breaker is open.
    """
    async with talk_between(three, three.behind, three.behind) as talk:
        with outage(three):
            before = three.proxy.pipelines
            for _ in range(3):
                await work(talk)
            assert await talk.sources() == ["bypass", "bypass"]
            assert three.proxy.pipelines - before <= 1
        await talk.reach_hits()


def times_lost(service: Service) -> str:
    """Return how often this process has opened the breaker of Redis."""
    metrics = fetch(f"{service.url}/metrics").text
    (line,) = [
        line
        for line in metrics.splitlines()
        if line.startswith('chatlab_breaker_opened_total{part="redis"}')
    ]
    return line


def readiness(service: Service) -> tuple[int, str]:
    """Return the status and the state that a load balancer sees."""
    answer = fetch(f"{service.url}/readyz")
    return answer.status_code, answer.json()["status"]


async def work(talk: Talk) -> None:
    """Do one write of each kind, and read as both users after each."""
    for write in (
        talk.send(talk.alice),
        talk.send(talk.bob),
        talk.send(talk.alice, transport="socket"),
        talk.edit(),
    ):
        await write
        await talk.read(talk.bob)
        await talk.read(talk.alice)


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.5, 6.0])
async def test_commands_that_waited_in_a_frozen_redis_do_no_harm(
    three: Three, seconds: float
) -> None:
    """The first read after a freeze shows what was sent and edited meanwhile, also through a process that was idle."""
    async with talk_between(three, three.one, three.behind) as talk:
        with black_holed(three):
            await talk.send(talk.alice)
            await talk.edit()
            await talk.send(talk.alice)
            await asyncio.sleep(seconds)  # the last case is longer than the grace period
            before = three.proxy.pipelines
            reading = asyncio.create_task(
                talk.read(talk.bob)
            )  # it waits in the socket of Redis too, unless its process has noticed
            await wait_until(
                lambda: three.proxy.pipelines > before or reading.done(),
                "the read to reach Redis, or to be answered without it",
            )
        await reading
        for _ in range(5):
            await asyncio.gather(talk.read(talk.bob), talk.read(talk.alice))
        await talk.reach_hits()


async def test_redis_may_lose_its_scripts(three: Three) -> None:
    """After SCRIPT FLUSH, which no process notices, reads are right and there are hits again."""
    async with talk_between(three, three.one, three.two) as talk:
        for write in (talk.send(talk.alice), talk.edit(), talk.send(talk.bob)):
            three.deployment.keys.script_flush()
            await write
            await talk.read(talk.bob)
            await talk.read(talk.alice)
        await talk.reach_hits()


async def test_a_process_that_starts_loads_its_scripts(three: Three) -> None:
    """No request of a new process meets a Redis that does not know a script."""
    keys = three.deployment.keys
    keys.script_flush()
    # The other processes need this script every few seconds.
    await wait_until(lambda: keys.script_exists(DIGEST)[0], "the script of the claim")
    before = keys.info("errorstats").get("errorstat_NOSCRIPT")
    service = three.deployment.start_patient()
    async with talk_between(three, service, service) as talk:
        await talk.send(talk.alice)
        await talk.edit()
        await talk.reach_hits()
    assert keys.info("errorstats").get("errorstat_NOSCRIPT") == before


async def test_redis_may_lose_everything(three: Three) -> None:
    """After FLUSHALL, and after a restart with an empty Redis, reads are right and there are hits again."""
    async with talk_between(three, three.one, three.two) as talk:
        three.deployment.keys.flushall()
        await talk.read(talk.bob)
        with stopped(three):
            await talk.send(talk.alice)
        await talk.send(talk.bob)
        await talk.read(talk.alice)
        await talk.reach_hits()


async def test_windows_that_one_process_missed_are_fenced_for_the_others(three: Three) -> None:
    """If only one process loses Redis, the windows that it missed are fenced for all processes when it is back."""
    async with talk_between(three, three.behind, three.two) as talk:
        three.proxy.garble = None
        await talk.send(talk.alice)
        await talk.edit()
        three.proxy.garble = bytes
        await wait_until(
            lambda: readiness(three.behind),
            "the process to find Redis again",
            is_reached=lambda found: found == (200, "ok"),
        )
        await talk.read(talk.bob)
        await talk.read(talk.alice)
        await talk.reach_hits()


async def test_events_reach_the_own_process_without_redis(three: Three) -> None:
    """Without Redis, events reach the sockets of the same process. With Redis, they reach those of the other one again."""
    async with talk_between(three, three.one, three.two) as talk:
        beside = three.deployment.create_user(three.one)
        await beside.connect()
        with stopped(three):
            here = await talk.alice.send(beside, "here")
            await beside.wait_for_events("newMessage")
            assert beside.received("newMessage") == [here]

        async def type_and_look() -> list[Any]:
            await talk.alice.ask(
                "typing", {"receiverId": talk.bob.id, "typing": True}
            )  # leaves no trace, so it can be repeated
            return talk.bob.received("typing")

        await wait_until(type_and_look, "an event of one process at a socket of the other")

        before = max(talk.truth)

        async def send_and_look() -> list[Any]:
            await talk.send(talk.alice)  # one event may be lost while the machine stalls
            return [
                event
                for event in talk.bob.received("newMessage")
                if event["seq"] > before and event == talk.truth[event["seq"]]
            ]

        await wait_until(send_and_look, "a message of one process at a socket of the other")
        await beside.close()


# --- lost events: `resync` -----------------------------------------------------------------------


async def test_a_process_that_could_not_publish_has_the_others_resync(three: Three) -> None:
    """Only the process of the sender loses Redis. The receiver at another one gets `resync`, and reads.

    The receiver is the client of the notebooks: it adds the messages that it reads to its events.
    """
    async with talk_between(three, three.behind, three.two) as talk:
        bob = ChatClient(three.two.url, {"id": talk.bob.id}, talk.bob.token)
        await bob.connect()
        await talk.send(talk.alice)
        await wait_until(lambda: messages_of(bob), "the first message")
        three.proxy.garble = None
        await talk.send(talk.alice)
        await talk.send(talk.alice)
        three.proxy.garble = bytes
        lost = [talk.truth[seq] for seq in sorted(talk.truth)][-2:]
        await wait_until(lambda: messages_of(bob)[-2:] == lost, "the lost messages")
        told = [event.payload["since"] for event in bob.received if event.event == "resync"]
        assert max(told) <= lost[0]["createdAt"]
        await bob.close()


def messages_of(client: ChatClient) -> list[Any]:
    """Return the new messages that a client has received, or read after a `resync`."""
    return [event.payload for event in client.received if event.event == "newMessage"]


async def test_a_process_that_received_nothing_resyncs_its_own_sockets(three: Three) -> None:
    """Redis closes the subscriptions. The sockets get `resync` when the process has subscribed again."""
    async with talk_between(three, three.one, three.two) as talk:
        three.deployment.keys.client_kill_filter(_type="pubsub")
        await talk.send(talk.alice)
        for user in (talk.alice, talk.bob):
            (lost,) = await user.wait_for_events("resync")
            assert lost["since"] <= talk.truth[max(talk.truth)]["createdAt"]


async def test_events_during_an_outage_are_read_afterwards(three: Three) -> None:
    """Both processes lose Redis. No socket of the other one gets the event, but all sockets get `resync`."""
    async with talk_between(three, three.one, three.two) as talk:
        with stopped(three):
            await talk.send(talk.alice)
        await talk.bob.wait_for_events("resync")
        assert talk.truth[max(talk.truth)] not in talk.bob.received("newMessage")


async def test_events_that_a_killed_process_did_not_publish_are_read(three: Three) -> None:
    """A process is killed when a message is saved, but neither in the window nor published.

    The sockets of the other processes get `resync`. The window still lacks the message, and the
    clients read it all the same.
    """
    async with talk_between(three, three.one, three.two) as talk:
        alice = await talk.alice.at(three.behind)
        bob = ChatClient(three.two.url, {"id": talk.bob.id}, talk.bob.token)
        await bob.connect()
        with three.proxy.holding("not published", "request") as hold:
            sending = asyncio.create_task(alice.send(talk.bob, "not published"))
            await wait_until(hold.is_reached.is_set, "the message to be saved")
            three.behind.kill()
            three.proxy.garble = None  # so that the window is not updated at the end of this block
        await asyncio.gather(sending, return_exceptions=True)
        await wait_until(
            lambda: [message["text"] for message in messages_of(bob)],
            "the message that was not published",
            is_reached=lambda texts: "not published" in texts,
        )
        await asyncio.gather(alice.close(), bob.close())
    three.proxy.garble = bytes
    await asyncio.to_thread(three.behind.restart)


async def test_a_service_starts_without_redis_and_connects_later(three: Three) -> None:
    """A process starts while Redis is away."""
    with stopped(three):
        late = three.deployment.start_patient()
        assert readiness(late) == (200, "degraded")
        talk = Talk(three.deployment, late, three.one)
        await talk.send(talk.alice)
        assert await talk.read(talk.alice) == "bypass"
    await talk.reach_hits()
    await talk.close()
    assert late.stop() == 0


def test_no_outage_is_an_error_in_the_log(three: Three) -> None:
    """No process has logged a traceback."""
    for service in three.deployment.services:
        logged = service.log.read_text()
        assert "Traceback" not in logged, logged
