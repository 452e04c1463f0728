"""Notebook 10: the performance table, measured with and without the cache in turn, on one MongoDB."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import httpx

from chatlab.bench import claims as document
from chatlab.bench.claims import TOLERANCE, Comparison, Outcome, judge
from chatlab.bench.comparisons import TEXT, SendRequest, make_send
from chatlab.bench.samples import share_saved, summarize
from chatlab.lab.checks import (
    CheckResult,
    UnusableAnswer,
    await_answer,
    call_answer,
    call_for_number,
    check,
    correct,
    is_number,
    not_yet,
)
from chatlab.lab.claims import DEPENDS, FAILS, HOLDS, ClaimResult, ClaimResults
from chatlab.lab.measure import (
    Table,
    alternate,
    format_interval,
    format_percent,
    format_share,
    measure_alternately,
    send_many,
)
from chatlab.lab.session import Lab
from chatlab.lab.user import User
from chatlab.lab.widgets import Chart

WITHOUT, WITH, NARROW = "without cache", "with cache", "narrow window"
SETTINGS: dict[str, dict[str, Any]] = {
    WITHOUT: {"cache_mode": "off"},
    WITH: {"cache_mode": "window"},
    NARROW: {"cache_mode": "window", "window_size": 100},
}
A_THIRD, NO_THIRD = "a third, or more", "less than a third"  # the prediction
# Each side sends in a conversation of its own: a process remembers the last seq of a conversation.
PARTNERS = {WITHOUT: "bob", WITH: "carol"}
CLAIMED = {"send": document.SEND, "read": document.GET, "edit": document.UPDATE}
READ = 50  # messages of the conversation that is read
LENGTHS = (10, 50, 100, 500)
LENGTH_TURNS = 60
WRITERS = 32  # connections that fill a conversation
GETS, USER_READS = 1000, 100
MILLISECOND = 1000  # microseconds

Urls = Mapping[str, str]


# --- the requests, over bare connections ----------------------------------------------------------


async def start_service(lab: Lab, name: str) -> str:
    """Start an extra service with the settings of this side and a cache of its own."""
    short = name.replace(" ", "-")
    return await lab.service.start_extra(short, key_prefix=f"{short}:", **SETTINGS[name])


async def requests_for(lab: Lab, urls: Urls, operation: str) -> dict[str, SendRequest]:
    """Return one request of this operation for each side."""
    alice = await lab.user("alice", connect=False)
    if operation == "read":
        return await _reads(lab, alice, urls, READ)
    make = _sends if operation == "send" else _edits
    return {name: await make(lab, alice, name, urls[name]) for name in (WITHOUT, WITH)}


async def _reads(lab: Lab, alice: User, urls: Urls, messages: int) -> dict[str, SendRequest]:
    """Read a whole conversation of this length. It is written first, if it does not exist."""
    friend = await lab.user(f"friend-{messages}", connect=False)
    missing = messages - lab.mongo.messages.count_documents({"receiverId": friend.id})
    if missing:
        writers = [lab.raw_client(alice, urls[WITHOUT]) for _ in range(WRITERS)]
        await send_many(writers, friend.id, missing, TEXT)
    path = f"/api/messages/{friend.id}"
    return {name: _get(lab, alice, url, path) for name, url in urls.items()}


def _get(lab: Lab, alice: User, url: str, path: str) -> SendRequest:
    client = lab.raw_client(alice, url)
    return lambda: client.request("GET", path)


async def _sends(lab: Lab, alice: User, name: str, url: str) -> SendRequest:
    partner = await lab.user(PARTNERS[name], connect=False)
    return make_send(lab.raw_client(alice, url), partner.id)


async def _edits(lab: Lab, alice: User, name: str, url: str) -> SendRequest:
    client, numbers = lab.raw_client(alice, url), itertools.count(1)
    sent = (await _sends(lab, alice, name, url))()
    path = f"/api/messages/{json.loads(sent.body)['_id']}"
    return lambda: client.request(
        "PATCH", path, json.dumps({"text": f"Edit {next(numbers)}"}).encode()
    )


async def count_trips(lab: Lab, urls: Urls) -> dict[str, tuple[int, int]]:
    """Return how many commands about messages MongoDB receives for each operation."""
    trips = {}
    for operation in CLAIMED:
        counts = []
        for request in (await requests_for(lab, urls, operation)).values():
            request()  # fills the cache
            log = await lab.record_queries(asyncio.to_thread(request))
            counts.append(sum(command.endswith(" messages") for command in log.mongo))
        trips[operation] = (counts[0], counts[1])
    return trips


# --- one row of the document's table --------------------------------------------------------------


class Measured(Table):
    """Both sides of an operation in milliseconds, and the share of time that is saved."""

    def __init__(self, operation: str, outcome: Outcome, chart: Chart) -> None:
        self.operation, self.outcome, self.saved = operation, outcome, outcome.saved
        self.samples = outcome.comparison.without_ms, outcome.comparison.with_cache_ms
        self.medians = outcome.without.median.middle, outcome.with_cache.median.middle
        sides = (WITHOUT, outcome.without), (WITH, outcome.with_cache)
        rows = [(name, format_interval(one.median), f"{one.p95:.2f} ms") for name, one in sides]
        rows.append(("less time with the cache", format_share(self.saved), ""))
        count = outcome.without.samples
        heads = f"{operation}, {count} times on each side", "median (its interval)", "p95"
        super().__init__(heads, [(True, row) for row in rows], chart=chart)

    @property
    def row(self) -> dict[str, Any]:
        """The figures for a chart. Shares are in percent."""
        without, with_cache = self.medians
        claim = self.outcome.comparison.claim
        return {
            "operation": self.operation,
            "without_ms": without,
            "with_ms": with_cache,
            "saved": 100 * self.saved.middle,
            "low": 100 * self.saved.low,
            "high": 100 * self.saved.high,
            "document": 100 * claim.share_saved,
        }


async def measure(
    lab: Lab, urls: Urls, operation: str, trips: Mapping[str, Sequence[int]], chart: Chart
) -> Measured:
    """Measure `send`, `read` or `edit` on both sides in turn, over bare connections."""
    requests = await requests_for(lab, {name: urls[name] for name in (WITHOUT, WITH)}, operation)
    wanted = {WITH: "hit"} if operation == "read" else None
    samples = await measure_alternately(requests, chart, wanted=wanted)
    counted = trips[operation][0], trips[operation][1]
    sides = samples[WITHOUT], samples[WITH]
    return Measured(
        operation, judge(Comparison(CLAIMED[operation], operation, *sides, counted)), chart
    )


def beside_the_document(*measured: Measured) -> Table:
    """Return the document's table next to the one of this machine."""
    heads = ("", "the document: without → with", "less time", "here: without → with", "less time")
    rows = []
    for one in measured:
        claim, (without, with_cache) = one.outcome.comparison.claim, one.medians
        rows.append((
            one.operation,
            f"{_span(claim.without_ms)} → {_span(claim.with_cache_ms)} ms",
            format_percent(claim.share_saved),
            f"{without:.2f} → {with_cache:.2f} ms",
            format_share(one.saved),
        ))  # fmt: skip
    return Table(heads, [(True, row) for row in rows])


