"""Notebook 08: what each kind of read costs, and checks of cached reads that the learner writes."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from chatlab.cache.keys import grace_period_ms
from chatlab.cache.window import SOURCE, scripts_in
from chatlab.client import Json
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
from chatlab.lab.race import Race, every_order
from chatlab.lab.sentences import TooSlow
from chatlab.lab.session import Lab
from chatlab.lab.session_stores import time_us, value_of
from chatlab.lab.tables import Rows
from chatlab.lab.user import User

WINDOW = "messages:alice:bob"
TTL_MS = 5000
TRIES = 20
SENDS, READS, PAGE = 5, 12, 50
SHORTEST_S, LONGEST_S = 0.1, 60.0  # between two reads
FILL = scripts_in(SOURCE)["fill"]  # the service's own script
NAIVE, FENCE = "messages:dave:erin", "fence:dave:erin"  # the keys of the notebook's own cache


# --- what a read costs ----------------------------------------------------------------------------


class Read(NamedTuple):
    """The X-Cache header of a read, and the number of commands for messages that it caused."""

    cache: str
    mongo: int
    redis: int


class Ways(dict[str, Read]):
    """A read for each state of the cache, and for each way to ask."""

    def _rows(self) -> Rows:
        cells = [
            (name, read.cache, str(read.mongo), str(read.redis)) for name, read in self.items()
        ]
        return Rows(("the cache", "X-Cache", "MongoDB commands", "Redis commands"), cells)

    def __repr__(self) -> str:
        return repr(self._rows())

    def _repr_html_(self) -> str:
        return self._rows()._repr_html_()


async def ways(lab: Lab, alice: User, bob: User) -> Ways:
    """Read in every way, and count the commands of the service."""

    async def read(*, fresh: bool = False) -> Read:
        log = await lab.record_queries(bob.read(alice.id, fresh=fresh))
        mongo = [command for command in log.mongo if command.endswith(" messages")]
        return Read(log.result.cache, len(mongo), len(log.redis))

    async def send_after_the_end() -> None:
        lab.redis.delete(WINDOW)
        await alice.send(bob, "After a pause")

    found = Ways()
    lab.redis.delete(WINDOW)
    found["has nothing"] = await read()
    await _prepare(lab, lambda: bob.read(alice.id), lambda messages: messages > 1)
    found["has all messages"] = await read()
    await _prepare(lab, send_after_the_end, lambda messages: messages == 1)
    found["has only the newest message"] = await read()
    found["is bypassed: Cache-Control: no-cache"] = await read(fresh=True)
    await lab.update_settings(cache_mode="drawn")
    found["is not used: mode drawn"] = await read()
    await lab.update_settings(cache_mode="window")
    return found


async def _prepare(
    lab: Lab, act: Callable[[], Awaitable[Any]], is_ready: Callable[[int], bool]
) -> None:
    """Repeat `act` until the window holds the wanted number of messages."""
    for _ in range(TRIES):
        await act()
        if is_ready(len(value_of(lab.redis, WINDOW) or [""]) - 1):  # without the header
            return
    raise EngineError("The window does not hold what this read needs.", "run the cell again")


async def latest(lab: Lab, alice: User, bob: User) -> dict[str, int]:
    """Return, for each mode, how many of SENDS sends the next read showed as the last message."""
    seen = {}
    for mode in ("drawn", "window"):
        await lab.update_settings(cache_mode=mode)
        pairs = [
            (await alice.send(bob, f"Number {number}, {mode}"), await bob.read(alice.id))
            for number in range(SENDS)
        ]
        seen[mode] = sum(read.messages[-1]["_id"] == trace.id for trace, read in pairs)
    return seen


# --- the late fill of the service -----------------------------------------------------------------


async def late_fill(
    lab: Lab, reader: User, other: User, act: Callable[[], Awaitable[Any]]
) -> PlainText:
    """Read MongoDB, run `act`, and then fill the window with the service's own script."""
    conversation = ":".join(sorted([reader.id, other.id]))
    outcome = ""
    for _ in range(TRIES):
        lab.redis.delete(f"messages:{conversation}")
        token = time_us(lab.redis)
        stored = _stored(lab, conversation)
        await act()
        outcome = _fill(lab, f"messages:{conversation}", token, stored)
        if outcome != "old":  # everything together took too long
            break
    reading = await reader.read(other.id)
    equal = "equals" if reading.messages == _stored(lab, conversation) else "differs from"
    return PlainText(f"The fill: {outcome}. The next read {equal} what MongoDB has.")


