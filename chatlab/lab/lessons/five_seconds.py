"""Notebook 06: measurements of the end of a key, and checks of code that waits for it."""

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from redis.client import PubSub

from chatlab.cache.deadline_tracker import GONE, NO_EXPIRY
from chatlab.lab.checks import (
    CheckResult,
    UnusableAnswer,
    call_answer,
    check,
    correct,
    is_number,
    not_yet,
)
from chatlab.lab.claims import DEPENDS, FAILS, ClaimResult, ClaimResults, holds_if
from chatlab.lab.key_lifetime import KeyLifetime
from chatlab.lab.measure import Table
from chatlab.lab.race import Race
from chatlab.lab.sentences import PremiseGone, TooSlow
from chatlab.lab.session import Lab
from chatlab.lab.stepped_redis import SteppedRedis
from chatlab.lab.tables import TIMED, Rows
from chatlab.lab.trace import Trace
from chatlab.lab.user import User
from chatlab.lab.widgets import Chart

DOCUMENT_TTL_MS = 5000
READ_AT_S = 2.0
AFTER_END_S = 1.0  # from the end of a key to the last check of four_moments
NEAR_MS = 100
COUNTS = (1, 1_000, 20_000)  # keys with an expiry
# Ten of them expire soon, 100 ms apart: together they cover the time between two sweeps.
PROBES, PROBE_INTERVAL_MS = 10, 100
SHORT_MS, LONG_MS = 1500, 120_000  # TTL of these ten, and of the others
LONGER_MS = (SHORT_MS, 2 * SHORT_MS, 4 * SHORT_MS)  # tried in turn on a slow machine
EVENT_TIMEOUT_S, REPORT_TIMEOUT_S = 5.0, 3.0
KEYS_PER_COMMAND = 1000
SWEPT_DATABASE = 0  # the sweeper visits only this one of the numbered databases of Redis
STOP = "stop"  # a channel
ONE = "message:exercise"  # the key of exercises 1 and 2
RETURN_TIMEOUT_S, MAX_COMMANDS = 5.0, 60

LOOK = "local time = redis.call('TIME') return {time[1] * 1000 + math.floor(time[2] / 1000), redis.call('PTTL', KEYS[1])}"
MANY = "redis.call('SELECT', ARGV[1]) for number = ARGV[2], ARGV[3] do redis.call('{}', KEYS[1] .. number{}) end"
MAKE = MANY.format("SET", ", '', 'PX', ARGV[4]")
DROP = MANY.format("UNLINK", "")
MAKE_ONE = "redis.call('SELECT', ARGV[1]) redis.call('SET', KEYS[1], '', 'PX', ARGV[2]) " + LOOK
EXISTS = "redis.call('SELECT', ARGV[1]) return redis.call('EXISTS', KEYS[1])"


@contextlib.contextmanager
def expired_events(lab: Lab) -> Iterator[dict[str, float]]:
    """Record when Redis's event `expired` comes for each key, in milliseconds since 1970."""
    came_ms: dict[str, float] = {}
    with lab.redis.pubsub(ignore_subscribe_messages=True) as events, ThreadPoolExecutor(1) as pool:
        events.psubscribe("__keyevent@*__:expired")
        events.subscribe(STOP)
        listening = pool.submit(_listen, events, came_ms)
        try:
            yield came_ms
        finally:
            lab.redis.publish(STOP, "")
            listening.result()


def _listen(events: PubSub, came_ms: dict[str, float]) -> None:
    for event in events.listen():
        if event["channel"] == STOP:
            return
        came_ms[event["data"]] = time.time() * 1000


# --- four moments ---------------------------------------------------------------------------------


class Look(NamedTuple):
    """The reply to PTTL, and the time of Redis then, in milliseconds since 1970."""

    at_ms: int
    pttl: int

    @property
    def deadline_ms(self) -> int:
        return self.at_ms + self.pttl

    def __repr__(self) -> str:
        return f"{self.pttl / 1000:.2f} s left" if self.pttl >= 0 else f"PTTL {self.pttl}"


def look(lab: Lab, key: str) -> Look:
    return Look(*lab.redis.eval(LOOK, 1, key))


