"""Redis is an optimisation: refused, silent, full, read-only or talking nonsense, it costs a request next to nothing and nobody a word."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from faults import Proxy, Site, Stopwatch, frozen, open_site
from live import Person, Service, eventually

WAIT = 0.25  # seconds that a request may wait for a dead Redis
NOISE = 2  # requests of a test that a busy machine may hold up for longer
Outage = Callable[["Three"], contextlib.AbstractContextManager[None]]


class Three:
    """Three processes of one service: two that reach Redis directly, and one through a proxy."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.proxy = Proxy(urlsplit(site.engines.redis.url).path)
        self.one, self.two = site.start(), site.start()
        self.behind = site.start(REDIS_URL=self.proxy.url)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    """The processes of this file, on engines that may be broken."""
    with open_site(tmp_path_factory.mktemp("redis")) as site:
        three = Three(site)
        yield three
        three.proxy.close()


class Talk:
    """A conversation that two people lead through two processes, and what must stand in it."""

    def __init__(self, site: Site, here: Service, there: Service) -> None:
        self.alice, self.bob = site.settle(here), site.settle(there)
        self.truth: dict[int, Any] = {}
        self.watch = Stopwatch()

    def note(self, message: Any) -> None:
        assert "seq" in message, message
        self.truth[message["seq"]] = message

    async def send(self, sender: Person, *, door: str = "http") -> None:
        with self.watch.lap():
            message = await sender.send(self.bob if sender is self.alice else self.alice, f"{door} {len(self.truth)}", door=door)
        self.note(message)

    async def edit(self) -> None:
        oldest = self.truth[min(self.truth)]
        with self.watch.lap():
            answer = await self.alice.http.patch(f"/api/messages/{oldest['_id']}", json={"text": f"edited {oldest['version']}"})
        self.note(answer.json())

    async def read(self, reader: Person) -> str:
        """Where the answer came from; it must hold everything."""
        with self.watch.lap():
            answer = await reader.read(self.bob if reader is self.alice else self.alice)
        assert answer.json() == [self.truth[seq] for seq in sorted(self.truth)], answer.headers.get("x-cache", answer.text)
        return str(answer.headers["x-cache"])

    async def is_hit(self) -> bool:
        """Does Redis alone answer both? Every look must be right."""
        return [await self.read(self.alice), await self.read(self.bob)] == ["hit", "hit"]

    async def hit_within(self, seconds: float) -> None:
        """Wait until Redis alone answers both: the reads on the way fill the window."""
        deadline = time.monotonic() + seconds
        while not await self.is_hit():
            assert time.monotonic() < deadline, f"no hit within {seconds} s"
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        await asyncio.gather(self.alice.close(), self.bob.close())


@contextlib.asynccontextmanager
async def talk_between(three: Three, here: Service, there: Service) -> AsyncIterator[Talk]:
    """A talk that is in the cache, with everybody connected."""
    talk = Talk(three.site, here, there)
    await talk.alice.connect()
    await talk.bob.connect()
    await talk.send(talk.alice)
    await talk.send(talk.bob)
    await talk.hit_within(4)
    talk.watch.times.clear()
    yield talk
    await talk.close()


# --- outages -------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stopped(three: Three) -> Iterator[None]:
    """Connections are refused; what it held is gone."""
    three.site.engines.stop("redis")
    yield
    three.site.engines.start("redis")


@contextlib.contextmanager
def black_holed(three: Three) -> Iterator[None]:
    """Connections are accepted, and nothing is said."""
    with frozen(three.site.pid("redis")):
        yield


@contextlib.contextmanager
def full(three: Three) -> Iterator[None]:
    """Reads are answered; writes that need memory are refused, and nothing is evicted for them."""
    keys = three.site.keys
    before = {name: str(keys.config_get(name)[name]) for name in ("maxmemory", "maxmemory-policy")}
    keys.config_set("maxmemory-policy", "noeviction")
    keys.config_set("maxmemory", 1)
    yield
    for name, value in before.items():
        keys.config_set(name, value)


@contextlib.contextmanager
def read_only(three: Three) -> Iterator[None]:
    """The replica of a master that is not there: reads are answered from what it has, writes are refused."""
    three.site.keys.replicaof("127.0.0.1", "1")  # nobody is there
    yield
    three.site.keys.replicaof("NO", "ONE")


def garbled(garble: Callable[[bytes], bytes] | None) -> Outage:
    """A proxy that makes something else of each reply; None: of nothing, and of each request too."""

    @contextlib.contextmanager
    def outage(three: Three) -> Iterator[None]:
        three.proxy.garble = garble
        yield
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
async def test_no_outage_of_redis_costs_a_request_or_a_message(three: Three, outage: Outage) -> None:
    """While Redis is away every request succeeds in time, every read holds every acknowledged send and edit; then there are hits again."""
    async with talk_between(three, three.one, three.two) as talk:
        with outage(three):
            for _ in range(3):
                await work(talk)
            assert [await talk.read(talk.alice), await talk.read(talk.bob)] == ["bypass", "bypass"]
            for service in (three.one, three.two):
                assert readiness(service) == (200, "degraded")
        await talk.hit_within(2)
        await talk.edit()
        await talk.hit_within(1)
    assert len(talk.watch.over(WAIT)) <= NOISE, talk.watch.times


