"""The widgets that a session shows."""

import asyncio
from typing import TypeVar

from chatlab.lab.event_log import EventLog
from chatlab.lab.session_stores import SessionStores
from chatlab.lab.tasks import BackgroundTasks
from chatlab.lab.trace import Trace
from chatlab.lab.user import User
from chatlab.lab.widgets import (
    Chart,
    Chat,
    FlowMap,
    Live,
    Replay,
    Screen,
    Stores,
    Timeline,
    TtlBoard,
)

Shown = TypeVar("Shown", bound=Live)


class LabWidgets:
    """The part of `Lab` that shows widgets.

    There is one live widget of each kind: showing it again closes the earlier one. `big` is for a
    projector.
    """

    events: EventLog
    recording: asyncio.Lock  # held while commands are recorded; the widgets read no store meanwhile
    _screen: Screen
    _tasks: BackgroundTasks

    def ttl_board(self, *, big: bool = False) -> TtlBoard:
        """Show every cached message with the time it has left."""
        return self._show(TtlBoard(big=big))

    def flow_map(self, *, of: str = "send", big: bool = False) -> FlowMap:
        """Show the diagram of a `send`, a `read` or a `change`.

        Each request lights the stages that it passes. A click on a box shows its source.
        """
        return self._show(FlowMap(of, big=big))

    def timeline(self, *, big: bool = False) -> Timeline:
        """Show the sweeps on a time axis, and each key's caching, deadline and expiry report."""
        return self._show(Timeline(self.events, big=big))

    def chat(self, left: User, right: User, *, big: bool = False) -> Chat:
        """Show the screens of two users. Messages typed there are sent through the service."""
        return self._show(Chat(left, right, big=big))

    def stores(self, of: Trace | str, *, big: bool = False) -> Stores:
        """Show one message in MongoDB, in its cache entry and in its conversation window.

        `of` is the message's trace or id.
        """
        widget = Stores(of, self._open_stores, self.recording, big=big)
        return self._show(widget)

    def replay(self, trace: Trace, *, big: bool = False) -> Replay:
        """Tell the story of a send, as the page /lab does: its way, and the life of its key."""
        return self._show(Replay(trace, self.events, big=big))

    def chart(
        self,
        title: str,
        *,
        unit: str = "ms",
        log: bool = False,
        x: str = "",
        lines: bool = False,
        big: bool = False,
    ) -> Chart:
        """Show a chart that grows during a measurement: `add`, `progress`, `mark`.

        With `lines`, use `point`; `x` is the label of the x axis.
        """
        chart = Chart(title, unit=unit, log=log, x=x, lines=lines, big=big)
        return self._show(chart)

    def _show(self, widget: Shown) -> Shown:
        self._open_stores()
        return self._screen.show(widget, self._tasks)

    def _open_stores(self) -> SessionStores:
        """Return the stores. Raises SessionEnded after the session has ended."""
        raise NotImplementedError