class Moments(NamedTuple):
    """Two messages at the document's four moments. One was read at 2 s (`before`, `after`).

    `event_ms`: when Redis's event for it came; 0 if it did not.
    """

    read: KeyLifetime
    unread: KeyLifetime
    first: Look
    before: Look
    after: Look
    unread_at_2_s: Look
    last: Look
    event_ms: float

    @property
    def moved_s(self) -> float:
        """How far the read moved the deadline."""
        return abs(self.after.deadline_ms - self.before.deadline_ms) / 1000

    def second(self, at_ms: float) -> float:
        """Return the seconds since the message was cached."""
        return (at_ms - self.read.cached_ms) / 1000

    def _rows(self) -> Rows:
        life = self.read
        event = f"event at {self.second(self.event_ms):.2f} s" if self.event_ms else "no event"
        logged = f"log at {life.reported_after_s:.2f} s" if life.reported_ms else "no log line"
        ended = f"last found at {self.second(life.alive_ms):.2f} s, then PTTL {life.end_pttl}"
        two = f"{self.before}; after a read {self.after}; the other one {self.unread_at_2_s}"
        rows = (
            ("Time 0s: cached", self.first.at_ms, str(self.first)),
            ("Time 2s: cached, if accessed", self.before.at_ms, two),
            ("Time 5s: expired (TTL=0)", life.ended_ms, ended),
            ("Time 6s: deleted, event logged", self.last.at_ms, f"{self.last}; {event}; {logged}"),
        )
        return Rows(
            ("the document", "checked at", "found"),
            [(name, f"{self.second(at_ms):.2f} s", found) for name, at_ms, found in rows],
        )

    def __repr__(self) -> str:
        return repr(self._rows())

    def _repr_html_(self) -> str:
        return self._rows()._repr_html_()


async def four_moments(lab: Lab, reader: User, read: Trace, unread: Trace) -> Moments:
    """Check two new messages at 0, 2, 5 and 6 s. Read one at 2 s: with GET, and by the service."""
    with expired_events(lab) as came_ms:
        first = look(lab, read.key)
        if first.pttl < max(0, lab.settings.ttl_ms - READ_AT_S * 1000):
            raise PremiseGone(
                f"{read.key} was sent more than {READ_AT_S:g} s ago.",
                "run the cell that sends both messages and checks them again",
            )
        await _sleep_until_second(read, READ_AT_S)
        unread_at_2_s, before = look(lab, unread.key), look(lab, read.key)
        lab.redis.get(read.key)
        await reader.read(read.message["senderId"])
        after = look(lab, read.key)
        lifetimes = await lab.key_lifetime(read), await lab.key_lifetime(unread)
        await _sleep_until_second(read, lab.settings.cache_ttl + AFTER_END_S)
        last = look(lab, read.key)
    return Moments(
        *lifetimes, first, before, after, unread_at_2_s, last, came_ms.get(read.key, 0.0)
    )


async def _sleep_until_second(trace: Trace, second: float) -> None:
    cached_ms = next(event["at"] for event in trace.events if event["stage"] == "cache_message")
    await _sleep_until(cached_ms + second * 1000)


async def _sleep_until(moment_ms: float) -> None:
    await asyncio.sleep(max(0.0, moment_ms / 1000 - time.time()))


# --- how late Redis's event and the log are -------------------------------------------------------


class Group(NamedTuple):
    """Keys in one database of Redis, and the deadlines of those that expire soon."""

    database: int
    keys: int
    name: str
    deadlines_ms: dict[str, int]


class Case(NamedTuple):
    """For each key that expired: milliseconds to the event and to the log line, None if neither."""

    keys: int
    events: list[float | None]
    reports: list[float | None]


