"""Notebook 05: the key of a conversation, two senders at once, and how long a window lives."""

import asyncio
import random
import string
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from redis import Redis

from chatlab.cache.deadline_tracker import NO_EXPIRY
from chatlab.cache.keys import Keys, grace_period_ms
from chatlab.domain.ids import conversation_of
from chatlab.lab.checks import CheckResult, call_answer, check, correct, is_number, not_yet
from chatlab.lab.claims import ClaimResult, ClaimResults, holds_if
from chatlab.lab.sentences import TooSlow
from chatlab.lab.session import Lab
from chatlab.lab.session_stores import time_us, value_of
from chatlab.lab.stepped_redis import record_steps, run_killed, run_overtaken
from chatlab.lab.user import User

TTL_MS = 5000
SECOND_SEND_S, EXERCISE_SEND_S = 2.0, 1.0  # after the first send
NEAR_MS = 100  # by which two deadlines may differ and be the same
SAMPLE_S = 0.05
TRIES = 5
PAIRS = 200
LIST = "messages:ann:ben"


def service_key(one: str, other: str) -> str:
    """Return the key that the service uses for the conversation of these two users."""
    return Keys().window(conversation_of(one, other))


async def within_one_window(redis: Redis, key: str, act: Callable[[], Awaitable[Any]]) -> None:
    """Delete the key and run `act`; again if that took longer than a window lives."""
    for _ in range(TRIES):
        redis.delete(key)
        started = time.monotonic()
        await act()
        if time.monotonic() - started < (TTL_MS - grace_period_ms(TTL_MS)) / 1000:
            return
    raise TooSlow


# --- how long a window lives ----------------------------------------------------------------------


class Window(NamedTuple):
    """A window just after a send. Times in milliseconds of Redis's clock."""

    at: float
    started: float
    ends: float
    messages: int

    @property
    def ttl_s(self) -> float:
        """Seconds between its start and its end."""
        return (self.ends - self.started) / 1000


class Lifetimes(NamedTuple):
    """A window after three sends. `samples`: the seconds it had left, over time."""

    first: Window
    second: Window
    third: Window
    samples: list[dict[str, float]]

    @property
    def is_extended(self) -> bool:
        """Return True if the second send started a new window, or moved its end."""
        return abs(self.second.ends - self.first.ends) > NEAR_MS

    def __repr__(self) -> str:
        names = ("first send", "second send", "third send, with less than 1 s left")
        return "\n".join(
            f"{(window.at - self.first.started) / 1000:.2f} s  {name}: {window.messages}"
            f" message{'' if window.messages == 1 else 's'} in the window, which ends at"
            f" {(window.ends - self.first.started) / 1000:.2f} s"
            for name, window in zip(names, self[:3], strict=True)
        )


async def measure_lifetimes(lab: Lab, one: User, other: User) -> Lifetimes:
    """Send three times to a new window: at 0 s, at 2 s, and when it has less than 1 s left."""
    key, samples = service_key(one.id, other.id), list[tuple[float, float]]()
    sampling = asyncio.ensure_future(_sample(lab.redis, key, samples))
    try:
        first, second = await _two_sends(lab, one, other, SECOND_SEND_S, 0.5)
        while (left := lab.redis.pttl(key)) > grace_period_ms(TTL_MS):  # noqa: ASYNC110 - Redis sends no event
            await asyncio.sleep((left - grace_period_ms(TTL_MS) + 50) / 1000)
        third = await _send(lab, one, other, "third")
        await asyncio.sleep(1)  # for the picture
    finally:
        sampling.cancel()
    rows = [
        {"second": (at - first.started) / 1000, "left": left}
        for at, left in samples
        if at >= first.started
    ]
    return Lifetimes(first, second, third, rows)


async def _sample(redis: Redis, key: str, samples: list[tuple[float, float]]) -> None:
    while True:  # until it is cancelled
        samples.append((time_us(redis) / 1000, max(redis.pttl(key), 0) / 1000))
        await asyncio.sleep(SAMPLE_S)


async def _two_sends(
    lab: Lab, one: User, other: User, apart_s: float, late_s: float
) -> tuple[Window, Window]:
    """Send to a new window, and again `apart_s` later, at most `late_s` too late."""
    for _ in range(TRIES):
        lab.redis.delete(service_key(one.id, other.id))
        first = await _send(lab, one, other, "first")
        await asyncio.sleep(apart_s)
        second = await _send(lab, one, other, "second")
        if first.messages and second.at - first.at < (apart_s + late_s) * 1000:
            return first, second
    raise TooSlow


async def _send(lab: Lab, one: User, other: User, text: str) -> Window:
    await one.send(other, text)
    transaction: Any
    with lab.redis.pipeline() as transaction:  # one step, so that all values are of one moment
        key = service_key(one.id, other.id)
        transaction.time()
        transaction.pttl(key)
        transaction.lrange(key, 0, -1)
        (seconds, microseconds), pttl, entries = transaction.execute()
    now = seconds * 1000 + microseconds / 1000
    started = int(entries[0].split(":")[1]) / 1000 if entries else now
    return Window(now, started, now + pttl, len(entries[1:]))


# --- exercises ------------------------------------------------------------------------------------


