"""`chatlab bench`: the measured tables. The figures depend on the machine, so the tests check how they are judged."""

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

from chatlab.bench.charts import COLOURS, Bar, BarGroup, bar_chart, format_figure, text_bar
from chatlab.bench.claims import (
    DEPENDS,
    FAILS,
    GET,
    HOLDS,
    SEND,
    UPDATE,
    Comparison,
    MemoryRow,
    judge,
)
from chatlab.bench.comparisons import Variant, compare_long_reads, compare_short_reads
from chatlab.bench.environment import sign_up
from chatlab.bench.machine import describe_machine
from chatlab.bench.memory import MemoryProbe, _average_sizes
from chatlab.bench.raw_http import RawHttpClient, find_header
from chatlab.bench.samples import percentile, share_saved, summarize
from chatlab.errors import EngineError
from chatlab.local.engines import Engines

pytestmark = pytest.mark.timeout(
    6 * LIMIT_S
)  # seconds: the first test waits for the whole run of the command

# --- the command -------------------------------------------------------------------------------


FEW_KEYS = """
import functools
from chatlab.bench import measure
measure.measure = functools.partial(measure.measure, many_keys=10_000)  # a slow machine must fill Redis before the first key expires
from chatlab.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """Run the command once, briefly, and return its JSON output, its standard error and its chart."""
    chart = tmp_path_factory.mktemp("bench") / "chart.svg"
    command = [
        sys.executable,
        "-c",
        FEW_KEYS,
        "bench",
        "--json",
        "--chart",
        str(chart),
        "--seconds",
        "0.2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5 * LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr, chart


@pytest.mark.slow
def test_every_row_of_the_performance_table_is_measured(
    measured: tuple[dict[str, Any], str, Path],
) -> None:
    """Each operation of the document has measured figures with an interval, and a verdict."""
    rows = measured[0]["performance"]
    assert {row["operation"] for row in rows} == {
        "Send Message",
        "Get Conversation",
        "Message Updates",
    }
    for row in rows:
        assert row["verdict"] in {HOLDS, DEPENDS, FAILS}
        for side in ("without_ms", "with_ms"):
            found = row["measured"][side]
            assert (
                0 < found["median"]["low"] <= found["median"]["middle"] <= found["median"]["high"]
            )
            assert found["median"]["middle"] <= found["p95"]
        assert (
            row["measured"]["saved"]["low"]
            <= row["measured"]["saved"]["middle"]
            <= row["measured"]["saved"]["high"]
            < 1
        )


@pytest.mark.slow
def test_each_read_names_its_cache_result(measured: tuple[dict[str, Any], str, Path]) -> None:
    """The condition of each read ends with the X-Cache value of the replies that count."""
    conditions = [
        row["condition"]
        for row in measured[0]["performance"]
        if row["operation"] == "Get Conversation"
    ]
    assert [condition.rpartition(" ")[2] for condition in conditions] == ["hit", "partial", "hit"]


@pytest.mark.slow
def test_reads_with_the_cache_are_reads_from_the_cache(
    engines: Engines,
    database: Database[dict[str, Any]],
    keys: Redis,
    space: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the windows exist, the variants with a cache answer every measured read from it."""
    monkeypatch.setattr("chatlab.bench.comparisons.WARM_UP_TURNS", 3)
    monkeypatch.setattr("chatlab.bench.comparisons.LONG_MESSAGES", 150)
    cache_settings = {"off": {"CACHE_MODE": "off"}, "window": {}, "narrow": {"WINDOW_SIZE": "100"}}
    with contextlib.ExitStack() as stack:
        urls = {}
        for name, changed in cache_settings.items():
            settings = {
                "DATABASE": space,
                "KEY_PREFIX": f"{space}:{name}:",
                "CACHE_TTL": "3600",
            } | changed
            service = PatientService(
                engines.mongo.url, engines.redis.url, tmp_path / name, **settings
            )
            stack.callback(service.kill)
            urls[name] = service.wait_until_ready().url
        token = sign_up(urls["off"], ["reader", "short", "long"])
        variants = {
            name: Variant(stack.enter_context(RawHttpClient(url, token)), "nobody")
            for name, url in urls.items()
        }
        comparisons = [*compare_short_reads(variants, 0.1), *compare_long_reads(variants, 0.1)]
    assert [one.condition.rpartition(" ")[2] for one in comparisons] == ["hit", "partial", "hit"]
    assert all("; 100.0% of" in one.condition for one in comparisons)


