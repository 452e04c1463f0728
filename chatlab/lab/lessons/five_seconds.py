"""Notebook 06: the life of a cached message at 0, 2, 5 and 6 s, what ends it, and who says so when."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from redis.client import PubSub

from chatlab.cache.deadline_tracker import GONE, NO_EXPIRY
from chatlab.errors import EngineError
from chatlab.lab.checks import CheckResult, check, correct, is_number, not_yet
from chatlab.lab.claims import DEPENDS, FAILS, ClaimResult, ClaimResults, holds_if
from chatlab.lab.key_lifetime import KeyLifetime
from chatlab.lab.measure import Table
from chatlab.lab.redis_command import parse_command, run_command
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.tables import TIMED, Rows
from chatlab.lab.trace import Trace
from chatlab.lab.user import User
from chatlab.lab.widgets import Chart

LIFE = 5000  # milliseconds, in the document
READ_AT = 2.0  # seconds
AFTER_END = 1.0  # seconds from a life's end to the last of the four looks
NEAR = 100  # milliseconds by which two deadlines may differ and be the same
COUNTS = (1, 1_000, 20_000)  # keys with an expiry
PROBES, APART = (
    10,
    100,
)  # those of them that end, and milliseconds between two ends: together they cover one beat
SHORT, LONG = 1500, 120_000  # milliseconds that these live, more than a beat; and the others
BOUND = 5.0  # seconds after its end for which a key is waited for
TOLD_WITHIN = 3.0  # the same for the worker's word
AT_ONCE = 1000  # keys made by one command
WATCHED = 0  # Redis's database that the service uses; the others are used here for keys that nobody looks at
LIVES = (
    SHORT,
    2 * SHORT,
    4 * SHORT,
)  # tried one after the other: a worker on a slow machine meets no key that lives for less than its beat
END = "end"  # a channel: nothing more is listened to
TOO_SLOW = EngineError(
    "The machine was too slow for this measurement.", "run the cell again when it has less to do"
)

LOOK = "local time = redis.call('TIME') return {time[1] * 1000 + math.floor(time[2] / 1000), redis.call('PTTL', KEYS[1])}"
MANY = "redis.call('SELECT', ARGV[1]) for number = ARGV[2], ARGV[3] do redis.call('{}', KEYS[1] .. number{}) end"
MAKE = MANY.format("SET", ", '', 'PX', ARGV[4]")
DROP = MANY.format("UNLINK", "")
ONE = "redis.call('SELECT', ARGV[1]) redis.call('SET', KEYS[1], '', 'PX', ARGV[2]) " + LOOK
ASK = "redis.call('SELECT', ARGV[1]) return redis.call('EXISTS', KEYS[1])"


# --- what Redis says of itself -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def expired_events(lab: Lab) -> Iterator[dict[str, float]]:
    """Redis's own event `expired`, while the block goes on: for each key when it came, in milliseconds since 1970."""
    came: dict[str, float] = {}
    with (
        lab.redis.pubsub(ignore_subscribe_messages=True) as heard,
        ThreadPoolExecutor(1) as pool,
    ):
        heard.psubscribe("__keyevent@*__:expired")
        heard.subscribe(END)
        listening = pool.submit(_listen, heard, came)
        try:
            yield came
        finally:
            lab.redis.publish(END, "")
            listening.result()


def _listen(heard: PubSub, came: dict[str, float]) -> None:
    for word in heard.listen():
        if word["channel"] == END:
            return
        came[word["data"]] = time.time() * 1000


# --- four moments --------------------------------------------------------------------------------------------------------------


class Look(NamedTuple):
    """What PTTL answered at a time, in milliseconds since 1970 on Redis's clock."""

    at: int
    pttl: int

    @property
    def deadline(self) -> int:
        return self.at + self.pttl


