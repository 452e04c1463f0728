"""Notebook 05: the cached stretch of a conversation. The order of the two ids, two senders at once, and how long its key lives."""

import asyncio
import itertools
import json
import random
import re
import string
import time
from typing import Any, NamedTuple

from chatlab.cache.keys import Keys, grace_period_ms
from chatlab.domain.ids import conversation_of
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
from chatlab.lab.redis_command import parse_command, run_command
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.session_stores import value_of
from chatlab.lab.stepped_task import Pause, SteppedTask
from chatlab.lab.tables import TIMED, Rows
from chatlab.lab.user import User

LIFE = 5000  # milliseconds
SECOND_AT, THIRD_AT = (
    2.0,
    1.0,
)  # seconds after the first send: in the measurement, and in the exercise
NEAR = 100  # milliseconds by which two deadlines may differ and be the same
TRIES = 5
PAIRS = 200
AT_ONCE = 20
LIST = "messages:ann:ben"
LOOK = (
    "local time = redis.call('TIME') "
    "return {time[1] * 1000 + math.floor(time[2] / 1000), redis.call('PTTL', KEYS[1]), redis.call('LRANGE', KEYS[1], 0, -1)}"
)
TOO_SLOW = EngineError(
    "The machine was too slow for this measurement.", "run the cell again when it has less to do"
)
PUSH = "redis.call('RPUSH', KEYS[1], ARGV[1]) redis.call('PEXPIRE', KEYS[1], 5000)"


# --- the window ----------------------------------------------------------------------------------------------------------------


class Window(NamedTuple):
    """What lay under a conversation's key at `at` (milliseconds since 1970). `pttl`: what PTTL answered then."""

    key: str
    at: int
    pttl: int
    entries: list[str]

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(entry) for entry in self.entries[1:]]

    @property
    def born(self) -> float:
        """When this life of it began, by its own first entry; milliseconds since 1970."""
        return int(self.entries[0].split(":")[1]) / 1000

    @property
    def ends(self) -> float:
        """Seconds from its beginning to its end."""
        return (self.at + self.pttl - self.born) / 1000

    def _rows(self) -> Rows:
        head = (
            "0",
            "a head: when it was last changed, when it was begun, the seq of its oldest message",
            f"{TIMED} {self.entries[0]}",
        )
        rest = [
            (str(place), f"a message: seq {message['seq']}, {message['text']!r}", "")
            for place, message in enumerate(self.messages, 1)
        ]
        return Rows((f"{self.key}", "what it is", "as it stands there"), [head, *rest])

    def __repr__(self) -> str:
        return repr(self._rows())

    def _repr_html_(self) -> str:
        return self._rows()._repr_html_()


def window(lab: Lab, one: User, other: User) -> Window:
    """The window of their conversation as it is now, all of it seen in one step."""
    key = key_of(one.id, other.id)
    found = look(lab, key)
    if not found.entries:
        raise PremiseGone(f"The window {key} has expired.", "send a message and run this again")
    return found


def look(lab: Lab, key: str) -> Window:
    """What lies under this key, which may be nothing."""
    at, pttl, entries = lab.redis.execute_command("EVAL", LOOK, 1, key)
    return Window(key, at, pttl, entries)


def key_of(one: str, other: str) -> str:
    """The service's own rule."""
    return Keys().window(conversation_of(one, other))


# --- the mistake: ids taken for numbers ----------------------------------------------------------------------------------------


def key_by_number(one: str, other: str) -> str:
    """The key of a program that takes ids for numbers, as the language of browsers does: what does not begin like one is NaN."""
    ids = [
        int(found[0]) if (found := re.match(r"\d+", given)) else float("nan")
        for given in (one, other)
    ]
    return "messages:{}:{}".format(*(str(number).replace("nan", "NaN") for number in sorted(ids)))


def orders() -> Rows:
    """The key of some pairs by both rules."""
    pairs = (("123", "456"), ("9", "10"), ("7", "07"), ("alice", "bob"), ("cleo", "dan"))
    return Rows(
        ("two users", "sorted as strings", "sorted as numbers"),
        [
            (f"{one}, {other}", key_of(one, other), key_by_number(one, other))
            for one, other in pairs
        ],
    )


async def two_writers(lab: Lab, one: User, other: User) -> Rows:
    """A message through the service, and one by a program that sorts ids as numbers: what each key has of them."""
    await one.send(other, "by the service")
    keys = {
        "the service": key_of(one.id, other.id),
        "the other program": key_by_number(one.id, other.id),
    }
    lab.redis.execute_command("EVAL", PUSH, 1, keys["the other program"], "by the other program")
    values = {name: str(value_of(lab.redis, key)) for name, key in keys.items()}
    return Rows(
        (
            "who writes and reads",
            "under this key",
            "finds the service's message",
            "finds the other program's",
        ),
        [
            (name, keys[name], *("yes" if f"by {writer}" in value else "no" for writer in keys))
            for name, value in values.items()
        ],
    )


# --- the mistake: a list that is read, changed and written back ----------------------------------------------------------------


