"""Notebook 11: what the cache takes off MongoDB, and what it weighs in Redis: a key, a thousand, a steady stream, and afterwards."""

import asyncio
import itertools
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from chatlab.bench.claims import TOLERANCE
from chatlab.bench.memory import CACHED_MESSAGES, MESSAGE_BYTES
from chatlab.lab.checks import CheckResult, call_for_number, check, correct, not_yet
from chatlab.lab.claims import DEPENDS, FAILS, HOLDS, ClaimResult, ClaimResults, holds_if
from chatlab.lab.measure import Row, Table, send_many
from chatlab.lab.query_log import QueryLog
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.trace import Trace
from chatlab.lab.user import User
from chatlab.lab.widgets import Chart

READS = 20
INTERVALS = (
    1.4,
    2,
    3,
    6,
)  # seconds; none near a whole part of 5 s, so that a slow machine counts the same
WRITERS = 50  # connections that send at a time: the more, the more messages share one commit
STEPS = 10  # of a line, while Redis fills, and while it empties
PAUSE = 0.5  # seconds between two of them
GONE_WITHIN = 15.0  # seconds that expired keys may take to be gone
MANY, MANY_LIVE_MS, AT_ONCE = 30_000, 2500, 3000
HEAVY = "weighed:"  # as long as `message:`; a name that the worker does not look at, for it would tell of each of so many
SIZES = (
    220,
    4000,
)  # bytes of the messages that the first check sends: nearly the smallest, and nearly the largest there is
NEAR = 0.10  # of the bytes of a key, as the exercise says
LIFE, RATE, WATCHED, LOOK = (
    0.5,
    60,
    1.0,
    0.02,
)  # of the second check: seconds, messages a second, seconds, seconds
CLOSE = 0.2  # by which two counts of the same stream may differ
VALUE, OVERHEAD, TOTAL, THOUSAND = 500, 200, 700, 700_000  # bytes, as the document says
CRON = 0.3  # seconds; Redis looks at its own RSS ten times a second
FILL = """
for number = ARGV[1], ARGV[2] do
  redis.call('SET', KEYS[1] .. string.format('%024x', number), string.rep('x', ARGV[3]), 'PX', ARGV[4])
end
"""


# --- load --------------------------------------------------------------------------------------------------------------------


async def reads(reader: User, other: User, times: int = READS) -> None:
    """One after the other, as quickly as they come."""
    for _ in range(times):
        await reader.read(other.id)


class Distances(Table):
    """Reads that keep a distance: one of how many reaches MongoDB. `one_of`: that number, by seconds."""

    def __init__(self, one_of: dict[float, int], chart: Chart) -> None:
        self.one_of = one_of
        super().__init__(
            ("one read every", "reach MongoDB"),
            [(False, (f"{far:g} s", f"1 of {reads}")) for far, reads in one_of.items()],
            chart=chart,
        )


async def at_distances(lab: Lab, reader: User, chart: Chart) -> Distances:
    """All distances at the same time, each in a conversation of its own, until its window has ended once."""
    others = [await lab.user(f"friend-{number}") for number, _ in enumerate(INTERVALS)]
    for other in others:
        await other.send(reader, "Are you there?")
        lab.redis.execute_command(
            "DEL", f"messages:{':'.join(sorted((reader.id, other.id)))}"
        )  # begin with nothing in the cache
    found = await asyncio.gather(
        *(_keeping(reader, *pair, chart) for pair in zip(others, INTERVALS, strict=True))
    )
    return Distances(dict(zip(INTERVALS, found, strict=True)), chart)


async def _keeping(reader: User, other: User, interval: float, chart: Chart) -> int:
    """The reads from one that MongoDB had to answer to the next such one. Each has its time: a slow one does not make the others late."""
    began = time.monotonic()
    for reads in itertools.count():
        if (await reader.read(other.id)).cache != "hit" and reads:
            chart.point("counted", interval, 100 / reads)
            return reads
        await asyncio.sleep(max(0.0, began + (reads + 1) * interval - time.monotonic()))
    raise AssertionError