def _stored(lab: Lab, conversation: str) -> list[Json]:
    found = lab.find_messages(conversation=conversation)
    return sorted(found, key=lambda message: int(message["seq"]))


def _fill(lab: Lab, key: str, token: int, messages: list[Json]) -> str:
    common = (0, TTL_MS, grace_period_ms(TTL_MS), lab.settings.window_size, token)
    texts = [json.dumps(message, separators=(",", ":"), ensure_ascii=False) for message in messages]
    return str(lab.redis.eval(FILL, 1, key, *common, 0, messages[0]["seq"], *texts))


# --- exercise 1: how often to read ----------------------------------------------------------------


@check
async def half_hits(lab: Lab, alice: User, bob: User, every_s: Any) -> CheckResult:
    """Check with which interval every second read is a hit. Shortens the TTL instead of waiting."""
    if not is_number(every_s) or not SHORTEST_S <= every_s <= LONGEST_S:
        return not_yet(f"The answer is a number of seconds from {SHORTEST_S} to {LONGEST_S:g}.")
    lab.redis.delete(WINDOW)
    outcomes = []
    for _ in range(READS):
        outcomes.append((await bob.read(alice.id)).cache)
        left_ms = lab.redis.pttl(WINDOW) - round(every_s * 1000)
        lab.redis.pexpire(WINDOW, max(left_ms, -1))  # a TTL below 0 deletes the key
    if "bypass" in outcomes:  # Redis did not reply in time
        raise TooSlow
    hits = outcomes.count("hit")
    seen = f"A read every {every_s:g} s: {', '.join(outcomes)}. {hits} of {READS} are hits."
    if hits * 2 == READS:
        return correct(
            f"{seen} A window expires 5 s after its fill, and a read does not extend it."
        )
    if not hits:
        return not_yet(f"{seen} The window has expired before the next read.")
    return not_yet(f"{seen} How many reads come within the 5 s after a miss?")


# --- exercise 2: the partial list -----------------------------------------------------------------


@check
async def answers_whole_pages(lab: Lab, read: Any) -> CheckResult:
    """Check a read with a limit against lists that hold different parts of a conversation."""
    cases = [(60, 60), (60, 12), (60, 11), (60, 1), (60, 0), (3, 3), (3, 1)]
    for last, oldest in cases:
        await asyncio.to_thread(_read_a_page, lab, read, last, oldest)
    return correct(
        f"{len(cases)} lists: no message was missing, and MongoDB was queried only where the list"
        " was too short."
    )


def _read_a_page(lab: Lab, read: Any, last: int, oldest: int) -> None:
    """Read 50 messages when the list holds the messages from `oldest` to `last` (0: no list)."""
    messages = [{"_id": number, "text": f"Number {number}"} for number in range(1, last + 1)]
    lab.mongo.chat.drop()
    lab.mongo.chat.insert_many(messages)
    lab.redis.delete(NAIVE)
    if oldest:
        lab.redis.rpush(NAIVE, *(json.dumps(message) for message in messages[oldest - 1 :]))
        lab.redis.expire(NAIVE, 5)
    race = Race(lab, NAIVE, reader=lambda r, db: call_answer(read, r, db, PAGE)).run("reader")
    wanted, seen = messages[-PAGE:], race.results["reader"]
    held = f"messages {oldest} to {last}" if oldest else "no messages"
    case = f"The list held {held} of a conversation of {last}, and the limit was {PAGE}."
    if not isinstance(seen, list):
        raise UnusableAnswer(f"{case} Your function returned {seen!r}, not a list of messages.")
    if seen != wanted:
        raise UnusableAnswer(
            f"{case} Your function returned {_extent(seen)}, and MongoDB has {_extent(wanted)}."
        )
    is_enough = bool(oldest) and (oldest == 1 or last - oldest + 1 >= PAGE)
    if is_enough and any(step.text.startswith("find") for step in race.steps):
        raise UnusableAnswer(f"{case} The list had all of them, and your function asked MongoDB.")


