"""`chatlab demo`: runs as a child process, with settings that break the diagram, with Ctrl-C; and its pure functions."""

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pymongo
import pytest
import redis
from rich.console import Console
from waiting import LIMIT_S

from chatlab.client import ReadResult, SendResult
from chatlab.demo.frame import render_frame
from chatlab.demo.promises import STAGES, PromiseResult, check_promises
from chatlab.demo.record import DemoRecord, KeySample, Milestones, ObservedMessage
from chatlab.demo.summary import failure_sentences, summary_table
from chatlab.local.engines import Engines
from chatlab.settings import CacheMode, Settings

# The demo reports a promise as not seen when the machine is too slow to show it in time. A test must not depend on that,
# so these runs accept events that come late. The unit tests below check the demo's own tolerances.
PATIENT_DEMO = f"""
from chatlab.demo import promises, record, scenario, servers
promises.EXPIRY_TOLERANCE_S = promises.SWEEP_INTERVAL_TOLERANCE_S = {LIMIT_S}
scenario.EVENT_TIMEOUT_S = servers.SERVER_TIMEOUT_S = {LIMIT_S}
"""
PATIENT = f"""
import sys
sys.path.append({str(Path(__file__).parents[1])!r})
import forking
forking.install()
{PATIENT_DEMO}
"""
# Without a sweeper the demo would wait for the whole of this time.
PATIENT_WITH_THE_SWEEPER = f"{PATIENT}record.SWEEP_DELAY_TOLERANCE_S = {LIMIT_S}\n"
MAIN = "from chatlab.__main__ import main; main()"


class Run:
    """A `chatlab demo` on the engines of the tests. `settings` are named without the prefix."""

    def __init__(
        self,
        engines: Engines,
        *arguments: str,
        before: str = PATIENT_WITH_THE_SWEEPER,
        **settings: str,
    ) -> None:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("CHATLAB_")
        }
        chosen = {"MONGO_URL": engines.mongo.url, "REDIS_URL": engines.redis.url, **settings}
        environment |= {f"CHATLAB_{name}": value for name, value in chosen.items()} | {
            "PYTHONUTF8": "1"
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", before + MAIN, "demo", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""

    def read_until(self, word: str) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line
            if word in line:
                return

    def end(self) -> int:
        """Wait until it ends and return its exit status."""
        self.output += self.process.communicate(timeout=LIMIT_S)[0]
        return self.process.returncode

    def lines_after(self, word: str) -> list[str]:
        """Return the lines of the summary that begin with this word, without the word."""
        return [
            line.removeprefix(word).strip()
            for line in self.output.splitlines()
            if line.startswith(word)
        ]


@pytest.fixture
def nothing_is_left(engines: Engines) -> Iterator[None]:
    """Check after the test that the demo has left no database and no key."""
    yield
    with (
        pymongo.MongoClient[dict[str, Any]](engines.mongo.url) as mongo,
        redis.Redis.from_url(engines.redis.url) as cache,
    ):
        assert not [name for name in mongo.list_database_names() if name.startswith("demo-")]
        assert not list(cache.scan_iter("demo-*"))


def test_the_demo_sees_every_promise(
    engines: Engines, nothing_is_left: None, tmp_path: Path
) -> None:
    """On real engines with the document's own times the demo sees every promise of the diagram and ends with status 0."""
    run = Run(engines, "--svg", str(tmp_path / "demo.svg"))
    assert run.end() == 0, run.output
    assert len(run.lines_after("seen")) == 15
    assert not run.lines_after("not seen")
    assert "All 15 promises of the diagram were seen." in run.output
    for fact in ("HTTP       save", "Socket.IO  cache_conversation"):
        assert fact in run.output
    for moment, fact in (
        (2, r"still cached at ([\d.]+) s"),
        (5, r"gone from Redis at ([\d.]+)"),
        (5, r"Cache cleaned at ([\d.]+)"),
    ):
        seconds = [float(found) for found in re.findall(fact, run.output)]
        assert len(seconds) == 2, f"one for each message: {fact}"
        assert min(seconds) > moment - 0.1, fact
    assert "\x1b" not in run.output, "plain lines have no colours and move no cursor"
    picture = (tmp_path / "demo.svg").read_text()
    assert "Update&#160;Conversation&#160;Cache" in picture
    assert "@font-face" not in picture, "a picture needs no network"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "value", "missed", "kept"),
    [
        (
            "SWEEPER",
            "false",
            ["Sweeper runs every 0.5 s", "Cache cleaned logged by 4 s"],
            "Expired at 3 s",
        ),
        (
            "CACHE_MODE",
            "off",
            ["message:{_id} cached, TTL <= 3 s", "All stages, in the diagram's order"],
            "Saved in MongoDB, same as the response",
        ),
    ],
)
def test_a_broken_promise_is_named(
    engines: Engines, nothing_is_left: None, setting: str, value: str, missed: list[str], kept: str
) -> None:
    """When a setting breaks the diagram, the demo ends with status 1 and names the promise and the setting."""
    run = Run(engines, before=PATIENT, CACHE_TTL="3", SWEEP_INTERVAL="0.5", **{setting: value})
    assert run.end() == 1, run.output
    for promise in missed:
        assert any(line.startswith(promise) for line in run.lines_after("not seen")), run.output
    assert any(line.startswith(kept) for line in run.lines_after("seen")), (
        "the demo still reports what holds"
    )
    assert f"CHATLAB_{setting}={value}" in run.output
    assert "0, 1.2, 3, 3.5 s here" in run.output, (
        "the demo names times that differ from the document's"
    )


