"""`chatlab demo`: real runs as a child process, runs in which the diagram does not hold, Ctrl-C, and the picture without engines."""

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
from chatlab.demo.picture import complaints, frame, summary
from chatlab.demo.promises import BOXES, Verdict, verdicts
from chatlab.demo.record import Journey, Moments, Record, Sample
from chatlab.local.engines import Engines
from chatlab.settings import CacheMode, Settings

# The demo reports a promise as not seen when the machine is too slow to show it in time. A test must not depend on that,
# so these runs accept events that come late. The unit tests below check the demo's own tolerances.
PATIENT = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
import patient_children
patient_children.install()
from chatlab.demo import play, promises, record
promises.SLACK = promises.BEAT_SLACK = play.HEARD_WITHIN = play.PATIENCE = {LIMIT_S}
"""
PATIENT_WITH_THE_SWEEPER = f"{PATIENT}record.LATE_BEAT = {LIMIT_S}\n"  # without a sweeper the demo would wait for all of it
MAIN = "from chatlab.__main__ import main; main()"


class Run:
    """A `chatlab demo` on the engines of the tests. `settings` without the prefix."""

    def __init__(self, engines: Engines, *arguments: str, before: str = PATIENT_WITH_THE_SWEEPER, **settings: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CHATLAB_")}
        chosen = {"MONGO_URL": engines.mongo.url, "REDIS_URL": engines.redis.url, **settings}
        environment |= {f"CHATLAB_{name}": value for name, value in chosen.items()} | {"PYTHONUTF8": "1"}
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
        """Wait for its end and return its exit status."""
        self.output += self.process.communicate(timeout=LIMIT_S)[0]
        return self.process.returncode

    def said(self, word: str) -> list[str]:
        """Return the lines of the summary that begin with this word, without the word."""
        return [line.removeprefix(word).strip() for line in self.output.splitlines() if line.startswith(word)]


@pytest.fixture
def nothing_stays(engines: Engines) -> Iterator[None]:
    """Check that a demo leaves no database and no key, however it ends."""
    yield
    with pymongo.MongoClient[dict[str, Any]](engines.mongo.url) as mongo, redis.Redis.from_url(engines.redis.url) as cache:
        assert not [name for name in mongo.list_database_names() if name.startswith("demo-")]
        assert not list(cache.scan_iter("demo-*"))


def test_everything_is_seen(engines: Engines, nothing_stays: None, tmp_path: Path) -> None:
    """On real engines with the document's own times the demo sees every promise of the diagram and ends with status 0."""
    run = Run(engines, "--svg", str(tmp_path / "demo.svg"))
    assert run.end() == 0, run.output
    assert len(run.said("seen")) == 15
    assert not run.said("not seen")
    assert "All 15 promises of the diagram were seen." in run.output
    for fact in ("HTTP       save", "Socket.IO  cache_conversation"):
        assert fact in run.output
    for moment, fact in ((2, r"life: at ([\d.]+) s still cached"), (5, r"gone from Redis at ([\d.]+)"), (5, r"Cache cleaned at ([\d.]+)")):
        seconds = [float(found) for found in re.findall(fact, run.output)]
        assert len(seconds) == 2, f"one for each message: {fact}"
        assert min(seconds) > moment - 0.1, fact
    assert "\x1b" not in run.output, "plain lines have no colours and move no cursor"
    picture = (tmp_path / "demo.svg").read_text()
    assert "Update&#160;Conversation&#160;Cache" in picture
    assert "@font-face" not in picture, "a picture needs no network"


