"""The verdict of a check on an answer.

A check queries the running system, says what to try next, and never raises. An exercise is a line
with `...` where the learner's answer goes. A check that gets `...` says that there is no answer
yet, without querying anything.
"""

import functools
import html
import math
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

CORRECT, NOT_YET, BLANK, CANNOT_TELL = "Correct", "Not yet", "Not answered yet", "Cannot tell"
MARKS = {CORRECT: "✅", NOT_YET: "↩️", BLANK: "✏️", CANNOT_TELL: "⚠️"}


class Verdict(NamedTuple):
    """The result of a check, and what to try next."""

    kind: str
    text: str

    def __repr__(self) -> str:
        return f"{self.kind}. {self.text}"

    def _repr_html_(self) -> str:
        return f"<p>{MARKS[self.kind]} <b>{self.kind}.</b> {html.escape(self.text)}</p>"


Check = Callable[..., Awaitable[Verdict]]


def correct(text: str) -> Verdict:
    return Verdict(CORRECT, text)


def not_yet(text: str) -> Verdict:
    return Verdict(NOT_YET, text)


class Unusable(Exception):
    """An answer that cannot be tried; the message is for the learner.

    A check turns it into a "Not yet".
    """


def tried(rule: Any, *given: Any) -> Any:
    """Call the learner's function and return its result.

    Raises Unusable if it is not a function, or if it fails.
    """
    if not callable(rule):
        raise Unusable(
            "The answer is a function: the word lambda, its arguments, a colon, and what it says."
        )
    try:
        return rule(*given)
    except Exception as wrong:  # noqa: BLE001 - a learner's function may raise anything
        raise Unusable(
            f"Your function could not be used: {type(wrong).__name__}: {wrong}. Mind its arguments."
        ) from None


def number_tried(rule: Any, *given: Any) -> float:
    """Call the learner's function and return its number.

    Raises Unusable if it does not return a number that can be compared with others.
    """
    said = tried(rule, *given)
    if not is_number(said):
        raise Unusable(
            f"Your function says {said!r} to {', '.join(f'{value:g}' for value in given)}. It is to say a number."
        )
    return float(said)


def is_number(answer: Any) -> bool:
    """Return True for a number that can be compared with others: not `nan`, not True."""
    return (
        isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer)
    )


def check(ask: Check) -> Check:
    """Make a check of one answer, which is its last argument.

    A blank answer is not checked. Errors become a verdict instead of an exception.
    """

    @functools.wraps(ask)
    async def safely(*given: Any) -> Verdict:
        if given[-1] is ...:
            return Verdict(
                BLANK, "Put your answer in the place of the dots and run the cell again."
            )
        try:
            return await ask(*given)
        except Unusable as wrong:
            return not_yet(str(wrong))
        except Exception as wrong:  # noqa: BLE001 - a check never raises
            return Verdict(
                CANNOT_TELL,
                f"The running system could not be asked ({str(wrong) or type(wrong).__name__}). Run the first cells again.",
            )

    return safely