def _span(told: tuple[float, float]) -> str:
    return " to ".join(f"{value:.0f}" for value in dict.fromkeys(told))


# --- the length of a conversation -----------------------------------------------------------------


async def lengths(lab: Lab, urls: Urls, chart: Chart) -> list[dict[str, Any]]:
    """Read whole conversations of different lengths without a cache, and with two windows.

    Returns a row for each length and window, with shares in percent.
    """
    alice = await lab.user("alice", connect=False)
    names, rows = (WITHOUT, WITH, NARROW), list[dict[str, Any]]()
    narrow = SETTINGS[NARROW]["window_size"]
    for number, messages in enumerate(LENGTHS):
        requests = await _reads(lab, alice, {name: urls[name] for name in names}, messages)
        wanted = {WITH: "hit", NARROW: "hit" if messages <= narrow else "partial"}
        samples: dict[str, list[float]] = {name: [] for name in names}
        async for took in alternate(requests, LENGTH_TURNS, wanted):
            for name, ms in took.items():
                samples[name].append(ms)
            done = number * LENGTH_TURNS + len(samples[WITHOUT])
            chart.progress(done, len(LENGTHS) * LENGTH_TURNS)
        for name in names:
            chart.point(name, messages, summarize(samples[name]).median.middle)
        rows += [
            _length(messages, size, samples[WITHOUT], samples[name])
            for name, size in ((WITH, lab.settings.window_size), (NARROW, narrow))
        ]
    return rows


