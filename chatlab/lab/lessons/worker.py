"""Notebook 07: the worker. Its beats, its words, what goes on without it, and two mistakes that a worker can make."""

import asyncio
import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from redis.connection import Connection

from chatlab.cache.deadline_tracker import CLOCK_ERROR_S, GONE, NO_EXPIRY
from chatlab.lab.checks import CheckResult, UnusableAnswer, call_answer, check, correct, not_yet
from chatlab.lab.claims import ClaimResult, ClaimResults, holds_if
from chatlab.lab.key_lifetime import KeyLifetime
from chatlab.lab.plain_text import PlainText
from chatlab.lab.polling import poll_until
from chatlab.lab.redis_command import run_command
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.stepped_task import Pause, SteppedTask
from chatlab.lab.tables import TIMED, Rows
from chatlab.lab.trace import Trace
from chatlab.lab.user import User
from chatlab.lab.widgets import Chart
from chatlab.lab.widgets.diagram_svg import image_of

LIFE = 5000  # milliseconds
BEAT = 1000
LATE = 400  # milliseconds that a key has left when a worker looks late in its life: TTL answers 0
PATIENCE = 10.0  # seconds for what comes by itself
TRIES = 20
OTHERS, AT_ONCE = (
    200_000,
    10_000,
)  # keys of another application, and how many of them are made by one command
WANTED, FEWEST = (
    20,
    20,
)  # keys that the check of the steps looks for, and commands that it wants to see
STEP = 1000  # keys that one SCAN looks at
ROUNDS = 7
NEAR_A_SECOND = 0.05  # seconds

LOOK = "return {redis.call('TTL', KEYS[1]), redis.call('PTTL', KEYS[1]), redis.call('EXISTS', KEYS[1])}"
GIVE_AND_LOOK = f"redis.call('SET', KEYS[1], 'x', 'PX', ARGV[1]) {LOOK}"
SHORTEN_AND_LOOK = f"redis.call('PEXPIRE', KEYS[1], ARGV[1]) {LOOK}"
MAKE_MANY = "for number = ARGV[1], ARGV[2] do redis.call('SET', 'page:' .. number, 'another application') end"


class Look(NamedTuple):
    """What Redis answered for one key at one moment: both questions and the key itself, in one step."""

    ttl: int
    pttl: int
    there: int


# --- its beats and its words ---------------------------------------------------------------------------------------------------


class Beats(NamedTuple):
    """When the worker told of a sweep, in milliseconds since 1970."""

    at: list[float]

    @property
    def apart(self) -> float:
        """Seconds from one to the next, the middle of all."""
        return (
            statistics.median(
                after - before for before, after in zip(self.at, self.at[1:], strict=False)
            )
            / 1000
        )

    @property
    def off(self) -> float:
        """Milliseconds by which the last is off a whole number of seconds after the first: what all errors have come to."""
        passed = self.at[-1] - self.at[0]
        return passed - round(passed / BEAT) * BEAT

    def __repr__(self) -> str:
        off = f"the last is {abs(self.off):.1f} ms off the whole second"
        return f"{TIMED} {len(self.at)} beats, {self.apart:.3f} s from one to the next; after {(self.at[-1] - self.at[0]) / 1000:.3f} s {off}"


async def beats(lab: Lab) -> Beats:
    """The beats so far, five at least."""
    enough = 5

    def heard() -> list[float]:
        return [event["at"] for event in lab.events if event["stage"] == "sweep"]

    if not await lab.events.wait_for(lambda: len(heard()) >= enough, PATIENCE):
        raise PremiseGone("The worker does not run.", "await lab.restart(sweeper=True)")
    return Beats(heard())


class Watched(NamedTuple):
    """One key's life, the worker's log of it, and how often Redis did these commands meanwhile, by its own count."""

    life: KeyLifetime
    hits: list[str]
    cleaned: list[str]
    done: dict[str, int]

    @property
    def remaining(self) -> list[int]:
        """The milliseconds that each Cache hit told of."""
        return [int(line.rpartition("remaining=")[2].removesuffix("ms")) for line in self.hits]

    @property
    def told_after_the_end(self) -> bool:
        return (
            len(self.cleaned) == 1
            and self.life.reported_ms >= self.life.deadline_ms - CLOCK_ERROR_S * 1000
        )

    def __repr__(self) -> str:
        once = (
            "once, after the deadline" if self.told_after_the_end else f"{len(self.cleaned)} times"
        )
        alive = "while it lived" if self.hits else "never"
        asked = ", ".join(name for name, count in self.done.items() if count)
        never = ", ".join(name for name, count in self.done.items() if not count)
        lines = (f"· {line}" for line in self.hits + self.cleaned)
        words = (
            f"Cache hit {alive}; Cache cleaned {once}.",
            f"Meanwhile Redis did, of these commands, {asked}; and never {never}.",
        )
        return "\n".join(["The worker's log of this key:", *lines, *words])


