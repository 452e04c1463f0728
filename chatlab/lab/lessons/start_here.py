"""Notebook 00: when a cached message expires, how to ask Redis, and which box stores the message."""

import asyncio
from typing import Any

from chatlab.lab.checks import (
    CheckResult,
    UnusableAnswer,
    call_for_number,
    check,
    correct,
    is_number,
    not_yet,
)
from chatlab.lab.claims import DEPENDS, FAILS, ClaimResult, ClaimResults, holds_if
from chatlab.lab.diagram import STAGES
from chatlab.lab.key_lifetime import KeyLifetime
from chatlab.lab.session import Lab
from chatlab.lab.session_stores import value_of
from chatlab.lab.trace import Trace

NEAR_ENOUGH_S = 0.5
ROUNDING_S = 0.001
UNKNOWN_ID = "0" * 24

# --- exercises ------------------------------------------------------------------------------------


@check
async def gone_at(lab: Lab, second: Any) -> CheckResult:
    """Check the second at which a key expires that is read at 2 s. Sends, reads and watches."""
    if not is_number(second):
        raise UnusableAnswer("The answer must be a number of seconds, such as 4.")
    alice, bob = await lab.user("alice"), await lab.user("bob")
    trace = await alice.send(bob, "When do you expire?")
    await asyncio.sleep(2)
    await bob.read("alice")
    life = await lab.key_lifetime(trace)
    measured = f"This message was read at 2 s, and was gone at {life.lifetime_s:.2f} s."
    if abs(second - life.lifetime_s) <= NEAR_ENOUGH_S:
        return correct(f"{measured} Reading a key does not extend its TTL.")
    if abs(second - 2 - life.ttl_ms / 1000) <= NEAR_ENOUGH_S:
        return not_yet(
            f"{measured} Your answer would be right if a read started a new TTL. Compare"
            " r.pttl(key) before and after a read."
        )
    if second > life.lifetime_s:
        return not_yet(
            f"{measured} The sweeper's log line is not the end: look at the first check above that"
            " did not find the key."
        )
    return not_yet(f"{measured} Look at the last check above that found the key.")


@check
async def tells_time_left(lab: Lab, seconds_left: Any) -> CheckResult:
    """Check a function that returns the seconds that a cached message has left."""
    alice, bob = await lab.user("alice"), await lab.user("bob")
    trace, r = await alice.send(bob, "How long have you left?"), lab.redis
    for wait_s in (0.0, 1.2, lab.settings.cache_ttl):
        await asyncio.sleep(wait_s)
        before = max(r.pttl(trace.key), 0) / 1000
        said = call_for_number(lambda: seconds_left(r, trace.id))
        after = max(r.pttl(trace.key), 0) / 1000
        if not after - ROUNDING_S <= said <= before + ROUNDING_S:
            return not_yet(
                f"Your function returned {said:g}. Just before it, PTTL returned"
                f" {before * 1000:.0f}, which is {before:g} s."
            )
    if (said := call_for_number(lambda: seconds_left(r, UNKNOWN_ID))) != 0:
        return not_yet(f"For an id without a key it returned {said:g}. It must return 0.")
    return correct("It agreed with Redis at the start, later, and after the key had expired.")


@check
async def durable_box(lab: Lab, trace: Trace, name: Any) -> CheckResult:
    """Check the box that stores a message. Looks where the message is after it has expired."""
    if name not in STAGES:
        return not_yet(f"There is no such box. The boxes are: {', '.join(STAGES)}.")
    await lab.key_lifetime(trace)
    copies = [key for key in lab.redis.scan_iter() if trace.id in str(value_of(lab.redis, key))]
    in_redis = f"In Redis it is in {' and '.join(copies)}." if copies else "Redis has no copy."
    stored = bool(lab.find_messages(_id=trace.id))
    if name == "save" and stored:
        return correct(f"{in_redis} MongoDB still has it, and this box saved it there.")
    if name.startswith("cache"):
        return not_yet(
            f"This box writes to Redis. {in_redis} Try list(r.scan_iter()), then"
            " lab.find_messages()."
        )
    return not_yet(
        f"The message is {'' if stored else 'not '}in MongoDB. Which box writes to MongoDB? The"
        " table of boxes says it."
    )


# --- claims ---------------------------------------------------------------------------------------


def claims(lab: Lab, trace: Trace, life: KeyLifetime) -> ClaimResults:
    """Compare the document's claims about one message with what was measured."""
    stored = bool(lab.find_messages(_id=trace.id))
    alive_s = (life.alive_ms - life.cached_ms) / 1000
    logged = (
        f"logged at {life.reported_after_s:.2f} s, at a sweep" if life.reported_ms else "not logged"
    )
    return lab.record_claims(
        ClaimResult("seven_boxes", ", ".join(trace.stages), holds_if(trace.stages == STAGES)),
        ClaimResult(
            "message_key",
            f"found at {alive_s:.2f} s, gone at {life.missing_after_s:.2f} s",
            holds_if(life.expired_at_deadline and life.ttl_ms == 5000),
        ),
        ClaimResult("ttl_0", f"PTTL returned {life.end_pttl}", holds_if(life.end_pttl == 0)),
        ClaimResult("at_6_s", logged, DEPENDS if life.reported_ms >= life.deadline_ms else FAILS),
        ClaimResult(
            "never_lost",
            f"{'still' if stored else 'not'} in MongoDB after the cached copy had expired;"
            " notebooks 03 and 12 test failures",
            DEPENDS if stored else FAILS,
        ),
    )