class Moments(NamedTuple):
    """Two messages, one of which was read at 2 s. Looks at it at once, before and after reading, at the end; and both whole lives.

    `unread` is a look at the other one at 2 s, `event` when Redis's own event for the first came (0: it did not).
    """

    read: KeyLifetime
    left: KeyLifetime
    first: Look
    before: Look
    after: Look
    unread: Look
    last: Look
    event: float

    @property
    def moved(self) -> float:
        """Seconds by which reading moved the deadline, one way or the other."""
        return abs(self.after.deadline - self.before.deadline) / 1000

    def second(self, at: float) -> float:
        """Seconds since it was cached."""
        return (at - self.read.cached_ms) / 1000

    def _rows(self) -> Rows:
        alive = self.second(self.read.alive_ms)
        both = "both there" if min(self.before.pttl, self.unread.pttl) >= 0 else "not both there"
        later = f"{(self.after.at - self.before.at) / 1000:.2f} s later, when one had been read"
        event = (
            f"Redis's event at {self.second(self.event):.2f} s"
            if self.event
            else "no event of Redis"
        )
        told = (
            f"the worker's log at {self.second(self.read.reported_ms):.2f} s"
            if self.read.reported_ms
            else "nothing in the worker's log"
        )
        rows = (
            (self.first.at, f"{_there(self.first)}"),
            (
                self.before.at,
                f"{both}, {self.before.pttl / 1000:.2f} s left; {later}, {self.after.pttl / 1000:.2f} s",
            ),
            (
                self.read.ended_ms,
                f"last found at {alive:.2f} s; the first look that missed it: PTTL answered {self.read.end_pttl}",
            ),
            (self.last.at, f"{_there(self.last)}; {event}; {told}"),
        )
        said = (
            "Time 0s: cached",
            "Time 2s: cached, if accessed",
            "Time 5s: expired (TTL=0)",
            "Time 6s: deleted, event logged",
        )
        return Rows(
            ("the document", "looked at", "found"),
            [
                (name, f"{self.second(at):.2f} s", what)
                for name, (at, what) in zip(said, rows, strict=True)
            ],
        )

    def __repr__(self) -> str:
        return repr(self._rows())

    def _repr_html_(self) -> str:
        return self._rows()._repr_html_()


def _there(look: Look) -> str:
    return (
        f"there, {look.pttl / 1000:.2f} s left" if look.pttl >= 0 else f"PTTL answers {look.pttl}"
    )


def look(lab: Lab, key: str) -> Look:
    """Redis's time, and what PTTL answers then."""
    return Look(*lab.redis.execute_command("EVAL", LOOK, 1, key))


async def four_moments(lab: Lab, reader: User, read: Trace, left: Trace) -> Moments:
    """Looks at two messages just sent, at the document's moments. One is read at 2 s, by GET and through the service, the other is left."""
    with expired_events(lab) as came:
        first = look(lab, read.key)
        if first.pttl < max(0, lab.settings.ttl_ms - READ_AT * 1000):
            raise PremiseGone(
                f"{read.key} was sent more than {READ_AT:g} s ago.",
                "run the cell that sends both messages and looks at them again",
            )
        await _second(read, READ_AT)
        unread, before = look(lab, left.key), look(lab, read.key)
        lab.redis.get(read.key)
        await reader.read(read.message["senderId"])
        after = look(lab, read.key)
        lives = await lab.key_lifetime(read), await lab.key_lifetime(left)
        await _second(read, lab.settings.cache_ttl + AFTER_END)
        last = look(lab, read.key)
    return Moments(*lives, first, before, after, unread, last, came.get(read.key, 0.0))


async def _second(trace: Trace, second: float) -> None:
    """Wait until so many seconds after it was cached."""
    cached = next(event["at"] for event in trace.events if event["stage"] == "cache_message")
    await asyncio.sleep(max(0.0, cached / 1000 + second - time.time()))


# --- how late the words are ----------------------------------------------------------------------------------------------------


class Group(NamedTuple):
    """So many keys in one of Redis's databases, of which some end soon: when, in milliseconds since 1970."""

    database: int
    keys: int
    name: str
    ends: dict[str, int]