def _length(
    messages: int, window: int, without: list[float], with_cache: list[float]
) -> dict[str, Any]:
    middle, low, high = (100 * value for value in share_saved(without, with_cache))
    return {
        "messages": messages,
        "window": window,
        "without_ms": median(without),
        "with_ms": median(with_cache),
        "saved": middle,
        "low": low,
        "high": high,
    }


# --- exercises ------------------------------------------------------------------------------------

TIMES = 20


class Sent(NamedTuple):
    """A request that was sent for one side. Times are seconds of `perf_counter`."""

    side: str
    began: float
    ended: float


class _Logged(httpx.AsyncHTTPTransport):
    """A transport that logs each request."""

    def __init__(self, side: str, log: list[Sent]) -> None:
        super().__init__()
        self._side, self._log = side, log

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        began = time.perf_counter()
        reply = await super().handle_async_request(request)
        self._log.append(Sent(self._side, began, time.perf_counter()))
        return reply


@check
async def is_fair(lab: Lab, urls: Urls, reads: Measured, answer: Any) -> CheckResult:
    """Check a timing loop: what it sends in which order, and what it returns."""
    alice = await lab.user("alice", connect=False)
    path = f"/api/messages/friend-{READ}"
    log: list[Sent] = []
    async with contextlib.AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=urls[name],
                    headers={"authorization": f"Bearer {alice.token}"},
                    transport=_Logged(name, log),
                )
            )
            for name in (WITHOUT, WITH)
        }
        returned = await await_answer(answer, clients, path, TIMES)
        ended = time.perf_counter()
    _require_turns([sent.side for sent in log])
    _require_times(returned, log, ended)
    without, with_cache = (median(returned[name]) for name in (WITHOUT, WITH))
    return correct(
        f"In turn, without the first requests. Your loop measured {without:.2f} ms without the cache"
        f" and {with_cache:.2f} ms with it: {format_percent(1 - with_cache / without)} less. Over bare"
        f" connections it was {format_percent(reads.saved.middle)}: the time that httpx itself needs is"
        " on both sides, so it makes the difference look smaller."
    )


def _require_turns(sides: list[str]) -> None:
    counts = {name: sides.count(name) for name in (WITHOUT, WITH)}
    told = f"It sent {counts[WITHOUT]} requests without the cache and {counts[WITH]} with it"
    if min(counts.values()) < TIMES:
        raise UnusableAnswer(f"{told}, and `times` was {TIMES}. Did you `await` http.get(path)?")
    for end in range(len(sides)):
        first = sides[: end + 1]
        if abs(first.count(WITHOUT) - first.count(WITH)) > 1:
            raise UnusableAnswer(
                f"{told}, but not in turn: {first.count(WITHOUT)} and {first.count(WITH)} of the first"
                f" {end + 1}. If the machine is busy for a moment, only one side feels it."
            )
    if min(counts.values()) == TIMES:
        raise UnusableAnswer(
            f"{told}. The first request of a client also opens the connection. Send one to each"
            " client before, and do not count it."
        )


