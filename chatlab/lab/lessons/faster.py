"""Notebook 10: the performance table, measured: with the cache and without, in turn, on one MongoDB and one Redis."""

import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import ipywidgets

from chatlab.bench import claims as document
from chatlab.bench.claims import TOLERANCE, Comparison, Outcome, judge
from chatlab.bench.comparisons import TEXT, SendRequest, make_send
from chatlab.bench.raw_http import RawHttpClient
from chatlab.bench.samples import Interval, Summary, share_saved, summarize
from chatlab.lab.checks import CheckResult, call_for_number, check, correct, not_yet
from chatlab.lab.claims import DEPENDS, FAILS, HOLDS, ClaimResult, ClaimResults
from chatlab.lab.measure import (
    Table,
    alternate,
    format_interval,
    format_percent,
    format_share,
    html_widget,
    measure_alternately,
    send_many,
    styled_html,
)
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.trace import Trace
from chatlab.lab.user import User
from chatlab.lab.widgets import Chart
from chatlab.lab.widgets.live import VIEW

WITHOUT, WITH, NARROW = "without cache", "with cache", "with a narrow window"
WINDOW, NARROWER = 500, 100  # messages
SETTINGS: dict[str, dict[str, Any]] = {
    WITHOUT: {"cache_mode": "off"},
    WITH: {"cache_mode": "window", "window_size": WINDOW},
    NARROW: {"cache_mode": "window", "window_size": NARROWER},
}
READ = 50  # messages of the conversation that is read
LENGTHS = (10, 50, 100, 500)
LENGTH_TURNS = 60
WRITERS = 32  # connections that fill a conversation
THUMB = "%F0%9F%91%8D"
CLAIMED = {"sending": document.SEND, "reading": document.GET, "reacting": document.UPDATE}
CLOCK_ROUNDS, CLOCK_GETS = 30, 100
LONGER = 60  # seconds that a message lives which is asked for so often
MILLISECOND = 1000  # microseconds
FARTHEST = 250  # milliseconds a trip


# --- two services ------------------------------------------------------------------------------------------------------------


class Sides:
    """Services side by side on one MongoDB and one Redis; Alice has a connection to each. `trips` to MongoDB, by operation."""

    def __init__(self, lab: Lab, alice: User, partners: dict[str, User]) -> None:
        self.lab, self.alice, self.partners = lab, alice, partners
        self.urls: dict[str, str] = {}
        self.wires: dict[str, RawHttpClient] = {}
        self.trips: dict[str, tuple[int, int]] = {}

    async def open(self, name: str) -> None:
        short = name.replace(" ", "-")
        self.urls[name] = await self.lab.service.start_extra(
            short, key_prefix=f"{short}:", **SETTINGS[name]
        )
        self.wires[name] = self.lab.raw_client(self.alice, self.urls[name])

    async def acts(self, operation: str) -> dict[str, SendRequest]:
        """One request of this operation, on either side."""
        make = {"sending": self._sending, "reading": self._reading, "reacting": self._reacting}[
            operation
        ]
        return {name: await make(name) for name in (WITHOUT, WITH)}

    async def _sending(self, name: str) -> SendRequest:
        return make_send(self.wires[name], self.partners[name].id)

    async def _reading(self, name: str) -> SendRequest:
        return await self.reading(name, READ)

    async def reading(self, name: str, messages: int) -> SendRequest:
        """A read of the whole conversation with somebody to whom so many messages were sent; written when it is asked for first."""
        partner = await self.lab.user(f"friend-{messages}", connect=False)
        if not self.lab.mongo.messages.count_documents({"receiverId": partner.id}):
            writers = [self.lab.raw_client(self.alice, self.urls[WITHOUT]) for _ in range(WRITERS)]
            await send_many(writers, partner.id, messages, TEXT)
        wire, path = self.wires[name], f"/api/messages/{partner.id}"
        return lambda: wire.request("GET", path)

    async def _reacting(self, name: str) -> SendRequest:
        wire = self.wires[name]
        message = json.loads((await self._sending(name))().body)
        path, methods = (
            f"/api/messages/{message['_id']}/reactions/{THUMB}",
            itertools.cycle(("PUT", "DELETE")),
        )
        return lambda: wire.request(next(methods), path)

    def __repr__(self) -> str:
        return "\n".join([
            f"{WITHOUT:<15}a service with CHATLAB_CACHE_MODE=off",
            f"{WITH:<15}a service with the cache: a window of {WINDOW} messages, for {self.lab.settings.cache_ttl:g} s",
            "One MongoDB and one Redis for both.",
        ])  # fmt: skip


