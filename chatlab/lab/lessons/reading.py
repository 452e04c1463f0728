"""Notebook 08: reading a conversation. What each kind of read asks, and two mistakes that a cached list invites."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sized
from typing import Any, NamedTuple

from chatlab.cache.keys import grace_period_ms
from chatlab.cache.window import SOURCE, scripts_in
from chatlab.client import Json, ReadResult
from chatlab.errors import EngineError
from chatlab.lab.checks import (
    CheckResult,
    UnusableAnswer,
    call_answer,
    check,
    correct,
    is_number,
    not_yet,
)
from chatlab.lab.claims import DEPENDS, FAILS, HOLDS, ClaimResult, ClaimResults, holds_if
from chatlab.lab.plain_text import PlainText
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.session_stores import time_us, value_of
from chatlab.lab.stepped_task import Pause, SteppedTask
from chatlab.lab.tables import Rows
from chatlab.lab.user import User

WINDOW = "messages:alice:bob"
NAIVE = "messages:naive:"  # before a conversation: its list in the cache of the naive server
LIFE = 5000  # milliseconds
PAGE = 50
READS = 12
SHORTEST, LONGEST = 0.1, 60.0  # seconds between two reads
TRIES = 20
SENDS = 5
FILL = scripts_in(SOURCE)["fill"]  # the service's own


# --- what a read asks ----------------------------------------------------------------------------------------------------------


class Read(NamedTuple):
    """One read through the service: what it gave, and the commands for messages that it cost MongoDB and Redis."""

    reading: ReadResult
    mongo: list[str]
    redis: list[str]

    @property
    def wanted(self) -> str:
        """What it asked MongoDB for, in a word."""
        return "everything" if self.mongo else "nothing"

    def __repr__(self) -> str:
        got = f"{_counted(self.reading.messages)}, X-Cache: {self.reading.cache}"
        return f"{got}. MongoDB was asked {_times(self.mongo)}, Redis {_times(self.redis)}."


def _counted(messages: Sized) -> str:
    return f"{len(messages)} message{'' if len(messages) == 1 else 's'}"


def _times(asked: list[str]) -> str:
    return {0: "nothing", 1: "once"}.get(len(asked), f"{len(asked)} times")


async def read(lab: Lab, reader: User, other: User, *, fresh: bool = False, **page: int) -> Read:
    """Read, and count. Whose token this is the service asks MongoDB every few seconds: that does not count here."""
    found: list[ReadResult] = []

    async def act() -> None:
        found.append(await reader.read(other.id, fresh=fresh, **page))

    asked = await lab.record_queries(act())
    return Read(
        found[0], [command for command in asked.mongo if command.endswith(" messages")], asked.redis
    )


def end_window(lab: Lab) -> PlainText:
    """End the window's life now, so that nobody has to wait for it."""
    lab.redis.execute_command("DEL", WINDOW)
    return PlainText(f"{WINDOW} is not there any more, as after its 5 s.")


def in_window(lab: Lab) -> int:
    """How many messages the window holds."""
    return max(0, len(value_of(lab.redis, WINDOW) or []) - 1)  # its first entry is a header


class Ways(dict[str, Read]):
    """A read for each state of the cache, and each way to ask."""

    def rows(self) -> Rows:
        cells = [
            (name, way.reading.cache, _times(way.mongo), _times(way.redis))
            for name, way in self.items()
        ]
        return Rows(("the cache", "X-Cache", "MongoDB was asked", "Redis was asked"), cells)

    def __repr__(self) -> str:
        return repr(self.rows())

    def _repr_html_(self) -> str:
        return self.rows()._repr_html_()


async def ways(lab: Lab, alice: User, bob: User) -> Ways:
    """Read in every way there is."""
    found = Ways()
    end_window(lab)
    found["has nothing"] = await read(lab, bob, alice)
    await _prepared(lambda: bob.read(alice.id), lambda: in_window(lab) > 1)
    found["has it all"] = await read(lab, bob, alice)
    await _prepared(lambda: _one_alone(lab, alice, bob), lambda: in_window(lab) == 1)
    found["has the newest only"] = await read(lab, bob, alice)
    found["is not to be asked: Cache-Control: no-cache"] = await read(lab, bob, alice, fresh=True)
    await lab.update_settings(cache_mode="drawn")
    found["is not asked: mode drawn"] = await read(lab, bob, alice)
    await lab.update_settings(cache_mode="window")
    return found