@pytest.mark.parametrize("outage", GARBLED.values(), ids=GARBLED.keys())
async def test_no_nonsense_from_redis_costs_a_request_or_a_message(three: Three, outage: Outage) -> None:
    """A process whose Redis talks nonsense serves rightly without it, and with it again as soon as it makes sense."""
    async with talk_between(three, three.behind, three.behind) as talk:
        with outage(three):
            for _ in range(3):
                await work(talk)
            assert [await talk.read(talk.alice), await talk.read(talk.bob)] == ["bypass", "bypass"]
        await talk.hit_within(2)
    assert len(talk.watch.over(WAIT)) <= NOISE, talk.watch.times


def readiness(service: Service) -> tuple[int, str]:
    """What a load balancer is told."""
    answer = httpx.get(f"{service.url}/readyz")
    return answer.status_code, answer.json()["status"]


async def work(talk: Talk) -> None:
    """One of everything, with a read by each of the two after each write."""
    for write in (talk.send(talk.alice), talk.send(talk.bob), talk.send(talk.alice, door="socket"), talk.edit()):
        await write
        await talk.read(talk.bob)
        await talk.read(talk.alice)


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.3, 1.2])
async def test_commands_that_waited_in_a_frozen_redis_do_no_harm(three: Three, seconds: float) -> None:
    """What was sent and edited while Redis stood still is in the first read after, through a process that asked nothing in between too."""
    async with talk_between(three, three.one, three.two) as talk:
        with black_holed(three):
            await talk.send(talk.alice)
            await talk.edit()
            await talk.send(talk.alice)
            await asyncio.sleep(seconds)  # the freeze goes on: for longer than GRACE in the last case
            reading = asyncio.create_task(talk.read(talk.bob))  # the first that the other process asks; it waits in the socket too
            await asyncio.sleep(0.02)  # it is on its way
        await reading
        for _ in range(5):
            await asyncio.gather(talk.read(talk.bob), talk.read(talk.alice))
        await talk.hit_within(2)


async def test_redis_may_lose_its_scripts(three: Three) -> None:
    """After SCRIPT FLUSH, which nobody is told of, reads are right and hits come back."""
    async with talk_between(three, three.one, three.two) as talk:
        for write in (talk.send(talk.alice), talk.edit(), talk.send(talk.bob)):
            three.site.keys.script_flush()
            await write
            await talk.read(talk.bob)
            await talk.read(talk.alice)
        await talk.hit_within(2)


async def test_redis_may_lose_everything(three: Three) -> None:
    """After FLUSHALL and a restart with nothing in it, reads are right and hits come back."""
    async with talk_between(three, three.one, three.two) as talk:
        three.site.keys.flushall()
        await talk.read(talk.bob)
        with stopped(three):
            await talk.send(talk.alice)
        await talk.send(talk.bob)
        await talk.read(talk.alice)
        await talk.hit_within(2)


async def test_what_one_process_could_not_write_the_others_do_not_trust(three: Three) -> None:
    """When only one process had lost Redis, the windows its writes did not reach are dropped for all as soon as it is back."""
    async with talk_between(three, three.behind, three.two) as talk:
        three.proxy.garble = None
        await talk.send(talk.alice)
        await talk.edit()
        three.proxy.garble = bytes
        await eventually(lambda: readiness(three.behind) == (200, "ok"))
        await talk.read(talk.bob)
        await talk.read(talk.alice)
        await talk.hit_within(2)


async def test_events_go_on_without_redis_and_come_back_with_it(three: Three) -> None:
    """Sockets of one process hear each other while Redis is away; those of two processes again by themselves when it is back."""
    async with talk_between(three, three.one, three.two) as talk:
        beside = three.site.settle(three.one)
        await beside.connect()
        with stopped(three):
            here = await talk.alice.send(beside, "here")
            await beside.hears("newMessage")
            assert beside.heard("newMessage") == [here]
        deadline = time.monotonic() + 8
        while not talk.bob.heard("typing"):  # typing leaves no trace, so it can be repeated until it arrives
            assert time.monotonic() < deadline
            await talk.alice.ask("typing", {"receiverId": talk.bob.id, "typing": True})
            await asyncio.sleep(0.1)  # between two tries
        await talk.send(talk.alice)
        await eventually(lambda: talk.bob.heard("newMessage")[-1:] == [talk.truth[max(talk.truth)]])
        await beside.close()


async def test_a_service_starts_without_redis_and_finds_it_later(three: Three) -> None:
    """Redis need not be there when a process starts."""
    with stopped(three):
        late = three.site.start()
        assert readiness(late) == (200, "degraded")
        talk = Talk(three.site, late, three.one)
        await talk.send(talk.alice)
        assert await talk.read(talk.alice) == "bypass"
    await talk.hit_within(2)
    await talk.close()
    assert late.stop() == 0


def test_no_outage_is_an_error_in_the_log(three: Three) -> None:
    """All this time no process has met an error that it did not expect."""
    for service in three.site.services:
        said = service.log.read_text()
        assert "Traceback" not in said, said
