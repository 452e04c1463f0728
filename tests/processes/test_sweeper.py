"""The sweeper: its deadline tracker, single sweeps on a simulated clock, and a running service."""

import asyncio
import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import shard_keys
from live import Service, ServiceMaker
from patient import PatientService
from shared_service import SharedService, UserMaker, create_user
from waiting import LIMIT_S, block_until, wait_until

from chatlab.cache import sweeper
from chatlab.cache.deadline_tracker import GONE, NO_EXPIRY, DeadlineTracker, SweepResult
from chatlab.cache.keys import Ttls
from chatlab.cache.sweeper import Sweeper
from chatlab.cache.sweeper_connection import LIMIT_TTL
from chatlab.connections import resp
from chatlab.connections.redis import connect
from chatlab.domain.trace import EventBus
from chatlab.local.engines import Engines
from chatlab.settings import load_settings

pytest_plugins = ["patient_plugin"]


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """A service whose answers do not depend on the speed of the machine."""
    return patient_shared


# --- the deadline tracker -----------------------------------------------------------------------------------------------------------


def test_a_key_is_cleaned_once() -> None:
    """A key that is gone after its deadline is reported as cleaned once, with its lag, and then forgotten."""
    tracker = DeadlineTracker()
    assert tracker.record({"k": 300}, 10.0) == SweepResult({"k": 300}, {}, [], [])
    cleaned = tracker.record({"k": GONE}, 11.0).cleaned
    assert cleaned == {"k": pytest.approx(700)}
    assert len(tracker) == 0
    assert tracker.keys() == []


def test_a_key_with_0_ms_left_is_alive() -> None:
    """A key with 0 ms left is alive. Only a missing key has expired."""
    tracker = DeadlineTracker()
    for now in (1.0, 2.0, 3.0):
        assert tracker.record({"k": 0}, now) == SweepResult({"k": 0}, {}, [], [])
    assert tracker.record({"k": GONE}, 3.5).cleaned == {"k": pytest.approx(500)}


def test_a_key_gone_before_its_deadline_is_lost() -> None:
    """A key that was deleted or evicted is not reported as cleaned."""
    tracker = DeadlineTracker()
    tracker.record({"k": 4000}, 1.0)
    assert tracker.record({"k": GONE}, 2.0) == SweepResult({}, {}, ["k"], [])
    assert len(tracker) == 0


def test_an_edit_moves_the_deadline() -> None:
    """The last TTL that was seen counts."""
    tracker = DeadlineTracker()
    tracker.record({"k": 500}, 1.0)
    tracker.record({"k": 5000}, 1.4)
    assert tracker.record({"k": GONE}, 3.0).lost == ["k"]
    tracker.record({"k": 500}, 4.0)
    assert tracker.record({"k": GONE}, 4.5).cleaned == {"k": pytest.approx(0, abs=1)}


def test_a_key_without_an_expiry_is_leaked() -> None:
    """A key without a TTL is reported as leaked until it has one."""
    tracker = DeadlineTracker()
    assert tracker.record({"k": NO_EXPIRY}, 1.0) == SweepResult({}, {}, [], ["k"])
    assert tracker.record({"k": 5000}, 2.0).live == {"k": 5000}


def test_a_key_that_expires_during_a_sweep_is_cleaned() -> None:
    """A key that expired between SCAN and PTTL is reported as cleaned with lag 0."""
    assert DeadlineTracker().record({"k": GONE}, 1.0).cleaned == {"k": 0}


# --- single sweeps on a simulated clock -------------------------------------------------------------------


class Clock:
    """The clock of Redis, which shows the time, in seconds, that the test sets."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock of Redis in a test: it is what all sweepers get as the reply to TIME."""
    clock, execute = Clock(), resp.RedisConnection.execute

    async def at_that_time(
        self: resp.RedisConnection, commands: Sequence[resp.Command], timeout_s: float
    ) -> list[Any]:
        replies = await execute(self, commands, timeout_s)
        for place, command in enumerate(commands):
            if command == ("TIME",):
                replies[place] = [
                    b"%d" % part for part in divmod(round(clock() * 1_000_000), 1_000_000)
                ]
        return replies

    monkeypatch.setattr(resp.RedisConnection, "execute", at_that_time)
    return clock


SweeperMaker = Callable[[], Sweeper]