@pytest.mark.slow
def test_every_row_of_the_memory_section_is_measured(
    measured: tuple[dict[str, Any], str, Path],
) -> None:
    """1000 messages of 500 bytes use more memory than their text, and most of it is freed when they expire."""
    rows = {row["what"]: row for row in measured[0]["memory_bytes"]}
    assert rows["Average message"]["measured"] == pytest.approx(500, abs=10)
    each = rows["Total for each message"]["measured"]
    assert each == pytest.approx(
        rows["Average message"]["measured"] + rows["Redis overhead for each key"]["measured"]
    )
    assert rows["Total for 1,000 messages"]["measured"] == pytest.approx(1000 * each)
    assert rows["Left when they have expired (used_memory)"]["verdict"] == HOLDS


@pytest.mark.slow
def test_a_person_sees_both_tables_and_the_hypotheses(
    measured: tuple[dict[str, Any], str, Path],
) -> None:
    """The tables go to standard error when JSON goes to standard output. They include each hypothesis."""
    shown = " ".join(measured[1].split())
    assert "Performance: the document" in shown
    assert "Memory: the document" in shown
    for claim in (SEND, GET, UPDATE):
        assert claim.hypothesis in shown


@pytest.mark.slow
def test_the_chart_is_a_picture(measured: tuple[dict[str, Any], str, Path]) -> None:
    """The chart is well-formed SVG with two bars for each row of the performance table."""
    picture = ET.fromstring(measured[2].read_text(encoding="utf-8"))  # noqa: S314 - our own
    styles = [part.get("style", "") for part in picture.iter("{http://www.w3.org/2000/svg}path")]
    bars = [style for style in styles if style.removeprefix("fill: ") in COLOURS[:2]]
    assert len(bars) == 2 * len(measured[0]["performance"])


def test_a_file_without_json_is_refused() -> None:
    """`chatlab bench FILE` without `--json` is rejected before anything is measured."""
    done = subprocess.run(
        [sys.executable, "-m", "chatlab", "bench", "out.json"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 2
    assert "--json" in done.stderr


# --- the verdicts ------------------------------------------------------------------------------


def comparison(claim: Any, without: float, with_cache: float, trips: tuple[int, int]) -> Comparison:
    """Return a comparison in which all requests of a variant take the same time."""
    return Comparison(claim, "as given", [without] * 50, [with_cache] * 50, trips)


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (comparison(GET, 1.0, 0.3, (1, 0)), HOLDS),
        (comparison(GET, 1.0, 0.403, (1, 0)), HOLDS),  # 59.7 % rounds to the 60 % of the claim
        (comparison(GET, 1.0, 0.42, (1, 0)), DEPENDS),
        (comparison(GET, 1.0, 0.9, (1, 0)), DEPENDS),
        (comparison(GET, 1.0, 0.9, (1, 1)), FAILS),
        (comparison(SEND, 1.0, 1.2, (1, 1)), FAILS),
        (comparison(SEND, 1.0, 0.5, (1, 1)), DEPENDS),
        (comparison(UPDATE, 2.0, 0.9, (2, 1)), HOLDS),
    ],
)
def test_a_claim_is_judged_here_and_at_the_documents_distance(
    given: Comparison, verdict: str
) -> None:
    """A claim holds if it holds here and with a distant MongoDB, and depends if it holds in one case."""
    assert judge(given).verdict == verdict


def test_the_distance_reproduces_the_documents_time() -> None:
    """With the extra time for each round trip, a request without a cache takes the document's time."""
    outcome = judge(comparison(UPDATE, 2.0, 1.0, (2, 1)))
    assert 2.0 + 2 * outcome.extra_round_trip_ms == pytest.approx(UPDATE.without_ms[0])
    assert outcome.distant_ms == pytest.approx(1.0 + outcome.extra_round_trip_ms)


def test_an_interval_that_spans_the_claim_depends() -> None:
    """Samples that vary too much to decide whether 60 % are saved give the verdict `depends`."""
    outcome = judge(
        Comparison(
            GET, "scattered", [1.0, 2.0, 3.0, 4.0, 5.0] * 3, [0.4, 0.8, 1.2, 1.6, 2.0] * 3, (1, 1)
        )
    )
    assert outcome.saved.low < GET.share_saved <= outcome.saved.high
    assert outcome.verdict == DEPENDS


def test_a_memory_row_is_judged_with_a_tolerance() -> None:
    """About 700 bytes is 560 to 840. A fifth may be left of memory that must be freed. No claim, no verdict."""
    assert MemoryRow("each", 700, 620, "").verdict == HOLDS
    assert MemoryRow("each", 700, 500, "").verdict == FAILS
    assert MemoryRow("left", 0, 10, "", total=100).verdict == HOLDS
    assert MemoryRow("left", 0, 90, "", total=100).verdict == FAILS
    assert MemoryRow("more", None, 10, "").verdict == ""


