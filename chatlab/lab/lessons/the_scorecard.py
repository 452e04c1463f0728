"""Notebook 13: every number and claim of the document, with what was measured of it, and the verdict."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from chatlab.lab.checks import CheckResult, call_answer, check, correct, not_yet
from chatlab.lab.claims import DEPENDS, DOCUMENT, FAILS, HOLDS, Claim
from chatlab.lab.lessons import (
    breaking,
    conversation,
    faster,
    five_seconds,
    lighter,
    one_message,
    over_a_socket,
    over_http,
    reading,
    saving,
    start_here,
    sweeper,
)
from chatlab.lab.plain_text import PlainText, error_text
from chatlab.lab.scorecard import SCORECARD_NOTEBOOK, Entry, Scorecard
from chatlab.lab.session import Lab, start
from chatlab.lab.session_stores import value_of
from chatlab.lab.tables import TIMED, Rows, timed_table_html
from chatlab.lab.user import User
from chatlab.lab.widgets import Chart

MISSING = "not measured yet"
AT_ONCE = 3  # experiments


class Row(NamedTuple):
    """A claim of the document and its measurement, None while there is none."""

    says: Claim
    entry: Entry | None

    @property
    def name(self) -> str:
        return self.says.name

    @property
    def measured(self) -> str | None:
        return self.entry.result.measured if self.entry else None

    @property
    def verdict(self) -> str | None:
        return self.entry.result.verdict if self.entry else None

    def __repr__(self) -> str:
        return f"{self.name}: {self.verdict or MISSING}"


class Table(list[Row]):
    """The ledger as a person reads it. What it shows is this machine's, so every line of it is marked."""

    def __repr__(self) -> str:
        return "\n".join(
            [
                f"{len(self)} claims of the document",
                *(f"{TIMED} {' | '.join(_cells(row))}" for row in self),
            ]
        )

    def _repr_html_(self) -> str:
        heads = ("part", "the document says", "measured here", "verdict", "notebook")
        return f"<p>{len(self)} claims of the document</p>\n{timed_table_html(heads, [(True, _cells(row)) for row in self])}"


def _cells(row: Row) -> tuple[str, ...]:
    if row.entry is None:
        return row.says.part, row.says.text, MISSING, "", row.says.notebook
    verdict = f"{row.verdict} {TIMED}" if row.entry.result.timed else str(row.verdict)
    return row.says.part, row.says.text, row.entry.result.measured, verdict, row.entry.notebook


def ledger() -> Table:
    """Every claim, in the document's order."""
    known = Scorecard().read()
    return Table(Row(says, known.get(says.name)) for says in DOCUMENT)


class Score(NamedTuple):
    """How many claims have which verdict."""

    holds: int
    depends: int
    fails: int
    missing: int

    def __repr__(self) -> str:
        return f"{TIMED} {self.holds} hold, {self.depends} depend, {self.fails} do not hold, {self.missing} are not measured yet"


def score(table: Table) -> Score:
    verdicts = [row.verdict for row in table]
    return Score(*(verdicts.count(verdict) for verdict in (HOLDS, DEPENDS, FAILS, None)))


def part_that_holds(table: Table) -> str:
    """In the words of the prediction."""
    found = score(table)
    measured = len(table) - found.missing
    if not measured:
        return "nothing yet"
    return (
        "all of them"
        if found.holds == len(table)
        else "more than half, not all"
        if found.holds > measured / 2
        else "fewer than half"
    )


def progress() -> PlainText:
    """For the index: how much of the document has been measured on this machine."""
    table = ledger()
    missing = sorted({row.says.notebook for row in table if row.entry is None})
    latest = max((row.entry.at for row in table if row.entry), default=0.0)
    if not latest:
        return PlainText(f"{TIMED} Nothing is measured yet: begin with 00.")
    when = time.strftime("%d %B %Y, %H:%M", time.localtime(latest))
    rest = (
        f"still to be measured by: {', '.join(missing)}"
        if missing
        else "nothing is missing: 13 shows the whole ledger"
    )
    return PlainText(
        f"{TIMED} {len(table) - score(table).missing} of {len(table)} claims are measured, the last one on {when}; {rest}."
    )


async def whole_flow(lab: Lab, alice: User, bob: User) -> Rows:
    """One message through each door, read, changed, read again, and its life in Redis to the end: what was seen of each part."""
    by_http, by_socket = [
        await alice.send(bob, f"By {door}", transport=door) for door in ("http", "socket")
    ]
    rows = [
        ("send, by http", ", ".join(by_http.stages)),
        ("send, by socket", ", ".join(by_socket.stages)),
    ]
    rows.append(("read", f"X-Cache: {(await bob.read(alice.id)).cache}"))
    await alice.http.patch(f"/api/messages/{by_socket.id}", json={"text": "Changed"})
    keys = lab.redis.scan_iter("message*")
    held = [key for key in keys if "Changed" in str(value_of(lab.redis, key))]
    rows.append(("change", f"new in {len(held)} keys"))
    rows.append(("read again", (await bob.read(alice.id)).messages[-1]["text"]))
    life = await lab.key_lifetime(by_http)
    rows.append(
        (
            "life",
            f"in Redis {'to' if life.expired_at_deadline else 'not to'} its deadline; then PTTL answers {life.end_pttl}",
        )
    )
    rows.append(("worker", "told of the end" if life.reported_ms else "did not tell of the end"))
    rows.append(("MongoDB", f"{len(lab.find_messages())} messages"))
    return Rows(("part", "seen"), rows)