async def watch(lab: Lab, trace: Trace) -> Watched:
    """Follow the message's own key to its end, and to the worker's word."""
    if lab.redis.pttl(trace.key) == GONE:
        raise PremiseGone(f"{trace.key} has expired.", "send a message and watch it in one cell")
    before = _counts(lab)
    life = await lab.key_lifetime(trace)
    done = {name: count - before[name] for name, count in _counts(lab).items()}
    return Watched(
        life, _lines(lab, "Cache hit", trace.key), _lines(lab, "Cache cleaned", trace.key), done
    )


def _counts(lab: Lab) -> dict[str, int]:
    """How often Redis did a command so far. The engine is this notebook's own."""
    stats = lab.redis.execute_command("INFO", "commandstats")
    return {
        name: stats.get(f"cmdstat_{name.lower()}", {"calls": 0})["calls"]
        for name in ("SCAN", "KEYS", "DEL", "UNLINK")
    }


def _lines(lab: Lab, word: str, key: str) -> list[str]:
    """The worker's lines of this kind for this key: the time, and what it says."""
    lines = [
        line.split()
        for line in lab.service.log(word)
        if line.split("chatlab.sweeper")[-1].split()[2].endswith(key)
    ]
    return [" ".join([line[0], *line[3:]]) for line in lines]


async def word_of(lab: Lab, trace: Trace, word: str = "Cache lost") -> PlainText:
    """What the worker of the service says of this key, at its next beat."""
    if not await poll_until(lambda: _lines(lab, word, trace.key), PATIENCE):
        raise PremiseGone(
            f"The log of the worker has no line {word} about this key.",
            "run the cells from the send of this message on again, one right after the other",
        )
    last = _lines(lab, word, trace.key)[-1]
    return PlainText(f"{word}, says the worker of the service. Its log:\n· {last}")


# --- TTL, as Redis rounds it ---------------------------------------------------------------------------------------------------


async def _at(lab: Lab, key: str, left: int) -> Look:
    """A key of this name that has so many milliseconds left, and what Redis answers for it in the same moment."""
    if left > 0:
        return Look(*lab.redis.execute_command("EVAL", GIVE_AND_LOOK, 1, key, left))
    lab.redis.execute_command("SET", key, "x", "PX", 1)
    await _end_of(lab, key)
    return Look(*lab.redis.execute_command("EVAL", LOOK, 1, key))


async def _end_of(lab: Lab, key: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while lab.redis.pttl(key) != GONE:  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.002)


async def roundings(lab: Lab) -> Rows:
    """What TTL and PTTL say of a key with so much left."""
    looks = [await _at(lab, "message:mine", left) for left in (2600, 1500, 1499, 500, 499, 1, 0)]
    lab.redis.execute_command("DEL", "message:mine")
    return Rows(
        ("PTTL", "TTL", "the key"),
        [(str(look.pttl), str(look.ttl), "there" if look.there else "gone") for look in looks],
    )


async def ticks(lab: Lab, before: float) -> Rows:
    """What TTL answers at six beats of the worker, the first `before` seconds after a key was cached. Set up on a real key."""
    looks = [await _at(lab, "message:mine", _left(before, number)) for number in range(1, 7)]
    return Rows(
        ("beat", "TTL"), [(str(number), str(look.ttl)) for number, look in enumerate(looks, 1)]
    )


def _left(before: float, number: int) -> int:
    return LIFE - round(before * 1000) - (number - 1) * BEAT


# --- the mistake: deleting at TTL 0 --------------------------------------------------------------------------------------------


async def deleting_worker(lab: Lab, key: str, pause: Pause) -> PlainText:
    """The worker as it is drawn."""
    ttl = look_late(lab, key).ttl
    await pause("has read the TTL")
    if ttl == 0:
        lab.redis.execute_command("DEL", key)
        return PlainText("TTL was 0. Deleted from cache. Cache cleaned")
    return PlainText(f"TTL was {ttl}. Cache hit")


def look_late(lab: Lab, key: str) -> Look:
    """A look late in a key's life: its end is moved to 0.4 s from now, and it is looked at in the same step."""
    return Look(*lab.redis.execute_command("EVAL", SHORTEN_AND_LOOK, 1, key, LATE))


