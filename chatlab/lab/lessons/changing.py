"""Notebook 09: changing a message. What a change passes, who may make it, and two mistakes that leave an old text in the cache."""

import asyncio
import json
import time
from collections.abc import Awaitable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

from bson import ObjectId

from chatlab.cache.keys import grace_period_ms
from chatlab.cache.window import SOURCE, scripts_in
from chatlab.client import Json
from chatlab.domain.message import now
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
from chatlab.lab.claims import ClaimResult, ClaimResults, holds_if
from chatlab.lab.plain_text import PlainText
from chatlab.lab.polling import poll_until
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.session_stores import time_us
from chatlab.lab.stepped_task import Pause, SteppedTask
from chatlab.lab.tables import Rows
from chatlab.lab.trace import Trace
from chatlab.lab.user import User

WINDOW = "messages:alice:bob"
LIFE = 5000  # milliseconds
PATIENCE = 10.0  # seconds
OFTEN = 0.05  # seconds between two reads
NEAR_ENOUGH = 0.5  # seconds
READ_AT, EDITED_AT = 2000, 3000  # milliseconds after the send, in the exercise
SAME_PLACE = "Which number of a message grows with each change? (Not seq: that is its place in the conversation.)"
SLOW_CLOCK = timedelta(seconds=2)
TRIES = 20
SCRIPTS = scripts_in(SOURCE)  # the service's own


# --- what a change passes and costs --------------------------------------------------------------------------------------------


async def heard(bob: User, of: Trace, count: int) -> Rows:
    """What Bob's socket heard of this message, once it has heard so much."""

    def of_it() -> list[tuple[str, ...]]:
        told = [
            event
            for event in bob.received
            if isinstance(event.payload, dict) and event.payload.get("_id") == of.id
        ]
        return [
            (
                event.event,
                str(event.payload["version"]),
                event.payload["text"],
                " ".join(event.payload["reactions"]),
            )
            for event in told
        ]

    if not await poll_until(lambda: len(of_it()) >= count, PATIENCE):
        raise PremiseGone(
            f"Bob's socket has heard {len(of_it())} events about this message, not {count}.",
            "run the cells from the one that sends it on again",
        )
    return Rows(("event", "version", "text", "reactions"), of_it())


async def passed(lab: Lab, of: Trace) -> PlainText:
    """The boxes that the latest change of this message passed."""

    def done() -> list[str]:
        saved = [
            event["trace"]
            for event in lab.events
            if event["stage"] == "save" and event.get("messageId") == of.id
        ]
        return [event["stage"] for event in lab.events if saved and event["trace"] == saved[-1]]

    if not await lab.events.wait_for(lambda: "respond" in done()):
        raise PremiseGone(
            "This session has seen no change of this message.", "change it, then run this again"
        )
    return PlainText(", ".join(done()))


async def costs(lab: Lab, alice: User, trace: Trace) -> Rows:
    """What an edit asks, while the message's copy is in Redis and when it is not."""
    path = f"/api/messages/{trace.id}"
    await _in_cache(lab, alice, trace)
    with_copy = await _cost(lab, alice.http.patch(path, json={"text": "Meet at eight"}))
    lab.redis.execute_command("DEL", trace.key)
    without = await _cost(lab, alice.http.patch(path, json={"text": "Meet at nine"}))
    return Rows(
        ("its copy", "MongoDB was asked", "Redis was asked"),
        [("is in Redis", *with_copy), ("is not in Redis", *without)],
    )


async def _cost(lab: Lab, act: Awaitable[Any]) -> tuple[str, str]:
    asked = await lab.record_queries(act)
    return ", ".join(name for name in asked.mongo if name.endswith(" messages")), ", ".join(
        asked.redis
    )


async def lives(lab: Lab, alice: User, trace: Trace) -> Rows:
    """What an edit does to the two lives: both are made shorter first, so that a new one shows."""
    shorter = LIFE * 3 // 5
    await _in_cache(lab, alice, trace)
    for key in (trace.key, WINDOW):
        if not lab.redis.pexpire(key, shorter):
            raise PremiseGone(f"{key} is not in Redis.", "run the cell again")
    await alice.http.patch(f"/api/messages/{trace.id}", json={"text": "Meet at ten"})
    anew = {key: lab.redis.pttl(key) > shorter for key in (trace.key, WINDOW)}
    return Rows(
        ("key", "after the edit"),
        [(key, "a new life" if new else "its life goes on as it was") for key, new in anew.items()],
    )