def _require_times(returned: Any, log: list[Sent], ended: float) -> None:
    if not isinstance(returned, dict) or set(returned) != {WITHOUT, WITH}:
        raise UnusableAnswer(
            f"It must return a dict with a list for each client, not {returned!r}."
        )
    for name, times in returned.items():
        if not isinstance(times, list) or not all(is_number(one) for one in times):
            raise UnusableAnswer(f"The value for {name!r} must be a list of numbers.")
        if len(times) != TIMES:
            raise UnusableAnswer(
                f"The list for {name!r} has {len(times)} numbers, and not {TIMES}."
            )
        inside = [(sent.ended - sent.began) * 1000 for sent in log if sent.side == name][-TIMES:]
        if any(ms < least for ms, least in zip(times, inside, strict=True)):
            raise UnusableAnswer(
                f"One request took {inside[0]:.2f} ms in the network, and your loop says"
                f" {times[0]:.5f}. Return milliseconds: perf_counter() returns seconds."
            )
    whole_ms = (ended - log[-2 * TIMES - 1].ended) * 1000  # since the last request of the warm-up
    if sum(map(sum, returned.values())) > whole_ms:
        raise UnusableAnswer(
            f"All requests took {whole_ms:.0f} ms, and your numbers add up to more. Read the clock"
            " right before and right after each request, and return milliseconds."
        )


@check
async def improvement(_lab: Lab, measured: Sequence[Measured], answer: Any) -> CheckResult:
    """Check a function of two lists of samples that returns the share of time saved."""
    cases = [(f"your {one.operation} samples", *one.samples) for one in measured]
    cases += [
        ("150 ms and 100 ms", [150.0] * 5, [100.0] * 5),
        ("100 ms and 50 ms", [100.0] * 5, [50.0] * 5),
        ("100 ms and 125 ms", [100.0] * 5, [125.0] * 5),
        ("100 ms, one outlier, and 75 ms", [100.0] * 6 + [9000.0], [75.0] * 7),
    ]
    for name, without, with_cache in cases:
        expected = 1 - median(with_cache) / median(without)
        said = _improvement(answer, name, without, with_cache)
        if abs(said - expected) > 0.001:
            return not_yet(
                f"For {name} ({median(without):.2f} → {median(with_cache):.2f} ms, medians) your"
                f" function returned {said:.3f}. {_hint(said, without, with_cache)}"
            )
    yours = ", ".join(f"{one.operation} {format_percent(one.saved.middle)}" for one in measured)
    return correct(f"In your samples: {yours}. A negative share means that it takes more time.")


def _improvement(answer: Any, name: str, without: list[float], with_cache: list[float]) -> float:
    said = call_answer(answer, list(without), list(with_cache))
    if not is_number(said):
        raise UnusableAnswer(
            f"For {name} your function returned {said!r}. It must return a number."
        )
    return float(said)


def _hint(said: float, without: list[float], with_cache: list[float]) -> str:
    """Name the mistake, and not the answer."""
    old, new = median(without), median(with_cache)
    old_mean, new_mean = sum(without) / len(without), sum(with_cache) / len(with_cache)
    mistakes = (
        ((old - new) / new, "That is a share of the new time. Of which time should it be a share?"),
        (new / old, "That is the share of time that is left. How much is gone?"),
        (old / new, "That says how many times as fast it is. How much of the old time is gone?"),
        (old - new, "Those are milliseconds. Which share of the time without the cache are they?"),
        (100 * (old - new) / old, "That is in percent. Return the share: 0.25, not 25."),
        (
            1 - new_mean / old_mean,
            "Those are means. One slow request moves a mean; use the median.",
        ),
    )
    for wrong, why in mistakes:
        if abs(said - wrong) <= 0.001 * max(1, abs(wrong)):
            return why
    return "From 150 ms to 100 ms, a third of the time is gone."


