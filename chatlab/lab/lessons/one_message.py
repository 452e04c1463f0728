"""Notebook 04: caching a message in one step, keys without an expiry, and how much memory a key takes."""

import json
from typing import Any

from redis import Redis

from chatlab.cache.deadline_tracker import GONE, NO_EXPIRY
from chatlab.client import Json
from chatlab.lab.checks import CheckResult, UnusableAnswer, call_answer, check, correct, not_yet
from chatlab.lab.claims import DEPENDS, ClaimResult, ClaimResults, holds_if
from chatlab.lab.key_lifetime import KeyLifetime
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.stepped_redis import SteppedRedis, record_steps, run_killed, run_overtaken
from chatlab.lab.tables import TIMED
from chatlab.lab.user import User

TTL_MS = 5000
OTHER_TTL_S = 60  # of keys that an answer must leave alone
ROUNDS = 2  # the sweeper may repair a key during one round, but not during two
TRIES = 5
LIVE_KEYS, LEAKED_KEYS = 60, 8
DOCUMENT_TOTAL = 700  # bytes that a cached message takes, as the document says


async def memory_by_length(
    sender: User, receiver: User, redis: Redis, lengths: list[int]
) -> list[dict[str, int]]:
    """Return the bytes of messages with these numbers of letters: as JSON, and with their key."""
    sizes = []
    for letters in lengths:
        key = (await sender.send(receiver, "x" * letters)).key
        sizes.append(
            {"letters": letters, "json": redis.strlen(key), "memory": redis.memory_usage(key) or 0}
        )
    return sizes


# --- exercises ------------------------------------------------------------------------------------


@check
async def in_one_step(lab: Lab, cache_message: Any) -> CheckResult:
    """Check a function that caches a message for 5 s. It is killed after each of its steps."""
    await lab.user("bob")
    message = (await (await lab.user("alice")).send_by_http("bob", "Cache me")).message
    key, r = f"message:{message['_id']}", lab.redis

    def program(client: Redis) -> Any:
        r.delete(key)
        return call_answer(cache_message, client, message)

    steps = record_steps(r, program)
    value, pttl = r.get(key), r.pttl(key)
    if not steps:
        return not_yet("Your function sent nothing to Redis. Use its argument r.")
    for number in list(range(1, len(steps))) * ROUNDS:
        run_killed(r, number, program)
        if r.pttl(key) == NO_EXPIRY:
            return not_yet(
                f"It was killed after the step {steps[number - 1].split()[0]}, and left {key} with"
                " PTTL -1. The next step never came. Set the value and its expiry in one step."
            )
    return _judged(key, message, value, pttl) or correct(
        f"It was killed after each of its steps ({len(steps)}), and never left a key without an"
        f" expiry. When it ran to the end, PTTL returned {TIMED} {pttl}."
    )


def _judged(key: str, message: Json, value: Any, pttl: int) -> CheckResult | None:
    """Return what is wrong with a cached message, or None."""
    if pttl == GONE:
        return not_yet(
            f"After it there is no key {key}. Is the name right? And px counts milliseconds."
        )
    if pttl == NO_EXPIRY:
        return not_yet(f"PTTL returned -1 for {key}: it has no expiry.")
    if not TTL_MS / 5 < pttl <= TTL_MS:
        return not_yet(f"PTTL returned {pttl}, but 5 s are {TTL_MS} ms. ex counts seconds, px ms.")
    try:
        cached = json.loads(value)
    except ValueError:
        return not_yet(f"The value is not JSON: {value[:60]} ... Use json.dumps(message).")
    return None if cached == message else not_yet("The value is JSON, but not of this message.")


@check
async def finds_leaks(lab: Lab, find: Any) -> CheckResult:
    """Check a function that returns the keys under message:* without an expiry, among 70 keys."""
    r, steps = lab.redis, list[str]()
    for _ in range(TRIES):
        leaked, nearly_over = _write_keys(r)
        said = call_answer(find, SteppedRedis(r, steps.append))
        if any(r.pttl(key) != NO_EXPIRY for key in leaked) or r.pttl(nearly_over) < 0:
            continue  # the sweeper has repaired them meanwhile, or too much time has passed
        if isinstance(said, str) or not hasattr(said, "__iter__"):
            raise UnusableAnswer(f"It returned {said!r}. It must return a list of keys.")
        return _compared(r, leaked, set(said), steps)
    raise PremiseGone("The keys of this check have expired too early.", "run the cell again")