@pytest.mark.parametrize(
    ("setting", "value", "missed", "kept"),
    [
        ("SWEEPER", "false", ["Worker looks every 0.5 s", "Cache cleaned told by 4 s"], "Gone at 3 s"),
        (
            "CACHE_MODE",
            "off",
            ["message:{_id} cached, TTL <= 3 s", "All boxes, in the diagram's order"],
            "Saved in MongoDB, equal to the answer",
        ),
    ],
)
def test_a_broken_promise_is_named(engines: Engines, nothing_stays: None, setting: str, value: str, missed: list[str], kept: str) -> None:
    """When a setting breaks the diagram, the demo ends with status 1 and names the promise and the setting."""
    run = Run(engines, before=PATIENT, CACHE_TTL="3", SWEEP_INTERVAL="0.5", **{setting: value})
    assert run.end() == 1, run.output
    for promise in missed:
        assert any(line.startswith(promise) for line in run.said("not seen")), run.output
    assert any(line.startswith(kept) for line in run.said("seen")), "the demo still reports what holds"
    assert f"CHATLAB_{setting}={value}" in run.output
    assert "0, 1.2, 3, 3.5 s here" in run.output, "the demo names times that differ from the document's"


def test_drawn_is_what_the_diagram_says(engines: Engines, nothing_stays: None) -> None:
    """In the mode `drawn` a GET asks MongoDB, and that is what the demo expects."""
    run = Run(engines, CACHE_TTL="3", SWEEP_INTERVAL="0.5", CACHE_MODE="drawn")
    assert run.end() == 0, run.output
    assert any(line.startswith("GET gives the latest (mode drawn)") and "bypass" in line for line in run.said("seen"))


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_can_be_ended_at_any_time(engines: Engines, nothing_stays: None, ending: signal.Signals) -> None:
    """Ctrl-C, a kill and a closed terminal end it without a stack trace, without waiting for the TTL, and leave no process."""
    run = Run(engines, CACHE_TTL="3600")
    run.read_until("sends to")
    children = psutil.Process(run.process.pid).children(recursive=True)
    assert children, "the service is a child of its own"
    run.process.send_signal(ending)
    assert run.end() == 130, run.output
    assert "Traceback" not in run.output
    assert not any(child.is_running() for child in children)


def test_without_mongodb_it_names_the_fix(engines: Engines) -> None:
    """When MongoDB cannot start, the demo names the fix and prints no stack trace."""
    run = Run(engines, MONGO_URL="", MONGOD="/nonexistent/mongod", DATA_DIR=str(Path(os.sep, "nonexistent", "folder")))
    assert run.end() == 1
    assert "Traceback" not in run.output
    assert "Fix: " in run.output


# --- the pure parts ----------------------------------------------------------------------------------------------------------------

BEGAN = 1_800_000_000_000.0


def event(stage: str, door: str, at: float, **about: object) -> dict[str, Any]:
    """A flow event, `at` milliseconds after the beginning."""
    return {
        "trace": f"trace-{door}",
        "door": door,
        "stage": stage,
        "at": BEGAN + at,
        "tookMs": 123.456 if stage == "cache_conversation" else 12.25,
        "messageId": f"{door}-id",
        **about,
    }


def a_record(settings: Settings | None = None) -> Record:
    """Two messages whose events have come, as a run has it in its middle."""
    record = Record(settings or Settings(), (Journey("http", "grace-ffff", "juri-ffff"), Journey("socket", "juri-ffff", "grace-ffff")))
    for journey in record.journeys:
        message = {"_id": f"{journey.door}-id"}
        journey.answer, journey.answered_at = SendResult(message, "200 OK", 123.4), BEGAN + 20
        journey.reading = ReadResult([message], "partial", 123.4)
        for place, stage in enumerate(BOXES):
            record.take(event(stage, journey.door, place * 3.0))
        record.take(event("cached", "cache", 9, messageId=f"{journey.door}-id", key="k", ttlMs=5000))
    record.take(event("sweep", "worker", 600, live=2, cleaned=0))
    return record


def lines_of(renderable: Any, width: int) -> list[str]:
    """What rich prints at this width."""
    paper = Console(width=width, file=io.StringIO(), color_system=None)
    with paper.capture() as captured:
        paper.print(renderable)
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_picture_fits(width: int) -> None:
    """At every width nothing wraps, and a terminal of 24 lines holds it: nothing scrolls."""
    lines = lines_of(frame(a_record(), BEGAN + 2500, width), width)
    assert len(lines) <= 23
    assert all(len(line) <= width for line in lines)
    whole = "\n".join(lines)
    for word in ("Update Conversation Cache", "12.25 ms", "123 ms", "2.51 s left", "grace-ffff → juri-ffff", "Cache hit", "6 s"):
        assert word in whole
    assert "…" not in re.sub(r"messages:\S*…", "", whole), "only a long key may be cut"