async def _prepared(act: Callable[[], Awaitable[Any]], ready: Callable[[], bool]) -> None:
    """Do this until the cache is in the state that is to be read; a slow machine may need more than one try."""
    for _ in range(TRIES):
        await act()
        if ready():
            return
    raise EngineError("The cache did not come into the state to be read.", "run the cell again")


async def _one_alone(lab: Lab, alice: User, bob: User) -> None:
    end_window(lab)
    await alice.send(bob, "After a pause")


async def latest(lab: Lab, alice: User, bob: User) -> dict[str, int]:
    """For each mode: of SENDS sends, how many a read right behind it showed as the last message."""
    seen = {}
    for mode in ("drawn", "window"):
        await lab.update_settings(cache_mode=mode)
        pairs = [
            (await alice.send(bob, f"Number {number}, {mode}"), await bob.read(alice.id))
            for number in range(SENDS)
        ]
        seen[mode] = sum(reading.messages[-1]["_id"] == trace.id for trace, reading in pairs)
    return seen


# --- a naive server, on the same MongoDB and Redis -----------------------------------------------------------------------------


async def naive_send(lab: Lab, sender: User, other: User, text: str) -> None:
    """Save, then push on the list."""
    message = (await sender.send_by_http(other.id, text)).message
    push(lab, _list_of(sender, other), message)


async def naive_read(lab: Lab, reader: User, other: User, pause: Pause) -> list[Json]:
    """A list that is there is the conversation; if there is none, MongoDB is asked and its answer is cached."""
    cached = cached_list(lab, _list_of(reader, other))
    if cached:
        return cached
    stored = in_mongodb(lab, reader, other)
    await pause("has read MongoDB")
    replace(lab, _list_of(reader, other), stored)
    return stored


def _list_of(one: User, other: User) -> str:
    return f"{NAIVE}{_conversation(one, other)}"


def _conversation(one: User, other: User) -> str:
    return ":".join(sorted([one.id, other.id]))


def in_mongodb(lab: Lab, one: User, other: User) -> list[Json]:
    """Their conversation, in its order."""
    return sorted(
        lab.find_messages(conversation=_conversation(one, other)),
        key=lambda message: message["seq"],
    )


def cached_list(lab: Lab, key: str) -> list[Json]:
    return [json.loads(entry) for entry in lab.redis.execute_command("LRANGE", key, 0, -1)]


def push(lab: Lab, key: str, message: Json) -> None:
    lab.redis.execute_command("RPUSH", key, json.dumps(message))
    lab.redis.execute_command("PEXPIRE", key, LIFE)


def replace(lab: Lab, key: str, messages: list[Json]) -> None:
    lab.redis.execute_command("DEL", key)
    for message in messages:
        push(lab, key, message)


async def talk(sender: User, other: User, count: int) -> PlainText:
    """So many messages, through the service."""
    for number in range(1, count + 1):
        await sender.send_by_http(other.id, f"Number {number}")
    return PlainText(f"{count} messages from {sender.id} to {other.id} are saved.")


def compared(lab: Lab, seen: list[Json], one: User, other: User) -> PlainText:
    """What a reader saw, beside what MongoDB has."""
    stored = in_mongodb(lab, one, other)
    if seen == stored:
        raise PremiseGone(
            "The reader has seen everything, because the list in Redis had expired.",
            "run the cells from the one that makes the list on again, one right after the other",
        )
    rows = [
        f"{who} {_counted(messages):>11}, the last: {messages[-1]['text']!r}"
        for who, messages in (("seen:    ", seen), ("MongoDB: ", stored))
    ]
    return PlainText("\n".join(rows))


# --- the service's own late fill -----------------------------------------------------------------------------------------------


async def service_read(lab: Lab, reader: User, other: User, pause: Pause) -> str:
    """The steps of the service's own miss: a token before MongoDB is asked, then its own script with that token."""
    token = time_us(lab.redis)
    stored = in_mongodb(lab, reader, other)
    await pause("has read MongoDB")
    return fill(lab, f"messages:{_conversation(reader, other)}", token, stored)


def fill(lab: Lab, key: str, token: int, messages: list[Json]) -> str:
    """What became of a fill with this token, in the script's word."""
    common = (0, LIFE, grace_period_ms(LIFE), lab.settings.window_size, token)
    texts = [json.dumps(message, separators=(",", ":"), ensure_ascii=False) for message in messages]
    return str(
        lab.redis.execute_command("EVAL", FILL, 1, key, *common, 0, messages[0]["seq"], *texts)
    )


