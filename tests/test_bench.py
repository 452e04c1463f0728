"""`chatlab bench`: the document's tables with measured figures. What they are depends on the machine; how they are judged is tested."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from live import Service
from patient import PatientService
from pymongo.database import Database
from redis import Redis
from waiting import LIMIT_S

from chatlab.bench.bars import Bar, Group, figure, svg, text_bar
from chatlab.bench.claims import DEPENDS, FAILS, GET, HOLDS, SEND, UPDATE, Race, Size, judge
from chatlab.bench.machine import machine
from chatlab.bench.measure import _sign_up
from chatlab.bench.races import Side, long_reads, short_reads
from chatlab.bench.samples import percentile, saved, summary
from chatlab.bench.weights import Scale, _average
from chatlab.bench.wire import Wire, header
from chatlab.errors import EngineError
from chatlab.local.engines import Engines

pytestmark = pytest.mark.timeout(6 * LIMIT_S)  # seconds: the first test waits for the whole run of the command

# --- the command -------------------------------------------------------------------------------------------------------------------


FEW_KEYS = """
import functools
from chatlab.bench import measure
measure.measure = functools.partial(measure.measure, many_keys=10_000)  # a slow machine must fill Redis before the first key expires
from chatlab.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """Run it once, briefly, and return its JSON from standard output, its standard error and its chart."""
    chart = tmp_path_factory.mktemp("bench") / "chart.svg"
    command = [sys.executable, "-c", FEW_KEYS, "bench", "--json", "--chart", str(chart), "--seconds", "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5 * LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr, chart


@pytest.mark.slow
def test_every_row_of_the_performance_table_is_measured(measured: tuple[dict[str, Any], str, Path]) -> None:
    """Each operation of the document has its figures beside measured ones, an interval around these, and a verdict."""
    rows = measured[0]["performance"]
    assert {row["operation"] for row in rows} == {"Send Message", "Get Conversation", "Message Updates"}
    for row in rows:
        assert row["verdict"] in {HOLDS, DEPENDS, FAILS}
        for side in ("without_ms", "with_ms"):
            found = row["measured"][side]
            assert 0 < found["median"]["low"] <= found["median"]["middle"] <= found["median"]["high"]
            assert found["median"]["middle"] <= found["p95"]
        assert row["measured"]["saved"]["low"] <= row["measured"]["saved"]["middle"] <= row["measured"]["saved"]["high"] < 1


@pytest.mark.slow
def test_each_read_says_what_the_cache_answered(measured: tuple[dict[str, Any], str, Path]) -> None:
    """The condition of each read ends with the X-Cache value that it was compared for."""
    conditions = [row["condition"] for row in measured[0]["performance"] if row["operation"] == "Get Conversation"]
    assert [condition.rpartition(" ")[2] for condition in conditions] == ["hit", "partial", "hit"]


@pytest.mark.slow
def test_reads_with_the_cache_are_reads_from_the_cache(
    engines: Engines, database: Database[dict[str, Any]], keys: Redis, space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the windows live, the sides with a cache answer every measured read from it."""
    monkeypatch.setattr("chatlab.bench.races.WARM", 3)
    monkeypatch.setattr("chatlab.bench.races.LONG", 150)
    variants = {"off": {"CACHE_MODE": "off"}, "window": {}, "narrow": {"WINDOW_SIZE": "100"}}
    with contextlib.ExitStack() as stack:
        urls = {}
        for name, changed in variants.items():
            settings = {"DATABASE": space, "KEY_PREFIX": f"{space}:{name}:", "CACHE_TTL": "3600"} | changed
            service = PatientService(engines.mongo.url, engines.redis.url, tmp_path / name, **settings)
            stack.callback(service.kill)
            urls[name] = service.wait_until_reachable().url
        token = _sign_up(urls["off"], ["reader", "short", "long"])
        sides = {name: Side(stack.enter_context(Wire(url, token)), "nobody") for name, url in urls.items()}
        races = [*short_reads(sides, 0.1), *long_reads(sides, 0.1)]
    assert [race.condition.rpartition("; ")[2] for race in races] == ["100.0% were a hit", "100.0% were a partial", "100.0% were a hit"]


@pytest.mark.slow
def test_every_row_of_the_memory_section_is_measured(measured: tuple[dict[str, Any], str, Path]) -> None:
    """1000 messages of 500 bytes weigh what Redis says, more than their bytes, and nearly nothing is left when they have expired."""
    rows = {row["what"]: row for row in measured[0]["memory_bytes"]}
    assert rows["Average message"]["measured"] == pytest.approx(500, abs=10)
    each = rows["Total for each message"]["measured"]
    assert each == pytest.approx(rows["Average message"]["measured"] + rows["Redis overhead for each key"]["measured"])
    assert rows["Total for 1,000 messages"]["measured"] == pytest.approx(1000 * each)
    assert rows["Left when they have expired (used_memory)"]["verdict"] == HOLDS


@pytest.mark.slow
def test_a_person_sees_both_tables_and_the_hypotheses(measured: tuple[dict[str, Any], str, Path]) -> None:
    """The tables go to standard error when JSON takes standard output; each hypothesis stands there in words."""
    shown = " ".join(measured[1].split())
    assert "Performance: the document" in shown
    assert "Memory: the document" in shown
    for claim in (SEND, GET, UPDATE):
        assert claim.hypothesis in shown


@pytest.mark.slow
def test_the_chart_is_a_picture(measured: tuple[dict[str, Any], str, Path]) -> None:
    """The chart is well-formed SVG with two bars for each row of the performance table."""
    picture = ET.fromstring(measured[2].read_text(encoding="utf-8"))  # noqa: S314 - our own
    bars = [part for part in picture.iter("{http://www.w3.org/2000/svg}rect") if part.get("rx")]
    assert len(bars) == 2 * len(measured[0]["performance"])


def test_a_file_without_json_is_refused() -> None:
    """`chatlab bench FILE` alone is a mistake that is named before anything is measured."""
    done = subprocess.run(
        [sys.executable, "-m", "chatlab", "bench", "out.json"], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 2
    assert "--json" in done.stderr


# --- the judgement -----------------------------------------------------------------------------------------------------------------


def race(claim: Any, without: float, with_cache: float, trips: tuple[int, int]) -> Race:
    """A race in which both sides always take the same time."""
    return Race(claim, "as told", [without] * 50, [with_cache] * 50, trips)


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        (race(GET, 1.0, 0.3, (1, 0)), HOLDS),
        (race(GET, 1.0, 0.9, (1, 0)), DEPENDS),
        (race(GET, 1.0, 0.9, (1, 1)), FAILS),
        (race(SEND, 1.0, 1.2, (1, 1)), FAILS),
        (race(SEND, 1.0, 0.5, (1, 1)), DEPENDS),
        (race(UPDATE, 2.0, 0.9, (2, 1)), HOLDS),
    ],
)
def test_a_claim_is_judged_here_and_far_away(told: Race, verdict: str) -> None:
    """A claim holds when it holds on this machine and with MongoDB at the document's distance; in one of the two it depends."""
    assert judge(told).verdict == verdict


def test_the_distance_makes_up_the_documents_time() -> None:
    """The added time of each trip, times the trips, is what is missing to the document's time without a cache."""
    outcome = judge(race(UPDATE, 2.0, 1.0, (2, 1)))
    assert 2.0 + 2 * outcome.distance_ms == pytest.approx(UPDATE.without[0])
    assert outcome.far_ms == pytest.approx(1.0 + outcome.distance_ms)


def test_an_interval_that_spans_the_claim_depends() -> None:
    """Samples too scattered to tell whether 60 % are saved give no verdict either way."""
    outcome = judge(Race(GET, "scattered", [1.0, 2.0, 3.0, 4.0, 5.0] * 3, [0.4, 0.8, 1.2, 1.6, 2.0] * 3, (1, 1)))
    assert outcome.saved.low < GET.faster <= outcome.saved.high
    assert outcome.verdict == DEPENDS


def test_a_size_is_judged_by_its_tilde() -> None:
    """About 700 bytes is 560 to 840; what must go may leave a fifth of what was there; a row without a claim has no verdict."""
    assert Size("each", 700, 620, "").verdict == HOLDS
    assert Size("each", 700, 500, "").verdict == FAILS
    assert Size("left", 0, 10, "", among=100).verdict == HOLDS
    assert Size("left", 0, 90, "", among=100).verdict == FAILS
    assert Size("more", None, 10, "").verdict == ""


def test_the_same_samples_give_the_same_interval() -> None:
    """Chance has a fixed seed: two reports of the same samples are equal, and the interval holds the median."""
    samples = [float(number % 17) for number in range(200)]
    found = summary(samples)
    assert found == summary(samples)
    assert found.median.low <= found.median.middle <= found.median.high
    assert saved(samples, [sample / 2 for sample in samples]).middle == pytest.approx(0.5)


def test_percentiles_are_samples() -> None:
    """The p95 of 1 to 100 is a value that was seen, with 95 below it."""
    assert percentile([float(number) for number in range(1, 101)], 95) == 96
    assert percentile([3.0], 99) == 3.0


def test_a_key_that_expires_while_it_is_measured_does_not_count(engines: Engines, space: str) -> None:
    """The average is that of the keys that are still there. Without any it is an error that says what to do."""
    with Redis.from_url(engines.redis.url) as redis:
        redis.set(f"{space}:there", "x" * 500, ex=3600)
        scale = Scale(redis, pytest.fail, [])
        each, value = _average(scale, [f"{space}:there".encode(), f"{space}:expired".encode()])
        with pytest.raises(EngineError, match="expired before they were measured"):
            _average(scale, [f"{space}:expired".encode()])
        redis.delete(f"{space}:there")
    assert (value, each > 500) == (500, True)


# --- the pieces --------------------------------------------------------------------------------------------------------------------


def test_the_wire_gives_whole_answers_and_survives_a_rest(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare connection gives status and body, also of an error, and connects anew when it has rested too long."""
    monkeypatch.setattr("chatlab.bench.wire.IDLE", 0.0)
    with Wire(service.url, "no token") as wire:
        assert [wire.ask("GET", "/api/auth/me").status for _ in range(3)] == [401, 401, 401]
        health = wire.ask("GET", "/healthz")
    assert health.status == 200
    assert json.loads(health.body)["status"] == "ok"
    assert health.took_ms > 0


def test_a_header_is_found_whatever_its_case() -> None:
    """X-Cache and x-cache are the same header; one that is not there is empty."""
    head = b"HTTP/1.1 200 OK\r\nX-Cache: hit\r\ncontent-length: 7"
    assert (header(head, b"x-cache"), header(head, b"content-length"), header(head, b"etag")) == ("hit", "7", "")


def test_text_bars_are_exact_to_an_eighth() -> None:
    """The longest fills the width; half of it half; nothing is drawn for nothing."""
    assert (text_bar(8, 8, 4), text_bar(4, 8, 4), text_bar(0, 8, 4), text_bar(1, 8, 1)) == ("████", "██", "", "▏")


def test_a_picture_escapes_what_it_is_told() -> None:
    """Names with markup in them stay names."""
    picture = svg("a < b", [Group("g & h", "ms", [Bar("<one>", 1.0, 0.5, 1.5), Bar("two", 0.0)])])
    assert "<one>" not in picture
    assert ET.fromstring(picture).tag.endswith("svg")  # noqa: S314 - our own


def test_figures_have_three_digits_that_count() -> None:
    """Neither 0.1234 ms nor 12345.6 requests say more by more digits."""
    assert [figure(value) for value in (0.1234, 1.5, 123.4, 12_345.6)] == ["0.123", "1.5", "123", "12,346"]


def test_the_machine_is_described_without_its_name() -> None:
    """Cores, memory, system and versions; nothing that tells which machine it is."""
    import platform  # noqa: PLC0415 - only to know the name that must not appear

    about = machine(Redis="8.2")
    assert {"cores", "memory", "system", "Python", "Redis", "libraries"} <= about.keys()
    assert platform.node() not in " ".join(about.values()).split()