@pytest.mark.slow
def test_in_drawn_mode_reads_bypass_the_cache(engines: Engines, nothing_is_left: None) -> None:
    """In the mode `drawn` a GET reads from MongoDB, and the demo expects that."""
    run = Run(engines, CACHE_TTL="3", SWEEP_INTERVAL="0.5", CACHE_MODE="drawn")
    assert run.end() == 0, run.output
    assert any(
        line.startswith("GET returns the latest (mode drawn)") and "bypass" in line
        for line in run.lines_after("seen")
    )


@pytest.mark.parametrize(
    "ending",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_the_demo_can_be_interrupted_at_any_time(
    engines: Engines, nothing_is_left: None, ending: signal.Signals
) -> None:
    """Ctrl-C, a kill and a closed terminal end it without a stack trace, without waiting for the TTL, and leave no process."""
    run = Run(engines, before=PATIENT_DEMO, CACHE_TTL="3600")
    run.read_until("sends to")
    children = psutil.Process(run.process.pid).children(recursive=True)
    assert children, "the service is a child of its own"
    run.process.send_signal(ending)
    assert run.end() == 130, run.output
    assert "Traceback" not in run.output
    assert not any(child.is_running() for child in children)


def test_without_mongodb_the_demo_names_the_fix(engines: Engines) -> None:
    """When MongoDB cannot start, the demo names the fix and prints no stack trace."""
    run = Run(
        engines,
        MONGO_URL="",
        MONGOD="/nonexistent/mongod",
        DATA_DIR=str(Path(os.sep, "nonexistent", "folder")),
    )
    assert run.end() == 1
    assert "Traceback" not in run.output
    assert "Fix: " in run.output


# --- the pure parts ----------------------------------------------------------------------------------------------------------------

START_MS = 1_800_000_000_000.0


def event(stage: str, transport: str, at_ms: float, **fields: object) -> dict[str, Any]:
    """Return an event of `/flow`, `at_ms` after the start."""
    return {
        "trace": f"trace-{transport}",
        "door": transport,
        "stage": stage,
        "at": START_MS + at_ms,
        "tookMs": 123.456 if stage == "cache_conversation" else 12.25,
        "messageId": f"{transport}-id",
        **fields,
    }


def make_record(settings: Settings | None = None) -> DemoRecord:
    """Return a record of two messages that have passed all stages, as in the middle of a run."""
    record = DemoRecord(
        settings or Settings(),
        (
            ObservedMessage("http", "grace-ffff", "juri-ffff"),
            ObservedMessage("socket", "juri-ffff", "grace-ffff"),
        ),
    )
    for message in record.messages:
        body = {"_id": f"{message.transport}-id"}
        message.send_result, message.answered_at = SendResult(body, "200 OK", 123.4), START_MS + 20
        message.read_result = ReadResult([body], "partial", 123.4)
        for position, stage in enumerate(STAGES):
            record.handle_event(event(stage, message.transport, position * 3.0))
        record.handle_event(
            event("cached", "cache", 9, messageId=f"{message.transport}-id", key="k", ttlMs=5000)
        )
    record.handle_event(event("sweep", "worker", 600, live=2, cleaned=0))
    return record


def lines_of(renderable: Any, width: int) -> list[str]:
    """Return what rich prints at this width."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_frame_fits_the_terminal(width: int) -> None:
    """At every width no line wraps, and the frame fits a terminal of 24 lines without scrolling."""
    lines = lines_of(render_frame(make_record(), START_MS + 2500, width), width)
    assert len(lines) <= 23
    assert all(len(line) <= width for line in lines)
    whole = "\n".join(lines)
    for word in (
        "Update Conversation Cache",
        "12.25 ms",
        "123 ms",
        "2.51 s left",
        "grace-ffff → juri-ffff",
        "Cache hit",
        "6 s",
    ):
        assert word in whole
    assert "…" not in re.sub(r"messages:\S*…", "", whole), "only a long key may be cut"


def test_stages_light_up_in_order_and_never_before_their_event() -> None:
    """Stages light up one after the other, after their events. A stage without an event stays dark."""
    record = make_record()
    record.messages[1].stage_events[:] = [
        passed for passed in record.messages[1].stage_events if passed["stage"] != "cache_message"
    ]
    lit = [
        "\n".join(lines_of(render_frame(record, START_MS + at, 80), 80)).count("●")
        for at in (-1, 0, 130, 370, 10_000)
    ]
    assert lit == [0, 2, 4, 7, 13]


def test_the_bar_shrinks_with_the_ttl() -> None:
    """The bar of an entry is full when it is cached and empty when it expires."""
    filled = [
        "\n".join(lines_of(render_frame(make_record(), START_MS + 9 + at, 80), 80)).count("█")
        for at in (0, 1000, 2500, 4900, 5001)
    ]
    assert filled == sorted(filled, reverse=True)
    assert filled[0] > 80, "both bars are full"
    assert filled[-1] == 0


def test_the_summary_fits() -> None:
    """The summary has one line for each promise at 80 columns, and a sentence for each failure."""
    found = check_promises(make_record())
    lines = lines_of(summary_table(found), 80)
    assert len(lines) == len(found) + 2
    assert all(len(line) <= 80 for line in lines)
    assert "Expired at 5 s (HTTP and Socket.IO): it was never seen in Redis" in failure_sentences(
        found
    )


def test_the_milestones_follow_the_settings() -> None:
    """The diagram shows 0, 2, 5 and 6 s. They scale with the TTL and the sweep interval."""
    assert tuple(Milestones.of(Settings())) == (0, 2, 5, 6)
    assert tuple(Milestones.of(Settings(cache_ttl=10, sweep_interval=0.5))) == (0, 4, 10, 10.5)


@pytest.mark.parametrize(("late_s", "seen"), [(0.2, True), (0.3, False)])
def test_an_entry_must_expire_in_time(late_s: float, seen: bool) -> None:
    """The key must be gone from Redis 0.25 s after its TTL."""
    record = make_record()
    for message in record.messages:
        message.samples = [KeySample(4.9, 100, True), KeySample(5 + late_s, -2, False)]
    assert result_of("Expired at 5 s", record).seen is seen


@pytest.mark.parametrize(("late_s", "seen"), [(1.4, True), (1.6, False)])
def test_a_cleaned_key_must_be_reported_in_time(late_s: float, seen: bool) -> None:
    """The sweeper must report an expired key one interval after its TTL, and half a second is allowed for a busy machine."""
    record = make_record()
    for message in record.messages:
        record.handle_event(
            event(
                "cleaned",
                "worker",
                9 + (5 + late_s) * 1000,
                messageId=message.message_id,
                lagMs=0.0,
            )
        )
    assert result_of("Cache cleaned logged by 6.5 s", record).seen is seen


@pytest.mark.parametrize(("interval_s", "seen"), [(1.05, True), (1.2, False)])
def test_sweeps_must_come_at_their_interval(interval_s: float, seen: bool) -> None:
    """The mean interval between two sweeps may be a tenth off."""
    record = make_record()
    for number in (1, 2, 3):
        record.handle_event(
            event("sweep", "worker", 600 + 1000 * number * interval_s, live=2, cleaned=0)
        )
    assert result_of("Sweeper runs every 1 s", record).seen is seen


def result_of(promise: str, record: DemoRecord) -> PromiseResult:
    """Return the result of one promise."""
    return next(result for result in check_promises(record) if result.promise == promise)


def test_without_observations_no_promise_is_seen() -> None:
    """In a record without observations no promise counts as seen, in any mode."""
    for mode in CacheMode:
        record = DemoRecord(
            Settings(cache_mode=mode),
            (ObservedMessage("http", "a", "b"), ObservedMessage("socket", "b", "a")),
        )
        assert not any(result.seen for result in check_promises(record))