async def append_in_python(lab: Lab, key: str, text: str, pause: Pause) -> None:
    """A sender that gets the list, puts its message at the end, and sets the list."""
    messages = json.loads(str(lab.redis.get(key) or "[]"))
    await pause("has read")
    lab.redis.execute_command("SET", key, json.dumps([*messages, text]), "EX", 5)


async def all_at_once(lab: Lab, one: User, other: User) -> Rows:
    """Many sends at the same time, from both sides and through both doors: how many of them the window has, and in which order."""
    for _ in range(TRIES):
        lab.redis.execute_command("DEL", key_of(one.id, other.id))
        began = time.monotonic()
        await asyncio.gather(*(_nth_send(one, other, number) for number in range(AT_ONCE)))
        if time.monotonic() - began < (LIFE - grace_period_ms(LIFE)) / 1000:  # within one life
            return _counted(window(lab, one, other))
    raise TOO_SLOW


def _counted(found: Window) -> Rows:
    seqs = [message["seq"] for message in found.messages]
    gaps = sum(after != before + 1 for before, after in itertools.pairwise(seqs))
    return Rows(
        ("sent at the same time", "in the window", "gaps in their order"),
        [(str(AT_ONCE), str(len(seqs)), str(gaps))],
    )


async def _nth_send(one: User, other: User, number: int) -> None:
    sender, receiver = (one, other) if number % 2 else (other, one)
    send = sender.send_by_socket if number % 4 > 1 else sender.send_by_http
    await send(receiver.id, f"number {number}")


# --- how long it lives ---------------------------------------------------------------------------------------------------------


class Lives(NamedTuple):
    """The window after a first send, after a second 2 s later, and after a third when little was left."""

    first: Window
    second: Window
    third: Window

    @property
    def renewed(self) -> bool:
        """Did the second send give it a new life?"""
        return (
            abs(self.second.born - self.first.born) > NEAR
            or abs(self.second.ends - self.first.ends) * 1000 > NEAR
        )

    @property
    def prediction(self) -> str:
        return "5 s after the second" if self.renewed else "5 s after the first"

    def _line(self, name: str, found: Window) -> str:
        at, end = (
            (found.at - self.first.born) / 1000,
            (found.born - self.first.born) / 1000 + found.ends,
        )
        count = len(found.messages)
        return f"{at:.2f} s  {name}: {count} {'message' if count == 1 else 'messages'} in the window, which ends at {end:.2f} s"

    def __repr__(self) -> str:
        names = ("the first send", "the second send", "the third send, with less than 1 s left")
        return "\n".join(self._line(name, found) for name, found in zip(names, self, strict=True))


async def lives(lab: Lab, one: User, other: User) -> Lives:
    """Three sends to a new window: the second after 2 s, the third when less than 1 s is left."""
    first, second = await _two_sends(lab, one, other, SECOND_AT, LIFE / 1000 - 2 * SECOND_AT)
    key = key_of(one.id, other.id)
    while (left := look(lab, key).pttl) > grace_period_ms(LIFE):  # noqa: ASYNC110 - Redis tells nobody
        await asyncio.sleep((left - grace_period_ms(LIFE) + 50) / 1000)
    return Lives(first, second, await _sent(lab, one, other, "third"))


async def _two_sends(
    lab: Lab, one: User, other: User, apart: float, late: float
) -> tuple[Window, Window]:
    """The window after a send that begins it, and after another so many seconds later, `late` at most. Raises EngineError."""
    for _ in range(TRIES):
        lab.redis.execute_command("DEL", key_of(one.id, other.id))
        first = await _sent(lab, one, other, "first")
        await asyncio.sleep(apart)
        second = await _sent(lab, one, other, "second")
        if first.messages and second.at - first.at < (apart + late) * 1000:
            return first, second
    raise TOO_SLOW


async def _sent(lab: Lab, one: User, other: User, text: str) -> Window:
    """Send, and look at the window at once."""
    await one.send(other, text)
    return look(lab, key_of(one.id, other.id))


# --- the exercises -------------------------------------------------------------------------------------------------------------


@check
async def one_key(lab: Lab, one: User, other: User, rule: Any) -> CheckResult:
    """Is this function the service's rule? Tried on 200 pairs in both directions, and then against keys that the service makes in Redis."""
    for first, second in _pairs():
        said, swapped, ours = (
            call_answer(rule, first, second),
            call_answer(rule, second, first),
            key_of(first, second),
        )
        if said != swapped:
            return not_yet(
                f"For {first!r} and {second!r} it says {said!r}, the other way round {swapped!r}: two writers, two keys."
            )
        if said != ours:
            return not_yet(
                f"For {first!r} and {second!r} it says {said!r}. The service's key is {ours!r}."
            )
    for sender, receiver in ((one, other), (one, one)):
        lab.redis.execute_command("DEL", key_of(sender.id, receiver.id))
        await sender.send(receiver, "which key?")
        if not lab.redis.exists(key := call_answer(rule, sender.id, receiver.id)):
            there = sorted(lab.redis.scan_iter("messages:*"))
            return not_yet(
                f"{sender.id} has written to {receiver.id}, and there is no {key!r} in Redis. There is: {there}."
            )
    return correct(
        f"{PAIRS} pairs, both ways: the same key as the service's. It made the same ones in Redis just now, also for 9 with 9."
    )


