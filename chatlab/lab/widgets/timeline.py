"""The sweeps on a time axis, with each key's caching, deadline and expiry report."""

import html
from collections.abc import Iterable
from typing import Any

from chatlab.domain.trace import StageEvent
from chatlab.lab.widgets.chart_svg import image_of
from chatlab.lab.widgets.live import OWN, Paced
from chatlab.lab.widgets.timeline_svg import timeline_svg

SHOWN = 15.0  # seconds
KEYS = 12
BEATS = 100  # sweeps kept, whatever their interval


class Timeline(Paced):
    """A live timeline. It starts with the past events it is given."""

    drawing = OWN / "timeline.js"

    def __init__(self, past: Iterable[StageEvent] = (), **traits: Any) -> None:
        self._beats: list[StageEvent] = []
        self._lives: dict[str, dict[str, Any]] = {}
        for event in past:
            self._take(event)
        super().__init__(**traits)

    def hear(self, event: StageEvent) -> None:
        if self._take(event):
            self.changed()

    def _take(self, event: StageEvent) -> bool:
        """Add an event. True if it changes the timeline."""
        take = {"sweep": self._beat, "cached": self._cached, "cleaned": self._cleaned}.get(
            event["stage"]
        )
        return take is not None and take(event)

    def _beat(self, event: StageEvent) -> bool:
        beat = {name: event[name] for name in ("at", "tookMs", "live", "cleaned", "leaked")}
        self._beats = [
            *(
                former
                for former in self._beats[-BEATS:]
                if former["at"] > event["at"] - 2000 * SHOWN
            ),
            beat,
        ]
        return True

    def _cached(self, event: StageEvent) -> bool:
        self._lives.pop(event["key"], None)  # a changed message is cached with a new TTL
        life = {
            "key": event["key"],
            "cachedMs": event["at"],
            "deadlineMs": event["at"] + event["ttlMs"],
            "toldMs": None,
            "lagMs": None,
        }
        self._lives[event["key"]] = life
        for key in list(self._lives)[:-KEYS]:
            del self._lives[key]
        return True

    def _cleaned(self, event: StageEvent) -> bool:
        life = self._lives.get(event["key"])
        if life:
            life |= {
                "toldMs": event["at"],
                "lagMs": event["lagMs"],
                "deadlineMs": event["at"] - event["lagMs"],
            }
        return life is not None

    def state(self) -> dict[str, Any]:
        return {
            "shownMs": SHOWN * 1000,
            "beats": list(self._beats),
            "lives": [dict(life) for life in self._lives.values()],
        }

    def snapshot(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>\n{image_of(timeline_svg(self.state()), 'The beats of the worker, and the lives of keys')}"

    def __repr__(self) -> str:
        return "The worker's timeline: live in a running notebook."
