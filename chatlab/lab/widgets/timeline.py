"""The sweeps on a time axis, with each key's caching, deadline and expiry report."""

import html
from collections.abc import Iterable
from typing import Any

from chatlab.domain.trace import StageEvent
from chatlab.lab.widgets.diagram_svg import image_of
from chatlab.lab.widgets.live import OWN, Paced
from chatlab.lab.widgets.timeline_svg import timeline_svg

SHOWN_S = 15.0
MAX_KEYS = 12
MAX_SWEEPS = 100


class Timeline(Paced):
    """A live timeline. It starts with the past events it is given."""

    drawing = OWN / "timeline.js"

    def __init__(self, past: Iterable[StageEvent] = (), **traits: Any) -> None:
        self._sweeps: list[StageEvent] = []
        self._lifetimes: dict[str, dict[str, Any]] = {}
        for event in past:
            self._take(event)
        super().__init__(**traits)

    def on_event(self, event: StageEvent) -> None:
        if self._take(event):
            self.changed()

    def _take(self, event: StageEvent) -> bool:
        """Add an event. True if it changes the timeline."""
        handlers = {"sweep": self._on_sweep, "cached": self._on_cached, "cleaned": self._on_cleaned}
        handler = handlers.get(event["stage"])
        return handler is not None and handler(event)

    def _on_sweep(self, event: StageEvent) -> bool:
        sweep = {name: event[name] for name in ("at", "tookMs", "live", "cleaned", "leaked")}
        oldest_ms = event["at"] - 2000 * SHOWN_S
        recent = [former for former in self._sweeps[-MAX_SWEEPS:] if former["at"] > oldest_ms]
        self._sweeps = [*recent, sweep]
        return True

    def _on_cached(self, event: StageEvent) -> bool:
        self._lifetimes.pop(event["key"], None)  # a changed message is cached with a new TTL
        self._lifetimes[event["key"]] = {
            "key": event["key"],
            "cachedMs": event["at"],
            "deadlineMs": event["at"] + event["ttlMs"],
            "reportedMs": None,
            "lagMs": None,
        }
        for key in list(self._lifetimes)[:-MAX_KEYS]:
            del self._lifetimes[key]
        return True

    def _on_cleaned(self, event: StageEvent) -> bool:
        lifetime = self._lifetimes.get(event["key"])
        if lifetime:
            lifetime |= {
                "reportedMs": event["at"],
                "lagMs": event["lagMs"],
                "deadlineMs": event["at"] - event["lagMs"],
            }
        return lifetime is not None

    def state(self) -> dict[str, Any]:
        return {
            "shownMs": SHOWN_S * 1000,
            "sweeps": list(self._sweeps),
            "lifetimes": [dict(lifetime) for lifetime in self._lifetimes.values()],
        }

    def snapshot(self) -> str:
        picture = image_of(timeline_svg(self.state()), "The sweeps, and the lifetimes of keys")
        return f"<p>{html.escape(repr(self))}</p>\n{picture}"

    def __repr__(self) -> str:
        return "The sweeper's timeline: live in a running notebook."