# --- one key -----------------------------------------------------------------------------------------------------------------


class Weight(Table):
    """What one key takes, in bytes: its value, all of it (MEMORY USAGE), and the rest, which is overhead."""

    def __init__(self, key: str, value: int, total: int) -> None:
        self.key, self.value, self.total, self.overhead = key, value, total, total - value
        rows: list[Row] = [
            (False, ("the message, as JSON", f"about {VALUE}", str(value))),
            (
                True,
                ("overhead: name, expiry, bookkeeping", f"about {OVERHEAD}", str(self.overhead)),
            ),
            (True, ("together: MEMORY USAGE", f"about {TOTAL}", str(total))),
        ]
        super().__init__(("bytes", "the document", "here"), rows)


def weigh(lab: Lab, of: Trace) -> Weight:
    """The key of a message that is cached now."""
    value, total = lab.redis.strlen(of.key), lab.redis.memory_usage(of.key)
    if not total:
        raise PremiseGone(f"{of.key} has expired.", "send the message and weigh it in one cell")
    return Weight(of.key, value, total)


async def message_of(lab: Lab, size: int = MESSAGE_BYTES) -> Trace:
    """A message from Alice to Bob whose JSON has exactly so many bytes."""
    alice, bob = await lab.user("alice"), await lab.user("bob")
    text = "x"
    while True:
        trace = await alice.send(bob, text)
        length = lab.redis.strlen(trace.key)
        if not length:
            raise PremiseGone(f"{trace.key} is not in Redis.", "await lab.restart()")
        missing = size - length
        if not missing:
            return trace
        text = "x" * (len(text) + missing)


# --- a thousand --------------------------------------------------------------------------------------------------------------


class Filled(NamedTuple):
    """1000 messages in Redis, in bytes. `used`: all that Redis uses, before, with them, and after.

    `keys`: of messages that lived at the same time; `endless`: those without an expiry; `still`: those that are there afterwards.
    """

    keys: int
    endless: int
    still: int
    messages: int
    windows: int
    used: tuple[int, int, int]

    @property
    def grown(self) -> int:
        return self.used[1] - self.used[0]

    @property
    def left(self) -> int:
        return max(0, self.used[2] - self.used[0])


class Thousand(Table):
    """What came of `filled`, beside the document."""

    def __init__(self, filled: Filled, chart: Chart) -> None:
        self.filled = filled
        rows: list[Row] = [
            (False, ("keys without an expiry", "none", str(filled.endless))),
            (
                True,
                (
                    "keys message:* that lived at the same time",
                    f"{CACHED_MESSAGES}",
                    str(filled.keys),
                ),
            ),
            (True, ("all of them", f"about {_kb(THOUSAND)}", _kb(filled.messages))),
            (True, ("the window of their conversation", "not counted", _kb(filled.windows))),
            (True, ("what Redis uses grew by", "", _kb(filled.grown))),
            (True, ("of this is left when they have expired", "nothing", _kb(filled.left))),
            (False, ("keys left", "none", str(filled.still))),
        ]
        super().__init__(
            (f"{CACHED_MESSAGES} messages of {MESSAGE_BYTES} bytes", "the document", "here"),
            rows,
            chart=chart,
        )


