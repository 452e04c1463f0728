"""Notebook 04: one cached message, its expiry, and what becomes of it when that comes in a second command."""

import secrets
from typing import Any, NamedTuple

from chatlab.cache.deadline_tracker import GONE, NO_EXPIRY
from chatlab.lab.checks import CheckResult, UnusableAnswer, call_answer, check, correct, not_yet
from chatlab.lab.claims import DEPENDS, ClaimResult, ClaimResults, holds_if
from chatlab.lab.key_lifetime import KeyLifetime
from chatlab.lab.plain_text import PlainText
from chatlab.lab.polling import poll_until
from chatlab.lab.redis_command import parse_command, run_command
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.stepped_task import Pause, SteppedTask
from chatlab.lab.tables import TIMED, Rows
from chatlab.lab.trace import Trace
from chatlab.lab.user import User

LIFE = 5000  # milliseconds
PATIENCE = 15.0  # seconds for the worker
TRIES = 5
LEAK, NOTE = "message:leak", "message:note"
MEANS = {GONE: "no such key", NO_EXPIRY: "there, and nothing will end it"}
ASK = "return {redis.call('TTL', KEYS[1]), redis.call('PTTL', KEYS[1])}"
DOCUMENT_BYTES, DOCUMENT_TOTAL = 500, 700  # of a message, and of its key in Redis


# --- what is asked -------------------------------------------------------------------------------------------------------------


def codes(lab: Lab) -> Rows:
    """What TTL and PTTL answer for four keys. Each is made and asked about in one step, so that no time passes in between."""
    key = "message:codes"
    make = {
        "SET ... PX 5000": "redis.call('SET', KEYS[1], 'x', 'PX', 5000)",
        "SET ... PX 400": "redis.call('SET', KEYS[1], 'x', 'PX', 400)",
        "SET ...": "redis.call('SET', KEYS[1], 'x')",
        "DEL ...": "redis.call('DEL', KEYS[1])",
    }
    answers = {
        how: lab.redis.execute_command("EVAL", f"{script} {ASK}", 1, key)
        for how, script in make.items()
    }
    return Rows(
        ("made by", "TTL", "PTTL", "which means"),
        [
            (how, str(ttl), str(pttl), MEANS.get(pttl, f"there, for {pttl} ms more"))
            for how, (ttl, pttl) in answers.items()
        ],
    )


class Weighed(NamedTuple):
    """Messages of different length: what each is called, its letters, the bytes of its JSON, and those of its key in Redis."""

    messages: list[tuple[str, int, int, int]]

    @property
    def totals(self) -> list[int]:
        return [total for *_, total in self.messages]

    def _rows(self) -> Rows:
        heads = (
            "the text",
            "letters",
            "the message as JSON",
            "its key in Redis, with all that belongs to it",
        )
        return Rows(
            heads,
            [
                (name, f"{letters}", f"{json} bytes", f"{TIMED} {total:,} bytes")
                for name, letters, json, total in self.messages
            ],
        )

    def __repr__(self) -> str:
        return repr(self._rows())

    def _repr_html_(self) -> str:
        return self._rows()._repr_html_()


async def weigh(lab: Lab, sender: User, receiver: User) -> Weighed:
    """Three messages: one letter, as long as the document's average, and as long as a text may be."""
    around = len(await _value(lab, sender, receiver, "x")) - 1
    messages = []
    for name, letters in (
        ("one letter", 1),
        ("as in the document", DOCUMENT_BYTES - around),
        ("the longest", 4000),
    ):
        trace = await sender.send(receiver, "x" * letters)
        messages.append(
            (
                name,
                letters,
                len(await _cached(lab, trace)),
                lab.redis.execute_command("MEMORY", "USAGE", trace.key),
            )
        )
    return Weighed(messages)


async def _value(lab: Lab, sender: User, receiver: User, text: str) -> str:
    return await _cached(lab, await sender.send(receiver, text))


async def _cached(lab: Lab, trace: Trace) -> str:
    value = lab.redis.get(trace.key)
    if value is None:
        raise PremiseGone(f"{trace.key} is not in Redis.", "run the cell again")
    return str(value)


