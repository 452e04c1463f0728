"""The background worker: its ledger with given times, and its words from a running service."""

import asyncio
import contextlib
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from house import House, Newcomer, settle
from live import Service, ServiceMaker, eventually

from chatlab.engines import Engines
from chatlab.sweeper import GONE, NO_EXPIRY, Ledger, Told

# --- the ledger ----------------------------------------------------------------------------------------------------------------


def test_a_key_is_cleaned_once() -> None:
    """Gone after its deadline is told as cleaned with the time since, once, and then forgotten."""
    ledger = Ledger()
    assert ledger.note({"k": 300}, 10.0) == Told({"k": 300}, {}, [], [])
    cleaned = ledger.note({"k": GONE}, 11.0).cleaned
    assert cleaned == {"k": pytest.approx(700)}
    assert len(ledger) == 0
    assert list(ledger.copy()) == []


def test_nothing_left_is_not_gone() -> None:
    """A key with 0 ms left is alive; only its absence ends it."""
    ledger = Ledger()
    for now in (1.0, 2.0, 3.0):
        assert ledger.note({"k": 0}, now) == Told({"k": 0}, {}, [], [])
    assert ledger.note({"k": GONE}, 3.5).cleaned == {"k": pytest.approx(500)}


def test_gone_before_its_deadline_is_lost() -> None:
    """A key that somebody deleted or Redis evicted is not called cleaned."""
    ledger = Ledger()
    ledger.note({"k": 4000}, 1.0)
    assert ledger.note({"k": GONE}, 2.0) == Told({}, {}, ["k"], [])
    assert len(ledger) == 0


def test_an_edit_moves_the_deadline() -> None:
    """The last life that was seen counts."""
    ledger = Ledger()
    ledger.note({"k": 500}, 1.0)
    ledger.note({"k": 5000}, 1.4)
    assert ledger.note({"k": GONE}, 3.0).lost == ["k"]
    ledger.note({"k": 500}, 4.0)
    assert ledger.note({"k": GONE}, 4.5).cleaned == {"k": pytest.approx(0, abs=1)}


def test_without_an_expiry_is_leaked() -> None:
    """-1 is a leak, told at each look until it is mended."""
    ledger = Ledger()
    assert ledger.note({"k": NO_EXPIRY}, 1.0) == Told({}, {}, [], ["k"])
    assert ledger.note({"k": 5000}, 2.0).live == {"k": 5000}


def test_gone_at_first_sight_is_cleaned() -> None:
    """A key that ended between SCAN and PTTL is told as cleaned just now."""
    assert Ledger().note({"k": GONE}, 1.0).cleaned == {"k": 0}


# --- its words -----------------------------------------------------------------------------------------------------------------


def told(service: Service, what: str) -> list[str]:
    """The log lines of the sweeper that begin with these words."""
    return re.findall(rf"chatlab\.sweeper  ({what}.*)", service.log.read_text())


async def test_its_exact_words(start: ServiceMaker, database: Any, space: str) -> None:
    """`Cache hit` with key and remaining ms while a key lives, `Cache cleaned` with deadline and lag exactly once, a summary a sweep."""
    service = start(CACHE_TTL="0.5", SWEEP_INTERVAL="0.1")
    ann = settle(database, service)
    keys = [f"{space}:message:{(await ann.send(ann, text))['_id']}" for text in ("one", "two")]
    await eventually(lambda: len(told(service, "Cache cleaned")) >= 2, within=5)
    seen = len(told(service, "Sweep"))
    await eventually(lambda: len(told(service, "Sweep")) >= seen + 3, within=5)  # and it is not told again
    for key in keys:
        hits = [line for line in told(service, "Cache hit") if key in line]
        assert len(hits) >= 2
        remaining = [int(re.fullmatch(rf"Cache hit {key} remaining=(\d+)ms", line)[1]) for line in hits]  # type: ignore[index]
        assert remaining == sorted(remaining, reverse=True)
        assert remaining[0] <= 500
        (cleaned,) = [line for line in told(service, "Cache cleaned") if key in line]
        lag = re.fullmatch(rf"Cache cleaned {key} deadline=\d\d:\d\d:\d\d\.\d{{3}}Z lag=(\d+)ms", cleaned)
        assert lag
        assert int(lag[1]) < 1000
    summaries = told(service, "Sweep")
    assert all(re.fullmatch(r"Sweep: \d+ live, \d+ cleaned, \d+ leaked, \d+\.\d ms", line) for line in summaries)
    assert sum(int(line.split()[3]) for line in summaries) == 2
    assert "Sweep: 2 live, 0 cleaned, 0 leaked" in "\n".join(summaries)
    await ann.close()


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
async def test_many_keys_are_told_in_one_line(start: ServiceMaker, database: Any, level: str) -> None:
    """Above 20 keys a sweep, lines for single keys are DEBUG; the summary stays."""
    service = start(SWEEP_INTERVAL="0.1", LOG_LEVEL=level)
    ann = settle(database, service)
    for number in range(30):
        await ann.send(ann, str(number))
    await eventually(lambda: "Sweep: 30 live" in service.log.read_text(), within=5)
    text = service.log.read_text()
    ours = text[: text.index("Sweep: 30 live")].rpartition("Sweep: ")[2]  # the lines of that very sweep
    assert ours.count("Cache hit") == (30 if level == "DEBUG" else 0)
    await ann.close()


