"""Errors that a cell shows as one sentence, without a traceback.

They are errors that a learner cannot debug: the session has ended, a key that a helper needs has
expired, a server does not start. Other errors keep their traceback.
"""

import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import httpx
from ipykernel.zmqshell import ZMQInteractiveShell
from socketio.exceptions import BadNamespaceError

from chatlab.errors import EngineError

# After the end of a session, errors of these packages come from closed clients.
PACKAGES = {"chatlab", "httpx", "pymongo", "redis", "socketio", "websockets"}
TIMEOUTS = (TimeoutError, httpx.TimeoutException)


class SessionEnded(EngineError):
    def __init__(self) -> None:
        super().__init__("The session has ended.", "run the cell with `await start(...)` again")


class PremiseGone(EngineError):
    """A helper has no result, because what it needs is gone, for example a key that has expired."""


class TooSlow(EngineError):
    """A measurement has no result, because something took longer than a key lives."""

    def __init__(self) -> None:
        super().__init__(
            "The machine was too slow for this measurement.",
            "run the cell again when it is less busy",
        )


class Sentence(Exception):
    """An error whose traceback is one line."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows instead of a traceback."""
        return [str(self)]


def show_sentences(has_ended: Callable[[], bool]) -> None:
    """Make the cells of this kernel show such errors as sentences. Elsewhere this does nothing.

    `has_ended` returns True when no session of this kernel is running.
    """
    if not ZMQInteractiveShell.initialized():
        return

    def show(
        shell: Any,
        kind: type[Exception],
        error: Exception,
        trace: TracebackType,
        tb_offset: int | None = None,
    ) -> None:
        if has_ended() and _is_raised_by(trace, PACKAGES):
            error = SessionEnded()
        elif isinstance(error, TIMEOUTS) and _is_raised_by(trace, {"chatlab"}):
            error = EngineError("This took too long.", "run the cell again")
        elif isinstance(error, BadNamespaceError):
            error = EngineError("This socket is not connected.", "run the cell that connects it")
        if isinstance(error, EngineError):
            sentence = Sentence(sentence_of(error))
            shell.showtraceback((Sentence, sentence, None))
        else:
            shell.showtraceback((kind, error, trace), tb_offset=tb_offset)

    ZMQInteractiveShell.instance().set_custom_exc((Exception,), show)  # type: ignore[no-untyped-call]


def sentence_of(error: EngineError) -> str:
    """Return what is wrong and how to fix it."""
    return f"{error.detail} To fix this: {error.fix}." if error.fix else error.detail


def _is_raised_by(trace: TracebackType, packages: set[str]) -> bool:
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(trace))
    return any(module.partition(".")[0] in packages for module in modules)
