"""The widgets that a session shows.

One widget of each kind is live. Showing it again replaces the earlier one, also one of an earlier
session with the same name.
"""

import asyncio
from typing import TypeVar

from chatlab.domain.trace import StageEvent
from chatlab.lab.key_lifetime import KeyLifetime
from chatlab.lab.tasks import BackgroundTasks
from chatlab.lab.widgets.live import Live

Shown = TypeVar("Shown", bound=Live)

_screens: dict[str, "Screen"] = {}


def screen_of(session: str) -> "Screen":
    """Return the screen of all sessions with this name."""
    return _screens.setdefault(session, Screen())


class Screen:
    def __init__(self) -> None:
        self._shown: dict[str, Live] = {}

    def show(self, widget: Shown, tasks: BackgroundTasks) -> Shown:
        """Replace the earlier widget of its kind, and start its background task if it has one."""
        former = self._shown.pop(widget.kind, None)
        if former:
            former.make_room()
        self._shown[widget.kind] = widget
        if type(widget).run is not Live.run:
            widget.task = tasks.start(widget.run())
            widget.task.add_done_callback(lambda task: _stop_after(task, widget))
        return widget

    def on_event(self, event: StageEvent) -> None:
        for widget in self._live():
            widget.on_event(event)

    def on_lifetime(self, lifetime: KeyLifetime) -> None:
        for widget in self._live():
            widget.on_lifetime(lifetime)

    def show_error(self, text: str) -> None:
        """Show an error below each widget; an empty text removes it."""
        for widget in self._live():
            widget.error = text

    def stop(self) -> None:
        """Mark all widgets as no longer live. They stay visible."""
        for widget in self._live():
            widget.resting = True

    def _live(self) -> list[Live]:
        return [widget for widget in self._shown.values() if not widget.resting]


def _stop_after(task: "asyncio.Task[None]", widget: Live) -> None:
    """Mark a widget as no longer live when a reset of its session has cancelled its task."""
    if task.cancelled() and widget.comm is not None:
        widget.resting = True
