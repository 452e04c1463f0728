"""The widgets that a session shows.

One widget of each kind is live. Showing it again replaces the earlier one, also one of an earlier
session with the same name.
"""

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
    """Return the screen of all sessions with this name."""
    return _screens.setdefault(session, Screen())


class Screen:
    def __init__(self) -> None:
        self._shown: dict[str, Live] = {}

    def show(self, widget: Shown, spawn: Spawn) -> Shown:
        """Replace the earlier widget of its kind.

        `spawn` starts its background task, if it has one.
        """
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
        """Mark all widgets as no longer live. They stay visible."""
        for widget in self._live():
            widget.resting = True

    def _live(self) -> list[Live]:
        return [widget for widget in self._shown.values() if not widget.resting]


def _rest_after(work: "asyncio.Task[None]", widget: Live) -> None:
    """Mark a widget as no longer live when a reset of its session has cancelled its task."""
    if work.cancelled() and widget.comm is not None:
        widget.resting = True