class Lags(NamedTuple):
    """The cases in the database that the sweeper visits, and where no client looks at the keys.

    `asked_ms`: time from a question for a key to its event, None if all events had come.
    """

    swept: list[Case]
    alone: list[Case]
    asked_ms: float | None
    chart: Chart

    @property
    def prediction(self) -> str:
        """How late the event was with most keys, in the words of the prediction."""
        late = sorted(
            EVENT_TIMEOUT_S * 1000 if lag is None else lag for lag in self.alone[-1].events
        )
        median = late[len(late) // 2]
        if median > 1000:
            return "much later"
        return "within a second" if median > NEAR_MS else "at its deadline"

    @property
    def latest_report_s(self) -> float:
        return max((lag or 0.0 for case in self.swept for lag in case.reports), default=0.0) / 1000

    def _table(self) -> Table:
        rows = [
            (f"{swept.keys:,}", _range(swept.reports), _range(swept.events), _range(alone.events))
            for swept, alone in zip(self.swept, self.alone, strict=True)
        ]
        if self.asked_ms is not None:
            asked = f"the key does not exist, and {TIMED} {self.asked_ms:.1f} ms later its event"
            rows.append(("then a client asks for one", "", "", asked))
        heads = (
            "keys with an expiry",
            "the log",
            "Redis's event, sweeper on",
            "Redis's event, no client looks",
        )
        return Table(heads, [(False, row) for row in rows], chart=self.chart)

    def __repr__(self) -> str:
        return repr(self._table())

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return self._table()._repr_mimebundle_()


def _range(lags: list[float | None]) -> str:
    came = [lag for lag in lags if lag is not None]
    if not came:
        return f"{TIMED} not within {EVENT_TIMEOUT_S:g} s"
    late = len(lags) - len(came)
    missing = f", {late} of {len(lags)} not within {EVENT_TIMEOUT_S:g} s" if late else ""
    first = f"{min(came):.0f} to " if len(came) > 1 else ""
    return f"{TIMED} {first}{max(came):.0f} ms{missing}"


async def lags(lab: Lab, chart: Chart) -> Lags:
    """Measure how late the event and the log line come, with 1, 1,000 and 20,000 keys."""
    with expired_events(lab) as came_ms:
        groups = [_make(lab, database, keys) for database, keys in enumerate(COUNTS, 1)]
        swept = []
        for keys in COUNTS:
            case = await _swept(lab, keys, came_ms)
            swept.append(case)
            _draw(chart, keys, "the log", case.reports)
            _draw(chart, keys, "Redis's event, sweeper on", case.events)
            chart.progress(len(swept), len(COUNTS) + 1)
        last_ms = max(end_ms for group in groups for end_ms in group.deadlines_ms.values())
        await _sleep_until(last_ms + EVENT_TIMEOUT_S * 1000)
        alone = [Case(group.keys, _lags(group, came_ms), []) for group in groups]
        for case in alone:
            _draw(chart, case.keys, "Redis's event, no client looks", case.events)
        chart.progress(len(COUNTS) + 1, len(COUNTS) + 1)
        asked_ms = await _ask_for_one(lab, groups[-1], came_ms)
        for group in groups:
            _drop(lab, group)
    return Lags(swept, alone, asked_ms, chart)


def _draw(chart: Chart, keys: int, side: str, lags: list[float | None]) -> None:
    chart.point(side, keys, max(EVENT_TIMEOUT_S * 1000 if lag is None else lag for lag in lags))


async def _swept(lab: Lab, keys: int, came_ms: dict[str, float], ttl_ms: int = SHORT_MS) -> Case:
    """Measure one case in the database that the sweeper visits."""
    group = _make(lab, SWEPT_DATABASE, keys, ttl_ms)
    began_ms = time.time() * 1000

    def reported() -> dict[str, float]:
        cleaned = (event for event in lab.events if event["stage"] == "cleaned")
        return {event["key"]: event["at"] for event in cleaned if event["at"] > began_ms}

    await _sleep_until(max(group.deadlines_ms.values()))
    await lab.events.wait_for(
        lambda: group.deadlines_ms.keys() <= reported().keys(), REPORT_TIMEOUT_S
    )
    case = Case(keys, _lags(group, came_ms), _lags(group, reported()))
    _drop(lab, group)
    return case


def _lags(group: Group, came_ms: dict[str, float]) -> list[float | None]:
    return [
        max(0.0, came_ms[key] - end_ms) if key in came_ms else None
        for key, end_ms in group.deadlines_ms.items()
    ]


def _make(lab: Lab, database: int, keys: int, ttl_ms: int = SHORT_MS) -> Group:
    """Create the keys. Those that expire soon come last, when all others exist."""
    probes = min(keys, PROBES)
    group = Group(database, keys, f"message:of-{keys}-in-{database}-", {})
    for first in range(probes, keys, KEYS_PER_COMMAND):
        last = min(first + KEYS_PER_COMMAND, keys) - 1
        lab.redis.eval(MAKE, 1, group.name, database, first, last, LONG_MS)
    for number in range(probes):
        key, left_ms = f"{group.name}{number}", ttl_ms + number * PROBE_INTERVAL_MS
        made = Look(*lab.redis.eval(MAKE_ONE, 1, key, database, left_ms))
        group.deadlines_ms[key] = made.deadline_ms
    return group


def _drop(lab: Lab, group: Group) -> None:
    for first in range(0, group.keys, KEYS_PER_COMMAND):
        last = min(first + KEYS_PER_COMMAND, group.keys) - 1
        lab.redis.eval(DROP, 1, group.name, group.database, first, last)


async def _ask_for_one(lab: Lab, group: Group, came_ms: dict[str, float]) -> float | None:
    """Ask for an expired key whose event has not come, and return the time until it comes."""
    key = next((key for key in group.deadlines_ms if key not in came_ms), None)
    if key is None:
        return None
    began_s = time.time()
    exists = lab.redis.eval(EXISTS, 1, key, group.database)
    async with asyncio.timeout(EVENT_TIMEOUT_S):
        while exists or key not in came_ms:  # noqa: ASYNC110 - the event comes in another thread
            await asyncio.sleep(0.0005)
    return came_ms[key] - began_s * 1000


# --- exercise 1: read and extend ------------------------------------------------------------------


@check
async def reads_and_extends(lab: Lab, read: Any) -> CheckResult:
    """Check a read that gives the key 10 s from now, also when the message is edited meanwhile."""
    r = lab.redis
    r.set(ONE, "Meet at six", ex=5)
    returned, left_ms = call_answer(read, r, ONE), r.pttl(ONE)
    if returned != "Meet at six":
        return not_yet(f"The value is 'Meet at six', and your function returned {returned!r}.")
    if left_ms in (GONE, NO_EXPIRY) or not 8_000 < left_ms <= 10_000:
        return not_yet(
            f"After your function PTTL is {left_ms}. It must be 10 s, which are 10000 ms."
        )
    r.delete(ONE)
    if call_answer(read, r, ONE) is not None or r.exists(ONE):
        return not_yet("The key had expired. Your function must return None, and create no key.")
    for number in itertools.count():
        r.set(ONE, "Meet at six", ex=5)
        race = Race(lab, ONE, reader=lambda redis, _: call_answer(read, redis, ONE))
        for _ in range(number):
            if race.unfinished:
                race.step("reader")
        is_over = not race.unfinished
        r.set(ONE, "Meet at seven", ex=5)
        race.note("service", "SET: the message is edited").run("reader")
        if r.get(ONE) != "Meet at seven":
            picture = race.picture(lost="Meet at seven")
            return not_yet("An edit came between your commands, and it is lost:", picture)
        if is_over:
            return correct(
                "The key has 10 s again, an expired key stays expired, and no edit is lost."
            )
    raise AssertionError


# --- exercise 2: wait for the end -----------------------------------------------------------------


class TooManyCommands(BaseException):
    """Ends a function that asks without a pause."""


@check
async def waits_for_the_end(lab: Lab, wait: Any) -> CheckResult:
    """Check a function that returns when a key is gone: expired, extended, or deleted."""
    r = lab.redis
    await _wait_with(lab, wait, 300, lambda: None, "expires after 0.3 s")
    await _wait_with(lab, wait, 300, lambda: r.pexpire(ONE, 1200), "is extended to 1.2 s meanwhile")
    await _wait_with(lab, wait, 60_000, lambda: r.delete(ONE), "is deleted meanwhile")
    return correct(
        "It returns when the key has expired, waits on when the deadline was moved, and notices when"
        " the key is deleted. It depends on no event."
    )


async def _wait_with(lab: Lab, wait: Any, ttl_ms: int, act: Callable[[], Any], case: str) -> None:
    """Run the learner's function, and `act` after its first command."""
    lab.redis.set(ONE, "x", px=ttl_ms)
    commands = list[str]()

    def after(command: str, _reply: Any) -> None:
        commands.append(command)
        if len(commands) == 1:
            act()
        if len(commands) > MAX_COMMANDS:
            raise TooManyCommands

    wrong = await _call_in_thread(wait, SteppedRedis(lab.redis, after=after))
    if wrong is None:
        wrong = f"Your function had not returned after {RETURN_TIMEOUT_S:g} s."
    elif not wrong and lab.redis.exists(ONE):
        wrong = "Your function returned while the key was alive."
    if wrong:
        raise UnusableAnswer(f"A key {case}. {wrong}")


async def _call_in_thread(wait: Any, redis: SteppedRedis) -> str | None:
    """Return what went wrong, or an empty text; None if the function does not return in time.

    A function that waits for an event without end does not keep the kernel alive.
    """
    results = list[str]()

    def run() -> None:
        try:
            call_answer(wait, redis, ONE)
            results.append("")
        except UnusableAnswer as error:
            results.append(str(error))
        except TooManyCommands:
            results.append(f"It sent more than {MAX_COMMANDS} commands. Sleep between them.")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    await asyncio.to_thread(thread.join, RETURN_TIMEOUT_S)
    return results[0] if results else None


# --- exercise 3: a bound --------------------------------------------------------------------------


@check
async def latest_report(lab: Lab, measured: Lags, answer: Any) -> CheckResult:
    """Check a bound for the lag of the log against the measurement, and against a new one."""
    if not is_number(answer):
        return not_yet("The answer is a number of seconds, such as 3.")
    interval_s, seen = lab.settings.sweep_interval, f"{measured.latest_report_s:.2f} s"
    if answer < interval_s * (1 - PROBE_INTERVAL_MS / 1000):
        return not_yet(
            f"Above, a log line came {seen} after the deadline. When does the sweeper look?"
        )
    if answer > interval_s * 1.5:
        return not_yet(f"Above, no log line came later than {seen}. Find a smaller bound.")
    began_ms = time.time() * 1000
    latest_s = max(await _reports_again(lab)) / 1000
    found = (
        f"{PROBES} keys among {COUNTS[-1]:,} expired, spread over a second. The latest log line"
        f" came {latest_s:.2f} s after its deadline."
    )
    if latest_s > answer + _slowness_s(lab, began_ms):
        return not_yet(f"{found} That is more than your bound.")
    return correct(
        f"{found} The sweeper looks every {interval_s:g} s, so no deadline waits longer for a sweep."
        " The sweep itself takes a few milliseconds more, and on a busy machine much more."
    )


async def _reports_again(lab: Lab) -> list[float]:
    for ttl_ms in LONGER_MS:
        case = await _swept(lab, COUNTS[-1], {}, ttl_ms)
        if None not in case.reports:
            return [lag for lag in case.reports if lag is not None]
    raise TooSlow


def _slowness_s(lab: Lab, began_ms: float) -> float:
    """Return by how much a sweep was late since then, and how long it took."""
    since_ms = began_ms - 2000 * lab.settings.sweep_interval
    sweeps = [e for e in lab.events if e["stage"] == "sweep" and e["at"] > since_ms]
    gaps_s = [(after["at"] - before["at"]) / 1000 for before, after in itertools.pairwise(sweeps)]
    late_s = max(0.0, max(gaps_s, default=0.0) - lab.settings.sweep_interval)
    took_s = max((sweep["tookMs"] for sweep in sweeps), default=0.0) / 1000
    return late_s + took_s + NEAR_MS / 1000


# --- claims ---------------------------------------------------------------------------------------


def claims(lab: Lab, moments: Moments) -> ClaimResults:
    """Return the verdicts for the document's claims about the lifecycle."""
    life, at = moments.read, moments.second
    are_there = min(moments.before.pttl, moments.unread_at_2_s.pttl) >= 0
    slow = (
        "" if life.ttl_ms == DOCUMENT_TTL_MS else f", with a TTL of {life.ttl_ms / 1000:g} s here"
    )
    logged = (
        f"gone since {life.missing_after_s:.2f} s; logged at {life.reported_after_s:.2f} s{slow}"
        if life.reported_ms
        else "not logged"
    )
    return lab.record_claims(
        ClaimResult(
            "at_0_s", f"there at {at(moments.first.at_ms):.2f} s", holds_if(moments.first.pttl > 0)
        ),
        ClaimResult(
            "at_2_s",
            f"at {at(moments.before.at_ms):.2f} s both messages are there, and only one was read;"
            f" the read moved its deadline by {moments.moved_s:.2f} s",
            holds_if(are_there),
        ),
        ClaimResult(
            "at_5_s",
            f"last found at {at(life.alive_ms):.2f} s, first missing at"
            f" {life.missing_after_s:.2f} s{slow}",
            holds_if(life.expired_at_deadline and life.ttl_ms == DOCUMENT_TTL_MS),
        ),
        ClaimResult("ttl_0", f"PTTL returned {life.end_pttl}", holds_if(life.end_pttl == 0)),
        ClaimResult("at_6_s", logged, DEPENDS if life.reported_ms >= life.deadline_ms else FAILS),
    )