async def two_sides(lab: Lab) -> Sides:
    """The two services that are compared."""
    names = {WITHOUT: "bob", WITH: "carol"}
    sides = Sides(
        lab,
        await lab.user("alice", connect=False),
        {name: await lab.user(person, connect=False) for name, person in names.items()},
    )
    for person in (sides.alice, *sides.partners.values()):
        await person.disconnect()  # events to sockets would take time on one side only
    await asyncio.gather(sides.open(WITHOUT), sides.open(WITH))
    return sides


async def trips(sides: Sides) -> Table:
    """How often each operation asks MongoDB for messages or gives it some, counted by MongoDB itself."""
    for operation in CLAIMED:
        acts = await sides.acts(operation)
        sides.trips[operation] = (
            await _asked(sides.lab, acts[WITHOUT]),
            await _asked(sides.lab, acts[WITH]),
        )
    rows = [(False, (operation, *map(str, counted))) for operation, counted in sides.trips.items()]
    return Table(("trips to MongoDB", WITHOUT, WITH), rows)


async def _asked(lab: Lab, act: SendRequest) -> int:
    act()  # fills the window
    asked = await lab.record_queries(asyncio.to_thread(act))
    return sum(command.endswith(" messages") for command in asked.mongo)


# --- one row of the document's table -----------------------------------------------------------------------------------------


class Raced(Table):
    """Both sides of an operation in milliseconds, and the share of time that is saved."""

    def __init__(self, operation: str, outcome: Outcome, chart: Chart) -> None:
        self.operation, self.outcome = operation, outcome
        self.without, self.with_cache, self.saved = (
            outcome.without,
            outcome.with_cache,
            outcome.saved,
        )
        sides = ((WITHOUT, self.without), (WITH, self.with_cache))
        rows = [
            (name, format_interval(found.median), f"{chart.p95(name):.2f} ms")
            for name, found in sides
        ]
        heads = (
            f"{operation}, {self.without.samples} times on each side",
            "median (its interval)",
            "p95",
        )
        super().__init__(
            heads,
            [
                (True, row)
                for row in (*rows, ("less time with the cache", format_share(self.saved), ""))
            ],
            chart=chart,
        )

    def at_least(self, part: float) -> str:
        """In the words of the prediction."""
        return A_THIRD if self.saved.middle >= part else NO_THIRD


A_THIRD, NO_THIRD = "a third less, or better", "nothing like a third"


async def measure(sides: Sides, operation: str, chart: Chart) -> Raced:
    """`sending`, `reading` or `reacting`: both sides in turn, while the chart grows."""
    acts = await sides.acts(operation)
    samples = await measure_alternately(
        acts, chart, wanted={WITH: "hit"} if operation == "reading" else None
    )
    found = judge(
        Comparison(
            CLAIMED[operation], operation, samples[WITHOUT], samples[WITH], sides.trips[operation]
        )
    )
    return Raced(operation, found, chart)


def beside_the_document(*found: Raced) -> Table:
    """The document's table, and this machine's."""
    heads = ("", "the document: without → with", "less time", "here: without → with", "less time")
    return Table(heads, [(True, _beside(raced)) for raced in found])


def _beside(raced: Raced) -> tuple[str, ...]:
    says = raced.outcome.comparison.claim
    here = f"{raced.without.median.middle:.2f} → {raced.with_cache.median.middle:.2f} ms"
    return (
        raced.operation,
        f"{_span(says.without_ms)} → {_span(says.with_cache_ms)} ms",
        format_percent(says.share_saved),
        here,
        format_share(raced.saved),
    )


def _span(told: tuple[float, float]) -> str:
    return " to ".join(f"{value:.0f}" for value in dict.fromkeys(told))


# --- microseconds ------------------------------------------------------------------------------------------------------------


