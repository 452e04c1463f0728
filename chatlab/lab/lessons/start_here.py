"""Notebook 00: one message, from the door to its end in Redis."""

import asyncio
from typing import Any

from chatlab.lab.checks import CORRECT, NOT_YET, CheckResult, check
from chatlab.lab.claims import DEPENDS, FAILS, ClaimResult, ClaimResults, holds_if
from chatlab.lab.diagram import STAGES
from chatlab.lab.key_lifetime import KeyLifetime
from chatlab.lab.session import Lab
from chatlab.lab.session_stores import value_of
from chatlab.lab.trace import Trace

NEAR_ENOUGH = 0.5  # seconds


@check
async def gone_at(lab: Lab, answer: Any) -> CheckResult:
    """At which second after its send is a key gone that was read at 2 s? Sends one, reads it, and watches."""
    if not isinstance(answer, int | float):
        return CheckResult(NOT_YET, "The answer is a number of seconds, such as 4.")
    alice, bob = await lab.user("alice"), await lab.user("bob")
    trace = await alice.send(bob, "How long do you last?")
    await asyncio.sleep(2)  # seconds; as the exercise says
    await bob.read("alice")
    life = await lab.key_lifetime(trace)
    if abs(answer - life.lifetime_s) <= NEAR_ENOUGH:
        return CheckResult(
            CORRECT,
            f"It was read at 2 s and gone at {life.lifetime_s:.2f} s: reading does not extend a life.",
        )
    return CheckResult(NOT_YET, _hint(answer, life))


def _hint(answer: float, life: KeyLifetime) -> str:
    measured = f"This one was read at 2 s and gone at {life.lifetime_s:.2f} s."
    if abs(answer - 2 - life.ttl_ms / 1000) <= NEAR_ENOUGH:
        return f"{measured} Your answer would hold if reading began a new life. Compare lab.redis.pttl(key) before and after a read."
    if answer > life.lifetime_s:
        return f"{measured} Do not take the worker's word for the end: look at the first line in the life above that does not find the key."
    return f"{measured} Look at the last line in the life above that still finds the key."


@check
async def durable_box(lab: Lab, trace: Trace, answer: Any) -> CheckResult:
    """Which box stores for good? Looks where the message still is, now that its life in Redis is over."""
    name = str(answer).strip()
    if name not in STAGES:
        return CheckResult(
            NOT_YET, f"That is none of the boxes. They are called: {', '.join(STAGES)}."
        )
    await lab.key_lifetime(trace)
    copies = [
        key
        for key in (trace.key, *_conversation_keys(trace))
        if trace.id in str(value_of(lab.redis, key))
    ]
    stored = lab.find_messages(_id=trace.id)
    if name == "save" and stored:
        return CheckResult(
            CORRECT,
            f"{_in_redis(copies)} MongoDB still has it, and this is the box that put it there.",
        )
    if name in ("cache_message", "cache_conversation"):
        return CheckResult(
            NOT_YET,
            f"Its store is Redis. {_in_redis(copies)} Try list(lab.redis.scan_iter()), then lab.find_messages().",
        )
    return CheckResult(
        NOT_YET,
        f"{len(stored)} message with this _id is in MongoDB now. Which box speaks to MongoDB? The table of boxes says so.",
    )


def _in_redis(copies: list[str]) -> str:
    if not copies:
        return "Redis has nothing of the message any more."
    return f"Redis has it again in {' and '.join(copies)}, since it was read, and for 5 s at most."


def _conversation_keys(trace: Trace) -> list[str]:
    return [event["key"] for event in trace.events if event["stage"] == "cache_conversation"]


# --- what holds ----------------------------------------------------------------------------------------------------------------


def claims(lab: Lab, trace: Trace, life: KeyLifetime) -> ClaimResults:
    """What the document says of one message, held against this one."""
    stored = bool(lab.find_messages(_id=trace.id))
    lived = f"last found at {(life.alive_ms - life.cached_ms) / 1000:.2f} s, first missed at {life.missing_after_s:.2f} s"
    logged = (
        f"logged at {life.reported_after_s:.2f} s, at a beat of the worker"
        if life.reported_ms
        else "not logged"
    )
    afterwards = f"{'there' if stored else 'not there'} after Redis forgot it; breaking things is for a later notebook"
    return lab.record_claims(
        ClaimResult("seven_boxes", ", ".join(trace.stages), holds_if(trace.stages == STAGES)),
        ClaimResult(
            "message_key", lived, holds_if(life.expired_at_deadline and life.ttl_ms == 5000)
        ),
        ClaimResult("ttl_0", f"PTTL answered {life.end_pttl}", holds_if(life.end_pttl == 0)),
        ClaimResult("at_6_s", logged, DEPENDS if life.reported_ms >= life.deadline_ms else FAILS),
        ClaimResult("never_lost", afterwards, DEPENDS if stored else FAILS),
    )