async def thousand(lab: Lab, chart: Chart) -> Thousand:
    """1000 messages through the service, weighed while they live, and again when they are gone.

    They go through a second process of it, on the same keys, which reports no flow: telling this kernel of each box would slow both down.
    """
    alice, bob = await lab.user("alice"), await lab.user("bob")
    text, url = (
        (await message_of(lab)).message["text"],
        await lab.service.start_extra("quiet"),
    )
    wires = [lab.raw_client(alice, url) for _ in range(WRITERS)]
    await send_many(
        wires, bob.id, CACHED_MESSAGES // STEPS, text
    )  # so that Redis has made room for its own work
    _forget(lab)
    began, empty = time.monotonic(), _memory(lab)[0]

    def draw(step: int) -> None:
        chart.point("used by Redis", time.monotonic() - began, (_memory(lab)[0] - empty) / 1000)
        chart.progress(step, 2 * STEPS)

    for step in range(STEPS):
        await send_many(wires, bob.id, CACHED_MESSAGES // STEPS, text)
        draw(step + 1)
    full, keys = _memory(lab)[0], lab.redis.keys("message:*")
    endless = sum(lab.redis.pttl(key) == -1 for key in keys)
    messages, windows = _bytes(lab, keys), _bytes(lab, lab.redis.keys("messages:*"))
    for step in range(STEPS):
        await asyncio.sleep(PAUSE)
        draw(STEPS + step + 1)
    still = await _gone(lab, "message*")
    filled = Filled(len(keys), endless, still, messages, windows, (empty, full, _memory(lab)[0]))
    await lab.service.stop_extras()
    return Thousand(filled, chart)


def _forget(lab: Lab) -> None:
    """Empty the cache by hand, so that nobody has to wait for it."""
    for key in lab.redis.keys("message*"):
        lab.redis.execute_command("DEL", key)


async def _gone(lab: Lab, pattern: str) -> int:
    """Wait until these keys are gone; how many are there all the same, after a time in which all must have gone."""
    until = time.monotonic() + GONE_WITHIN
    while (left := len(lab.redis.keys(pattern))) and time.monotonic() < until:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.1)
    return left


def _memory(lab: Lab) -> tuple[int, int]:
    """What Redis uses, and what the system has given it."""
    told = lab.redis.execute_command("INFO", "memory")
    return told["used_memory"], told["used_memory_rss"]


def _bytes(lab: Lab, keys: Iterable[Any]) -> int:
    return sum(lab.redis.execute_command("MEMORY", "USAGE", key, "SAMPLES", 0) or 0 for key in keys)


def _kb(size: float) -> str:
    return f"{size / 1000:,.0f} KB" if size else "nothing"


# --- what the system gave ------------------------------------------------------------------------------------------------------


class Many(Table):
    """So many keys that they show in what the system has given to Redis. `used`, `resident`: grown by, and of this left, in bytes."""

    def __init__(self, used: tuple[int, int], resident: tuple[int, int]) -> None:
        self.used, self.resident = used, resident
        counts = (("used_memory", *used), ("RSS", *resident))
        rows: list[Row] = [
            (True, (name, _kb(grown), f"{grown / MANY:.0f} bytes", _kb(left)))
            for name, grown, left in counts
        ]
        super().__init__(
            (f"{MANY:,} keys", "grew by", "that is for a key", "left when they have expired"), rows
        )


async def many(lab: Lab) -> Many:
    """Keys like the service's, straight into Redis, with an expiry; and what is left of their memory."""
    before = _memory(lab)
    for first in range(0, MANY, AT_ONCE):
        lab.redis.execute_command(
            "EVAL", FILL, 1, HEAVY, first, first + AT_ONCE - 1, MESSAGE_BYTES, MANY_LIVE_MS
        )
        await asyncio.sleep(0)
    await asyncio.sleep(CRON)
    full = _memory(lab)
    await _gone(lab, f"{HEAVY}*")
    await asyncio.sleep(CRON)
    after = _memory(lab)
    used, resident = (_grown_and_left(before[kind], full[kind], after[kind]) for kind in (0, 1))
    return Many(used, resident)


def _grown_and_left(before: int, full: int, after: int) -> tuple[int, int]:
    return full - before, min(full - before, max(0, after - before))


# --- exercises ---------------------------------------------------------------------------------------------------------------