class Clocks(Table):
    """How long one cached message takes, in microseconds, by the clock of each who might be asked."""

    def __init__(self, found: dict[str, Summary], chart: Chart) -> None:
        self.found = found
        rows = [
            (who, format_interval(of.median, "µs"), f"{chart.p95(who):.2f} µs")
            for who, of in found.items()
        ]
        super().__init__(
            ("one cached message", "median (its interval)", "p95"),
            [(True, row) for row in rows],
            chart=chart,
        )


async def microseconds(sides: Sides, trace: Trace, chart: Chart) -> Clocks:
    """Redis's own clock for a GET of this message; a client beside it; a user who reads it over HTTP, from the window."""
    samples: dict[str, list[float]] = {
        "Redis itself": [],
        "a client beside it": [],
        "a user, over HTTP": [],
    }
    lab, steps = sides.lab, CLOCK_ROUNDS + LENGTH_TURNS
    if not lab.redis.expire(trace.key, LONGER):
        raise PremiseGone(f"{trace.key} has expired.", "send the message and measure in one cell")
    for done in range(CLOCK_ROUNDS):
        own, client = _clocked(lab, trace.key)
        samples["Redis itself"].append(own)
        samples["a client beside it"] += client
        _grow(chart, {"Redis itself": [own], "a client beside it": client}, done, steps)
        await asyncio.sleep(0)
    path = f"/api/messages/{trace.message['receiverId']}?limit=1"
    user = {"a user, over HTTP": lambda: sides.wires[WITH].request("GET", path)}
    async for took in alternate(user, LENGTH_TURNS, {"a user, over HTTP": "hit"}):
        samples["a user, over HTTP"].append(MILLISECOND * took["a user, over HTTP"])
        done = CLOCK_ROUNDS + len(samples["a user, over HTTP"])
        _grow(chart, {"a user, over HTTP": samples["a user, over HTTP"][-1:]}, done, steps)
    return Clocks({who: summarize(found) for who, found in samples.items()}, chart)


def _clocked(lab: Lab, key: str) -> tuple[float, list[float]]:
    """Some GETs: what Redis says that one took, and what a client says of each."""
    before, client = (
        lab.redis.execute_command("INFO", "commandstats").get(
            "cmdstat_get", {"usec": 0, "calls": 0}
        ),
        [],
    )
    for _ in range(CLOCK_GETS):
        started = time.perf_counter()
        lab.redis.execute_command("GET", key)
        client.append((time.perf_counter() - started) * 1e6)
    after = lab.redis.execute_command("INFO", "commandstats")["cmdstat_get"]
    return (after["usec"] - before["usec"]) / (after["calls"] - before["calls"]), client


def _grow(chart: Chart, values: dict[str, list[float]], done: int, steps: int) -> None:
    for who, found in values.items():
        for value in found:
            chart.add(who, value)
    chart.progress(done, steps)


# --- how long the conversation is --------------------------------------------------------------------------------------------


class Length(NamedTuple):
    """A conversation of so many messages, read on both sides; `saved` is the share of time, with its interval."""

    messages: int
    without: Summary
    with_cache: Summary
    saved: Interval
    samples: tuple[list[float], list[float]]


def length(messages: int, without: list[float], with_cache: list[float]) -> Length:
    return Length(
        messages,
        summarize(without),
        summarize(with_cache),
        share_saved(without, with_cache),
        (without, with_cache),
    )


class Lengths(Table):
    """`rows` with the window as it is, `narrow` with the narrower one: a Length for each length."""

    def __init__(self, rows: list[Length], narrow: list[Length], chart: Chart) -> None:
        self.rows, self.narrow = rows, narrow
        heads = (
            "messages",
            WITHOUT,
            f"less time, window of {WINDOW}",
            f"less time, window of {NARROWER}",
        )
        cells = [
            (
                str(row.messages),
                format_interval(row.without.median),
                format_share(row.saved),
                format_share(other.saved),
            )
            for row, other in zip(rows, narrow, strict=True)
        ]
        super().__init__(heads, [(True, row) for row in cells], chart=chart)