async def _in_cache(lab: Lab, alice: User, trace: Trace) -> None:
    """Have the message in both of its keys: an edit puts it in its own, a read fills the window."""
    await alice.http.patch(f"/api/messages/{trace.id}", json={"text": "Meet soon"})
    await alice.read(trace.message["receiverId"])
    if not lab.redis.exists(trace.key):
        raise PremiseGone(f"{trace.key} is not in Redis.", "send the message again")


async def who_may(alice: User, bob: User, carol: User) -> Rows:
    """Who may change a message from Alice to Bob: the statuses of real requests."""
    trace = await alice.send(bob, "Who may change me?")
    rows = [
        ("carol, an outsider", *await _tries(carol, trace)),
        ("bob, who received it", *await _tries(bob, trace)),
    ]
    rows += [
        ("alice, who sent it", *await _tries(alice, trace)),
        ("alice, now that it is deleted", *await _tries(alice, trace)),
    ]
    return Rows(("who", "edit", "react", "delete"), rows)


async def _tries(person: User, trace: Trace) -> tuple[str, str, str]:
    path = f"/api/messages/{trace.id}"
    edit = await person.http.patch(path, json={"text": "Changed"})
    react = await person.http.put(f"{path}/reactions/👍")
    delete = await person.http.delete(path)
    return str(edit.status_code), str(react.status_code), str(delete.status_code)


# --- the mistake: a key that is forgotten --------------------------------------------------------------------------------------


async def afresh(lab: Lab, alice: User, bob: User, text: str) -> Trace:
    """A send with which a new window begins: what is left of the former one is taken away."""
    lab.redis.execute_command("DEL", WINDOW)
    return await alice.send(bob, text)


def save(lab: Lab, trace: Trace, text: str, *, clock_behind: timedelta = timedelta()) -> Json:
    """The next version of the message, in MongoDB, by another server; its clock may be behind."""
    change = {"$set": {"text": text, "editedAt": now() - clock_behind}, "$inc": {"version": 1}}
    lab.mongo.messages.update_one({"_id": ObjectId(trace.id)}, change)
    return lab.find_messages(_id=trace.id)[0]


def keep(lab: Lab, trace: Trace, message: Json) -> None:
    """Its copy under its own key."""
    lab.redis.execute_command("SET", trace.key, _json(message), "PX", LIFE)


def _json(message: Json) -> str:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)


def forgetful_edit(lab: Lab, trace: Trace, text: str) -> PlainText:
    """An edit by another server: MongoDB, and the message's own key. The window it forgets."""
    message = save(lab, trace, text)
    keep(lab, trace, message)
    return PlainText(f"version {message['version']}: {text!r} in MongoDB and in message:{{_id}}")


class Stale(NamedTuple):
    """Reads after an edit. Seconds from the edit: `last_old` to the last read with the old text, `first_new` to the one behind it."""

    old: str
    new: str
    last_old: float
    first_new: float
    served_by: set[str]
    ended_by: str

    @property
    def until(self) -> str:
        """What ended it, in words."""
        return (
            "until the window has expired"
            if self.ended_by == "miss"
            else f"until a {self.ended_by}"
        )

    def __repr__(self) -> str:
        return (
            f"Bob read {self.old!r} for {self.last_old:.2f} s, each time as X-Cache: {', '.join(sorted(self.served_by))}.\n"
            f"At {self.first_new:.2f} s he read {self.new!r}, as X-Cache: {self.ended_by}."
        )


async def stale(bob: User, alice: User, trace: Trace) -> Stale:
    """Bob reads the last message, this one, until its text is another one than it was sent with."""
    old, began, last_old, served_by = trace.message["text"], time.perf_counter(), 0.0, set[str]()
    async with asyncio.timeout(PATIENCE):
        while True:
            reading = await bob.read(alice.id, limit=1)
            text = reading.messages[-1]["text"]
            at = time.perf_counter() - began
            if text != old and not served_by:
                raise PremiseGone(
                    "The first read shows the new text already: the window had expired.",
                    "run the cell that edits the message and this one in one go",
                )
            if text != old:
                return Stale(old, text, last_old, at, served_by, reading.cache)
            last_old = at
            served_by.add(reading.cache)
            await asyncio.sleep(OFTEN)


