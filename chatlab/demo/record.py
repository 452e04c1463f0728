"""What the demo observed: the stages of each message, its cache entry in Redis, and the sweeps.

`DemoRecord.handle_event` collects the events of `/flow`. What the demo saw itself, in MongoDB, in
Redis, on the sockets and in the responses, is added to the `ObservedMessage`s by `scenario`.
"""

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from chatlab.cache.keys import Ttls
from chatlab.client import Json, ReadResult, ReceivedEvent, SendResult
from chatlab.domain.trace import StageEvent
from chatlab.settings import Settings

SWEEP_DELAY_TOLERANCE_S = 0.5  # how late a sweep may be on a busy machine


class Milestones(NamedTuple):
    """The four times of a message entry, in seconds after caching: 0, 2, 5 and 6 by default."""

    cached_s: float
    still_cached_s: float
    expired_s: float
    cleaned_s: float

    @classmethod
    def of(cls, settings: Settings) -> "Milestones":
        """Scale the diagram's times to the settings.

        2 of 5 s is 40 % of the TTL. The sweep after the expiry comes one interval later at most.
        """
        ttl_s = Ttls.of(settings.ttl_ms).entry_ms / 1000
        return cls(0.0, 0.4 * ttl_s, ttl_s, ttl_s + settings.sweep_interval)

    @property
    def cleaned_deadline_s(self) -> float:
        """Return the latest time at which the sweeper may log the expiry."""
        return self.cleaned_s + SWEEP_DELAY_TOLERANCE_S


class KeySample(NamedTuple):
    """One look at a Redis key.

    `age_s` is the time since the message was cached, `pttl_ms` the reply of PTTL, and `matches`
    says whether the value is, or contains, the message of the response.
    """

    age_s: float
    pttl_ms: int
    matches: bool


@dataclass
class ObservedMessage:
    """Everything observed about one message. Event times are milliseconds since 1970."""

    transport: str  # "http" or "socket"
    sender: str
    receiver: str
    send_result: SendResult | None = None
    answered_at: float = 0.0
    stage_events: list[StageEvent] = field(default_factory=list)
    cached: StageEvent | None = None
    expired: StageEvent | None = None
    cleaned: list[StageEvent] = field(default_factory=list)
    stored: Json | None = None
    received: dict[str, list[ReceivedEvent]] = field(default_factory=dict)
    window: KeySample | None = None
    samples: list[KeySample] = field(default_factory=list)
    read_result: ReadResult | None = None
    read_is_complete: bool = False
    error: str = ""

    @property
    def transport_name(self) -> str:
        return {"http": "HTTP", "socket": "Socket.IO"}[self.transport]

    @property
    def message_id(self) -> str:
        return str(self.send_result.message["_id"]) if self.send_result else ""

    def age_s(self, now_ms: float | None = None) -> float:
        """Return the seconds since the message was cached or, if it never was, answered."""
        start_ms = self.cached["at"] if self.cached else self.answered_at
        return ((now_ms or time.time() * 1000) - start_ms) / 1000

    def stage_event(self, stage: str) -> StageEvent | None:
        return next((event for event in self.stage_events if event["stage"] == stage), None)

    @property
    def last_present(self) -> KeySample | None:
        """Return the last look that found the key."""
        return next((sample for sample in reversed(self.samples) if sample.pttl_ms > 0), None)

    @property
    def first_absent(self) -> KeySample | None:
        """Return the first look that did not find the key after it had been there."""
        last = self.last_present
        return next((sample for sample in self.samples if last and sample.age_s > last.age_s), None)


@dataclass
class DemoRecord:
    """Everything observed in one run of the demo.

    `log` holds it as (time in ms, subject, text), for output that cannot be redrawn.
    `sweeper_log` holds the lines of the sweeper's panel.
    """

    settings: Settings
    messages: tuple[ObservedMessage, ObservedMessage]
    sweeps: list[StageEvent] = field(default_factory=list)
    sweeper_log: list[str] = field(default_factory=list)
    read_after_expiry: ReadResult | None = None
    read_after_expiry_is_complete: bool = False
    log: list[tuple[float, str, str]] = field(default_factory=list)
    _traces: dict[str, list[StageEvent]] = field(default_factory=dict)

    @property
    def milestones(self) -> Milestones:
        return Milestones.of(self.settings)

    def add_log(self, subject: str, text: str, at_ms: float | None = None) -> None:
        self.log.append((at_ms or time.time() * 1000, subject, text))

    def handle_event(self, event: StageEvent) -> None:
        """Record an event of `/flow`: a sweep, a change of a cache entry, or a stage."""
        if event["stage"] == "sweep":
            self.sweeps.append(event)
            self._log_sweep(event)
        elif event["stage"] in ("cached", "expired", "cleaned"):
            self._handle_cache_event(event)
        elif event["door"] in ("http", "socket"):
            self._handle_stage(event)

    def _handle_stage(self, event: StageEvent) -> None:
        """Record a stage of a send. A trace is a send once it has created a message."""
        trace = self._traces.setdefault(event["trace"], [])
        trace.append(event)
        if not any(passed["stage"] == "create" for passed in trace):
            return
        for message in self.messages:
            if message.transport == event["door"]:
                message.stage_events = trace
                for passed in trace if event["stage"] == "create" else [event]:
                    text = f"{passed['stage']:<19}{passed['tookMs']:7.2f} ms{_key_of(passed)}"
                    self.add_log(message.transport_name, text, passed["at"])

    def _handle_cache_event(self, event: StageEvent) -> None:
        for message in self.messages:
            ids = {
                message.message_id,
                *(passed.get("messageId") for passed in message.stage_events),
            }
            if event["messageId"] in ids:
                self._record_cache_event(message, event)

    def _record_cache_event(self, message: ObservedMessage, event: StageEvent) -> None:
        name, age_s = message.transport_name, message.age_s(event["at"])
        if event["stage"] == "cleaned":
            message.cleaned.append(event)
            lag = f"{event['lagMs']:.0f} ms after it expired"
            self.sweeper_log.append(
                f"{_clock(event)}  Cache cleaned  {name} at {age_s:.2f} s, {lag}"
            )
            self.add_log(
                name, f"Cache cleaned at {age_s:.2f} s, logged by the sweeper", event["at"]
            )
        elif event["stage"] == "cached":
            message.cached = event
            self.add_log(name, f"cached for {event['ttlMs'] / 1000:g} s", event["at"])
        else:
            message.expired = event

    def _log_sweep(self, event: StageEvent) -> None:
        live = event["live"]
        if live:
            self.sweeper_log.append(f"{_clock(event)}  Cache hit      {_live_keys(live)}")
        found = f"Cache hit, {_live_keys(live)}" if live else "no live keys"
        text = f"sweep {len(self.sweeps)}: {found}; {event['cleaned']} cleaned"
        self.add_log("sweeper", text, event["at"])


def _clock(event: StageEvent) -> str:
    return time.strftime("%H:%M:%S", time.localtime(event["at"] / 1000))


def _live_keys(count: int) -> str:
    return f"{count} live key" if count == 1 else f"{count} live keys"


def _key_of(event: StageEvent) -> str:
    return f"  {event['key']}" if "key" in event else ""