async def lengths(sides: Sides, chart: Chart) -> Lengths:
    """Conversations of different lengths, read whole: without the cache, with it, and with a window too narrow for the longest."""
    await sides.open(NARROW)
    rows: list[Length] = []
    narrow: list[Length] = []
    for messages in LENGTHS:
        taken = await _read_whole(sides, messages, chart)
        for name, samples in taken.items():
            chart.point(name, messages, summarize(samples).median.middle)
        rows.append(length(messages, taken[WITHOUT], taken[WITH]))
        narrow.append(length(messages, taken[WITHOUT], taken[NARROW]))
    return Lengths(rows, narrow, chart)


async def _read_whole(sides: Sides, messages: int, chart: Chart) -> dict[str, list[float]]:
    acts = {name: await sides.reading(name, messages) for name in (WITHOUT, WITH, NARROW)}
    wanted = {WITH: "hit", NARROW: "hit" if messages <= NARROWER else "partial"}
    taken: dict[str, list[float]] = {name: [] for name in acts}
    before = LENGTHS.index(messages) * LENGTH_TURNS
    async for took in alternate(acts, LENGTH_TURNS, wanted):
        for name, ms in took.items():
            taken[name].append(ms)
        chart.progress(before + len(taken[WITHOUT]), len(LENGTHS) * LENGTH_TURNS)
    return taken


# --- were MongoDB far away ---------------------------------------------------------------------------------------------------


class Far(ipywidgets.VBox):  # type: ignore[misc]  # the library has no types
    """Two sliders over the learner's own measurements: a trip to MongoDB that takes longer, a conversation of another length."""

    def __init__(self, sides: Sides, sends: Raced, lengths: Lengths, changes: Raced) -> None:
        self._sides, self._sends, self._lengths, self._changes = sides, sends, lengths, changes
        self._loop = asyncio.get_running_loop()
        style = {"style": {"description_width": "14em"}, "layout": {"width": "45em"}}
        self.trip = ipywidgets.IntSlider(
            value=0, max=FARTHEST, description="a trip takes longer by (ms)", **style
        )
        self.messages = ipywidgets.SelectionSlider(
            options=LENGTHS, value=READ, description="messages that are read", **style
        )
        self._table = html_widget(self._html())
        for slider in (self.trip, self.messages):
            slider.observe(lambda _: self._loop.call_soon_threadsafe(self._tell), "value")
        super().__init__([self.trip, self.messages, self._table])

    def _tell(self) -> None:
        self._table.value = styled_html(self._html())

    def _html(self) -> str:
        return self.table()._repr_html_()

    def table(self) -> Table:
        """What the sliders say now."""
        row = next(row for row in self._lengths.rows if row.messages == self.messages.value)
        reads = row.without.median.middle, row.with_cache.median.middle
        rows = [
            _moved(f"reading {row.messages}", document.GET, reads, (1, 0), self.trip.value),
            *(
                _moved(
                    raced.operation,
                    raced.outcome.comparison.claim,
                    _medians(raced),
                    raced.outcome.comparison.round_trips,
                    self.trip.value,
                )
                for raced in (self._sends, self._changes)
            ),
        ]
        heads = (
            f"a trip takes {self.trip.value} ms longer",
            WITHOUT,
            WITH,
            "less time",
            "the document says",
            "its times are true",
        )
        return Table(heads, [(True, cells) for cells in rows])

    def __repr__(self) -> str:
        return "Two sliders, over what was measured above: live in a running notebook."

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {
            "text/plain": repr(self),
            "text/html": f"<p>{self!r}</p>\n{self._html()}",
            VIEW: view,
        }


def _medians(raced: Raced) -> tuple[float, float]:
    return raced.without.median.middle, raced.with_cache.median.middle


def _moved(
    what: str,
    says: document.PerformanceClaim,
    here: tuple[float, float],
    trips: tuple[int, int],
    longer: float,
) -> tuple[str, ...]:
    """One operation, were every trip to MongoDB longer by so many milliseconds. The rest of the way stays as it was measured."""
    slow, quick = (ms + longer * number for ms, number in zip(here, trips, strict=True))
    claims = f"{_span(says.without_ms)} → {_span(says.with_cache_ms)} ms, {format_percent(says.share_saved)}"
    true = [
        name
        for name, ms, span in ((WITHOUT, slow, says.without_ms), (WITH, quick, says.with_cache_ms))
        if near(ms, span)
    ]
    return (
        what,
        f"{slow:.1f} ms",
        f"{quick:.1f} ms",
        format_percent(1 - quick / slow),
        claims,
        " and ".join(true) or "on neither side",
    )