# --- the mistake: two changes in the wrong order -------------------------------------------------------------------------------


async def naive_change(lab: Lab, trace: Trace, text: str, pause: Pause) -> None:
    """Save the next version, then cache what was saved."""
    message = save(lab, trace, text)
    await pause("has saved")
    keep(lab, trace, message)


async def service_change(lab: Lab, trace: Trace, text: str, pause: Pause) -> bool:
    """The same with the service's own scripts. Was the message's own key written?"""
    began = time_us(lab.redis)
    message = save(lab, trace, text)
    await pause("has saved")
    common = (0, LIFE, grace_period_ms(LIFE), lab.settings.window_size, began)
    kept = lab.redis.execute_command(
        "EVAL", SCRIPTS["message_change"], 1, trace.key, *common, _json(message)
    )
    lab.redis.execute_command(
        "EVAL", SCRIPTS["change"], 1, WINDOW, *common, message["seq"], _json(message)
    )
    return bool(kept)


async def crossed(lab: Lab, alice: User, bob: User) -> Trace:
    """Two changes with the service's scripts; the older one comes last. The message's trace."""
    for _ in range(TRIES):
        trace = await afresh(lab, alice, bob, "Meet at six")
        older = await SteppedTask(service_change, lab, trace, "Meet at seven").run_until(
            "has saved"
        )
        newer = await SteppedTask(service_change, lab, trace, "Meet at eight").finish()
        await older.finish()
        if newer:  # else it took so long that its write was refused for that
            return trace
    raise EngineError("The machine is too busy for two changes in a second.", "run the cell again")


# --- the exercises -------------------------------------------------------------------------------------------------------------


@check
async def stale_for(lab: Lab, alice: User, bob: User, seconds: Any) -> CheckResult:
    """For how long can the old text be read? Sends, lets time pass, reads, lets time pass, edits without the window, and reads on."""
    if not is_number(seconds):
        return not_yet("The answer is a number of seconds, counted from the edit.")
    trace = await afresh(lab, alice, bob, "Meet at six")
    left = _aged(lab, LIFE, READ_AT)
    reading = await bob.read(
        alice.id, limit=1
    )  # a longer one might go beyond the window, and have to widen it
    left = _aged(lab, left, EDITED_AT - READ_AT)
    forgetful_edit(lab, trace, "Meet at seven")
    seen = await stale(bob, alice, trace)
    after = f"After the edit he read the old text for {seen.last_old:.2f} s, and at {seen.first_new:.2f} s the new one."
    measured = f"Bob's read at 2 s was a {reading.cache}. {after}"
    if abs(seconds - left / 1000) <= NEAR_ENOUGH and seen.last_old <= left / 1000 + NEAR_ENOUGH:
        return correct(
            f"{measured} The window's 5 s began with the send; neither the read nor the edit has changed that."
        )
    return not_yet(f"{measured} {_hint(seconds, left)}")


def _aged(lab: Lab, expected: int, by: int) -> int:
    """Take so many milliseconds off the window's life, of which so much is expected, or more if somebody has renewed it; what is left."""
    left = max(expected, lab.redis.pttl(WINDOW)) - by
    lab.redis.execute_command("PEXPIRE", WINDOW, left)
    return left


def _hint(seconds: float, left: int) -> str:
    if abs(seconds - LIFE / 1000) <= NEAR_ENOUGH:
        return "5 s would be right if the edit had begun a new life of the window. This edit has not touched it."
    if seconds > left / 1000:
        return "So long a life would have to be renewed by the read. Was it? Notebook 06 looks at that."
    return "When did the window's life begin, and how much of it was over at the edit?"


async def careful_change(
    lab: Lab, trace: Trace, text: str, clock_behind: timedelta, rule: Any, pause: Pause
) -> None:
    """The naive change, which asks the rule when a copy is there: with that copy, and with the one it would write."""
    new = save(lab, trace, text, clock_behind=clock_behind)
    await pause("has saved")
    there = lab.redis.execute_command("GET", trace.key)
    if there is None or _says(rule, json.loads(there), new):
        keep(lab, trace, new)


