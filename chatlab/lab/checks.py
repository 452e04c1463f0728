"""Checks of the answers to exercises.

A check queries the running system, says what to try next, and never raises. An exercise has `...`
where the learner's answer goes: the value of a variable, or the body of a function. A check that
gets it says that there is no answer yet, without querying anything.
"""

import asyncio
import contextlib
import functools
import html
import inspect
import math
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from redis import DataError

from chatlab.errors import EngineError
from chatlab.lab.exercise_log import ExerciseLog, exercise_name
from chatlab.lab.lanes import LanesPicture
from chatlab.lab.plain_text import error_text
from chatlab.lab.sentences import sentence_of
from chatlab.lab.widgets.diagram_svg import image_of

CORRECT, NOT_YET, BLANK, NOT_CHECKED = "Correct", "Not yet", "Not answered yet", "Could not check"
MARKS = {CORRECT: "✅", NOT_YET: "↩️", BLANK: "✏️", NOT_CHECKED: "⚠️"}


class CheckResult(NamedTuple):
    """The result of a check, and what to try next.

    `picture`: the steps in which the answer failed.
    """

    kind: str
    text: str
    picture: LanesPicture | None = None

    def __repr__(self) -> str:
        steps = f"\n{self.picture!r}" if self.picture else ""
        return f"{self.kind}. {self.text}{steps}"

    def _repr_html_(self) -> str:
        result = f"<p>{MARKS[self.kind]} <b>{self.kind}.</b> {html.escape(self.text)}</p>"
        if not self.picture:
            return result
        return f"{result}\n{image_of(self.picture._repr_svg_(), repr(self.picture))}"


Check = Callable[..., Awaitable[CheckResult]]
ANSWER_TIMEOUT_S = 10.0


def correct(text: str) -> CheckResult:
    return CheckResult(CORRECT, text)


def not_yet(text: str, picture: LanesPicture | None = None) -> CheckResult:
    return CheckResult(NOT_YET, text, picture)


class UnusableAnswer(Exception):
    """An answer that cannot be tried, or that failed; the message is for the learner.

    A check turns it into a "Not yet", with the picture if there is one.
    """

    def __init__(self, text: str, picture: LanesPicture | None = None) -> None:
        super().__init__(text)
        self.picture = picture


def call_answer(function: Any, *arguments: Any) -> Any:
    """Call the learner's function and return its result.

    Raises UnusableAnswer if it is not a function, or if it fails.
    """
    if not callable(function):
        raise UnusableAnswer("The answer must be a function, made with `def` or `lambda`.")
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001 - a learner's function may raise anything
        raise UnusableAnswer(_raised(error)) from None


def _raised(error: Exception) -> str:
    hint = " (redis-py sends str, bytes, int and float, not None or a dict.)"
    return f"Your function raised {type(error).__name__}: {error}" + (
        hint if isinstance(error, DataError) else ""
    )


async def await_answer(function: Any, *arguments: Any) -> Any:
    """Call the learner's async function and return its result.

    Raises UnusableAnswer if it is not one, fails, or takes longer than ANSWER_TIMEOUT_S.
    """
    result = call_answer(function, *arguments)
    if not inspect.isawaitable(result):
        raise UnusableAnswer("Your function must begin with `async def`.")
    try:
        returned = await asyncio.wait_for(result, ANSWER_TIMEOUT_S)
    except TimeoutError:
        raise UnusableAnswer(f"Your function did not end within {ANSWER_TIMEOUT_S:g} s.") from None
    except Exception as error:  # noqa: BLE001 - a learner's function may raise anything
        raise UnusableAnswer(_raised(error)) from None
    if inspect.iscoroutine(returned):
        returned.close()
        raise UnusableAnswer("Your function returned a coroutine. Write `await` before the call.")
    return returned


def call_for_number(function: Any, *arguments: Any) -> float:
    """Call the learner's function and return its number.

    Raises UnusableAnswer if it does not return a number that can be compared with others.
    """
    returned = call_answer(function, *arguments)
    if not is_number(returned):
        shown = ", ".join(f"{argument:g}" for argument in arguments)
        raise UnusableAnswer(
            f"Your function returned {returned!r} for {shown}. It must return a number."
        )
    return float(returned)


def is_number(answer: Any) -> bool:
    """Return True for a number that can be compared with others: not `nan`, not True."""
    return (
        isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer)
    )


def is_blank(answer: Any) -> bool:
    """Return True for `...`, and for a function or a class that contains nothing else."""
    if inspect.isclass(answer):
        return all(name.startswith("__") for name in vars(answer))
    if not inspect.isfunction(answer):
        return answer is ...
    return answer.__code__.co_code in {f.__code__.co_code for f in (_blank, _async_blank)}


def _blank() -> None: ...
async def _async_blank() -> None: ...


def check(evaluate: Check) -> Check:
    """Make a check of one answer, which is its last argument.

    A blank answer is not checked. Errors become a result instead of an exception. A correct answer
    is logged for the index, if the first argument is the session of a notebook.
    """

    @functools.wraps(evaluate)
    async def safely(*arguments: Any) -> CheckResult:
        if is_blank(arguments[-1]):
            return CheckResult(BLANK, "Replace the dots by your answer and run the cell again.")
        try:
            result = await evaluate(*arguments)
            if result.kind == CORRECT:
                _log_solved(evaluate.__name__, *arguments[:-1])
            return result
        except UnusableAnswer as error:
            return not_yet(str(error), error.picture)
        except EngineError as error:
            return CheckResult(NOT_CHECKED, sentence_of(error))
        except Exception as error:  # noqa: BLE001 - a check never raises
            return CheckResult(
                NOT_CHECKED,
                f"The running system did not answer the check ({error_text(error)})."
                " Run the first cells again.",
            )

    return safely


def _log_solved(check_name: str, *arguments: Any) -> None:
    notebook = getattr(arguments[0], "name", "") if arguments else ""
    if re.fullmatch(r"\d\d", notebook):
        with contextlib.suppress(OSError):
            ExerciseLog().add(notebook, exercise_name(check_name, *arguments))
