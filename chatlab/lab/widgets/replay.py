"""One send as the page `/lab` tells it, one sentence at a time, until the sweeper logs its key.

The scenes, the sentences and their clock are the modules of the page. The story is that of the flow
events of the send and of what follows.
"""

from itertools import dropwhile
from typing import Any

from chatlab.domain.trace import StageEvent
from chatlab.lab.event_log import EventLog
from chatlab.lab.trace import Trace
from chatlab.lab.widgets.live import OWN, STATIC, STYLES, Paced, read_all

MAX_EVENTS = 1_000  # a story in which more happens ends early


class Replay(Paced):
    """`trace` is the send; `log` has its events and those that came after it so far."""

    drawing = OWN / "replay.js"
    _css = read_all((*STYLES, STATIC / "projector" / "scenes.css"))

    def __init__(self, trace: Trace, log: EventLog, **traits: Any) -> None:
        self._trace = trace
        self._events: list[StageEvent] = []
        self._is_cleaned = self._has_ended = False
        first = trace.events[0]["trace"]
        for event in dropwhile(lambda event: event["trace"] != first, log):
            self._add(event)
        message = trace.message
        about = {"id": trace.id, "text": message["text"]}
        about |= {"sender": message["senderId"], "receiver": message["receiverId"]}
        super().__init__(about=about, **traits)

    def _add(self, event: StageEvent) -> bool:
        """Add an event to the story, and return whether it belongs to it."""
        if self._has_ended or len(self._events) == MAX_EVENTS:
            return False
        self._events.append(event)
        self._is_cleaned |= event["stage"] == "cleaned" and event["key"] == self._trace.key
        self._has_ended = self._is_cleaned and event["stage"] == "sweep"
        return True

    def on_event(self, event: StageEvent) -> None:
        if self._add(event):
            self.changed()

    def state(self) -> dict[str, Any]:
        return {"events": list(self._events)}

    def snapshot(self) -> str:
        return f"<p>{self!r}</p>{self._trace._repr_html_()}"

    def __repr__(self) -> str:
        return "The story of this message: live in a running notebook."