@check
async def bytes_of(lab: Lab, answer: Any) -> CheckResult:
    """A function from the bytes of a message to those of its key. Sends messages of two other sizes and weighs their keys."""
    told = []
    for size in SIZES:
        measured = weigh(lab, await message_of(lab, size)).total
        said = call_for_number(answer, size)
        if abs(said - measured) > NEAR * measured:
            return not_yet(
                f"A message of {size} bytes takes {measured} in Redis; you say {said:,.0f}. {_bytes_hint(said, size, measured)}"
            )
        told.append(f"{size} bytes take {measured}, you said {said:,.0f}")
    return correct(
        f"{'; '.join(told)}. The overhead does not grow with the message; the rest is rounding."
    )


def _bytes_hint(said: float, size: int, measured: int) -> str:
    if abs(said - size) < 1:
        return "That is the message alone; a key costs something, too."
    if said > measured:
        return "Does the overhead grow with the message? Look at what it consists of, in the table above."
    return "What is in the table above besides the message?"


class Stream(NamedTuple):
    """Messages that came at a steady rate. `rate`: cached in a second; `life`: s; `each`: bytes of a key; `live`: keys, on average."""

    rate: float
    life: float
    each: float
    live: float


@check
async def steady(lab: Lab, answer: Any) -> CheckResult:
    """A function of rate, life and bytes a key. Sends at a steady rate, with a short life, and counts the keys that live."""
    call_for_number(answer, RATE, LIFE, TOTAL)  # one that cannot be used is told at once
    found = await _stream(lab)
    said = call_for_number(answer, found.rate, found.life, found.each)
    measured = found.live * found.each
    seen = (
        f"At {found.rate:.1f} messages a second, with a life of {found.life:g} s, {found.live:.1f} keys of {found.each:.0f} bytes "
        f"lived on average: {measured:,.0f} bytes. You say {said:,.0f}."
    )
    if abs(said - measured) > CLOSE * measured:
        return not_yet(f"{seen} {_steady_hint(said, found)}")
    return correct(
        f"{seen} What comes in a second, times the seconds it stays: this is called Little's law."
    )


def _steady_hint(said: float, found: Stream) -> str:
    if abs(said - found.rate * found.each) < 1:
        return "That is what comes in one second. How many seconds does each of them stay?"
    if abs(said - found.rate * found.life) < 1:
        return "That is the number of keys. How many bytes are they?"
    return "How many messages came during the life of one key? All of these are there when it goes."


async def _stream(lab: Lab) -> Stream:
    _forget(lab)
    await lab.update_settings(cache_ttl=LIFE)
    try:
        return await _watched(lab)
    finally:
        await lab.update_settings(cache_ttl=lab.start_settings.get("cache_ttl", 5))


async def _watched(lab: Lab) -> Stream:
    """Send steadily; count what lives, once the first ones have begun to go."""
    alice, bob = await lab.user("alice"), await lab.user("bob")
    sending = asyncio.create_task(_send_steadily(alice, bob))
    try:
        await asyncio.sleep(1.2 * LIFE)
        began, counts, each = time.time() * 1000, [], 0.0
        while time.time() * 1000 < began + WATCHED * 1000:
            keys = lab.redis.keys("message:*")
            counts.append(len(keys))
            each = each or _bytes(lab, keys) / max(1, len(keys))
            await asyncio.sleep(LOOK)
        ended = time.time() * 1000
        await lab.events.wait_for(
            lambda: next((True for event in reversed(lab.events) if event["at"] >= ended), None),
            GONE_WITHIN,
        )
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    half = LIFE * 500  # milliseconds: on average, what lives at a moment came half a life before it
    came = [
        event
        for event in lab.events
        if event["stage"] == "cached" and began - half <= event["at"] < ended - half
    ]
    return Stream(len(came) / (ended - began) * 1000, LIFE, each, sum(counts) / len(counts))