async def edit(lab: Lab, person: User, trace: Trace, text: str) -> PlainText:
    """Change a message of this person through the service, until its copy in Redis is the new one."""
    for _ in range(TRIES):
        (
            await person.http.patch(f"/api/messages/{trace.id}", json={"text": text})
        ).raise_for_status()
        if text in (lab.redis.get(trace.key) or ""):
            break
        await asyncio.sleep(0.1)  # Redis was taken for away; the service asks again soon
    return copy_of(lab, trace)


def copy_of(lab: Lab, trace: Trace) -> PlainText:
    """Is there a copy of the message under its own key?"""
    value, pttl = lab.redis.get(trace.key), lab.redis.pttl(trace.key)
    if not isinstance(value, str):
        return PlainText("Not in Redis")
    return PlainText(
        f"In Redis: {json.loads(value)['text']!r}, {'more' if pttl > LIFE / 2 else 'less'} than half of its life to go"
    )


# --- without a worker ----------------------------------------------------------------------------------------------------------


class Alone(NamedTuple):
    """A life that no worker looked at: what Redis counted of it itself."""

    life: KeyLifetime
    expired: int
    deleted: int
    said: list[str]

    @property
    def told(self) -> str:
        own = "counted keys that expired" if self.expired else "counted no key that expired"
        return f"Redis itself {own}; it was told to delete {self.deleted}. The worker said {len(self.said)} lines."

    def __repr__(self) -> str:
        return f"{self.life!r}\n{self.told}"

    def _repr_html_(self) -> str:
        return f"{image_of(self.life._repr_svg_(), repr(self.life))}\n<p>{self.told}</p>"


async def alone(lab: Lab, trace: Trace) -> Alone:
    """Follow the message's own key to its end, in a service whose worker is off."""
    if lab.redis.pttl(trace.key) == GONE:
        raise PremiseGone(f"{trace.key} has expired.", "send a message and watch it in one cell")
    before, expired = _counts(lab), lab.redis.execute_command("INFO", "stats")["expired_keys"]
    life = KeyLifetime.from_event(
        next(
            event
            for event in lab.events
            if event["stage"] == "cached" and event["key"] == trace.key
        )
    )
    while life.state in ("live", "kept"):
        life.check(lab.redis.pttl)
        await asyncio.sleep(life.next_check_s() if life.state == "live" else 0)
    after = _counts(lab)
    deleted = sum(after[name] - before[name] for name in ("DEL", "UNLINK"))
    return Alone(
        life,
        lab.redis.execute_command("INFO", "stats")["expired_keys"] - expired,
        deleted,
        _lines(lab, "Cache", trace.key),
    )


# --- the mistake: KEYS ---------------------------------------------------------------------------------------------------------


def crowd(lab: Lab) -> PlainText:
    """Keys of another application, in the same Redis."""
    for first in range(0, OTHERS, AT_ONCE):
        lab.redis.execute_command("EVAL", MAKE_MANY, 0, first, first + AT_ONCE - 1)
    return PlainText(f"{OTHERS:,} keys page:0, page:1, ... are there beside ours.")


def _must_be_crowded(lab: Lab) -> None:
    if lab.redis.dbsize() < OTHERS:
        raise PremiseGone(
            "The keys of another application are not in Redis.",
            "run the cell that makes them again",
        )


Ask = Callable[
    ..., tuple[Any, float]
]  # a command of the worker: its answer, and what a neighbour waited meanwhile


async def waits(lab: Lab, chart: Chart) -> Rows:
    """Get the keys both ways, some rounds. The chart gets the longest that a neighbour waited in each round, in milliseconds."""
    _must_be_crowded(lab)
    waited = {"KEYS": list[float](), "SCAN": list[float]()}
    pool = lab.redis.connection_pool
    worker, neighbour = pool.get_connection(), pool.get_connection()
    try:
        ask = functools.partial(_with_a_neighbour, worker, neighbour)
        for number in range(ROUNDS):
            for name, way in (("KEYS", _by_keys), ("SCAN", _by_scan)):
                waited[name] = way(ask)
                chart.add(name, max(waited[name]))
            chart.progress(number + 1, ROUNDS)
            await asyncio.sleep(0)  # the chart is drawn
    finally:
        pool.release(worker)
        pool.release(neighbour)
    stats = lab.redis.execute_command("INFO", "commandstats")
    busy = {name: stats[f"cmdstat_{name.lower()}"]["usec_per_call"] / 1000 for name in waited}
    return Rows(
        ("to get message:*", "one command looks at", "in which Redis serves nobody else"),
        [
            ("KEYS", "every key there is", f"{TIMED} 1 command of {busy['KEYS']:.2f} ms"),
            (
                f"SCAN, COUNT {STEP}",
                "a stretch of them",
                f"{TIMED} {len(waited['SCAN'])} commands of {busy['SCAN']:.2f} ms",
            ),
        ],
    )


