"""What was observed of two messages: their way through the boxes, their life in Redis, the worker's beats. `promises` judges it.

The flow is heard by `Record.take`; what the demo saw by itself (MongoDB, Redis, the sockets, the answers) it writes into the journeys.
"""

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from chatlab.client import Json, ReadResult, ReceivedEvent, SendResult
from chatlab.domain.trace import StageEvent
from chatlab.settings import Settings

LATE_BEAT = 0.5  # seconds that a beat may be late on a busy machine


class Moments(NamedTuple):
    """The four times of the diagram's life, in seconds from caching: 0, 2, 5 and 6 by default."""

    start: float
    pause: float
    end: float
    cleaned: float

    @classmethod
    def of(cls, settings: Settings) -> "Moments":
        """2 of 5 s is 40 %; what has ended is told by the worker's next beat, one interval later at most."""
        return cls(0.0, 0.4 * settings.cache_ttl, settings.cache_ttl, settings.cache_ttl + settings.sweep_interval)

    @property
    def limit(self) -> float:
        return self.cleaned + LATE_BEAT


class Sample(NamedTuple):
    """One look at `message:{_id}`: seconds since it was cached, what PTTL answered, and whether the value is the message."""

    age: float
    pttl: int
    equal: bool


@dataclass
class Journey:
    """All that was observed of one message. Times of events are milliseconds since 1970."""

    door: str  # as in the flow: http, socket
    sender: str
    receiver: str
    answer: SendResult | None = None
    answered_at: float = 0.0
    boxes: list[StageEvent] = field(default_factory=list)
    cached: StageEvent | None = None
    expired: StageEvent | None = None
    cleaned: list[StageEvent] = field(default_factory=list)
    stored: Json | None = None
    heard: dict[str, list[ReceivedEvent]] = field(default_factory=dict)
    window: Sample | None = None
    samples: list[Sample] = field(default_factory=list)
    reading: ReadResult | None = None
    complete: bool = False
    trouble: str = ""

    @property
    def name(self) -> str:
        return {"http": "HTTP", "socket": "Socket.IO"}[self.door]

    @property
    def message_id(self) -> str:
        return str(self.answer.message["_id"]) if self.answer else ""

    def age(self, now: float | None = None) -> float:
        """Seconds since the message was cached (or, if it never was, answered)."""
        began = self.cached["at"] if self.cached else self.answered_at
        return ((now or time.time() * 1000) - began) / 1000

    def box(self, stage: str) -> StageEvent | None:
        return next((event for event in self.boxes if event["stage"] == stage), None)

    @property
    def alive(self) -> Sample | None:
        """The last look that found the key."""
        return next((sample for sample in reversed(self.samples) if sample.pttl > 0), None)

    @property
    def gone(self) -> Sample | None:
        """The first look that found it gone, after it had been there."""
        return next((sample for sample in self.samples if self.alive and sample.age > self.alive.age), None)


@dataclass
class Record:
    """Everything observed. `take` hears the flow; `facts` holds it as sentences, for a terminal that is none."""

    settings: Settings
    journeys: tuple[Journey, Journey]
    beats: list[StageEvent] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    afterwards: ReadResult | None = None
    complete_afterwards: bool = False
    facts: list[tuple[float, str, str]] = field(default_factory=list)
    _traces: dict[str, list[StageEvent]] = field(default_factory=dict)

    @property
    def moments(self) -> Moments:
        return Moments.of(self.settings)

    def note(self, who: str, what: str, at: float | None = None) -> None:
        self.facts.append((at or time.time() * 1000, who, what))

    def take(self, event: StageEvent) -> None:
        """A flow event finds its place: a beat, the life of a message, or a box it has passed."""
        if event["stage"] == "sweep":
            self.beats.append(event)
            self._tell_beat(event)
        elif event["stage"] in ("cached", "expired", "cleaned"):
            self._take_life(event)
        elif event["door"] in ("http", "socket"):
            self._take_box(event)

    def _take_box(self, event: StageEvent) -> None:
        """A trace is a send once it has created a message; a read never does."""
        trace = self._traces.setdefault(event["trace"], [])
        trace.append(event)
        created = any(box["stage"] == "create" for box in trace)
        for journey in self.journeys:
            if created and journey.door == event["door"]:
                journey.boxes = trace
                for box in trace if event["stage"] == "create" else [event]:
                    self.note(journey.name, f"{box['stage']:<19}{box['tookMs']:7.2f} ms{_about(box)}", box["at"])

    def _take_life(self, event: StageEvent) -> None:
        for journey in self.journeys:
            if event["messageId"] in {journey.message_id, *(box.get("messageId") for box in journey.boxes)}:
                self._note_life(journey, event)

    def _note_life(self, journey: Journey, event: StageEvent) -> None:
        if event["stage"] == "cleaned":
            journey.cleaned.append(event)
            self.told.append(
                f"{_clock(event)}  Cache cleaned  {journey.name} at {journey.age(event['at']):.2f} s, {event['lagMs']:.0f} ms after its end"
            )
            self.note(journey.name, f"life: Cache cleaned at {journey.age(event['at']):.2f} s, told by the worker", event["at"])
        elif event["stage"] == "cached":
            journey.cached = event
            self.note(journey.name, f"life: cached for {event['ttlMs'] / 1000:g} s", event["at"])
        else:
            journey.expired = event

    def _tell_beat(self, event: StageEvent) -> None:
        if event["live"]:
            self.told.append(f"{_clock(event)}  Cache hit      {_keys(event['live'])} alive")
        hit = f"Cache hit, {_keys(event['live'])} alive" if event["live"] else "nothing alive"
        self.note("worker", f"beat {len(self.beats)}: {hit}; {event['cleaned']} cleaned", event["at"])


def _clock(event: StageEvent) -> str:
    return time.strftime("%H:%M:%S", time.localtime(event["at"] / 1000))


def _keys(count: int) -> str:
    return f"{count} key" if count == 1 else f"{count} keys"


def _about(box: StageEvent) -> str:
    return f"  {box['key']}" if "key" in box else ""