def test_boxes_light_in_order_and_never_before_their_event() -> None:
    """A box is lit when its event has come, one after the other; without an event it stays dark for ever."""
    record = a_record()
    record.journeys[1].boxes[:] = [box for box in record.journeys[1].boxes if box["stage"] != "cache_message"]
    lit = ["\n".join(lines_of(frame(record, BEGAN + at, 80), 80)).count("●") for at in (-1, 0, 130, 370, 10_000)]
    assert lit == [0, 2, 4, 7, 13]


def test_the_bar_empties() -> None:
    """What is left of a life shrinks from whole to nothing at its end."""
    lefts = ["\n".join(lines_of(frame(a_record(), BEGAN + 9 + at, 80), 80)).count("█") for at in (0, 1000, 2500, 4900, 5001)]
    assert lefts == sorted(lefts, reverse=True)
    assert lefts[0] > 80, "two whole bars"
    assert lefts[-1] == 0


def test_the_summary_fits() -> None:
    """The summary has one line a promise at 80 columns, with what was not seen in plain sight."""
    found = verdicts(a_record())
    lines = lines_of(summary(found), 80)
    assert len(lines) == len(found) + 2
    assert all(len(line) <= 80 for line in lines)
    assert "Gone at 5 s (HTTP and Socket.IO): it was never seen in Redis" in complaints(found)


def test_the_moments_follow_the_settings() -> None:
    """The diagram's 0, 2, 5 and 6 s are those of its TTL and its beat; with others they are others."""
    assert tuple(Moments.of(Settings())) == (0, 2, 5, 6)
    assert tuple(Moments.of(Settings(cache_ttl=10, sweep_interval=0.5))) == (0, 4, 10, 10.5)


@pytest.mark.parametrize(("late_s", "seen"), [(0.2, True), (0.3, False)])
def test_a_message_that_goes_late_is_not_seen_to_go_in_time(late_s: float, seen: bool) -> None:
    """Redis must have dropped the key 0.25 s after its TTL."""
    record = a_record()
    for journey in record.journeys:
        journey.samples = [Sample(4.9, 100, True), Sample(5 + late_s, -2, False)]
    assert verdict_on("Gone at 5 s", record).seen is seen


@pytest.mark.parametrize(("late_s", "seen"), [(1.4, True), (1.6, False)])
def test_a_cleaned_key_must_be_reported_in_time(late_s: float, seen: bool) -> None:
    """The sweeper must report an expired key one interval after its TTL, and half a second is allowed for a busy machine."""
    record = a_record()
    for journey in record.journeys:
        record.take(event("cleaned", "worker", 9 + (5 + late_s) * 1000, messageId=journey.message_id, lagMs=0.0))
    assert verdict_on("Cache cleaned told by 6.5 s", record).seen is seen


@pytest.mark.parametrize(("interval_s", "seen"), [(1.05, True), (1.2, False)])
def test_sweeps_must_come_at_their_interval(interval_s: float, seen: bool) -> None:
    """The mean interval between two sweeps may be a tenth off."""
    record = a_record()
    for number in (1, 2, 3):
        record.take(event("sweep", "worker", 600 + 1000 * number * interval_s, live=2, cleaned=0))
    assert verdict_on("Worker looks every 1 s", record).seen is seen


def verdict_on(promise: str, record: Record) -> Verdict:
    """Return the verdict on one promise."""
    return next(verdict for verdict in verdicts(record) if verdict.promise == promise)


def test_nothing_observed_is_nothing_seen() -> None:
    """A record in which nothing happened keeps no promise, in any mode."""
    for mode in CacheMode:
        record = Record(Settings(cache_mode=mode), (Journey("http", "a", "b"), Journey("socket", "b", "a")))
        assert not any(verdict.seen for verdict in verdicts(record))