def _with_a_neighbour(
    worker: Connection, neighbour: Connection, *command: Any
) -> tuple[Any, float]:
    """The worker's command, and a PING right behind it on another connection."""
    worker.send_command(*command)
    asked = time.perf_counter()
    neighbour.send_command("PING")
    neighbour.read_response()
    waited = (time.perf_counter() - asked) * 1000
    return worker.read_response(), waited


def _by_keys(ask: Ask) -> list[float]:
    """Get all in one command; what the neighbour waited."""
    return [ask("KEYS", "message:*")[1]]


def _by_scan(ask: Ask) -> list[float]:
    """Get the same a stretch at a time; what the neighbour waited at each."""
    cursor, waited = "0", list[float]()
    while not waited or cursor != "0":
        (cursor, _), wait = ask("SCAN", cursor, "MATCH", "message:*", "COUNT", STEP)
        waited.append(wait)
    return waited


# --- the exercises -------------------------------------------------------------------------------------------------------------


@check
async def deadly_beat(lab: Lab, before: float, answer: Any) -> CheckResult:
    """At which beat would a worker that deletes at TTL 0 delete a living key? Sets up a key with the life it has left then."""
    if not isinstance(answer, int) or isinstance(answer, bool) or answer < 1:
        return not_yet(
            "The answer is the number of a beat: 1 for the first after the key was cached."
        )
    look = await _at(lab, "message:mine", _left(before, answer))
    seen = f"A real key with the life it has left at beat {answer}: TTL answered {look.ttl}, PTTL {look.pttl}."
    if look.there and look.ttl == 0:
        return correct(
            f"{seen} It was there, and that worker would have deleted it {look.pttl} ms too early."
        )
    if look.there:
        return not_yet(
            f"{seen} That worker says Cache hit and goes on. What does lesson.ticks(lab, {before}) list?"
        )
    return not_yet(
        f"{seen} That is what a key answers that is gone: there is nothing left to delete. Which answer does that worker wait for?"
    )


@check
async def mended(lab: Lab, alice: User, bob: User, rule: Any) -> CheckResult:
    """Is a key told as cleaned when it is gone, once, and never while it lives? Tried on real keys, and then in the walk."""
    looks = [await _at(lab, "message:mine", left) for left in (60_000, LATE, 0)]
    lab.redis.execute_command("SET", "message:mine", "x")
    looks.append(Look(*lab.redis.execute_command("EVAL", LOOK, 1, "message:mine")))
    lab.redis.execute_command("DEL", "message:mine")
    for look in looks:
        if bool(call_answer(rule, look.pttl)) == bool(look.there):
            return not_yet(_misjudged(look))
    return await _walked(lab, alice, bob, rule)


def _misjudged(look: Look) -> str:
    asked = f"For a real key PTTL answered {look.pttl} (and TTL {look.ttl})"
    if look.pttl == GONE:
        return f"{asked}: it is gone, and your sweep would never tell of it. The table above has that answer in its last line."
    if look.pttl == NO_EXPIRY:
        return f"{asked}: that means no expiry at all. Nobody ends that key, and your sweep tells it as cleaned."
    return f"{asked}: it is alive, and your sweep tells it as cleaned. Does a number of milliseconds that are left ever mean gone?"


async def telling_worker(lab: Lab, key: str, rule: Any, known: list[str], pause: Pause) -> str:
    """A worker that only tells. What it has told of is no longer known to it."""
    pttl = look_late(lab, key).pttl if lab.redis.pttl(key) > LATE else lab.redis.pttl(key)
    await pause("has read the PTTL")
    if key in known and call_answer(rule, pttl):
        known.remove(key)
        return "Cache cleaned"
    return "nothing"


async def _walked(lab: Lab, alice: User, bob: User, rule: Any) -> CheckResult:
    """The same walk as above, with this condition; then the real end of the key, and two more sweeps."""
    trace = await alice.send(bob, "Meet at six")
    known = [trace.key]
    worker = await SteppedTask(telling_worker, lab, trace.key, rule, known).run_until(
        "has read the PTTL"
    )
    await edit(lab, alice, trace, "Meet at seven")
    told = [await worker.finish()]
    alive = lab.redis.get(trace.key) is not None
    lab.redis.execute_command("PEXPIRE", trace.key, 1)
    await _end_of(lab, trace.key)
    told += [
        await SteppedTask(telling_worker, lab, trace.key, rule, known).finish() for _ in range(2)
    ]
    if not alive or told != ["nothing", "Cache cleaned", "nothing"]:
        return not_yet(
            f"In the walk your sweep told, one after the other: {', '.join(told)}. Expected: nothing, Cache cleaned, nothing."
        )
    return correct(
        f"In the walk the new copy lived on, and its end was told once. {await _with_a_del(lab, alice, trace, rule)}"
    )