async def late_fill(
    lab: Lab, reader: User, other: User, act: Callable[[], Awaitable[Any]]
) -> PlainText:
    """A reader of the service stands between MongoDB and its fill while `act` happens; then it goes on, and somebody else reads."""
    became = "old"
    for _ in range(TRIES):
        lab.redis.execute_command("DEL", f"messages:{_conversation(reader, other)}")
        walk = await SteppedTask(service_read, lab, reader, other).run_until("has read MongoDB")
        await act()
        became = await walk.finish()
        if became != "old":  # it took too long altogether, which is refused as well
            break
    reading, stored = await reader.read(other.id), in_mongodb(lab, reader, other)
    right = (
        "is exactly what MongoDB has" if reading.messages == stored else "is not what MongoDB has"
    )
    return PlainText(f"The late fill: {became}. What the next reader sees {right}.")


# --- exercise 1: half hits -----------------------------------------------------------------------------------------------------


@check
async def half_hits(lab: Lab, alice: User, bob: User, every: Any) -> CheckResult:
    """With a read every so many seconds, is one of two a hit? Reads; the time between is taken off the window's life."""
    if not is_number(every) or not SHORTEST <= every <= LONGEST:
        return not_yet(f"The answer is a number of seconds from {SHORTEST} to {LONGEST:.0f}.")
    end_window(lab)
    outcomes = [await _read_and_age(lab, alice, bob, every) for _ in range(READS)]
    hits = outcomes.count("hit")
    seen = f"Read every {every:g} s: {', '.join(outcomes)}. {hits} of {READS} are hits."
    if hits * 2 == READS:
        return correct(
            f"{seen} A window lives 5 s from its filling, and reading does not extend that: room for one more read, not for two."
        )
    if not hits:
        return not_yet(
            f"{seen} When the next read comes, the window's 5 s are over. How soon must it come?"
        )
    return not_yet(f"{seen} How many reads fall into the 5 s that begin with a miss?")


async def _read_and_age(lab: Lab, alice: User, bob: User, seconds: float) -> str:
    """X-Cache of a read, after which the window grows older by so much."""
    outcome = (await bob.read(alice.id)).cache
    left = lab.redis.pttl(WINDOW) - round(seconds * 1000)
    lab.redis.execute_command(*(("PEXPIRE", WINDOW, left) if left > 0 else ("DEL", WINDOW)))
    return outcome


# --- exercise 2: the partial list ----------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A cached list that holds seq `oldest` to `newest` of what `stored` is in MongoDB."""

    stored: list[Json]
    oldest: int
    newest: int


@check
async def may_answer(lab: Lab, bob: User, rule: Any) -> CheckResult:
    """Does the rule let a list answer `limit=50` when it can, and only then? Tried with lists in Redis, compared with MongoDB."""
    long, short = await _stored(lab, "dave", bob, PAGE + 10), await _stored(lab, "erin", bob, 3)
    last = len(long)
    cases = [
        Case(long, last, last),
        Case(long, last - PAGE + 2, last),
        Case(long, last - PAGE + 1, last),
        Case(long, 1, last),
    ]
    for case in [*cases, Case(short, 3, 3), Case(short, 1, 3)]:
        wrong = _answered(lab, case, rule)
        if wrong:
            return not_yet(wrong)
    return correct(
        f"Lists of {len(cases) + 2} kinds, and no reader missed a message or asked in vain. {await _by_the_service(lab, bob)}"
    )


async def _stored(lab: Lab, name: str, bob: User, count: int) -> list[Json]:
    """So many messages from this person to Bob, in MongoDB."""
    person = await lab.user(name)
    there = len(in_mongodb(lab, person, bob))
    await asyncio.gather(
        *(person.send_by_http(bob.id, f"Number {number}") for number in range(there, count))
    )
    return in_mongodb(lab, person, bob)[:count]


def _answered(lab: Lab, case: Case, rule: Any) -> str:
    """What is wrong with the answer of a reader who follows the rule; nothing if it is right."""
    key = f"{NAIVE}try"
    replace(lab, key, case.stored[case.oldest - 1 : case.newest])
    cached, wanted = cached_list(lab, key)[-PAGE:], case.stored[-PAGE:]
    held = f"The list held seq {case.oldest} to {case.newest} of a conversation of {len(case.stored)}, and limit={PAGE} was asked."
    says = call_answer(rule, case.oldest, case.newest, PAGE)
    if not isinstance(says, bool):
        raise UnusableAnswer(
            f"Your function said {says!r}. It has to say True (the list may answer) or False (ask MongoDB)."
        )
    if says and cached != wanted:
        return f"{held} Your rule let it answer: {_counted(cached)}, of {len(wanted)}. {len(wanted) - len(cached)} are missing."
    if not says and cached == wanted:
        return f"{held} It had all of it, and your rule sent the reader to MongoDB. Which number shows that a list reaches the beginning?"
    return ""