class Case(NamedTuple):
    """What was measured of one group: for each key that ended, milliseconds from its end; None where nothing came in time."""

    keys: int
    events: list[float | None]
    words: list[float | None]


class Lags(NamedTuple):
    """For each number of keys: how late, with the worker on, and where nobody looks. `chart`: what grew meanwhile.

    `asked`: milliseconds from a question for a key that Redis had not reported to its event; None if none was left.
    """

    watched: list[Case]
    alone: list[Case]
    asked: float | None
    chart: Chart

    @property
    def prediction(self) -> str:
        """What Redis's event was like with most keys, where nobody looks, in the words of the prediction."""
        late = sorted(BOUND * 1000 if lag is None else lag for lag in self.alone[-1].events)
        middle = late[len(late) // 2]
        return (
            "much later"
            if middle > 1000
            else "within a second"
            if middle > NEAR
            else "at its deadline"
        )

    @property
    def latest(self) -> float:
        """The latest word of the worker, in seconds."""
        return (
            max(
                (lag for case in self.watched for lag in case.words if lag is not None), default=0.0
            )
            / 1000
        )

    def _table(self) -> Table:
        heads = (
            "keys with an expiry",
            "the worker's word",
            "Redis's event, worker on",
            "Redis's event, nobody looks",
        )
        pairs = zip(self.watched, self.alone, strict=True)
        rows = [
            (f"{case.keys:,}", _range(case.words), _range(case.events), _range(alone.events))
            for case, alone in pairs
        ]
        asked = (
            "every one was reported"
            if self.asked is None
            else f"not there, and the event {TIMED} {self.asked:.1f} ms after the question"
        )
        return Table(
            heads,
            [(False, row) for row in [*rows, ("then asked for one", "", "", asked)]],
            chart=self.chart,
        )

    def __repr__(self) -> str:
        return repr(self._table())

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return self._table()._repr_mimebundle_()


def _range(lags: list[float | None]) -> str:
    came = [lag for lag in lags if lag is not None]
    if not came:
        return f"{TIMED} not within {BOUND:g} s"
    missing = (
        f", {len(lags) - len(came)} of {len(lags)} not within {BOUND:g} s"
        if len(came) < len(lags)
        else ""
    )
    one = f"{max(came):.0f} ms" if len(came) == 1 else f"{min(came):.0f} to {max(came):.0f} ms"
    return f"{TIMED} {one}{missing}"


async def lags(lab: Lab, chart: Chart) -> Lags:
    """How late the word of an end comes with 1, 1,000 and 20,000 keys: in the service's database, and in others where nobody looks."""
    with expired_events(lab) as came:
        groups = [_group(lab, database, keys) for database, keys in enumerate(COUNTS, WATCHED + 1)]
        watched = []
        for keys in COUNTS:
            watched.append(await _watched(lab, keys, came))
            _draw(
                chart,
                keys,
                {
                    "the worker's word": watched[-1].words,
                    "Redis's event, worker on": watched[-1].events,
                },
            )
            chart.progress(len(watched), len(COUNTS) + 1)
        await _until(max(end for group in groups for end in group.ends.values()) + BOUND * 1000)
        alone = [Case(group.keys, _lags(group, came), []) for group in groups]
        for case in alone:
            _draw(chart, case.keys, {"Redis's event, nobody looks": case.events})
        chart.progress(len(COUNTS) + 1, len(COUNTS) + 1)
        asked = await _ask_for_one(lab, groups[-1], came)
        for group in groups:
            _drop(lab, group)
    return Lags(watched, alone, asked, chart)


def _draw(chart: Chart, keys: int, sides: dict[str, list[float | None]]) -> None:
    """The latest of each side."""
    for side, lags in sides.items():
        chart.point(side, keys, max(BOUND * 1000 if lag is None else lag for lag in lags))


async def _watched(lab: Lab, keys: int, came: dict[str, float], life: int = SHORT) -> Case:
    """The same in the service's database, where the worker looks."""
    group = _group(lab, WATCHED, keys, life)
    begun = time.time() * 1000

    def told() -> dict[str, float]:
        return {
            event["key"]: event["at"]
            for event in lab.events
            if event["stage"] == "cleaned" and event["at"] > begun
        }

    await _until(max(group.ends.values()))
    await lab.events.wait_for(lambda: set(group.ends) <= set(told()), TOLD_WITHIN)
    case = Case(keys, _lags(group, came), _lags(group, told()))
    _drop(lab, group)
    return case


def _lags(group: Group, heard: dict[str, float]) -> list[float | None]:
    return [max(0.0, heard[key] - end) if key in heard else None for key, end in group.ends.items()]


def _group(lab: Lab, database: int, keys: int, life: int = SHORT) -> Group:
    """Make them. The keys that end soon are made last, so that all the others are there when they end."""
    probes = min(keys, PROBES)
    group = Group(database, keys, f"message:of-{keys}-in-{database}-", {})
    for first in range(probes, keys, AT_ONCE):
        lab.redis.execute_command(
            "EVAL", MAKE, 1, group.name, database, first, min(first + AT_ONCE, keys) - 1, LONG
        )
    for number in range(probes):
        key = f"{group.name}{number}"
        group.ends[key] = Look(
            *lab.redis.execute_command("EVAL", ONE, 1, key, database, life + number * APART)
        ).deadline
    return group


def _drop(lab: Lab, group: Group) -> None:
    for first in range(0, group.keys, AT_ONCE):
        lab.redis.execute_command(
            "EVAL", DROP, 1, group.name, group.database, first, min(first + AT_ONCE, group.keys) - 1
        )


async def _until(moment: float) -> None:
    """Wait until this moment, in milliseconds since 1970."""
    await asyncio.sleep(max(0.0, moment / 1000 - time.time()))


async def _ask_for_one(lab: Lab, group: Group, came: dict[str, float]) -> float | None:
    """Ask for a key that has ended and of which Redis has said nothing: milliseconds until it does."""
    key = next((key for key in group.ends if key not in came), None)
    if key is None:
        return None
    began = time.time()
    there = lab.redis.execute_command("EVAL", ASK, 1, key, group.database)
    async with asyncio.timeout(BOUND):
        while there or key not in came:  # noqa: ASYNC110 - it comes in another thread
            await asyncio.sleep(0.0005)
    return came[key] - began * 1000


# --- the exercises -------------------------------------------------------------------------------------------------------------


@check
async def extended(lab: Lab, sender: User, receiver: User, answer: Any) -> CheckResult:
    """A command that doubles the life of a message's copy, from now. Looks at the new deadline, and then past the old one."""
    words = parse_command(answer, "KEY")
    trace = await sender.send(receiver, "stay a little longer")
    before = look(lab, trace.key)
    run_command(lab.redis, [trace.key if word == "KEY" else word for word in words])
    after, wanted = look(lab, trace.key), 2 * lab.settings.ttl_ms
    measured = f"Before it {before.pttl} ms were left, after it PTTL answered {after.pttl}."
    if after.pttl in (GONE, NO_EXPIRY):
        hints = {
            GONE: "The copy is gone: PEXPIRE counts milliseconds.",
            NO_EXPIRY: "Now nothing ends it: that is the leak of notebook 04.",
        }
        return not_yet(f"{measured} {hints[after.pttl]}")
    if abs(after.deadline - before.deadline) <= NEAR:
        return not_yet(
            f"{measured} That is the old deadline, or very near it. Looking and reading do not move it. What number makes it {wanted}?"
        )
    if not wanted - 1000 <= after.pttl <= wanted:
        return not_yet(
            f"{measured} The deadline has moved, but {wanted // 1000} s from now is {wanted}. In which unit is your number?"
        )
    await _until(before.deadline + NEAR)
    if look(lab, trace.key).pttl < 0:
        return not_yet(f"{measured} But past the old deadline it was gone.")
    return correct(
        f"{measured} And past the old deadline it is still there. The deadline is Redis's own: whoever sets it last, sets it."
    )


@check
async def latest_word(lab: Lab, measured: Lags, answer: Any) -> CheckResult:
    """A bound, in seconds, for the worker's word with any number of keys. Held against what was measured, then against 20,000 keys anew."""
    if not is_number(answer):
        return not_yet("The answer is a number of seconds, such as 3.")
    beat = lab.settings.sweep_interval
    if answer < beat * (1 - APART / 1000):
        return not_yet(
            f"Above, a word came {measured.latest:.2f} s after the deadline. What does the worker wait for before it looks?"
        )
    if answer > beat * 1.5:
        return not_yet(
            f"Above, no word came later than {measured.latest:.2f} s. Find a smaller bound: how often does the worker look?"
        )
    began = time.time() * 1000
    words = await _anew(lab)
    slow = _slowness(lab, began)
    found = f"{PROBES} ends among {COUNTS[-1]:,} keys, spread over a second: the latest word came {max(words) / 1000:.2f} s after."
    if max(words) / 1000 > answer + slow:
        return not_yet(f"{found} That is more.")
    return correct(
        f"{found} The worker looks once in {beat:g} s: no deadline waits longer for its next look, however many keys there are."
    )


async def _anew(lab: Lab) -> list[float]:
    """How late the words are with the most keys, measured again."""
    for life in LIVES:
        case = await _watched(lab, COUNTS[-1], {}, life)
        if None not in case.words:
            return [lag for lag in case.words if lag is not None]
    raise TOO_SLOW


def _slowness(lab: Lab, began: float) -> float:
    """Seconds by which a beat came late in this time, and its sweep took: the machine's, not the rule's."""
    sweeps = [
        event
        for event in lab.events
        if event["stage"] == "sweep" and event["at"] > began - 2000 * lab.settings.sweep_interval
    ]
    gaps = [after["at"] - before["at"] for before, after in itertools.pairwise(sweeps)]
    late = max(gaps, default=0.0) / 1000 - lab.settings.sweep_interval
    return (
        max(0.0, late)
        + max((sweep["tookMs"] for sweep in sweeps), default=0.0) / 1000
        + NEAR / 1000
    )


# --- what holds ----------------------------------------------------------------------------------------------------------------


def claims(lab: Lab, moments: Moments) -> ClaimResults:
    """What the document says of the lifecycle, held against one life."""
    life, at = moments.read, moments.second
    there, unread = moments.before.pttl >= 0, moments.unread.pttl >= 0
    read = f"there at {at(moments.before.at):.2f} s, {'and so is one that nobody read' if unread else 'one that nobody read is not'}"
    slow = "" if life.ttl_ms == LIFE else f", with a TTL of {life.ttl_ms / 1000:g} s here"
    ended = f"last found at {at(life.alive_ms):.2f} s, first missed at {life.missing_after_s:.2f} s{slow}"
    logged = (
        f"gone since {life.missing_after_s:.2f} s; logged at {life.reported_after_s:.2f} s, at a beat of the worker{slow}"
        if life.reported_ms
        else "not logged"
    )
    return lab.record_claims(
        ClaimResult(
            "at_0_s", f"there at {at(moments.first.at):.2f} s", holds_if(moments.first.pttl > 0)
        ),
        ClaimResult(
            "at_2_s",
            f"{read}; reading moved its deadline by {moments.moved:.2f} s",
            holds_if(there and unread),
        ),
        ClaimResult("at_5_s", ended, holds_if(life.expired_at_deadline and life.ttl_ms == LIFE)),
        ClaimResult("ttl_0", f"PTTL answered {life.end_pttl}", holds_if(life.end_pttl == 0)),
        ClaimResult("at_6_s", logged, DEPENDS if life.reported_ms >= life.deadline_ms else FAILS),
    )