def _pairs() -> list[tuple[str, str]]:
    """Those that tell rules apart, and random ones as the service allows them."""
    chance = random.Random()  # noqa: S311 - no secret
    known = [
        ("9", "10"),
        ("123", "456"),
        ("alice", "bob"),
        ("bob", "alice"),
        ("7", "07"),
        ("9", "9"),
        ("ann", "ann-2"),
        ("100", "20"),
    ]
    return known + [(_user_id(chance), _user_id(chance)) for _ in range(PAIRS - len(known))]


def _user_id(chance: random.Random) -> str:
    letters = string.digits if chance.random() < 0.5 else string.ascii_lowercase + string.digits
    return "".join(chance.choices(letters, k=chance.randint(1, 6)))


async def append_by_command(lab: Lab, words: list[str], text: str, pause: Pause) -> None:
    """A sender that gives this command, with its text in the place of TEXT."""
    await pause("has read")  # nothing, for it need not know what is there
    run_command(lab.redis, [text if word == "TEXT" else word for word in words])


@check
async def keeps_both(lab: Lab, answer: Any) -> CheckResult:
    """A command by which two senders at once both append. The check runs it through the same walk."""
    words = parse_command(answer, LIST)
    if not any("TEXT" in word for word in words):
        raise UnusableAnswer(
            "The word TEXT is missing in your command: that is where the sender's text goes."
        )
    lab.redis.execute_command("DEL", LIST)
    await SteppedTask(
        append_by_command, lab, words, "from cleo"
    ).finish()  # somebody was there before
    ann, ben = (
        SteppedTask(append_by_command, lab, words, text) for text in ("from ann", "from ben")
    )
    await ann.run_until("has read")
    await ben.run_until("has read")
    await ann.finish()
    await ben.finish()
    return _judged(lab, run_command(lab.redis, ["TYPE", LIST]))


def _judged(lab: Lab, kind: str) -> CheckResult:
    sent = ["from cleo", "from ann", "from ben"]
    if kind == "list":
        found = lab.redis.execute_command("LRANGE", LIST, 0, -1)
        if found == sent:
            return correct(
                f"Through the same walk the list is {found}. Appending is one command, so nobody can come in between."
            )
        hint = (
            "Nobody is lost, but the newest is in front: the window is read oldest first."
            if sorted(found) == sorted(sent)
            else "Who is lost?"
        )
        return not_yet(f"Sent were {sent}; the list is {found}. {hint}")
    if kind == "string":
        found = lab.redis.execute_command("GET", LIST)
        lost = [text for text in sent if text not in found]
        hint = (
            f"Lost: {', '.join(lost)}."
            if lost
            else "Nobody is lost, but where does one message end? Redis has lists for that."
        )
        return not_yet(
            f"Sent were {sent}; the value is {found!r}, one string. {hint} Which command puts something at the right end of a list?"
        )
    return not_yet(
        f"Sent were {sent}; the key is now of the type {kind!r}. The window is a list: its commands begin with L or R."
    )


@check
async def time_left(lab: Lab, one: User, other: User, answer: Any) -> CheckResult:
    """How long the window still holds a message that came 1 s after it was begun. Sends two, and asks PTTL."""
    if not is_number(answer):
        return not_yet("The answer is a number of seconds, such as 3.")
    first, second = await _two_sends(lab, one, other, THIRD_AT, 0.45)
    measured = f"The second came {(second.at - first.at) / 1000:.2f} s after the first, and PTTL answered {second.pttl}."
    if abs(answer - second.pttl / 1000) <= 0.5:
        return correct(f"{measured} It shares the life that the first one began.")
    if abs(answer - LIFE / 1000) <= 0.5:
        return not_yet(
            f"{measured} Your answer would hold if each send began a new life. Compare the ends in the measurement above."
        )
    return not_yet(f"{measured} The life is {LIFE // 1000} s, counted from the first.")


# --- what holds ----------------------------------------------------------------------------------------------------------------


def claims(lab: Lab, keys: list[str], measured: Lives) -> ClaimResults:
    """What the document says of the conversation's key, held against what was seen."""
    lived = all(abs(found.ends * 1000 - LIFE) <= NEAR for found in measured)
    life = f"it ends {measured.first.ends:.2f} s after it was begun; a send at 2 s {'renewed' if measured.renewed else 'did not renew'} that"
    return lab.record_claims(
        ClaimResult("conversation_key", life, holds_if(lived and not measured.renewed)),
        ClaimResult(
            "order_of_ids",
            f"9 to 10 and 10 to 9 together made {', '.join(keys)}: sorted as strings",
            holds_if(keys == [key_of("9", "10")]),
        ),
    )