def _extent(messages: list[Any]) -> str:
    if not messages:
        return "no messages"
    numbers = [message.get("_id") if isinstance(message, dict) else message for message in messages]
    return f"{len(messages)} messages, from {numbers[0]!r} to {numbers[-1]!r}"


# --- exercise 3: the late fill --------------------------------------------------------------------


@check
async def never_stale(lab: Lab, send: Any, read: Any) -> CheckResult:
    """Check a cached read: that it caches, and that no order of commands leaves an old list."""
    await asyncio.to_thread(_caches, lab, read)
    orders = await asyncio.to_thread(_is_exact_in_every_order, lab, send, read)
    return correct(
        f"The first read fills the cache and the second is a hit. In all {orders} orders of a read"
        " and a send, the next read has the new message."
    )


def _start_chat(lab: Lab) -> None:
    lab.redis.delete(NAIVE, FENCE)
    lab.mongo.chat.drop()
    lab.mongo.chat.insert_one({"_id": 1, "text": "Number 1"})


def _caches(lab: Lab, read: Any) -> None:
    _start_chat(lab)

    def read_once() -> Race:
        race = Race(lab, NAIVE, reader=lambda r, db: call_answer(read, r, db)).run("reader")
        if race.results["reader"] != ["Number 1"]:
            raise UnusableAnswer(
                f"MongoDB has ['Number 1'], and your function returned {race.results['reader']!r}.",
                race.picture(),
            )
        return race

    read_once()
    race = read_once()
    if any(step.text.startswith("find") for step in race.steps):
        raise UnusableAnswer(
            "Two reads, one after the other, and the second one asked MongoDB, too. Nothing was"
            f" cached under {NAIVE}.",
            race.picture(),
        )
    if not 0 < lab.redis.pttl(NAIVE) <= TTL_MS:
        raise UnusableAnswer(
            f"PTTL of {NAIVE} is {lab.redis.pttl(NAIVE)}. The list must expire within 5 s."
        )


def _is_exact_in_every_order(lab: Lab, send: Any, read: Any) -> int:
    def start() -> Race:
        _start_chat(lab)
        return Race(
            lab,
            NAIVE,
            reader=lambda r, db: call_answer(read, r, db),
            sender=lambda r, db: send(r, db, 2),
        )

    orders = 0
    for race in every_order(start):
        orders += 1
        seen = call_answer(read, lab.redis, lab.mongo)
        if seen != ["Number 1", "Number 2"]:
            raise UnusableAnswer(
                f"Number 2 is sent and saved, and the next read returns {seen!r}. This happens when"
                " the commands come in this order:",
                race.note("next read", f"returns {seen!r}").picture(),
            )
    return orders


# --- claims ---------------------------------------------------------------------------------------


def claims(lab: Lab, found: Ways, seen: dict[str, int]) -> ClaimResults:
    """Return the verdicts for the document's claims about reading."""
    asks = [read.mongo > 0 for read in found.values()]
    counted = [
        f"{'mode drawn' if 'drawn' in name else read.cache} {read.mongo}"
        for name, read in found.items()
    ]
    shown = ", ".join(f"{count} of {SENDS} in mode {mode}" for mode, count in seen.items())
    return lab.record_claims(
        ClaimResult(
            "asks_mongodb",
            f"queries of MongoDB: {', '.join(counted)}",
            HOLDS if all(asks) else DEPENDS if any(asks) else FAILS,
        ),
        ClaimResult(
            "latest_data",
            f"the read after a send had the new message: {shown}",
            holds_if(all(count == SENDS for count in seen.values())),
        ),
    )
