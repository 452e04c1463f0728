"""Checks of what was understood. Each asks the running system, says what to try next, and never raises.

An exercise is a line with `...` where the learner's answer goes; a check that is given `...` says so and asks nothing.
"""

import asyncio
import functools
import html
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from chatlab.lab.life import Life
from chatlab.lab.session import Lab
from chatlab.lab.trace import STAGES, Trace, table

CORRECT, NOT_YET, BLANK, CANNOT_TELL = "Correct", "Not yet", "Not answered yet", "Cannot tell"
MARKS = {CORRECT: "✅", NOT_YET: "↩️", BLANK: "✏️", CANNOT_TELL: "⚠️"}
NEAR_ENOUGH = 0.5  # seconds


class Verdict(NamedTuple):
    """What a check found, and what to try next."""

    kind: str
    text: str

    def __repr__(self) -> str:
        return f"{self.kind}. {self.text}"

    def _repr_html_(self) -> str:
        return f"<p>{MARKS[self.kind]} <b>{self.kind}.</b> {html.escape(self.text)}</p>"


Check = Callable[..., Awaitable[Verdict]]


def check(ask: Check) -> Check:
    """A check of one answer, its last argument: blank answers are not asked about, and what goes wrong is said, not raised."""

    @functools.wraps(ask)
    async def safely(*given: Any) -> Verdict:
        if given[-1] is ...:
            return Verdict(BLANK, "Put your answer in the place of the dots and run the cell again.")
        try:
            return await ask(*given)
        except Exception as wrong:  # noqa: BLE001 - a check never raises
            return Verdict(
                CANNOT_TELL, f"The running system could not be asked ({str(wrong) or type(wrong).__name__}). Run the first cells again."
            )

    return safely


@check
async def gone_at(lab: Lab, answer: Any) -> Verdict:
    """At which second after its send is a key gone that was read at 2 s? Sends one, reads it, and watches."""
    if not isinstance(answer, int | float):
        return Verdict(NOT_YET, "The answer is a number of seconds, such as 4.")
    alice, bob = await lab.person("alice"), await lab.person("bob")
    trace = await alice.send(bob, "How long do you last?")
    await asyncio.sleep(2)  # seconds; as the exercise says
    await bob.read("alice")
    life = await lab.life(trace)
    if abs(answer - life.lasted) <= NEAR_ENOUGH:
        return Verdict(CORRECT, f"It was read at 2 s and gone at {life.lasted:.2f} s: reading does not extend a life.")
    return Verdict(NOT_YET, _hint(answer, life))


def _hint(answer: float, life: Life) -> str:
    measured = f"This one was read at 2 s and gone at {life.lasted:.2f} s."
    if abs(answer - 2 - life.ttl_ms / 1000) <= NEAR_ENOUGH:
        return f"{measured} Your answer would hold if reading began a new life. Compare redis_pttl(key) before and after a read."
    if answer > life.lasted:
        return f"{measured} Do not take the worker's word for the end: look at the first line in the life above that does not find the key."
    return f"{measured} Look at the last line in the life above that still finds the key."


@check
async def durable_box(lab: Lab, trace: Trace, answer: Any) -> Verdict:
    """Which box stores for good? Looks where the message still is, now that its life in Redis is over."""
    name = str(answer).strip()
    if name not in STAGES:
        return Verdict(NOT_YET, f"That is none of the boxes. They are called: {', '.join(STAGES)}.")
    await lab.life(trace)
    copies = [key for key in (trace.key, *_conversation_keys(trace)) if trace.id in str(lab.redis_get(key))]
    stored = lab.mongo_find("messages", _id=trace.id)
    if name == "save" and stored:
        return Verdict(CORRECT, f"{_in_redis(copies)} MongoDB still has it, and this is the box that put it there.")
    if name in ("cache_message", "cache_conversation"):
        return Verdict(NOT_YET, f"Its store is Redis. {_in_redis(copies)} Try lab.redis_keys(), then lab.mongo_find('messages').")
    return Verdict(
        NOT_YET, f"{len(stored)} message with this _id is in MongoDB now. Which box speaks to MongoDB? The table of boxes says so."
    )


def _in_redis(copies: list[str]) -> str:
    if not copies:
        return "Redis has nothing of the message any more."
    return f"Redis has it again in {' and '.join(copies)}, since it was read, and for 5 s at most."


def _conversation_keys(trace: Trace) -> list[str]:
    return [event["key"] for event in trace.events if event["stage"] == "cache_conversation"]


# --- what holds ----------------------------------------------------------------------------------------------------------------


class Claim(NamedTuple):
    """What the document says, what was measured, and what follows: holds, does not hold, depends."""

    says: str
    measured: str
    verdict: str


class Claims(list[Claim]):
    def __repr__(self) -> str:
        return "\n".join(f"{claim.verdict:<15} {claim.says}: {claim.measured}" for claim in self)

    def _repr_html_(self) -> str:
        return table(("the document says", "measured here", "verdict"), self)


def claims(lab: Lab, trace: Trace, life: Life) -> Claims:
    """What the document says of one message, held against this one."""
    stored = bool(lab.mongo_find("messages", _id=trace.id))
    lived = f"last found at {(life.alive_ms - life.cached_ms) / 1000:.2f} s, first missed at {life.seconds:.2f} s"
    logged = f"logged at {life.told_at:.2f} s, at a beat of the worker" if life.told_ms else "not logged"
    afterwards = f"{'there' if stored else 'not there'} after Redis forgot it; breaking things is for a later notebook"
    return Claims([
        Claim("a message passes seven boxes, in this order", ", ".join(trace.stages), _holds(trace.stages == STAGES)),
        Claim("its copy in Redis lives 5 seconds", lived, _holds(life.to_deadline and life.ttl_ms == 5000)),
        Claim("when it has expired, its TTL is 0", f"PTTL answered {life.end_code}", _holds(life.end_code == 0)),
        Claim("it is deleted at 6 s, and that is logged", logged, _told(life)),
        Claim("saved to MongoDB, it is never lost", afterwards, "depends" if stored else "does not hold"),
    ])  # fmt: skip


def _holds(seen: bool) -> str:
    return "holds" if seen else "does not hold"


def _told(life: Life) -> str:
    return "depends" if life.told_ms >= life.deadline_ms else "does not hold"