async def deleting_again(lab: Lab, key: str, rule: Any, pause: Pause) -> None:
    """The right condition, with a DEL behind it."""
    gone = call_answer(rule, lab.redis.pttl(key))
    await pause("has read the PTTL")
    if gone:
        lab.redis.execute_command("DEL", key)


async def _with_a_del(lab: Lab, alice: User, trace: Trace, rule: Any) -> str:
    worker = await SteppedTask(deleting_again, lab, trace.key, rule).run_until("has read the PTTL")
    await edit(lab, alice, trace, "Meet at eight")
    await worker.finish()
    if lab.redis.get(trace.key) is not None:
        return ""
    return "It must not delete, though: with a DEL behind your condition it read -2, the message was changed, and the DEL met the new copy."


# --- what holds ----------------------------------------------------------------------------------------------------------------


@check
async def in_steps(lab: Lab, step: Any) -> CheckResult:
    """Do the commands that this function makes, from cursor to cursor, find every `message:*`, and none of them look at nearly all keys?"""
    _must_be_crowded(lab)
    keys = [f"message:wanted-{number}" for number in range(WANTED)]
    for key in keys:
        lab.redis.execute_command("SET", key, "x", "EX", 60)
    try:
        return await _stepped(lab, step, set(keys))
    finally:
        lab.redis.execute_command("DEL", *keys)


async def _stepped(lab: Lab, step: Any, wanted: set[str]) -> CheckResult:
    there, cursor, seen, steps = lab.redis.execute_command("DBSIZE"), 0, set[str](), 0
    while steps == 0 or cursor:
        words = str(call_answer(step, cursor)).split()
        if not words or words[0].upper() not in ("KEYS", "SCAN"):
            raise UnusableAnswer(
                f"Your function makes {' '.join(words)!r}. The command begins with SCAN (or KEYS), and is one text."
            )
        answer = run_command(lab.redis, words)
        if words[0].upper() == "KEYS":
            return not_yet(
                f"KEYS is one command: it looked at {there:,} keys to find a few, and nobody else was served meanwhile."
            )
        cursor, steps = int(answer[0]), steps + 1
        seen.update(answer[1])
        if steps > there:
            return not_yet(
                f"After {steps:,} commands it is not at the end. Each answer names the cursor of the next command; cursor 0 is the end."
            )
        if steps % STEP == 0:
            await asyncio.sleep(0)  # the notebook stays alive
    if steps < FEWEST:
        return not_yet(
            f"{steps} command{'s' if steps > 1 else ''} for {there:,} keys: each looks at so many that it is nearly KEYS. A smaller COUNT?"
        )
    if missing := wanted - seen:
        return not_yet(
            f"It went through all keys in {steps:,} commands and found {len(wanted - missing)} of {len(wanted)}. What does MATCH say?"
        )
    return correct(
        f"{steps:,} commands instead of one, about {there // steps:,} keys each, and others are served in between. It found them all."
    )


def claims(lab: Lab, heard: Beats, watched: Watched, without: Alone) -> ClaimResults:
    """What the document says of the worker, held against what it did."""
    deleted = watched.done["DEL"] + watched.done["UNLINK"]
    others = [line for line in lab.service.log("Cache ") if " messages:" in line]
    with_what = ", ".join(name for name in ("SCAN", "KEYS") if watched.done[name])
    asks = f"with {with_what}; {len(others)} lines of its log are about messages:alice:bob, which the pattern does not match"
    valid = bool(watched.hits) and min(watched.remaining) >= 0
    words = f"{deleted} keys deleted; without a worker the key lasted {without.life.lifetime_s:.0f} s as well"
    logged = (
        "the worker logs the end"
        if watched.told_after_the_end
        else "the worker did not log the end"
    )
    return lab.record_claims(
        ClaimResult(
            "every_second",
            f"{heard.apart:.3f} s from beat to beat",
            holds_if(abs(heard.apart - 1) < NEAR_A_SECOND),
            timed=True,
        ),
        ClaimResult("gets_keys", asks, holds_if(bool(watched.hits) and not others)),
        ClaimResult(
            "ttl_valid",
            "Cache hit, each with time remaining" if valid else "not so logged",
            holds_if(valid),
        ),
        ClaimResult("deletes_at_0", f"{words}; {logged}", holds_if(deleted > 0)),
    )