def near(ms: float, told: tuple[float, float]) -> bool:
    """Is it what the document says, from and to? It says "about", so a fifth more or less is the same."""
    return told[0] * (1 - TOLERANCE) <= ms <= told[1] * (1 + TOLERANCE)


async def distance(sides: Sides, sends: Raced, lengths: Lengths, changes: Raced) -> Far:
    """The sliders."""
    return Far(sides, sends, lengths, changes)


# --- exercises ---------------------------------------------------------------------------------------------------------------


@check
async def improvement(found: Sequence[Raced], answer: Any) -> CheckResult:
    """A function of the two medians that gives the share of time saved. Asked about the document's rows and the learner's own samples."""
    rows = [(f"your {raced.operation}", *_medians(raced), raced.saved.middle) for raced in found]
    told = [
        ("150 ms without and 100 ms with", 150.0, 100.0, 1 / 3),
        ("100 ms without and 50 ms with", 100.0, 50.0, 0.5),
    ]
    for name, without, with_cache, saved in (*rows, *told):
        said = call_for_number(answer, without, with_cache)
        if abs(said - saved) > 0.001:
            return not_yet(_improved_hint(name, without, with_cache, said))
    yours = ", ".join(f"{raced.operation} {format_percent(raced.saved.middle)}" for raced in found)
    return correct(
        f"Saved in your own samples: {yours}. It agrees with the document's arithmetic too: 150 → 100 is 33 %."
    )


def _improved_hint(name: str, without: float, with_cache: float, said: float) -> str:
    """The classic mistakes by name. What is right is not told."""
    measured = f"For {name} ({without:.2f} → {with_cache:.2f} ms) your function says {said:.3f}."
    for wrong, why in (
        (
            (without - with_cache) / with_cache,
            "That divides by the new time: it says how much longer the old way takes. Of what is it to be a share?",
        ),
        (with_cache / without, "That is the share of time that is left. How much is gone?"),
        (
            without / with_cache,
            "That says how many times as quick it is. How much of the old time is gone?",
        ),
        (
            without - with_cache,
            "That is milliseconds. Which share of the time without the cache are they?",
        ),
        (
            100 * (without - with_cache) / without,
            "That is percent; the share is wanted: 0.25, not 25.",
        ),
        ((with_cache - without) / without, "That is how much it grew. Saved time counts above 0."),
    ):
        if abs(said - wrong) <= 0.001 * max(1, abs(wrong)):
            return f"{measured} {why}"
    return f"{measured} Try it with 150 and 100: a third of the time is gone."


@check
async def far_enough(found: Sequence[Raced], answer: Any) -> CheckResult:
    """A function: how much longer a trip must take for a time that is wanted. Asked about the document's times and the learner's own."""
    rows = [
        (
            raced.operation,
            raced.outcome.comparison.claim.without_ms[0],
            _medians(raced)[0],
            raced.outcome.comparison.round_trips[0],
        )
        for raced in found
    ]
    for operation, wanted, measured, trips in (
        *rows,
        ("something that takes two trips", 100.0, 4.0, 2),
        ("with three trips", 40.0, 10.0, 3),
    ):
        said = call_for_number(answer, wanted, measured, trips)
        took = measured + trips * said
        if abs(took - wanted) > 0.1:
            return not_yet(
                f"For {operation}: you say {said:.1f} ms longer. It took {measured:.1f} ms, with {trips} trip{'s' * (trips > 1)}; "
                f"then it would take {took:.1f} ms, and {wanted:.0f} are wanted. Every trip takes longer; and what is there already counts."
            )
    longer = ", ".join(
        f"{raced.outcome.extra_round_trip_ms:.0f} ms for {raced.operation}" for raced in found
    )
    then = ", ".join(f"{raced.outcome.distant_ms:.1f} ms for {raced.operation}" for raced in found)
    return correct(
        f"For the document's times without a cache a trip must take longer by {longer}. With the cache it is then {then}."
    )


