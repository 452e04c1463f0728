"""Stage events: a record of each stage of the diagram that a message really passes.

`service`, `cache` and `sweeper` publish events. The log, the metrics, the `/flow` namespace and the
tests subscribe to them. Without a subscriber, requests get `SILENT` as their trace, which costs
almost nothing.
"""

import secrets
import time
from collections.abc import Callable
from typing import Any

StageEvent = dict[str, Any]
Listener = Callable[[StageEvent], None]


class Trace:
    """All stages of one request. The time of a stage is measured from the end of the one before."""

    __slots__ = ("_events", "_stage_started", "_transport", "id")

    def __init__(self, events: "EventBus", transport: str) -> None:
        self._events, self._transport, self._stage_started = events, transport, time.perf_counter()
        self.id = secrets.token_hex(6)

    def record(self, stage: str, **details: object) -> None:
        """Publish that the request has completed `stage`.

        `details` are further fields of the event, such as `key`, `ttlMs` or `messageId`. Never pass
        the text of a message: every user can subscribe to these events.
        """
        now = time.perf_counter()
        took_ms = (now - self._stage_started) * 1000
        self._events.publish(self.id, self._transport, stage, took_ms, **details)
        self._stage_started = now


class _SilentTrace(Trace):
    """A trace that publishes nothing."""

    __slots__ = ()

    def __init__(self) -> None:
        self.id = ""

    def record(self, stage: str, **details: object) -> None:
        pass


SILENT = _SilentTrace()


class EventBus:
    """Delivers each stage event to all listeners, at once and in the same process."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def __bool__(self) -> bool:
        """Return whether there is a listener."""
        return bool(self._listeners)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event from now on. Return a function that unsubscribes it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def start_trace(self, transport: str) -> Trace:
        """Return the trace of a request that has just arrived by `transport` (`http`, `socket`)."""
        return Trace(self, transport) if self._listeners else SILENT

    def publish(
        self,
        trace: str,
        transport: str,
        stage: str,
        took_ms: float = 0.0,
        **details: object,
    ) -> None:
        """Send one event to all listeners. Details that are None are left out.

        The field of the transport is called `door`, a name that clients rely on. Events that belong
        to no request have `cache` or `worker` there. `at` is in milliseconds since 1970.
        """
        event: StageEvent = {
            "trace": trace,
            "door": transport,
            "stage": stage,
            "at": round(time.time() * 1000, 3),
            "tookMs": round(took_ms, 3),
        }
        event.update((name, value) for name, value in details.items() if value is not None)
        for listener in list(self._listeners):
            listener(event)