def test_the_same_samples_give_the_same_interval() -> None:
    """The random seed is fixed, so equal samples give equal summaries. The interval contains the median."""
    samples = [float(number % 17) for number in range(200)]
    found = summarize(samples)
    assert found == summarize(samples)
    assert found.median.low <= found.median.middle <= found.median.high
    assert share_saved(samples, [sample / 2 for sample in samples]).middle == pytest.approx(0.5)


def test_percentiles_are_samples() -> None:
    """The p95 of 1 to 100 is one of the samples, with 95 below it."""
    assert percentile([float(number) for number in range(1, 101)], 95) == 96
    assert percentile([3.0], 99) == 3.0


def test_a_key_that_expires_while_it_is_measured_does_not_count(
    engines: Engines, space: str
) -> None:
    """The average covers the keys that still exist. If there are none, the error says what to do."""
    with Redis.from_url(engines.redis.url) as redis:
        redis.set(f"{space}:there", "x" * 500, ex=3600)
        scale = MemoryProbe(redis, pytest.fail, [])
        each, value = _average_sizes(
            scale, [f"{space}:there".encode(), f"{space}:expired".encode()]
        )
        with pytest.raises(EngineError, match="expired before they were measured"):
            _average_sizes(scale, [f"{space}:expired".encode()])
        redis.delete(f"{space}:there")
    assert (value, each > 500) == (500, True)


# --- the parts ---------------------------------------------------------------------------------


def test_the_raw_client_returns_whole_replies_and_reconnects_when_idle(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client returns status and body, also of an error, and reconnects after it was idle for too long."""
    monkeypatch.setattr("chatlab.bench.raw_http.MAX_IDLE_S", 0.0)
    with RawHttpClient(service.url, "no token") as client:
        assert [client.request("GET", "/api/auth/me").status for _ in range(3)] == [401, 401, 401]
        health = client.request("GET", "/healthz")
    assert health.status == 200
    assert json.loads(health.body)["status"] == "ok"
    assert health.took_ms > 0


def test_headers_are_found_in_any_case() -> None:
    """X-Cache and x-cache are the same header. A missing header is an empty string."""
    head = b"HTTP/1.1 200 OK\r\nX-Cache: hit\r\ncontent-length: 7"
    assert (
        find_header(head, b"x-cache"),
        find_header(head, b"content-length"),
        find_header(head, b"etag"),
    ) == ("hit", "7", "")


def test_text_bars_are_exact_to_an_eighth() -> None:
    """The maximum fills the width, half of it fills half, and zero draws nothing."""
    assert (text_bar(8, 8, 4), text_bar(4, 8, 4), text_bar(0, 8, 4), text_bar(1, 8, 1)) == (
        "████",
        "██",
        "",
        "▏",
    )


BARS = [BarGroup("g & h", "ms", [Bar("<one>", 1.0, 0.5, 1.5), Bar("two", 0.0)])]


def test_a_chart_escapes_markup() -> None:
    """Titles and names that contain markup are shown as text, next to the figure of each bar."""
    picture = ET.fromstring(bar_chart("a < b, $5^2$", BARS))  # noqa: S314 - our own
    assert picture.tag.endswith("svg")
    assert {"a < b, $5^2$", "g & h, ms", "<one>", "1", "two", "0"} <= set(picture.itertext())


def test_the_same_data_give_the_same_chart() -> None:
    """A chart has no date and no random ids, so a page changes only when its figures do."""
    assert bar_chart("a < b", BARS) == bar_chart("a < b", BARS)
    assert "date" not in bar_chart("a < b", BARS)


def test_the_chart_library_is_imported_by_the_first_chart() -> None:
    """The service, the command and the notebooks start without Matplotlib."""
    program = "import sys, chatlab.lab, chatlab.web.app, chatlab.bench.measure\nassert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=LIMIT_S)


def test_a_chart_without_the_chart_library_is_refused() -> None:
    """`--chart` without Matplotlib is rejected before anything is measured."""
    program = (
        "import sys; sys.modules['matplotlib'] = None\nfrom chatlab.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "bench", "--chart", "chart.svg"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install matplotlib" in done.stderr


def test_figures_have_three_significant_digits() -> None:
    """Small figures have three significant digits, large ones are integers."""
    assert [format_figure(value) for value in (0.1234, 1.5, 123.4, 12_345.6)] == [
        "0.123",
        "1.5",
        "123",
        "12,346",
    ]


def test_the_machine_is_described_without_its_name() -> None:
    """The description has cores, memory, system and versions, but not the name of the machine."""
    import platform  # noqa: PLC0415 - only to know the name that must not appear

    about = describe_machine(Redis="8.2")
    assert {"cores", "memory", "system", "Python", "Redis", "libraries"} <= about.keys()
    assert platform.node() not in " ".join(about.values()).split()