async def _send_steadily(sender: User, receiver: User) -> None:
    due = time.monotonic()
    while True:
        await sender.send_by_http(receiver.id, "tick")
        due += 1 / RATE
        await asyncio.sleep(max(0.0, due - time.monotonic()))


# --- what holds --------------------------------------------------------------------------------------------------------------


def claims(
    lab: Lab,
    quick: tuple[QueryLog, QueryLog],
    distances: Distances,
    weight: Weight,
    full: Thousand,
    many: Many,
) -> ClaimResults:
    """Load and the memory table."""
    found = full.filled
    return lab.record_claims(
        _load_claim(quick, distances),
        ClaimResult(
            "auto_cleanup",
            f"{found.endless} keys without an expiry; {found.still} left when their time was up",
            holds_if(_clean(found)),
        ),
        _message_claim(lab, weight),
        ClaimResult(
            "overhead_bytes",
            f"{weight.overhead} bytes",
            holds_if(_about(weight.overhead, OVERHEAD)),
            timed=True,
        ),
        ClaimResult(
            "total_bytes",
            f"{weight.total} bytes",
            holds_if(_about(weight.total, TOTAL)),
            timed=True,
        ),
        _thousand_claim(found),
        ClaimResult(
            "freed",
            f"of {_kb(found.grown)} Redis used more, {_kb(found.left)} are left",
            holds_if(_freed(found)),
            timed=True,
        ),
        _leaks_claim(found, many),
    )


def _load_claim(quick: tuple[QueryLog, QueryLog], distances: Distances) -> ClaimResult:
    without, with_cache = (asked.mongo.count("find messages") for asked in quick)
    spared = [reads > 1 for reads in distances.one_of.values()] + [with_cache < without]
    far = ", ".join(
        f"every {interval:g} s 1 of {reads}" for interval, reads in distances.one_of.items()
    )
    measured = (
        f"{READS} quick reads: {without} queries without it, {with_cache} with it; reads {far}"
    )
    return ClaimResult(
        "less_load", measured, HOLDS if all(spared) else DEPENDS if any(spared) else FAILS
    )


def _message_claim(lab: Lab, weight: Weight) -> ClaimResult:
    """Whether messages have 500 bytes is up to those who write them."""
    found = lab.find_messages(_id=weight.key.partition(":")[2])
    if not found:
        raise PremiseGone("The message that was weighed is not in MongoDB.", "weigh one again")
    text = len(found[0]["text"])
    bare = weight.value - text
    return ClaimResult(
        "message_bytes",
        f"{bare} bytes and its text: {MESSAGE_BYTES} with {text} characters",
        DEPENDS if bare < VALUE else FAILS,
    )


def _thousand_claim(found: Filled) -> ClaimResult:
    each = found.messages / max(1, found.keys)
    few = (
        ""
        if found.keys == CACHED_MESSAGES
        else f" (reckoned from the {found.keys} that lived at the same time)"
    )
    measured = (
        f"{_kb(CACHED_MESSAGES * each)} in message:*{few}, and {_kb(found.windows)} in their window"
    )
    return ClaimResult(
        "thousand_bytes", measured, holds_if(_about(CACHED_MESSAGES * each, THOUSAND)), timed=True
    )


def _leaks_claim(found: Filled, many: Many) -> ClaimResult:
    leaks, kept = (
        not (_clean(found) and _freed(found)),
        many.resident[1] > TOLERANCE * many.resident[0],
    )
    measured = f"Redis's own count falls back; of {_kb(many.resident[0])} that the system gave, it keeps {_kb(many.resident[1])}"
    return ClaimResult(
        "no_leaks", measured, FAILS if leaks else DEPENDS if kept else HOLDS, timed=True
    )


def _clean(found: Filled) -> bool:
    return found.keys > 0 and not found.endless and not found.still


def _freed(found: Filled) -> bool:
    return found.left <= TOLERANCE * found.grown


def _about(measured: float, told: float) -> bool:
    return abs(measured / told - 1) <= TOLERANCE
