"""What really happened, as events: one for each box of the diagram that a message passes.

`service`, `cache` and `sweeper` report; the log, `/flow` and the tests listen. With no listener a trace is `SILENT` and costs nothing.
"""

import secrets
import time
from collections.abc import Callable
from typing import Any

StageEvent = dict[str, Any]
Listener = Callable[[StageEvent], None]


class Trace:
    """The way of one request. `passed` reports the box just left; its time runs from the box before."""

    __slots__ = ("_door", "_flow", "_left", "id")

    def __init__(self, flow: "EventBus", door: str) -> None:
        self._flow, self._door, self._left = flow, door, time.perf_counter()
        self.id = secrets.token_hex(6)

    def record(self, stage: str, **about: object) -> None:
        """`about`: `key`, `ttlMs`, `messageId`, where the box has them. Never a text."""
        now = time.perf_counter()
        self._flow.publish(self.id, self._door, stage, (now - self._left) * 1000, **about)
        self._left = now


class _Silent(Trace):
    """A trace that nobody hears."""

    __slots__ = ()

    def __init__(self) -> None:
        self.id = ""

    def record(self, stage: str, **about: object) -> None:
        pass


SILENT = _Silent()


class EventBus:
    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def __bool__(self) -> bool:
        """True when somebody listens."""
        return bool(self._listeners)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Hear every event from now on; call what is returned to stop."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def start_trace(self, door: str) -> Trace:
        """A trace for a request that has just come in by this door (`http`, `socket`)."""
        return Trace(self, door) if self._listeners else SILENT

    def publish(self, trace: str, door: str, stage: str, took_ms: float = 0.0, **about: object) -> None:
        """Tell all listeners of one box. `at` is in milliseconds since 1970."""
        event: StageEvent = {"trace": trace, "door": door, "stage": stage, "at": round(time.time() * 1000, 3), "tookMs": round(took_ms, 3)}
        event.update((name, value) for name, value in about.items() if value is not None)
        for listener in list(self._listeners):
            listener(event)