@check
async def pays_from(lengths: Lengths, answer: Any) -> CheckResult:
    """A function that picks, from rows as measured, the shortest conversation for which the cache surely pays; None if there is none."""
    if not callable(answer):
        return not_yet(
            "One number is right for one run at most. Write what picks it from the measured rows: lambda rows: ..."
        )
    for name, rows in _tried(lengths).items():
        expected = next((row.messages for row in rows if row.saved.low > 0), None)
        try:
            said = answer(list(rows))
        except Exception as wrong:  # noqa: BLE001 - whatever a learner's function does
            return not_yet(
                f"For {name} your function failed: {type(wrong).__name__}: {wrong}. Where nothing pays, the answer is None."
            )
        if said != expected or isinstance(said, bool):
            return not_yet(f"For {name} your function says {said!r}. {_pays_hint(rows)}")
    first = next(
        (f"from {row.messages} messages on" for row in lengths.rows if row.saved.low > 0),
        "at none of these lengths",
    )
    return correct(
        f"On your machine the cache surely pays {first}; and your function falls for no chance difference."
    )


def _tried(lengths: Lengths) -> dict[str, list[Length]]:
    """The learner's own rows, and what the same samples would be if the cache made no difference, or the wrong one."""
    twice = [
        length(row.messages, row.samples[0], [ms * (1 - 1e-6) for ms in row.samples[0]])
        for row in lengths.rows
    ]
    turned = [length(row.messages, row.samples[1], row.samples[0]) for row in lengths.rows]
    return {
        "your measurements": lengths.rows,
        f"your measurements with a window of {NARROWER}": lengths.narrow,
        "the same side measured twice": twice,
        "your measurements with the sides exchanged": turned,
    }


def _pays_hint(rows: list[Length]) -> str:
    listed = "; ".join(f"{row.messages}: {format_share(row.saved)}" for row in rows)
    return f"The rows were {listed}. A length pays for sure when all of its interval is above 0 (saved.low). The first such row, or None."


# --- what holds --------------------------------------------------------------------------------------------------------------


def claims(lab: Lab, sends: Raced, reads: Raced, changes: Raced, clocks: Clocks) -> ClaimResults:
    """The performance table, row by row, and "microseconds"; all of it hangs on the machine."""
    rows = (("send", sends), ("read", reads), ("update", changes))
    found = [
        claim
        for name, raced in rows
        for claim in (_times_claim(name, raced), _faster_claim(name, raced))
    ]
    return lab.record_claims(_microseconds_claim(clocks), *found)


def _times_claim(name: str, raced: Raced) -> ClaimResult:
    says, away = raced.outcome.comparison.claim, raced.outcome
    here = near(raced.without.median.middle, says.without_ms) and near(
        raced.with_cache.median.middle, says.with_cache_ms
    )
    there = near(away.distant_ms, says.with_cache_ms)
    measured = f"{raced.without.median.middle:.2f} and {raced.with_cache.median.middle:.2f} ms"
    far = f"were a trip to MongoDB {away.extra_round_trip_ms:.0f} ms longer, {says.without_ms[0]:.0f} and {away.distant_ms:.1f} ms"
    return ClaimResult(
        f"{name}_times",
        f"{measured}; {far}",
        HOLDS if here else DEPENDS if there else FAILS,
        timed=True,
    )


def _faster_claim(name: str, raced: Raced) -> ClaimResult:
    far = f"at the document's distance {format_percent(raced.outcome.distant_saved)}"
    return ClaimResult(
        f"{name}_faster",
        f"{format_share(raced.saved)} less time; {far}",
        raced.outcome.verdict,
        timed=True,
    )


def _microseconds_claim(clocks: Clocks) -> ClaimResult:
    medians = {who: found.median.middle for who, found in clocks.found.items()}
    quick = [middle < MILLISECOND for middle in medians.values()]
    measured = ", ".join(f"{who} {middle:.1f} µs" for who, middle in medians.items())
    return ClaimResult(
        "microseconds",
        measured,
        HOLDS if all(quick) else DEPENDS if any(quick) else FAILS,
        timed=True,
    )