def _says(rule: Any, old: Json, new: Json) -> bool:
    says = call_answer(rule, old, new)
    if not isinstance(says, bool):
        raise UnusableAnswer(
            f"Your function said {says!r}. It has to say True (write the new one) or False (leave the old one)."
        )
    return says


@check
async def newer(lab: Lab, alice: User, bob: User, rule: Any) -> CheckResult:
    """Is the newest version in the cache, in whatever order two changes come? The walk of above with this rule, three times."""
    in_order = await _two_changes(lab, alice, bob, rule)
    if in_order["version"] != 3:
        return not_yet(
            f"{_left(in_order)} The two came in the right order, and your rule kept the newer one out. {SAME_PLACE}"
        )
    crossed_ones = await _two_changes(lab, alice, bob, rule, older_last=True)
    if crossed_ones["version"] != 3:
        return not_yet(
            f"{_left(crossed_ones)} The older change came last, and your rule let it in. What tells the two apart?"
        )
    by_two_clocks = await _two_changes(lab, alice, bob, rule, behind=SLOW_CLOCK)
    if by_two_clocks["version"] != 3:
        return not_yet(
            f"{_left(by_two_clocks)} The newer change was made by a server whose clock is 2 s behind. Do not trust clocks of two machines."
        )
    return correct(
        "In order, in the wrong order, and with a clock that is behind: version 3 is in the cache, as in MongoDB."
    )


async def _two_changes(
    lab: Lab,
    alice: User,
    bob: User,
    rule: Any,
    *,
    older_last: bool = False,
    behind: timedelta = timedelta(),
) -> Json:
    """The copy that two changes leave."""
    trace = await alice.send(bob, "Meet at six")
    lab.redis.execute_command("DEL", trace.key)
    older = await SteppedTask(
        careful_change, lab, trace, "Meet at seven", timedelta(), rule
    ).run_until("has saved")
    newer_one = await SteppedTask(
        careful_change, lab, trace, "Meet at eight", behind, rule
    ).run_until("has saved")
    for walk in (newer_one, older) if older_last else (older, newer_one):
        await walk.finish()
    return dict(json.loads(lab.redis.execute_command("GET", trace.key)))


def _left(copy: Json) -> str:
    return f"MongoDB has version 3, {'Meet at eight'!r}; the cache was left with version {copy['version']}, {copy['text']!r}."


# --- what holds ----------------------------------------------------------------------------------------------------------------


class Shown(NamedTuple):
    """Of so many changes, how many the next read showed as they were acknowledged."""

    right: int
    of: int

    def __repr__(self) -> str:
        return f"{self.right} of {self.of} changes were in the next read exactly as they were acknowledged"


async def shown(alice: User, bob: User) -> Shown:
    """Edit, react, delete, by each door; Bob reads right behind each."""
    right = []
    for changes in (_by_http, _by_socket):
        for change in changes(alice, await alice.send(bob, "Meet at six")):
            acknowledged = await change
            right.append(acknowledged in (await bob.read(alice.id)).messages)
    return Shown(sum(right), len(right))


def _by_http(person: User, trace: Trace) -> Iterator[Awaitable[Json]]:
    async def answer(method: str, path: str, body: Json | None = None) -> Json:
        return dict(
            (await person.http.request(method, f"/api/messages/{trace.id}{path}", json=body)).json()
        )

    yield answer("PATCH", "", {"text": "Meet at seven"})
    yield answer("PUT", "/reactions/👍")
    yield answer("DELETE", "")


def _by_socket(person: User, trace: Trace) -> Iterator[Awaitable[Json]]:
    async def ack(event: str, **payload: str) -> Json:
        return dict(
            (await person.socket.call(event, {"messageId": trace.id, **payload}, timeout=PATIENCE))[
                "message"
            ]
        )

    yield ack("editMessage", text="Meet at seven")
    yield ack("addReaction", emoji="👍")
    yield ack("deleteMessage")


def claims(lab: Lab, seen: Shown) -> ClaimResults:
    """The one claim of the document that changes can speak to, beside their time, which is notebook 10's."""
    return lab.record_claims(
        ClaimResult("latest_data", repr(seen), holds_if(seen.right == seen.of))
    )