async def test_leaks_are_mended_and_names_forge_nothing(house: House) -> None:
    """A foreign key without an expiry gets one, and is told on one line, whatever bytes its name has; other keys are left alone."""
    forged = b"message:x\n12:00:00.000 INFO    chatlab.sweeper  Cache cleaned FORGED\r\x1b[31m\xff\xc3"
    name, other = house.prefix.encode() + forged, f"{house.prefix}other"
    house.keys.set(name, "x")
    house.keys.set(other, "x", ex=100)
    await eventually(lambda: house.keys.pttl(name) > 0, within=5)
    assert house.keys.pttl(name) <= 5000
    assert house.keys.pttl(other) > 50_000
    house.keys.pexpire(name, 1500)  # longer than from one sweep to the next, so that it is seen alive
    cleaned = f"Cache cleaned {house.prefix}message:x"
    await eventually(lambda: told(house.service, re.escape(cleaned)), within=5)
    lines = [line for line in house.service.log.read_bytes().splitlines() if b"FORGED" in line]
    assert all(b"message:x\\n12:00" in line for line in lines)
    assert [cleaned.encode() in line for line in lines].count(True) == 1
    assert b"\x1b[31m" not in b"".join(lines)
    house.keys.delete(other)


async def test_other_kinds_of_values_do_no_harm(house: House, newcomer: Newcomer) -> None:
    """Foreign lists and hashes under our names cost nobody an answer."""
    ann = newcomer()
    sent = await ann.send(ann, "one")
    for key in (f"message:{sent['_id']}", f"messages:{ann.id}:{ann.id}"):
        house.keys.delete(house.prefix + key)
        house.keys.hset(house.prefix + key, "a", "b")
        house.keys.expire(house.prefix + key, 5)
    edited = await ann.http.patch(f"/api/messages/{sent['_id']}", json={"text": "two"})
    assert (await ann.read(ann)).json() == [edited.json()]


async def test_its_settings_change_what_it_does_and_says(start: ServiceMaker, database: Any) -> None:
    """SWEEPER=0 says nothing; the interval is kept without drift."""
    silent, quick = start(SWEEPER="0"), start(SWEEP_INTERVAL="0.25")
    await eventually(lambda: len(told(quick, "Sweep")) >= 6, within=5)
    moments = [float(second) for second in re.findall(r":(\d\d\.\d{3}) INFO    chatlab\.sweeper  Sweep", quick.log.read_text())]
    assert (moments[5] - moments[0]) % 60 == pytest.approx(1.25, abs=0.3)
    assert told(silent, "") == []


async def test_one_process_sweeps_at_a_time(start: ServiceMaker, database: Any) -> None:
    """Of two processes one tells; when it is killed the other takes over, and no key is told twice."""
    one, two = start(SWEEP_INTERVAL="0.2", CACHE_TTL="0.4"), start(SWEEP_INTERVAL="0.2", CACHE_TTL="0.4")
    await eventually(lambda: len(told(one, "Sweep")) + len(told(two, "Sweep")) >= 4)
    first, second = (one, two) if told(one, "Sweep") else (two, one)
    assert told(second, "Sweep") == []
    assert (len(told(second, "another process sweeps")), told(first, "another")) == (1, [])  # not at every beat
    ann = settle(database, second)
    sent = await ann.send(ann, "x")
    await eventually(lambda: told(first, "Cache cleaned"))
    first.kill()
    await eventually(lambda: len(told(second, "Sweep")) >= 2, within=5)
    cleaned = told(first, "Cache cleaned") + told(second, "Cache cleaned")
    assert len([line for line in cleaned if sent["_id"] in line]) == 1
    await ann.close()


async def test_alone_it_needs_redis_alone(engines: Engines, space: str, tmp_path: Path) -> None:
    """`chatlab sweep` with a Redis named starts no MongoDB, makes no data folder, and ends with SIGTERM and exit status 0."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CHATLAB_")}
    given = {"REDIS_URL": engines.redis.url, "DATA_DIR": str(tmp_path / "data"), "MONGOD": "/no/mongod", "KEY_PREFIX": f"{space}:"}
    environment |= {f"CHATLAB_{name}": value for name, value in given.items()}
    log = tmp_path / "log"
    with log.open("wb") as out:
        worker = await asyncio.create_subprocess_exec(sys.executable, "-m", "chatlab", "sweep", env=environment, stderr=out)
    try:
        await eventually(lambda: "Sweep: 0 live" in log.read_text() or worker.returncode is not None)
    finally:
        with contextlib.suppress(ProcessLookupError):
            worker.terminate()
    assert await asyncio.wait_for(worker.wait(), 10) == 0, log.read_text()
    assert "Sweep: 0 live" in log.read_text()
    assert not (tmp_path / "data").exists()


def test_the_log_names_no_secrets(house: House) -> None:
    """Nothing that a person must keep to themself is in the log."""
    log = Path(house.service.log).read_text()
    assert "Bearer" not in log
    assert "passwordHash" not in log


async def test_a_life_shorter_than_a_beat_is_told_too(start: ServiceMaker, database: Any) -> None:
    """A key that comes and goes between two sweeps is told as cleaned, once: its own process knew of it from the start."""
    service = start(CACHE_TTL="0.2", SWEEP_INTERVAL="1.5")
    ann = settle(database, service)
    sent = [await ann.send(ann, str(number)) for number in range(3)]
    cleaned = [rf"Cache cleaned \S*message:{message['_id']} " for message in sent]
    await eventually(lambda: [len(told(service, line)) for line in cleaned] == [1, 1, 1], within=6)
    await ann.close()