@check
async def far_enough(_lab: Lab, measured: Sequence[Measured], answer: Any) -> CheckResult:
    """Check how much longer a trip must take so that an operation takes a wanted time."""
    cases = [
        (one.operation, one.outcome.comparison.claim.without_ms[0], one.medians[0],
         one.outcome.comparison.round_trips[0])
        for one in measured
    ]  # fmt: skip
    cases += [("two trips", 100.0, 4.0, 2), ("three trips", 40.0, 10.0, 3)]
    for name, wanted, here, trips in cases:
        said = call_for_number(answer, wanted, here, trips)
        took = here + trips * said
        if abs(took - wanted) > 0.1:
            return not_yet(
                f"{name}: it takes {here:.1f} ms here, with trips: {trips}. Each of them"
                f" {said:.1f} ms longer makes {took:.1f} ms, and {wanted:.0f} ms are wanted."
            )
    told = ", ".join(
        f"{one.operation} {one.outcome.extra_round_trip_ms:.0f} ms (then {one.outcome.distant_ms:.1f} ms"
        " with the cache)"
        for one in measured
    )
    return correct(f"A trip must take longer by: {told}. Compare this with the document.")


# --- the clocks and the claims --------------------------------------------------------------------


async def clocks(lab: Lab, urls: Urls) -> dict[str, float]:
    """Return how many microseconds one cached message takes, by the clock of each."""
    alice, key, took = await lab.user("alice", connect=False), "message:clock", list[float]()
    lab.redis.set(key, TEXT, ex=60)
    lab.redis.config_resetstat()
    for _ in range(GETS):
        started = time.perf_counter()
        lab.redis.get(key)
        took.append((time.perf_counter() - started) * 1e6)
    inside = lab.redis.info("commandstats")["cmdstat_get"]["usec_per_call"]
    request = (await _reads(lab, alice, {WITHOUT: urls[WITHOUT], WITH: urls[WITH]}, 1))[WITH]
    user = [one async for one in alternate({WITH: request}, USER_READS, {WITH: "hit"})]
    over_http = MILLISECOND * median(one[WITH] for one in user)
    return {"Redis itself": inside, "a client": median(took), "a user": over_http}


def near(ms: float, told: tuple[float, float]) -> bool:
    """Return True if the document's "about" covers this: a fifth more or less."""
    return told[0] * (1 - TOLERANCE) <= ms <= told[1] * (1 + TOLERANCE)


def claims(
    lab: Lab, sends: Measured, reads: Measured, edits: Measured, clocks: Mapping[str, float]
) -> ClaimResults:
    """Return the verdicts for the performance table, and for "microseconds".

    `clocks`: microseconds by the clock of each.
    """
    rows = (("send", sends), ("read", reads), ("update", edits))
    judged = [
        claim for name, one in rows for claim in (_times_claim(name, one), _faster_claim(name, one))
    ]
    return lab.record_claims(_microseconds_claim(clocks), *judged)


def _times_claim(name: str, measured: Measured) -> ClaimResult:
    outcome, (without, with_cache) = measured.outcome, measured.medians
    claim = outcome.comparison.claim
    is_here = near(without, claim.without_ms) and near(with_cache, claim.with_cache_ms)
    is_there = near(outcome.distant_ms, claim.with_cache_ms)
    return ClaimResult(
        f"{name}_times",
        f"{without:.2f} and {with_cache:.2f} ms; with {outcome.extra_round_trip_ms:.0f} ms more for each"
        f" trip to MongoDB {claim.without_ms[0]:.0f} and {outcome.distant_ms:.1f} ms",
        HOLDS if is_here else DEPENDS if is_there else FAILS,
        timed=True,
    )


def _faster_claim(name: str, measured: Measured) -> ClaimResult:
    distant = format_percent(measured.outcome.distant_saved)
    text = f"{format_share(measured.saved)} less time; at the document's distance {distant}"
    return ClaimResult(f"{name}_faster", text, measured.outcome.verdict, timed=True)


def _microseconds_claim(clocks: Mapping[str, float]) -> ClaimResult:
    quick = [middle < MILLISECOND for middle in clocks.values()]
    measured = ", ".join(f"{who} {middle:.1f} µs" for who, middle in clocks.items())
    verdict = HOLDS if all(quick) else DEPENDS if any(quick) else FAILS
    return ClaimResult("microseconds", measured, verdict, timed=True)