# --- measuring -----------------------------------------------------------------------------------------------------------------


Measure = Callable[[Lab, User, User], Awaitable[Any]]


async def _doors(lab: Lab, alice: User, bob: User) -> None:
    """00, 01, 02, 04: both doors, a stranger at one of them, and one life."""
    over_a_socket.claims(lab, await over_a_socket.compare_transports(lab, alice, bob))
    body = {"receiverId": bob.id, "text": "By HTTP"}
    sent = await alice.http.post(over_http.SEND, json=body)
    wrong_token = {"authorization": "Bearer a-guess"}
    refused = await alice.http.post(over_http.SEND, json=body, headers=wrong_token)
    await over_http.claims(lab, sent, refused)
    trace = await alice.send(bob, "And how long do I last?")
    sizes = await one_message.memory_by_length(alice, bob, lab.redis, [1, 100, 1000, 4000])
    life = await lab.key_lifetime(trace)
    start_here.claims(lab, trace, life)
    one_message.claims(lab, life, sizes)


async def _saving(lab: Lab, alice: User, bob: User) -> None:
    killed = await saving.kill_between_save_and_cache(lab, alice, "bob", "Did this arrive?")
    early = await saving.send_while_mongodb_is_frozen(lab, alice, bob)
    kept = await saving.kill_mongodb_under_load(lab, alice, bob, await lab.user("carol"))
    saving.claims(lab, killed, early, kept, await saving.is_lost_without_reply(lab))


async def _conversation(lab: Lab, _alice: User, _bob: User) -> None:
    nine, ten = await lab.user("9"), await lab.user("10")
    await nine.send(ten, "ping")
    await ten.send(nine, "pong")
    keys = list(lab.redis.scan_iter("messages:*"))
    conversation.claims(lab, keys, await conversation.measure_lifetimes(lab, nine, ten))


async def _five_seconds(lab: Lab, alice: User, bob: User) -> None:
    read, left = await alice.send(bob, "Read me at 2 s"), await alice.send(bob, "Leave me alone")
    five_seconds.claims(lab, await five_seconds.four_moments(lab, bob, read, left))


async def _worker(lab: Lab, alice: User, bob: User) -> None:
    trace = await alice.send(bob, "Who logs my end?")
    watched, swept = await sweeper.watch(lab, trace.key), await sweeper.sweeps(lab)
    await lab.restart(sweeper=False)
    trace = await alice.send(bob, "Does anything end me?")
    without = await sweeper.lifetime_without_sweeper(lab, trace.key)
    sweeper.claims(lab, swept, watched, without)


async def _reading(lab: Lab, alice: User, bob: User) -> None:
    for text in ("One", "Two"):
        await alice.send(bob, text)
    found = await reading.ways(lab, alice, bob)
    reading.claims(lab, found, await reading.latest(lab, alice, bob))


async def _faster(lab: Lab, alice: User, bob: User) -> None:
    sides, chart = await faster.two_sides(lab), lab.chart("Measuring once more")
    await faster.trips(sides)
    sends, reads, changes = [
        await faster.measure(sides, what, chart) for what in ("sending", "reading", "reacting")
    ]
    trace = await alice.send(bob, "How long does it take to get me?")
    faster.claims(lab, sends, reads, changes, await faster.microseconds(sides, trace, chart))


async def _lighter(lab: Lab, alice: User, bob: User) -> None:
    chart = lab.chart("Measuring once more")
    await alice.send(bob, "Read me again and again.")
    await lab.update_settings(cache_mode="off")
    without = await lab.record_queries(lighter.reads(bob, alice))
    await lab.update_settings(cache_mode="window")
    with_cache = await lab.record_queries(lighter.reads(bob, alice))
    distances = await lighter.at_distances(lab, bob, chart)
    weight = lighter.weigh(lab, await lighter.message_of(lab))
    full = await lighter.thousand(lab, chart)
    lighter.claims(lab, (without, with_cache), distances, weight, full, await lighter.many(lab))


async def _breaking(lab: Lab, alice: User, bob: User) -> None:
    bursts = []
    for what in ("service", "redis", "mongo"):
        bursts.append(await breaking.burst(lab, alice, bob, kill=what))
        if what == "service":
            await lab.restart()
    await lab.update_settings(cache_ttl=2)
    trials = await breaking.trial(lab, alice, bob)
    await lab.restart(sweeper=False)
    breaking.claims(lab, bursts, await breaking.trial(lab, alice, bob, beside=trials))


class Experiment(NamedTuple):
    """How the claims of these notebooks are measured once more; `settings` of the session that it has for itself.

    `races`: it measures times, so nothing else is to go on meanwhile.
    """

    notebooks: tuple[str, ...]
    measure: Measure
    settings: dict[str, Any]
    races: bool = False