@pytest.fixture
async def make_sweeper(
    engines: Engines,
    space: str,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> AsyncIterator[SweeperMaker]:
    """Return a function that creates a sweeper, which sweeps only when the test calls `tick`."""
    caplog.set_level(logging.INFO, "chatlab.sweeper")
    settings = load_settings(
        key_prefix=f"{space}:", sweep_interval=3600, cache_ttl=1000, redis_timeout=LIMIT_S
    )
    async with contextlib.AsyncExitStack() as stack:

        def maker() -> Sweeper:
            client = connect(engines.redis.url, LIMIT_S)
            stack.push_async_callback(client.aclose)
            made = Sweeper(client, settings, EventBus(), wall_clock=clock)
            stack.push_async_callback(made._connection.close)
            return made

        yield maker


def expire(keys: redis.Redis, clock: Clock, *names: str | bytes, after_s: float) -> None:
    """Let time pass, in which these keys expire."""
    clock.now_s += after_s
    keys.delete(*names)


async def test_the_exact_log_lines(
    make_sweeper: SweeperMaker, keys: redis.Redis, space: str, clock: Clock, caplog: Any
) -> None:
    """`Cache hit` with key and remaining ms in each sweep, then `Cache cleaned` with deadline and lag once, and a summary each time."""
    one, two = f"{space}:message:1", f"{space}:message:2"
    for key in (one, two):
        keys.set(key, "x", px=1_000_000)
    swept = make_sweeper()
    for _ in range(2):
        await swept.tick()
    remaining = {
        key: [
            int(found) for found in re.findall(rf"Cache hit {key} remaining=(\d+)ms", caplog.text)
        ]
        for key in (one, two)
    }
    for looks in remaining.values():
        assert len(looks) == 2
        assert 1_000_000 >= looks[0] >= looks[1] > 0
    expire(keys, clock, one, two, after_s=1000.5)
    for _ in range(2):
        await swept.tick()
    for key in (one, two):
        (cleaned,) = [
            message for message in caplog.messages if message.startswith(f"Cache cleaned {key}")
        ]
        found = re.fullmatch(
            rf"Cache cleaned {key} deadline=(\d\d:\d\d:\d\d\.\d{{3}})Z lag=(\d+)ms", cleaned
        )
        assert found
        assert int(found[2]) == pytest.approx(1_000_500 - remaining[key][-1], abs=1)
        deadline_s = clock.now_s - (1_000_500 - remaining[key][-1]) / 1000
        assert f"{found[1]}Z" in [
            sweeper._time_of_day(deadline_s + rounding) for rounding in (-0.001, 0, 0.001)
        ]
    summaries = [message for message in caplog.messages if message.startswith("Sweep")]
    assert [re.sub(r"[\d.]+ ms$", "T ms", summary) for summary in summaries] == [
        "Sweep: 2 live, 0 cleaned, 0 leaked, T ms",
        "Sweep: 2 live, 0 cleaned, 0 leaked, T ms",
        "Sweep: 0 live, 2 cleaned, 0 leaked, T ms",
        "Sweep: 0 live, 0 cleaned, 0 leaked, T ms",
    ]


@pytest.mark.parametrize(
    ("level", "lines"), [(logging.INFO, 0), (logging.DEBUG, 30)], ids=["INFO", "DEBUG"]
)
async def test_many_keys_get_one_line(
    make_sweeper: SweeperMaker, keys: redis.Redis, space: str, caplog: Any, level: int, lines: int
) -> None:
    """Above 20 keys in a sweep, lines about single keys are DEBUG; the summary stays."""
    for number in range(30):
        keys.set(f"{space}:message:{number}", "x", px=1_000_000)
    with caplog.at_level(level, "chatlab.sweeper"):
        await make_sweeper().tick()
    assert caplog.text.count("Cache hit") == lines
    assert caplog.messages[-1].startswith("Sweep: 30 live, 0 cleaned, 0 leaked")


async def test_leaked_keys_get_an_expiry_and_cannot_forge_log_lines(
    make_sweeper: SweeperMaker, keys: redis.Redis, space: str, clock: Clock, caplog: Any
) -> None:
    """A foreign key without an expiry gets one. Its name stays on one line of the log, whatever bytes it has; other keys are left alone."""
    forged = (
        b"message:x\n12:00:00.000 INFO    chatlab.sweeper  Cache cleaned FORGED\r\x1b[31m\xff\xc3"
    )
    name, other = f"{space}:".encode() + forged, f"{space}:other"
    keys.set(name, "x")
    keys.set(other, "x", px=100_000_000)
    swept = make_sweeper()
    await swept.tick()
    assert 0 < keys.pttl(name) <= 1_000_000
    assert keys.pttl(other) > 1_000_000
    await swept.tick()
    expire(keys, clock, name, after_s=1001)
    await swept.tick()
    about = [message for message in caplog.messages if "FORGED" in message]
    assert [message.split()[1] for message in about] == ["leaked", "hit", "cleaned"]
    assert all(message.isprintable() and "message:x\\n12:00" in message for message in about)


async def test_a_leaked_key_is_repaired_without_options_of_new_servers(
    make_sweeper: SweeperMaker,
    keys: redis.Redis,
    space: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Redis 6.2 has no PEXPIRE with NX. A key that has got a TTL meanwhile keeps it."""
    leaked, other = f"{space}:message:leaked", f"{space}:other"
    keys.set(leaked, "x")
    keys.set(other, "x")
    sent: list[Any] = []
    execute = resp.RedisConnection.execute

    async def recorded(self: resp.RedisConnection, commands: Any, timeout_s: float) -> Any:
        sent.extend(commands)
        return await execute(self, commands, timeout_s)

    monkeypatch.setattr(resp.RedisConnection, "execute", recorded)
    await make_sweeper().tick()
    assert 0 < keys.pttl(leaked) <= 1_000_000
    assert all(len(command) == 3 for command in sent if command[0] == "PEXPIRE")
    keys.pexpire(other, 500)
    keys.eval(LIMIT_TTL, 1, other, 1000)
    assert keys.pttl(other) <= 500


async def test_a_key_that_no_sweep_has_seen_is_reported_too(
    make_sweeper: SweeperMaker, space: str, clock: Clock, caplog: Any
) -> None:
    """A key that comes and goes between two sweeps is reported as cleaned, once, because its own process announced it."""
    swept = make_sweeper()
    await swept.tick()
    swept.expect(f"{space}:message:1", Ttls.of(200))
    clock.now_s += 1.5
    for _ in range(2):
        await swept.tick()
    (cleaned,) = [message for message in caplog.messages if message.startswith("Cache cleaned")]
    lag = re.fullmatch(rf"Cache cleaned {space}:message:1 deadline=\S+ lag=(\d+)ms", cleaned)
    assert lag
    assert int(lag[1]) <= 1300


async def test_one_process_sweeps_at_a_time(
    make_sweeper: SweeperMaker, keys: redis.Redis, space: str, clock: Clock, caplog: Any
) -> None:
    """The process that holds the lock sweeps, the other one says once that it waits. After the first has died it takes over."""
    one, two = make_sweeper(), make_sweeper()
    key = f"{space}:message:1"
    keys.set(key, "x", px=1_000_000)
    assert await one.tick()
    assert [await two.tick() for _ in range(3)] == [None, None, None]
    assert caplog.messages.count("another process sweeps; waiting for its turn") == 1
    assert await one.tick()
    assert 0 < keys.pttl(f"{space}:sweeping") <= 2.5 * 3_600_000
    keys.delete(f"{space}:sweeping")  # as when its process was killed and the lock has expired
    assert await two.tick()
    assert await one.tick() is None
    expire(keys, clock, key, after_s=1001)
    assert [await swept.tick() is None for swept in (one, two, one, two)] == [
        True,
        False,
        True,
        False,
    ]
    assert len([message for message in caplog.messages if message.startswith("Cache cleaned")]) == 1


async def test_the_interval_does_not_drift(
    make_sweeper: SweeperMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sweeps begin at multiples of the interval, however long each takes; one that was missed is not made up for."""
    now_s, began = 50.0, list[float]()
    interval_s = 3600.0

    async def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    async def tick() -> None:
        nonlocal now_s
        began.append(now_s - 50)
        now_s += durations.pop()
        if not durations:
            raise asyncio.CancelledError

    durations = [0.0, 1.0, 2.5 * interval_s, 900.0, 3.0, 10.0]
    swept = make_sweeper()
    monkeypatch.setattr(sweeper, "time", SimpleNamespace(monotonic=lambda: now_s, time=time.time))
    monkeypatch.setattr(sweeper, "asyncio", SimpleNamespace(sleep=sleep, shield=asyncio.shield))
    monkeypatch.setattr(swept, "tick", tick)
    with pytest.raises(asyncio.CancelledError):
        await swept.run()
    assert began == [number * interval_s for number in (0, 1, 2, 3, 5.5, 6)]


HOUR_S = 3600


async def test_a_step_back_of_the_clock_lengthens_no_ttl(
    make_sweeper: SweeperMaker, keys: redis.Redis, space: str, clock: Clock, caplog: Any
) -> None:
    """If the clock of Redis steps back, the keys of chatlab get a shorter TTL. None is deleted, and those of other programs are left alone."""
    own = {
        f"{space}:message:{'a' * 24}": 1_000_000,
        f"{space}:messages:ann:bob": 1_000_000,
        f"{space}:limit:name:x": 60_000,
    }
    foreign = f"{space}:message:foreign"
    swept = make_sweeper()
    for key, ttl_ms in (own | {foreign: 1_000_000}).items():
        keys.set(key, "x", px=ttl_ms)
    await swept.tick()
    assert not any("Shortened" in message for message in caplog.messages)
    clock.now_s -= (
        HOUR_S  # to the sweeper, this looks like a step, and the TTLs have grown by as much
    )
    for key, ttl_ms in (own | {foreign: 1_000_000}).items():
        keys.pexpire(key, ttl_ms + HOUR_S * 1000)
    await swept.tick()
    assert all(0 < keys.pttl(key) <= ttl_ms for key, ttl_ms in own.items())
    assert keys.pttl(foreign) > HOUR_S * 1000
    assert "Shortened 3 TTLs, because the clock of Redis has stepped back" in caplog.messages
    assert not any("lost" in message for message in caplog.messages)


async def test_each_kind_of_key_is_shortened_to_its_own_ttl(
    make_sweeper: SweeperMaker, keys: redis.Redis, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If entries have a longer TTL than windows, the sweeper does not shorten it."""
    monkeypatch.setattr(Ttls, "of", lambda _: Ttls(entry_ms=2_000_000, window_ms=1_000_000))
    entry, window = f"{space}:message:{'a' * 24}", f"{space}:messages:ann:bob"
    for key in (entry, window):
        keys.set(key, "x", px=3_000_000)
    await make_sweeper().tick()
    assert 1_000_000 < keys.pttl(entry) <= 2_000_000
    assert 0 < keys.pttl(window) <= 1_000_000


async def test_a_step_is_seen_among_many_keys(
    make_sweeper: SweeperMaker, keys: redis.Redis, space: str, clock: Clock
) -> None:
    """Above 20 keys, the sweeper asks only about some of them. After a step it asks about all."""
    names = [f"{space}:message:{number:024x}" for number in range(30)]
    swept = make_sweeper()
    for name in names:
        keys.set(name, "x", px=1_000_000)
    await swept.tick()
    clock.now_s -= HOUR_S
    for name in names:
        keys.pexpire(name, 1_000_000 + HOUR_S * 1000)
    await swept.tick()
    assert all(keys.pttl(name) <= 1_000_000 for name in names)


async def test_a_step_forward_loses_no_report(
    make_sweeper: SweeperMaker, keys: redis.Redis, space: str, clock: Clock, caplog: Any
) -> None:
    """Keys that expire early because the clock of Redis steps forward are reported as cleaned, once."""
    key = f"{space}:message:1"
    keys.set(key, "x", px=1_000_000)
    swept = make_sweeper()
    await swept.tick()
    expire(keys, clock, key, after_s=HOUR_S)
    for _ in range(2):
        await swept.tick()
    about = [message.split()[1] for message in caplog.messages if key in message]
    assert about == ["hit", "cleaned"]


async def test_the_lock_of_a_dead_process_expires_after_a_step_back(
    make_sweeper: SweeperMaker, keys: redis.Redis, space: str
) -> None:
    """A process that waits for its turn shortens the TTL of the lock, if the clock of Redis has stepped back."""
    one, two = make_sweeper(), make_sweeper()
    lock = f"{space}:sweeping"
    assert await one.tick()
    longest_ms = keys.pttl(lock)
    keys.pexpire(lock, 100 * longest_ms)
    assert await two.tick() is None
    assert keys.pttl(lock) <= longest_ms + 1000


# --- in a running service --------------------------------------------------------------------------------------------------------


def logged(service: Service, what: str) -> list[str]:
    """Return the log lines of the sweeper that begin with these words."""
    return re.findall(rf"chatlab\.sweeper  ({what}.*)", service.log.read_text())


async def test_a_service_reports_the_end_of_each_message(
    engines: Engines, database: Any, keys: redis.Redis, space: str, tmp_path: Path
) -> None:
    """Each message is reported as cleaned exactly once, also when its TTL is shorter than the interval between two sweeps."""
    settings = {
        "DATABASE": space,
        "KEY_PREFIX": f"{space}:",
        "CACHE_TTL": "4",
        "SWEEP_INTERVAL": "6",
        "FLOW": "1",
    }
    service = PatientService(engines.mongo.url, engines.redis.url, tmp_path / "log", **settings)
    try:
        ann = create_user(database, service.wait_until_ready())
        sent: list[Any] = []

        async def send_one() -> int:
            """Send a message. If its save takes longer than the grace period, it is not cached."""
            message = await ann.send(ann, "text")
            if f" key={space}:message:{message['_id']} ttlMs=" in service.log.read_text():
                sent.append(message)
            return len(sent)

        await wait_until(send_one, "three cached messages", is_reached=lambda count: count >= 3)
        cleaned = [
            rf"Cache cleaned {space}:message:{message['_id']} deadline=\S+Z lag=\d+ms"
            for message in sent
        ]
        await wait_until(
            lambda: [len(logged(service, line)) for line in cleaned],
            "a report about each message",
            is_reached=all,
        )
        swept = len(logged(service, "Sweep"))
        await wait_until(lambda: len(logged(service, "Sweep")) > swept, "one more sweep")
        assert [len(logged(service, line)) for line in cleaned] == [1, 1, 1]
        await ann.close()
    finally:
        service.kill()


async def test_other_kinds_of_values_do_no_harm(shared: SharedService, new_user: UserMaker) -> None:
    """A foreign hash under one of our names changes no answer."""
    ann = new_user()
    sent = await ann.send(ann, "one")
    for key in (f"message:{sent['_id']}", f"messages:{ann.id}:{ann.id}"):
        shared.keys.delete(shared.prefix + key)
        shared.keys.hset(shared.prefix + key, "a", "b")
        shared.keys.expire(shared.prefix + key, 300)
    edited = await ann.http.patch(f"/api/messages/{sent['_id']}", json={"text": "two"})
    assert (await ann.read(ann)).json() == [edited.json()]


def test_a_service_without_the_sweeper_does_not_sweep(start: ServiceMaker, database: Any) -> None:
    """With SWEEPER=0 another process sweeps, and this one never does."""
    silent, sweeping = start(SWEEPER="0"), start(SWEEP_INTERVAL="0.1")
    block_until(lambda: len(logged(sweeping, "Sweep")) >= 3, "three sweeps of the other process")
    assert logged(silent, "") == []


def test_another_process_takes_over(start: ServiceMaker, database: Any) -> None:
    """When the process that sweeps is killed, one that waited for its turn sweeps."""
    services = [start(SWEEP_INTERVAL="0.2") for _ in range(2)]
    waiting = block_until(
        lambda: [service for service in services if logged(service, "another process sweeps")],
        "a process that waits for its turn",
    )[0]
    services.remove(waiting)
    services[0].kill()
    swept = len(logged(waiting, "Sweep"))
    block_until(lambda: len(logged(waiting, "Sweep")) > swept, "the remaining process to sweep")


async def test_chatlab_sweep_needs_only_redis(engines: Engines, space: str, tmp_path: Path) -> None:
    """`chatlab sweep` with CHATLAB_REDIS_URL starts no MongoDB, makes no data folder, and exits with status 0 on SIGTERM."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("CHATLAB_")
    }
    given = {
        "REDIS_URL": engines.redis.url,
        "DATA_DIR": str(tmp_path / "data"),
        "MONGOD": "/no/mongod",
        "KEY_PREFIX": f"{space}:",
    }
    environment |= {f"CHATLAB_{name}": value for name, value in given.items()}
    log = tmp_path / "log"
    with log.open("wb") as out:
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "chatlab", "sweep", env=environment, stderr=out
        )
    try:
        await wait_until(
            lambda: "Sweep: 0 live" in log.read_text() or worker.returncode is not None,
            "the first sweep",
        )
    finally:
        with contextlib.suppress(ProcessLookupError):
            worker.terminate()
    assert await worker.wait() == 0, log.read_text()
    assert "Sweep: 0 live" in log.read_text()
    assert not (tmp_path / "data").exists()


def test_the_log_names_no_secrets(shared: SharedService) -> None:
    """The log holds no token and no password hash."""
    lines = Path(shared.service.log).read_text().splitlines()
    log = "\n".join(line for line in lines if not line.startswith(shard_keys.PREFIX))
    assert "Bearer" not in log
    assert "passwordHash" not in log