@check
async def one_key(lab: Lab, one: User, other: User, pair_key: Any) -> CheckResult:
    """Check a function that names a conversation's key: 200 pairs, then real messages."""
    for pair in _pairs():
        said, swapped = call_answer(pair_key, *pair), call_answer(pair_key, *reversed(pair))
        if said != swapped:
            return not_yet(
                f"For {pair} it returned {said!r}, and for the same users in the other order"
                f" {swapped!r}. Both users must come to one key."
            )
        if said != service_key(*pair):
            return not_yet(
                f"For {pair} it returned {said!r}. The service's key is {service_key(*pair)!r}."
            )
    for receiver in (other, one):
        await one.send(receiver, "which key?")
        if not lab.redis.exists(key := call_answer(pair_key, one.id, receiver.id)):
            return not_yet(f"{one.id} wrote to {receiver.id}, and Redis has no key {key!r}.")
    return correct(f"{PAIRS} pairs in both orders, and real messages: the service's key each time.")


def _pairs() -> list[tuple[str, str]]:
    """Return pairs that tell wrong rules apart, and random ones."""
    chance = random.Random()  # noqa: S311 - no secret

    def user_id() -> str:
        letters = string.digits + string.ascii_lowercase * chance.randint(0, 1)
        return "".join(chance.choices(letters, k=chance.randint(1, 6)))

    known = ["9 10", "123 456", "alice bob", "bob alice", "7 07", "9 9", "ann ann-2", "100 20"]
    pairs = [(one, other) for one, other in map(str.split, known)]
    return pairs + [(user_id(), user_id()) for _ in range(PAIRS - len(pairs))]


@check
async def appends(lab: Lab, append: Any) -> CheckResult:
    """Check a function that appends to a list. It is killed, and overtaken, at each step."""
    r = lab.redis

    def program(text: str) -> Callable[[Redis], Any]:
        return lambda client: call_answer(append, client, LIST, text)

    r.delete(LIST)
    steps = record_steps(r, program("from cleo"))
    kind: Any = r.type(LIST)
    if kind != "list":
        return not_yet(
            f"After it, {LIST} is of the type {kind!r}. It must be a list: see help(r.rpush)."
        )
    for number in range(len(steps) + 1):
        r.delete(LIST)
        program("from cleo")(r)
        run_overtaken(r, number, program("from ann"), lambda: program("from ben")(r))
        if result := _wrong_order(r, steps, number):
            return result
    for number in range(1, len(steps)):
        r.delete(LIST)
        run_killed(r, number, program("from ann"))
        if r.ttl(LIST) == NO_EXPIRY:
            return not_yet(
                f"It was killed after the step {steps[number - 1].split()[0]}, and left {LIST}"
                " without an expiry. Do everything in one step: a transaction or a script."
            )
    return _judged_ttl(r, program) or correct(
        "When it was overtaken or killed at each of its steps, no text was lost and no key was left"
        " without an expiry. A second text did not extend the TTL."
    )


def _wrong_order(r: Redis, steps: list[str], number: int) -> CheckResult | None:
    found, texts = value_of(r, LIST), ["from cleo", "from ann", "from ben"]
    if not isinstance(found, list) or sorted(found) != sorted(texts):
        return not_yet(
            f"Ben appended just before Ann's step {steps[min(number, len(steps) - 1)]}. Then the"
            f" value is {found}. Nothing may be lost or changed."
        )
    return None if found[0] == texts[0] else not_yet(f"The oldest must be the first: {found}.")


def _judged_ttl(r: Redis, program: Callable[[str], Callable[[Redis], Any]]) -> CheckResult | None:
    r.delete(LIST)
    program("from cleo")(r)
    if not 0 < r.pttl(LIST) <= TTL_MS:
        return not_yet(f"After the first text PTTL returns {r.pttl(LIST)}. 5 s are {TTL_MS} ms.")
    r.pexpire(LIST, TTL_MS // 2)
    program("from ann")(r)
    if r.pttl(LIST) > TTL_MS // 2:
        return not_yet(
            f"The list had {TTL_MS // 2} ms left. After another text, PTTL returns {r.pttl(LIST)}."
            " It must not be extended: see help(r.expire)."
        )
    return None


@check
async def time_left(lab: Lab, one: User, other: User, seconds: Any) -> CheckResult:
    """Check how long a window holds a message that came 1 s after its start."""
    if not is_number(seconds):
        return not_yet("The answer must be a number of seconds, such as 3.")
    first, second = await _two_sends(lab, one, other, EXERCISE_SEND_S, 0.45)
    left_s = (second.ends - second.at) / 1000
    measured = f"The second message came {(second.at - first.at) / 1000:.2f} s after the first, and PTTL returned {left_s * 1000:.0f}."
    if abs(seconds - left_s) <= 0.5:
        return correct(f"{measured} The window ends 5 s after its first message.")
    if abs(seconds - TTL_MS / 1000) <= 0.5:
        return not_yet(
            f"{measured} Your answer would be right if each send started a new TTL. Compare the"
            " measurement above."
        )
    return not_yet(f"{measured} The TTL is {TTL_MS // 1000} s. From which message does it count?")


# --- claims ---------------------------------------------------------------------------------------


def claims(lab: Lab, keys: list[str], lifetimes: Lifetimes) -> ClaimResults:
    """Compare the document's claims about a conversation's key with what was measured."""
    lived = all(abs(window.ttl_s * 1000 - TTL_MS) <= NEAR_MS for window in lifetimes[:3])
    extended = "extended it" if lifetimes.is_extended else "did not extend it"
    return lab.record_claims(
        ClaimResult(
            "conversation_key",
            f"it ends {lifetimes.first.ttl_s:.2f} s after its start; a send at 2 s {extended}",
            holds_if(lived and not lifetimes.is_extended),
        ),
        ClaimResult(
            "order_of_ids",
            f"9 to 10 and 10 to 9 together made {', '.join(keys)}: sorted as strings",
            holds_if(keys == [service_key("9", "10")]),
        ),
    )