# --- the mistake: the expiry in a second command -------------------------------------------------------------------------------


async def in_two_commands(lab: Lab, key: str, pause: Pause) -> None:
    """A writer that gives the value, and then the expiry."""
    lab.redis.execute_command("SET", key, "half written")
    await pause("after SET")
    lab.redis.execute_command("EXPIRE", key, 5)
    await pause("after EXPIRE")


def how_long(lab: Lab, key: str) -> str:
    """How long Redis will keep this key, in the words of the prediction."""
    pttl = lab.redis.pttl(key)
    if pttl == GONE:
        raise PremiseGone(f"There is no key {key}.", "run the cells that write it again")
    return "for ever" if pttl == NO_EXPIRY else "5 s"


async def mended_by_worker(lab: Lab, key: str) -> PlainText:
    """Wait until the worker has found this key, which has no expiry; what its log says of it."""
    if not await poll_until(
        lambda: lab.redis.pttl(key) != NO_EXPIRY and _leaked(lab, key), PATIENCE
    ):
        raise PremiseGone(
            f"The log of the worker has no line about {key}.", "run the cells that write it again"
        )
    return PlainText(f"The worker's log: {_leaked(lab, key)[-1]}")


def _leaked(lab: Lab, key: str) -> list[str]:
    """What the worker's log says of this key as a leak."""
    lines = [line[line.index("Cache leaked") :] for line in lab.service.log("Cache leaked")]
    return [line for line in lines if f" {key} " in line]


# --- the exercises -------------------------------------------------------------------------------------------------------------


@check
async def leaks(lab: Lab, answer: Any) -> CheckResult:
    """A command that makes a key without an expiry. Looks at the key, and then waits for the worker to find it."""
    words = parse_command(answer, LEAK)
    pttls = [
        _after(lab, words) for _ in range(2)
    ]  # the worker's beat may fall in between, but not twice
    if NO_EXPIRY in pttls:
        return correct(
            f"PTTL answered -1: nothing ends this key. {await mended_by_worker(lab, LEAK)}"
        )
    if (pttl := pttls[-1]) == GONE:
        return not_yet(
            f"There is no key {LEAK} after it: PTTL answers -2. Which command makes one?"
        )
    return not_yet(
        f"The key is there, and Redis will end it: PTTL answered {pttl}. What in your command says so? Leave it out."
    )


def _after(lab: Lab, words: list[str]) -> int:
    """What PTTL answers for the key after this command alone."""
    lab.redis.execute_command("DEL", LEAK)
    run_command(lab.redis, words)
    return lab.redis.pttl(LEAK)


@check
async def detects(lab: Lab, rule: Any) -> CheckResult:
    """Does this function tell a key without expiry from others? Tried on four real keys, whose names tell nothing."""
    keys = {
        name: f"message:{secrets.token_hex(12)}"
        for name in ("alive", "nearly over", "gone", "leaked")
    }
    lab.redis.execute_command("SET", keys["alive"], "x", "EX", 60)
    for name, key in keys.items():
        said, (ttl, pttl) = await _asked(lab, name, key, rule)
        if not isinstance(said, bool):
            raise UnusableAnswer(
                f"It said {said!r}. It is to say True or False: compare what Redis answers with a number (==)."
            )
        if said is not (pttl == NO_EXPIRY):
            return not_yet(
                f"{_which(name, said)} For it TTL answers {ttl} and PTTL {pttl}. The table of codes above tells such keys apart."
            )
    return correct(
        "It found the one key without expiry, and left alone the living one, the one with TTL 0 and the one that was gone."
    )


def _which(name: str, said: bool) -> str:
    kinds = {
        "alive": "a key that has a minute to live",
        "nearly over": "a key with less than half a second to live",
        "gone": "a key that is not there",
        "leaked": "a key without expiry",
    }
    return f"Your function says {said} of {kinds[name]}."


