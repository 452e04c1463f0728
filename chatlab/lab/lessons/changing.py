"""Notebook 09: measurements of changes, and checks of a cache write that the learner writes."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from bson import ObjectId

from chatlab.cache.keys import grace_period_ms
from chatlab.cache.window import SOURCE, scripts_in
from chatlab.client import Json
from chatlab.domain.message import from_document
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
from chatlab.lab.race import Race, every_order
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.session_stores import time_us
from chatlab.lab.user import User

WINDOW = "messages:alice:bob"
TTL_MS = 5000
TIMEOUT_S, INTERVAL_S = 10.0, 0.05
NEAR_ENOUGH_S = 0.5
READ_AT_MS, EDITED_AT_MS = 2000, 3000  # after the send, in exercise 1
TRIES = 20
ONE = "message:exercise"
SCRIPTS = scripts_in(SOURCE)  # the service's own scripts


# --- the service ----------------------------------------------------------------------------------


async def passed(lab: Lab, message_id: str) -> PlainText:
    """Return the stages that the latest change of a message has passed."""

    def stages() -> list[str]:
        saves = [e for e in lab.events if e["stage"] == "save" and e.get("messageId") == message_id]
        return [e["stage"] for e in lab.events if saves and e["trace"] == saves[-1]["trace"]]

    if not await lab.events.wait_for(lambda: "respond" in stages()):
        raise PremiseGone("No change of this message was seen.", "change it in the same cell")
    return PlainText(", ".join(stages()))


async def crossed(lab: Lab, alice: User, bob: User) -> str:
    """Save two changes, and cache them in the wrong order with the service's own scripts.

    Returns the id of the message.
    """
    for _ in range(TRIES):
        lab.redis.delete(WINDOW)
        message_id = (await alice.send(bob, "Meet at six")).id
        began = time_us(lab.redis)
        older, newer = (_save(lab, message_id, text) for text in ("Meet at seven", "Meet at eight"))
        if _cache(lab, began, newer):
            _cache(lab, began, older)
            return message_id
        # It took longer than a grace period, so the script refused the write.
    raise EngineError("The machine is too busy for two changes in a second.", "run the cell again")


def _save(lab: Lab, message_id: str, text: str) -> Json:
    change = {"$set": {"text": text}, "$inc": {"version": 1}}
    saved: Any = lab.mongo.messages.find_one_and_update(
        {"_id": ObjectId(message_id)}, change, return_document=True
    )
    return dict(json.loads(from_document(saved).json))


def _cache(lab: Lab, began: int, message: Json) -> bool:
    """Write to both keys. Return True if the entry of the message was written."""
    common = (0, TTL_MS, grace_period_ms(TTL_MS), lab.settings.window_size, began)
    text = json.dumps(message, separators=(",", ":"), ensure_ascii=False)
    key = f"message:{message['_id']}"
    is_written = lab.redis.eval(SCRIPTS["message_change"], 1, key, *common, TTL_MS, text)
    lab.redis.eval(SCRIPTS["change"], 1, WINDOW, *common, message["seq"], text)
    return bool(is_written)


# --- exercise 1: how long an old text is read -----------------------------------------------------


@check
async def stale_for(lab: Lab, alice: User, bob: User, change: Any, seconds: Any) -> CheckResult:
    """Check for how long the old text can be read after an edit that forgets the window."""
    if not is_number(seconds):
        return not_yet("The answer is a number of seconds, counted from the edit.")
    lab.redis.delete(WINDOW)
    message_id = (await alice.send(bob, "Meet at six")).id
    left_ms = _age_window(lab, TTL_MS, READ_AT_MS)
    cache = (await bob.read(alice.id, limit=1)).cache
    left_ms = _age_window(lab, left_ms, EDITED_AT_MS - READ_AT_MS)
    change(lab.redis, lab.mongo, message_id, "Meet at seven")
    began, last_old_s = asyncio.get_running_loop().time(), 0.0
    async with asyncio.timeout(TIMEOUT_S):
        while (await bob.read(alice.id, limit=1)).messages[-1]["text"] == "Meet at six":
            last_old_s = asyncio.get_running_loop().time() - began
            await asyncio.sleep(INTERVAL_S)
    seen = f"Bob's read at 2 s was a {cache}. He read the old text for {last_old_s:.2f} s after the edit."
    if abs(seconds - left_ms / 1000) <= NEAR_ENOUGH_S:
        return correct(
            f"{seen} The 5 s of the window began with the send. Neither the read nor the edit"
            " extended them."
        )
    return not_yet(f"{seen} When did the window begin, and what extends its TTL?")


def _age_window(lab: Lab, expected_ms: int, by_ms: int) -> int:
    """Shorten the TTL of the window, which should be `expected_ms`, and return the rest."""
    left_ms = max(expected_ms, lab.redis.pttl(WINDOW)) - by_ms
    lab.redis.pexpire(WINDOW, left_ms)
    return left_ms


# --- exercise 2: the higher version wins ----------------------------------------------------------


@check
async def higher_version_wins(lab: Lab, put: Any) -> CheckResult:
    """Check a write that compares versions: one by one, and in every order of two changes."""
    orders = await asyncio.to_thread(_check_put, lab, put)
    return correct(
        "The value always has an expiry, and a lower version never replaces a higher one. That is"
        f" so in all {orders} orders in which two changes can happen."
    )


def _check_put(lab: Lab, put: Any) -> int:
    lab.redis.delete(ONE)
    cases = [(1, 1), (2, 2), (1, 2), (9, 9), (10, 10), (9, 10)]  # put this version, expect that one
    for number, (version, expected) in enumerate(cases):
        # A server whose clock is behind makes some of the changes.
        edited_at = f"2026-01-01T00:00:{59 - number}.000Z"
        message = {"version": version, "text": f"Version {version}", "editedAt": edited_at}
        _put_in_steps(lab, put, message)
        found = json.loads(lab.redis.get(ONE) or "{}").get("version")
        if found != expected:
            raise UnusableAnswer(
                f"Your function got version {version}. Afterwards the key had version {found}, and"
                f" not {expected}."
            )
    orders = 0
    for race in every_order(lambda: _two_changes(lab, put)):
        orders += 1
        if json.loads(lab.redis.get(ONE) or "{}").get("version") != 3:
            raise UnusableAnswer(
                "MongoDB has version 3, and the cache does not. This happens when the commands of"
                " two changes come in this order:",
                race.picture(lost="Meet at eight"),
            )
    return orders


def _put_in_steps(lab: Lab, put: Any, message: Json) -> None:
    """Put a message, and look at the expiry of the key after each command."""
    race = Race(lab, ONE, writer=lambda r, _: call_answer(put, r, ONE, message))
    while race.unfinished:
        race.step("writer")
        left_ms = lab.redis.pttl(ONE)
        if left_ms == -1 or left_ms > TTL_MS:
            race.abandon()
            raise UnusableAnswer(
                f"After this command PTTL is {left_ms}. If the program is killed now, the key stays"
                " too long. Set value and expiry in one step, for 5 s.",
                race.picture(),
            )
    if race.error:
        raise race.error


def _two_changes(lab: Lab, put: Any) -> Race:
    lab.mongo.exercise.drop()
    lab.mongo.exercise.insert_one({"_id": 1, "version": 1, "text": "Meet at six"})
    lab.redis.set(ONE, json.dumps({"version": 1, "text": "Meet at six"}), ex=5)

    def change(r: Any, db: Any, text: str) -> None:
        change = {"$set": {"text": text}, "$inc": {"version": 1}}
        saved = db.exercise.find_one_and_update({"_id": 1}, change, return_document=True)
        call_answer(put, r, ONE, {"version": saved["version"], "text": text})

    return Race(
        lab,
        ONE,
        seven=lambda r, db: change(r, db, "Meet at seven"),
        eight=lambda r, db: change(r, db, "Meet at eight"),
    )


# --- claims ---------------------------------------------------------------------------------------


class Shown(NamedTuple):
    """How many changes the next read showed exactly as they were acknowledged."""

    right: int
    of: int

    def __repr__(self) -> str:
        return f"{self.right} of {self.of} changes were in the next read, as they were acknowledged"


async def shown(alice: User, bob: User) -> Shown:
    """Edit, react and delete over each transport, and let Bob read after each change."""
    right = [
        message in (await bob.read(alice.id)).messages
        for changes in (_by_http, _by_socket)
        async for message in changes(alice, (await alice.send(bob, "Meet at six")).id)
    ]
    return Shown(sum(right), len(right))


async def _by_http(user: User, message_id: str) -> AsyncIterator[Json]:
    path = f"/api/messages/{message_id}"
    yield (await user.http.patch(path, json={"text": "Meet at seven"})).json()
    yield (await user.http.put(f"{path}/reactions/👍")).json()
    yield (await user.http.delete(path)).json()


async def _by_socket(user: User, message_id: str) -> AsyncIterator[Json]:
    for event, fields in (
        ("editMessage", {"text": "Meet at seven"}),
        ("addReaction", {"emoji": "👍"}),
        ("deleteMessage", {}),
    ):
        payload = {"messageId": message_id, **fields}
        yield (await user.socket.call(event, payload, timeout=TIMEOUT_S))["message"]


def claims(lab: Lab, seen: Shown) -> ClaimResults:
    """Return the verdict for the claim about the latest data, for changes."""
    return lab.record_claims(
        ClaimResult("latest_data", repr(seen), holds_if(seen.right == seen.of))
    )