async def _by_the_service(lab: Lab, bob: User) -> str:
    """The service in the same place: a window of one, and a question for fifty."""
    dave = await lab.user("dave")
    lab.redis.execute_command("DEL", f"messages:{_conversation(bob, dave)}")
    await dave.send_by_http(bob.id, "After a pause")
    reading = await bob.read("dave", limit=PAGE)
    return f"The service, asked for {PAGE} with a window of one, gave {len(reading.messages)} and said X-Cache: {reading.cache}."


# --- exercise 3: the late fill -------------------------------------------------------------------------------------------------


async def careful_read(lab: Lab, reader: User, other: User, rule: Any, pause: Pause) -> bool:
    """The naive reader, who asks the rule before it fills: with the time before MongoDB was read, and the time of the last change."""
    key = _list_of(reader, other)
    token = time_us(lab.redis)
    stored = in_mongodb(lab, reader, other)
    await pause("has read MongoDB")
    says = call_answer(rule, token, int(lab.redis.execute_command("GET", f"{key}:changed") or 0))
    if not isinstance(says, bool):
        raise UnusableAnswer(
            f"Your function said {says!r}. It has to say True (fill) or False (leave it)."
        )
    if says:
        replace(lab, key, stored)
    return says


async def marked_send(lab: Lab, sender: User, other: User, text: str) -> None:
    """The naive send, which also leaves the time of the change, by Redis's clock."""
    await naive_send(lab, sender, other, text)
    lab.redis.execute_command(
        "SET", f"{_list_of(sender, other)}:changed", time_us(lab.redis), "EX", 60
    )


@check
async def may_fill(lab: Lab, bob: User, carol: User, rule: Any) -> CheckResult:
    """The walk of above with a reader who follows the rule: with a change after the reading, with one before it, and with none."""
    key = _list_of(bob, carol)
    lab.redis.execute_command("DEL", key, f"{key}:changed")
    if not await SteppedTask(careful_read, lab, bob, carol, rule).finish():
        return not_yet(
            "Nothing had ever changed (changed was 0), and your rule refused the fill: nothing would ever be cached."
        )
    lab.redis.execute_command("DEL", key)
    await marked_send(lab, carol, bob, "Before the reading")
    lab.redis.execute_command("DEL", key)
    if not await SteppedTask(careful_read, lab, bob, carol, rule).finish():
        return not_yet(
            "The change came before MongoDB was read, so what was read has it. Your rule refused all the same: nothing is cached."
        )
    lab.redis.execute_command("DEL", key)
    reader = await SteppedTask(careful_read, lab, bob, carol, rule).run_until("has read MongoDB")
    await marked_send(lab, carol, bob, "While the reader stood")
    await reader.finish()
    cached, stored = cached_list(lab, key), in_mongodb(lab, bob, carol)
    if cached[-1]["text"] != stored[-1]["text"]:
        return not_yet(
            f"In the walk the list ends with {cached[-1]['text']!r}, MongoDB with {stored[-1]['text']!r}: the late fill has hidden it."
            " Which of the two times is the larger one then?"
        )
    return correct(
        "With no change and with an earlier one the fill was made; the late one was refused, and the new message is still in the list."
    )


# --- what holds ----------------------------------------------------------------------------------------------------------------


def claims(lab: Lab, found: Ways, seen: dict[str, int]) -> ClaimResults:
    """What the document says of reading, held against these reads."""
    asks = [bool(way.mongo) for way in found.values()]
    verdict = HOLDS if all(asks) else DEPENDS if any(asks) else FAILS
    told = [
        f"{way.reading.cache} {_times(way.mongo)}"
        for name, way in found.items()
        if "drawn" not in name
    ]
    drawn = [f"mode drawn {_times(way.mongo)}" for name, way in found.items() if "drawn" in name]
    shown = ", ".join(f"{count} of {SENDS} in mode {mode}" for mode, count in seen.items())
    return lab.record_claims(
        ClaimResult("asks_mongodb", "; ".join([*drawn, *told]), verdict),
        ClaimResult(
            "latest_data",
            f"right behind a send, the read had it: {shown}",
            holds_if(all(count == SENDS for count in seen.values())),
        ),
    )
