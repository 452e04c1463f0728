"""What a session shows. Of each kind one is live: shown again, the former makes way, also that of a session before."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from chatlab.domain.trace import StageEvent
from chatlab.lab.life import Life
from chatlab.lab.widgets.live import Live

Shown = TypeVar("Shown", bound=Live)
Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]

_screens: dict[str, "Screen"] = {}


def screen_of(session: str) -> "Screen":
    """The screen of all sessions of this name."""
    return _screens.setdefault(session, Screen())


class Screen:
    def __init__(self) -> None:
        self._shown: dict[str, Live] = {}

    def show(self, widget: Shown, spawn: Spawn) -> Shown:
        """Put it in the place of the former of its kind. `spawn` begins its work, if it has any."""
        former = self._shown.pop(widget.kind, None)
        if former:
            former.make_way()
        self._shown[widget.kind] = widget
        if type(widget).run is not Live.run:
            widget.work = spawn(widget.run())
            widget.work.add_done_callback(lambda work: _rest_after(work, widget))
        return widget

    def hear(self, event: StageEvent) -> None:
        for widget in self._live():
            widget.hear(event)

    def follow(self, life: Life) -> None:
        for widget in self._live():
            widget.follow(life)

    def complain(self, text: str) -> None:
        for widget in self._live():
            widget.error = text

    def rest(self) -> None:
        """The session has ended. What is shown stays to be looked at."""
        for widget in self._live():
            widget.resting = True

    def _live(self) -> list[Live]:
        return [widget for widget in self._shown.values() if not widget.resting]


def _rest_after(work: "asyncio.Task[None]", widget: Live) -> None:
    """Its session was reset: nobody works for it any more."""
    if work.cancelled() and widget.comm is not None:
        widget.resting = True
