"""Check a `DemoRecord` against the promises of the diagram.

A promise counts as seen only if it was seen for every message it is about. The evidence is the
measured figure, or the reason why the promise does not count as seen.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from chatlab.cache.keys import Ttls
from chatlab.client import Json
from chatlab.demo.record import DemoRecord, KeySample, Milestones, ObservedMessage
from chatlab.settings import CacheMode

STAGES = ("request", "create", "save", "cache_message", "cache_conversation", "emit", "respond")
EXPIRY_TOLERANCE_S = 0.25  # how late a busy machine may show what has happened
SWEEP_INTERVAL_TOLERANCE_S = 0.05  # for the mean interval; a tenth of the interval if that is more
NOT_OBSERVED = "the demo could not look"


class Evidence(NamedTuple):
    """`text` is the measured figure, or the reason why the promise was not seen."""

    seen: bool
    text: str


class PromiseResult(NamedTuple):
    """One promise with its evidence for each message, by the name of the transport.

    A promise that is not about a single message has its evidence under the empty name.
    """

    promise: str
    evidence: dict[str, Evidence]

    @property
    def seen(self) -> bool:
        return all(item.seen for item in self.evidence.values())


def check_promises(record: DemoRecord) -> list[PromiseResult]:
    """Return a result for every promise, in the order of the diagram."""
    milestones, mode = record.milestones, record.settings.cache_mode
    entry_s, window_s = (ttl_ms / 1000 for ttl_ms in Ttls.of(record.settings.ttl_ms))
    checks: list[tuple[str, Callable[[ObservedMessage, Milestones], Evidence]]] = [
        ("Request over both transports", lambda message, _: _stage(message, "request")),
        ("Message object created", lambda message, _: _stage(message, "create")),
        ("Saved in MongoDB, same as the response", _saved),
        ("One _id, the same everywhere", _same_id),
        (
            f"message:{{_id}} cached, TTL <= {entry_s:g} s",
            lambda message, _: _entry_cached(message, entry_s),
        ),
        (
            f"messages:{{a}}:{{b}} cached, TTL <= {window_s:g} s",
            lambda message, _: _window_cached(message, window_s),
        ),
        ("newMessage to both users, once each", _emitted),
        ("200 OK or ack, with the message", _answered),
        ("All stages, in the diagram's order", _in_order),
        (f"Still cached at {milestones.still_cached_s:g} s", _still_cached),
        (f"Expired at {milestones.expired_s:g} s", _expired),
        (f"Cache cleaned logged by {milestones.cleaned_deadline_s:g} s", _cleaned),
        (_READ_PROMISES[mode], lambda message, _: _read(message, mode)),
    ]
    results = [
        PromiseResult(
            title,
            {message.transport_name: check(message, milestones) for message in record.messages},
        )
        for title, check in checks
    ]
    sweeps = PromiseResult(
        f"Sweeper runs every {record.settings.sweep_interval:g} s", {"": _sweeps(record)}
    )
    last = PromiseResult("GET after expiry: still complete", {"": _read_after_expiry(record)})
    return [*results[:-2], sweeps, *results[-2:], last]


_READ_PROMISES = {
    CacheMode.WINDOW: "GET returns the latest, from Redis",
    CacheMode.DRAWN: "GET returns the latest (mode drawn)",
    CacheMode.OFF: "GET returns the latest, from Redis",
}


def _stage(message: ObservedMessage, stage: str) -> Evidence:
    event = message.stage_event(stage)
    if event is None:
        return Evidence(False, f"there was no event for the stage {stage}")
    return Evidence(True, _ms(event["tookMs"]))


def _saved(message: ObservedMessage, _: Milestones) -> Evidence:
    if message.stored is None:
        return Evidence(False, "the message is not in MongoDB")
    if not message.send_result or message.stored != message.send_result.message:
        return Evidence(False, "the stored message differs from the response")
    return _stage(message, "save")


def _same_id(message: ObservedMessage, _: Milestones) -> Evidence:
    ids = {
        message.message_id,
        *(event["messageId"] for event in message.stage_events if "messageId" in event),
    }
    ids |= {message.stored["_id"]} if message.stored else set()
    if len(ids) == 1 and message.message_id:
        return Evidence(True, f"..{message.message_id[-6:]}")
    return Evidence(False, "the ids differ")


def _entry_cached(message: ObservedMessage, ttl_s: float) -> Evidence:
    first = next(iter(message.samples), None)
    return _cached(first, ttl_s, "the cached value differs from the response")


def _window_cached(message: ObservedMessage, ttl_s: float) -> Evidence:
    return _cached(message.window, ttl_s, "the window does not contain the message")


def _cached(sample: KeySample | None, ttl_s: float, mismatch: str) -> Evidence:
    if sample is None:
        return Evidence(False, NOT_OBSERVED)
    if sample.pttl_ms <= 0:
        return Evidence(False, "right after the response the key was not in Redis")
    if not sample.matches:
        return Evidence(False, mismatch)
    if sample.pttl_ms > ttl_s * 1000:
        return Evidence(False, f"its TTL was {sample.pttl_ms} ms")
    return Evidence(True, f"{sample.pttl_ms} ms left")


def _emitted(message: ObservedMessage, _: Milestones) -> Evidence:
    for user in (message.sender, message.receiver):
        events = message.received.get(user, [])
        if len(events) != 1:
            return Evidence(False, f"{user} received it {len(events)} times")
        if not message.send_result or events[0].payload != message.send_result.message:
            return Evidence(False, f"{user} received a message that differs from the response")
    return _stage(message, "emit")


def _answered(message: ObservedMessage, _: Milestones) -> Evidence:
    if message.send_result is None:
        return Evidence(False, "there was no response")
    return Evidence(True, f"{message.send_result.status} {_ms(message.send_result.took_ms)}")


def _in_order(message: ObservedMessage, _: Milestones) -> Evidence:
    events = sorted(message.stage_events, key=lambda event: float(event["at"]))
    passed = tuple(event["stage"] for event in events)
    if passed == STAGES:
        return Evidence(True, f"{len(STAGES)} in {_ms(sum(event['tookMs'] for event in events))}")
    missing = [stage for stage in STAGES if stage not in passed]
    return Evidence(
        False, f"missing: {', '.join(missing)}" if missing else f"the order was {', '.join(passed)}"
    )


def _still_cached(message: ObservedMessage, milestones: Milestones) -> Evidence:
    sample = next(
        (sample for sample in message.samples if sample.age_s >= milestones.still_cached_s), None
    )
    if sample is None:
        return Evidence(False, NOT_OBSERVED)
    if sample.pttl_ms <= 0 or not sample.matches:
        return Evidence(False, "it was not in Redis at that time")
    return Evidence(True, f"{sample.pttl_ms} ms left")


def _expired(message: ObservedMessage, milestones: Milestones) -> Evidence:
    """Compute the expiry from the last look that found the key and the first that did not."""
    present, absent = message.last_present, message.first_absent
    if present is None:
        return Evidence(False, "it was never seen in Redis")
    if absent is None:
        return Evidence(False, f"it was still there at {present.age_s:.2f} s")
    expiry_s, due_s = present.age_s + present.pttl_ms / 1000, milestones.expired_s
    if abs(expiry_s - due_s) > EXPIRY_TOLERANCE_S or absent.age_s > due_s + EXPIRY_TOLERANCE_S:
        return Evidence(False, f"it was gone at {absent.age_s:.2f} s")
    return Evidence(True, f"at {min(expiry_s, absent.age_s):.2f} s")


def _cleaned(message: ObservedMessage, milestones: Milestones) -> Evidence:
    if not message.cleaned:
        return Evidence(False, "the sweeper did not log it")
    if len(message.cleaned) > 1:
        return Evidence(False, f"the sweeper logged it {len(message.cleaned)} times")
    age_s = message.age_s(message.cleaned[0]["at"])
    if not milestones.expired_s - EXPIRY_TOLERANCE_S <= age_s <= milestones.cleaned_deadline_s:
        return Evidence(False, f"the sweeper logged it at {age_s:.2f} s")
    return Evidence(True, f"at {age_s:.2f} s")


def _read(message: ObservedMessage, mode: CacheMode) -> Evidence:
    expected = "bypass" if mode is CacheMode.DRAWN else "hit"
    if message.read_result is None:
        return Evidence(False, "there was no response")
    if not message.read_is_complete:
        return Evidence(False, "a message was missing in the response")
    if message.read_result.cache != expected:
        return Evidence(False, f"X-Cache was {message.read_result.cache}")
    return Evidence(True, f"{expected} {_ms(message.read_result.took_ms)}")


def _read_after_expiry(record: DemoRecord) -> Evidence:
    reading = record.read_after_expiry
    if reading is None:
        return Evidence(False, "there was no response")
    if not record.read_after_expiry_is_complete:
        return Evidence(False, "a message was missing in the response")
    if reading.cache == "hit":
        return Evidence(False, "X-Cache was hit: the conversation was still cached")
    return Evidence(
        True, f"{reading.cache} {_ms(reading.took_ms)}, {len(reading.messages)} messages"
    )


def _sweeps(record: DemoRecord) -> Evidence:
    """Check that the sweeps came at their interval and found live keys."""
    times_s = [sweep["at"] / 1000 for sweep in record.sweeps]
    if not times_s:
        return Evidence(False, "there was no sweep")
    if not any(sweep["live"] for sweep in record.sweeps):
        return Evidence(False, f"none of the {len(times_s)} sweeps found a live key")
    interval_s = record.settings.sweep_interval
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(times_s)]
    mean_s = sum(gaps_s) / len(gaps_s) if gaps_s else interval_s
    in_time = abs(mean_s - interval_s) <= max(0.1 * interval_s, SWEEP_INTERVAL_TOLERANCE_S)
    return Evidence(in_time, f"{len(times_s)} sweeps, {mean_s:.2f} s apart")


def _ms(value: float) -> str:
    return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def contains_in_order(messages: Iterable[Any], expected: Iterable[Json]) -> bool:
    """Return True if `messages` contains all expected messages, unchanged and in this order."""
    expected = list(expected)
    return [message for message in messages if message in expected] == expected