def _write_keys(r: Redis) -> tuple[list[str], str]:
    """Write keys of all kinds. Return those without an expiry, and one with 450 ms left."""
    for key in list(r.scan_iter("message:*")):  # others may have leaked in earlier exercises
        r.delete(key)
    leaked = [f"message:leaked-{number}" for number in range(LEAKED_KEYS)]
    for number in range(LIVE_KEYS):
        r.set(f"message:live-{number}", "x", ex=OTHER_TTL_S)
    for key in [*leaked, "another:leak"]:
        r.set(key, "x")
    r.set("message:nearly-over", "x", px=450)
    return leaked, "message:nearly-over"


def _compared(r: Redis, leaked: list[str], said: set[str], steps: list[str]) -> CheckResult:
    if extra := sorted(said - set(leaked)):
        return not_yet(
            f"It returned {extra[0]}. TTL returns {r.ttl(extra[0])} and PTTL {r.pttl(extra[0])} for"
            " that key. Only keys that begin with message: and have no expiry are asked for."
        )
    if missing := sorted(set(leaked) - said):
        return not_yet(
            f"It did not find {len(missing)} of {len(leaked)} keys, for example {missing[0]}."
            " One SCAN returns only a part of the keys. scan_iter repeats it."
        )
    how = "KEYS, which blocks Redis" if any(step.startswith("KEYS") for step in steps) else "SCAN"
    return correct(f"It found the {len(leaked)} keys without an expiry, and no other, with {how}.")


@check
async def repairs(lab: Lab, repair: Any) -> CheckResult:
    """Check a function that gives a key without an expiry 5 s. Another program overtakes it."""
    r, key = lab.redis, "message:leaked"

    def program(client: Redis) -> Any:
        return call_answer(repair, client, key)

    r.set(key, "x")
    steps = record_steps(r, program)
    if not 0 < r.pttl(key) <= TTL_MS or r.get(key) != "x":
        return not_yet(
            f"After it, PTTL returns {r.pttl(key)} for the leaked key, and GET returns {r.get(key)!r}."
            " The value must stay, for 5 s."
        )
    r.set(key, "x", ex=OTHER_TTL_S)
    program(r)
    if r.ttl(key) <= TTL_MS / 1000:
        return not_yet(f"The key had {OTHER_TTL_S} s left. After it, TTL returns {r.ttl(key)}.")
    for number in list(range(len(steps) + 1)) * ROUNDS:
        r.set(key, "x")
        run_overtaken(r, number, program, lambda: r.expire(key, OTHER_TTL_S))
        if r.ttl(key) <= TTL_MS / 1000:
            return not_yet(
                f"Another program gave the key {OTHER_TTL_S} s just before your step"
                f" {steps[number]}. After it, TTL returns {r.ttl(key)}. Redis can check and set in"
                " one step: see help(r.expire)."
            )
    r.delete(key)
    program(r)
    return correct(
        "It repairs a leaked key. It changes no other key, even when another program sets an expiry"
        " at the worst moment."
    )


# --- claims ---------------------------------------------------------------------------------------


def claims(lab: Lab, life: KeyLifetime, sizes: list[dict[str, int]]) -> ClaimResults:
    """Compare the document's claims about a message's key with what was measured."""
    is_id = bool(lab.find_messages(_id=life.key.removeprefix("message:")))
    alive_s = (life.alive_ms - life.cached_ms) / 1000
    small, large = min(size["memory"] for size in sizes), max(size["memory"] for size in sizes)
    return lab.record_claims(
        ClaimResult(
            "message_key",
            f"the key is message: and the _id; found at {alive_s:.2f} s, gone at"
            f" {life.missing_after_s:.2f} s",
            holds_if(is_id and life.expired_at_deadline and life.ttl_ms == TTL_MS),
        ),
        ClaimResult(
            "total_bytes",
            f"it depends on the length of the text: {TIMED} {small:,} to {large:,} bytes",
            DEPENDS if small < DOCUMENT_TOTAL < large else holds_if(False),
        ),
    )