EXPERIMENTS = (
    Experiment(("00", "01", "02", "04"), _doors, {}),
    Experiment(("03",), _saving, {"own_mongodb": True}),
    Experiment(("05",), _conversation, {}),
    Experiment(("06",), _five_seconds, {}),
    Experiment(("07",), _worker, {}),
    Experiment(("08",), _reading, {}),
    Experiment(("10",), _faster, {}, races=True),
    Experiment(("11",), _lighter, {}),
    Experiment(("12",), _breaking, {"own_mongodb": True}),
)


def missing() -> list[Experiment]:
    """The experiments whose claims have not all been measured thoroughly."""
    open_ones = {
        row.says.notebook for row in ledger() if row.entry is None or not row.entry.thorough
    }
    return [experiment for experiment in EXPERIMENTS if open_ones & set(experiment.notebooks)]


async def fill(lab: Lab, chart: Chart) -> PlainText:
    """Do the experiments that are missing, some of them at a time, each with a service of its own; then those that race, one by one."""
    wanted, done, turn = (
        sorted(missing(), key=lambda experiment: experiment.races),
        0,
        asyncio.Semaphore(AT_ONCE),
    )
    whole = len(wanted) or 1
    chart.progress(0, whole)

    async def one(experiment: Experiment) -> None:
        nonlocal done
        async with turn:
            await _in_its_own(f"{lab.name}_{'_'.join(experiment.notebooks)}", experiment)
        done += 1
        chart.progress(done, whole)

    outcomes = await asyncio.gather(
        *(one(experiment) for experiment in wanted if not experiment.races), return_exceptions=True
    )
    for experiment in wanted[len(outcomes) :]:
        outcomes += await asyncio.gather(one(experiment), return_exceptions=True)
    chart.progress(whole, whole)
    left = [row.name for row in ledger() if row.entry is None]
    told = [f"Without a measurement: {', '.join(left) or 'none'}."]
    for experiment, wrong in zip(wanted, outcomes, strict=True):
        if wrong is not None:
            told.append(
                f"The experiments of {', '.join(experiment.notebooks)} stopped: {error_text(wrong).rstrip('.')}. Run this cell again."
            )
    return PlainText("\n".join(told))


async def _in_its_own(name: str, experiment: Experiment) -> None:
    lab = await start(name, **experiment.settings)
    try:
        await experiment.measure(lab, await lab.user("alice"), await lab.user("bob"))
    finally:
        await lab.end()


# --- exercises -------------------------------------------------------------------------------------------------------------------


@check
async def finds_gaps(answer: Any) -> CheckResult:
    """Does this function name every claim without a measurement, and no other? And has the ledger none?"""
    whole = ledger()
    for gap in (whole[0], whole[len(whole) // 2], whole[-1]):
        rows = Table(row._replace(entry=None) if row is gap else row for row in whole)
        wanted = [row.name for row in rows if row.entry is None]
        said = call_answer(answer, rows)
        if not isinstance(said, list | tuple | set) or sorted(map(str, said)) != sorted(wanted):
            return not_yet(
                f"From a ledger whose row {gap.name} has no measurement it makes {said!r}, and that is not {wanted}."
            )
    gaps = [row.name for row in whole if row.entry is None]
    if gaps:
        return not_yet(
            f"It finds every gap. The ledger has some: {', '.join(gaps)}. Run the cell with lesson.fill again."
        )
    return correct(
        f"It finds every gap, wherever one was made; and of the {len(whole)} rows of your ledger none is without a measurement."
    )


@check
async def wrong_everywhere(answer: Any) -> CheckResult:
    """Is this a claim that fails whatever the machine? Measured once more, by its own experiment."""
    names = [says.name for says in DOCUMENT]
    if answer not in names:
        return not_yet(
            f"The answer is the name of a claim, such as {names[0]!r}. lesson.ledger() has the rows; row.name is the name."
        )
    row = ledger()[names.index(answer)]
    if hint := _not_everywhere(row):
        return not_yet(hint)
    experiment = next(
        experiment for experiment in EXPERIMENTS if row.says.notebook in experiment.notebooks
    )
    await _in_its_own(f"{SCORECARD_NOTEBOOK}_once_more", experiment)
    again = ledger()[names.index(answer)]
    if again.verdict != FAILS:
        return not_yet(
            f"Measured once more, it came out otherwise: {again.measured}. Try another claim, and tell us of this one."
        )
    return correct(f"Measured once more: {again.measured}. The document says: {again.says.text}.")


def _not_everywhere(row: Row) -> str:
    """Why this row does not answer the question; empty when it may."""
    if row.entry is None:
        return f"{row.name} has no measurement. Run the cell with lesson.fill again."
    if row.verdict != FAILS:
        return f"Measured: {row.measured}. The verdict is: {row.verdict}. Look for one that does not hold."
    if row.entry.result.timed:
        return f"Measured: {row.measured}. It does not hold here; on another machine, or with MongoDB far away, it may. Look on."
    return ""