async def _asked(lab: Lab, name: str, key: str, rule: Any) -> tuple[Any, tuple[int, int]]:
    """What the function says of a key of this kind, and what TTL and PTTL do: of the same state, for the worker may mend it meanwhile."""
    for _ in range(TRIES):
        if name == "nearly over":
            lab.redis.execute_command("SET", key, "x", "PX", 450)
        if name == "leaked":
            lab.redis.execute_command("SET", key, "x")
        said = call_answer(rule, key)
        ttl, pttl = lab.redis.execute_command("EVAL", ASK, 1, key)
        if pttl == NO_EXPIRY or name != "leaked":
            return said, (ttl, pttl)
    raise UnusableAnswer(
        "The key has an expiry after your function has run. It is to look, and to change nothing."
    )


async def one_by_one(lab: Lab, commands: list[list[str]], pause: Pause) -> None:
    """A writer that gives these commands."""
    for number, words in enumerate(commands, 1):
        run_command(lab.redis, words)
        await pause(f"after command {number}")


@check
async def in_one_step(lab: Lab, answer: Any) -> CheckResult:
    """A write that leaves no key without expiry, wherever it is killed, and a key for 5 s when it is not."""
    if not isinstance(answer, str):
        raise UnusableAnswer(f'The answer is a command in quotes, such as "SET {NOTE} hello".')
    commands = [parse_command(part, NOTE) for part in answer.strip().rstrip(";").split(";")]
    for number, words in enumerate(commands, 1):
        if NO_EXPIRY in [
            await _killed_after(lab, commands, number) for _ in range(2)
        ]:  # the worker is not there twice
            last = " ".join(words[:2])
            return not_yet(
                f"Killed after command {number} ({last} ...) it leaves a key with PTTL -1. {_why(number, len(commands))}"
            )
    pttl = await _killed_after(lab, commands, len(commands))
    if (value := run_command(lab.redis, ["GET", NOTE])) != "hello":
        return not_yet(
            f"After it GET answers {value!r}, not 'hello', and PTTL {pttl}. PX counts milliseconds, EX seconds."
        )
    if not LIFE - 1000 <= pttl <= LIFE:
        return not_yet(
            f"No key without expiry, wherever it is killed. But PTTL answers {pttl}; 5 s are {LIFE}. PX counts ms, EX seconds."
        )
    return correct(
        f"Killed in the same walk, it left a key that ends by itself. PTTL answered {pttl}."
    )


def _why(number: int, commands: int) -> str:
    if number == commands:
        return "Nothing sets an expiry after that: an EXPIRE that comes before the SET finds no key, or is forgotten with the old value."
    return "The next command never came. Can SET take the expiry with it? See what the service's script does, above."


async def _killed_after(lab: Lab, commands: list[list[str]], number: int) -> int:
    """What PTTL answers when the writer has been killed after this command."""
    lab.redis.execute_command("DEL", NOTE)
    walk = await SteppedTask(one_by_one, lab, commands).run_until(f"after command {number}")
    await walk.cancel()
    return lab.redis.pttl(NOTE)


# --- what holds ----------------------------------------------------------------------------------------------------------------


def claims(lab: Lab, trace: Trace, life: KeyLifetime, weighed: Weighed) -> ClaimResults:
    """What the document says of the message's own key, held against this one."""
    named, lived = (
        trace.key == f"message:{trace.id}",
        life.expired_at_deadline and life.ttl_ms == LIFE,
    )
    alive = (life.alive_ms - life.cached_ms) / 1000
    seen = f"its name is message: and the _id; last found at {alive:.2f} s, first missed at {life.missing_after_s:.2f} s"
    small, large = min(weighed.totals), max(weighed.totals)
    weight = (
        f"it hangs on the text: {TIMED} {small:,} to {large:,} bytes; notebook 11 weighs a thousand"
    )
    return lab.record_claims(
        ClaimResult("message_key", seen, holds_if(named and lived)),
        ClaimResult(
            "total_bytes", weight, DEPENDS if small < DOCUMENT_TOTAL < large else holds_if(False)
        ),
    )
