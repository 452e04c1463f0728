"""What the diagram promises, held against a `Record`. Pure.

A promise is seen only if it was seen for every message it is about. A finding carries the figure measured, or why it counts as not seen.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from chatlab.client import Json
from chatlab.demo.record import Journey, Moments, Record
from chatlab.settings import CacheMode

BOXES = ("request", "create", "save", "cache_message", "cache_conversation", "emit", "respond")
SLACK = 0.25  # seconds that a busy machine may be late in showing what has happened
BEAT_SLACK = 0.05  # seconds that the mean interval between two sweeps may differ, or a tenth of the interval if that is more
UNSEEN = "nobody could look"


class Finding(NamedTuple):
    seen: bool
    figure: str  # measured, or why it counts as not seen


class Verdict(NamedTuple):
    """One promise. `findings` has one for each message, by name of its door; a promise about the whole has one under an empty name."""

    promise: str
    findings: dict[str, Finding]

    @property
    def seen(self) -> bool:
        return all(finding.seen for finding in self.findings.values())


def verdicts(record: Record) -> list[Verdict]:
    """Every promise of the diagram, in its order."""
    moments, mode = record.moments, record.settings.cache_mode
    each: list[tuple[str, Callable[[Journey, Moments], Finding]]] = [
        ("Request by both doors", lambda journey, _: _box(journey, "request")),
        ("Message object created", lambda journey, _: _box(journey, "create")),
        ("Saved in MongoDB, equal to the answer", _saved),
        ("_id created, the same everywhere", _same_id),
        (f"message:{{_id}} cached, TTL <= {moments.end:g} s", _cached),
        (f"messages:{{a}}:{{b}} cached, TTL <= {moments.end:g} s", _in_window),
        ("newMessage to both, once each", _emitted),
        ("200 OK or ack, with the message", _answered),
        ("All boxes, in the diagram's order", _in_order),
        (f"Still cached at {moments.pause:g} s", _still_there),
        (f"Gone at {moments.end:g} s", _gone),
        (f"Cache cleaned told by {moments.limit:g} s", _cleaned),
        (_READ[mode], lambda journey, _: _read(journey, mode)),
    ]
    found = [Verdict(title, {journey.name: judge(journey, moments) for journey in record.journeys}) for title, judge in each]
    beats = Verdict(f"Worker looks every {record.settings.sweep_interval:g} s", {"": _beats(record)})
    return [*found[:-2], beats, *found[-2:], Verdict("GET after the end: still complete", {"": _read_afterwards(record)})]


_READ = {
    CacheMode.WINDOW: "GET gives the latest, from Redis",
    CacheMode.DRAWN: "GET gives the latest (mode drawn)",
    CacheMode.OFF: "GET gives the latest, from Redis",
}


def _box(journey: Journey, stage: str) -> Finding:
    event = journey.box(stage)
    return Finding(True, _ms(event["tookMs"])) if event else Finding(False, f"no flow event told of the box {stage}")


def _saved(journey: Journey, _: Moments) -> Finding:
    event = journey.box("save")
    if journey.stored is None:
        return Finding(False, "MongoDB does not have it")
    if not journey.answer or journey.stored != journey.answer.message:
        return Finding(False, "what MongoDB has is not what was answered")
    return Finding(True, _ms(event["tookMs"])) if event else Finding(False, "it is there, but no flow event told of the save")


def _same_id(journey: Journey, _: Moments) -> Finding:
    ids = {journey.message_id, *(box["messageId"] for box in journey.boxes if "messageId" in box)}
    ids |= {journey.stored["_id"]} if journey.stored else set()
    return Finding(True, f"..{journey.message_id[-6:]}") if len(ids) == 1 and journey.message_id else Finding(False, "the ids differ")


def _cached(journey: Journey, moments: Moments) -> Finding:
    first = next(iter(journey.samples), None)
    if first is None or first.pttl <= 0:
        return Finding(False, "right after the answer the key was not in Redis" if first else UNSEEN)
    if not first.equal or first.pttl > moments.end * 1000:
        return Finding(False, "its value is another one" if not first.equal else f"it would live {first.pttl} ms")
    return Finding(True, f"{first.pttl} ms left")


def _in_window(journey: Journey, moments: Moments) -> Finding:
    window = journey.window
    if window is None or window.pttl <= 0:
        return Finding(False, "right after the answer the key was not in Redis" if window else UNSEEN)
    if not window.equal or window.pttl > moments.end * 1000:
        return Finding(False, "the message is not in it" if not window.equal else f"it would live {window.pttl} ms")
    return Finding(True, f"{window.pttl} ms left")


def _emitted(journey: Journey, _: Moments) -> Finding:
    for person in (journey.sender, journey.receiver):
        times = len(journey.heard.get(person, []))
        if times != 1:
            return Finding(False, f"{person} heard it {times} times")
        if not journey.answer or journey.heard[person][0].payload != journey.answer.message:
            return Finding(False, f"{person} heard another message than was answered")
    event = journey.box("emit")
    return Finding(True, _ms(event["tookMs"])) if event else Finding(False, "both heard it, but no flow event told of it")


def _answered(journey: Journey, _: Moments) -> Finding:
    return (
        Finding(True, f"{journey.answer.status} {_ms(journey.answer.took_ms)}") if journey.answer else Finding(False, "there was no answer")
    )


def _in_order(journey: Journey, _: Moments) -> Finding:
    passed = tuple(event["stage"] for event in sorted(journey.boxes, key=lambda event: float(event["at"])))
    if passed == BOXES:
        return Finding(True, f"{len(BOXES)} in {_ms(sum(event['tookMs'] for event in journey.boxes))}")
    missing = [stage for stage in BOXES if stage not in passed]
    return Finding(False, f"not passed: {', '.join(missing)}" if missing else f"the order was {', '.join(passed)}")


def _still_there(journey: Journey, moments: Moments) -> Finding:
    sample = next((sample for sample in journey.samples if sample.age >= moments.pause), None)
    if sample is None or sample.pttl <= 0 or not sample.equal:
        return Finding(False, "it was not in Redis then" if sample else UNSEEN)
    return Finding(True, f"{sample.pttl} ms left")


def _gone(journey: Journey, moments: Moments) -> Finding:
    """Between the last look that found it, with the life it had left, and the first that did not."""
    alive, gone = journey.alive, journey.gone
    if alive is None:
        return Finding(False, "it was never seen in Redis")
    if gone is None:
        return Finding(False, f"it was still there at {alive.age:.2f} s")
    end = alive.age + alive.pttl / 1000
    if abs(end - moments.end) > SLACK or gone.age > moments.end + SLACK:
        return Finding(False, f"it was gone at {gone.age:.2f} s")
    return Finding(True, f"at {min(end, gone.age):.2f} s")


def _cleaned(journey: Journey, moments: Moments) -> Finding:
    if not journey.cleaned:
        return Finding(False, "the worker did not tell of it")
    if len(journey.cleaned) > 1:
        return Finding(False, f"the worker told it {len(journey.cleaned)} times")
    age = journey.age(journey.cleaned[0]["at"])
    if not moments.end - SLACK <= age <= moments.limit:
        return Finding(False, f"the worker told it at {age:.2f} s")
    return Finding(True, f"at {age:.2f} s")


def _read(journey: Journey, mode: CacheMode) -> Finding:
    wanted = "bypass" if mode is CacheMode.DRAWN else "hit"
    if journey.reading is None or not journey.complete:
        return Finding(False, "the answer lacked a message" if journey.reading else "it was not answered")
    if journey.reading.cache != wanted:
        return Finding(False, f"X-Cache was {journey.reading.cache}")
    return Finding(True, f"{wanted} {_ms(journey.reading.took_ms)}")


def _read_afterwards(record: Record) -> Finding:
    reading = record.afterwards
    if reading is None or not record.complete_afterwards:
        return Finding(False, "the answer lacked a message" if reading else "it was not asked")
    if reading.cache == "hit":
        return Finding(False, "X-Cache was hit: the conversation was still cached")
    return Finding(True, f"{reading.cache} {_ms(reading.took_ms)}, {len(reading.messages)} messages")


def _beats(record: Record) -> Finding:
    """The beats that were due came, at their distance, and found what was alive."""
    times = [beat["at"] / 1000 for beat in record.beats]
    if not times:
        return Finding(False, "no beat of the worker was told")
    if not any(beat["live"] for beat in record.beats):
        return Finding(False, f"{len(times)} beats, and no live key in any")
    interval, gaps = record.settings.sweep_interval, [later - earlier for earlier, later in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps) if gaps else interval
    if abs(mean - interval) > max(0.1 * interval, BEAT_SLACK):
        return Finding(False, f"{len(times)} beats, {mean:.2f} s apart")
    return Finding(True, f"{len(times)} beats, {mean:.2f} s apart")


def _ms(value: float) -> str:
    return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def holds(messages: Iterable[Any], wanted: Iterable[Json]) -> bool:
    """True when every wanted message is among these, as it is, in this order."""
    wanted = list(wanted)
    return [message for message in messages if message in wanted] == wanted
