"""Notebook 13: measure the claims that are missing on the scorecard, and check two answers."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

from chatlab.lab.checks import CheckResult, UnusableAnswer, call_answer, check, correct, not_yet
from chatlab.lab.claims import DEPENDS, FAILS, HOLDS
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
from chatlab.lab.lessons.score_table import Row, count, rows
from chatlab.lab.plain_text import PlainText, error_text
from chatlab.lab.scorecard import SCORECARD_NOTEBOOK
from chatlab.lab.session import Lab, start
from chatlab.lab.user import User
from chatlab.lab.widgets import Chart

HALF = "fewer than half", "more than half, not all", "all of them"  # the prediction


def prediction() -> str:
    """Return which part of the measured claims holds, in the words of the prediction."""
    counts = count(rows())
    measured = sum(counts.values()) - counts[None]
    if counts[HOLDS] <= measured / 2:
        return HALF[0]
    return HALF[2] if counts[HOLDS] == measured else HALF[1]


# --- measuring ------------------------------------------------------------------------------------

Measure = Callable[[Lab, User, User], Awaitable[Any]]


async def _transports(lab: Lab, alice: User, bob: User) -> None:
    """Measure 00, 01, 02 and 04: both transports, a wrong token, and the lifetime of one entry."""
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
    keys = list(lab.redis.scan_iter("messages:*9*"))
    conversation.claims(lab, keys, await conversation.measure_lifetimes(lab, nine, ten))


async def _five_seconds(lab: Lab, alice: User, bob: User) -> None:
    read, left = await alice.send(bob, "Read me at 2 s"), await alice.send(bob, "Leave me alone")
    five_seconds.claims(lab, await five_seconds.four_moments(lab, bob, read, left))


async def _sweeper(lab: Lab, alice: User, bob: User) -> None:
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


async def _faster(lab: Lab, _alice: User, _bob: User) -> None:
    urls = {name: await faster.start_service(lab, name) for name in (faster.WITHOUT, faster.WITH)}
    trips, chart = await faster.count_trips(lab, urls), lab.chart("Measured again")
    sends, reads, edits = [
        await faster.measure(lab, urls, operation, trips, chart)
        for operation in ("send", "read", "edit")
    ]
    faster.claims(lab, sends, reads, edits, await faster.clocks(lab, urls))


async def _lighter(lab: Lab, _alice: User, bob: User) -> None:
    carol = await lab.user("carol", connect=False)
    finds = await lighter.count_finds(lab, bob, carol)
    shares = {
        every_s: await lighter.share_of_misses(lab, bob, carol, every_s)
        for every_s in lighter.INTERVALS_S
    }
    weight, full = await lighter.weigh(lab), await lighter.thousand(lab)
    lighter.claims(lab, finds, shares, weight, full, await lighter.fill_and_wait(lab))


async def _breaking(lab: Lab, alice: User, bob: User) -> None:
    async def restart_without_sweeper() -> None:
        await lab.kill_service()
        await lab.restart(sweeper=False)

    await breaking.until_ok(alice)
    swept = await breaking.compare_reads(alice, bob)
    redis = await saving.kill_under_load(lab, lambda: lab.engines.crash("redis"), alice, bob)
    mongodb = await saving.kill_mongodb_under_load(lab, alice, bob)
    disk = await breaking.lose_the_disk(lab, alice, bob)
    service = await saving.kill_under_load(lab, restart_without_sweeper, alice, bob)
    kept = {"the service": service, "Redis": redis, "MongoDB": mongodb}
    breaking.claims(lab, kept, disk, swept, await breaking.compare_reads(alice, bob))


class Experiment(NamedTuple):
    """How the claims of these notebooks are measured again."""

    notebooks: tuple[str, ...]
    measure: Measure


class Series(NamedTuple):
    """Experiments that share a session, in this order: to start a service takes the most CPU time.

    One that turns the sweeper off comes last. `alone`: the series measures short times, so nothing
    else may run meanwhile.
    """

    experiments: tuple[Experiment, ...]
    own_mongodb: bool = False
    alone: bool = False


SERIES = (
    Series((
        Experiment(("00", "01", "02", "04"), _transports),
        Experiment(("05",), _conversation),
        Experiment(("06",), _five_seconds),
        Experiment(("08",), _reading),
    )),
    Series((Experiment(("11",), _lighter), Experiment(("07",), _sweeper))),
    Series((Experiment(("03",), _saving), Experiment(("12",), _breaking)), own_mongodb=True),
    Series((Experiment(("10",), _faster),), alone=True),
)  # fmt: skip


def missing() -> list[Series]:
    """Return the series, with only the experiments whose claims are not all measured thoroughly."""
    open_ones = {
        row.claim.notebook for row in rows() if row.entry is None or not row.entry.thorough
    }
    left = [
        series._replace(
            experiments=tuple(one for one in series.experiments if open_ones & {*one.notebooks})
        )
        for series in SERIES
    ]
    return [series for series in left if series.experiments]


async def measure_missing(lab: Lab, chart: Chart) -> PlainText:
    """Do the experiments that are missing: all series at the same time, each in its own session.

    Those that measure short times run afterwards.
    """
    wanted, done = missing(), 0
    of = sum(len(series.experiments) for series in wanted) or 1
    chart.progress(0, of)

    def on_done() -> None:
        nonlocal done
        done += 1
        chart.progress(done, of)

    def measured(*, alone: bool) -> list[Awaitable[list[str]]]:
        return [
            _measure_series(f"{lab.name}_{series.experiments[0].notebooks[0]}", series, on_done)
            for series in wanted
            if series.alone == alone
        ]

    stopped = await asyncio.gather(*measured(alone=False))
    for last in measured(alone=True):
        stopped.append(await last)
    chart.progress(of, of)
    left = [row.claim.name for row in rows() if row.entry is None]
    lines = [f"Claims without a measurement: {', '.join(left) or 'none'}."]
    return PlainText("\n".join([*lines, *itertools.chain(*stopped)]))


async def _measure_series(name: str, series: Series, on_done: Callable[[], None]) -> list[str]:
    """Do these experiments, and return a sentence for each that stopped with an error.

    After an error, the next one gets a new session.
    """
    stopped: list[str] = []
    users: tuple[Lab, User, User] | None = None
    async with contextlib.AsyncExitStack() as sessions:
        for experiment in series.experiments:
            try:
                if users is None:
                    session = _session(name, own_mongodb=series.own_mongodb)
                    users = await sessions.enter_async_context(session)
                await experiment.measure(*users)
            except Exception as error:  # noqa: BLE001 - the learner reads it, and can repeat the cell
                numbers, reason = ", ".join(experiment.notebooks), error_text(error).rstrip(".")
                stopped.append(
                    f"The experiments of {numbers} stopped: {reason}. Run this cell again."
                )
                users = None
                await sessions.aclose()
            on_done()
    return stopped


@contextlib.asynccontextmanager
async def _session(name: str, *, own_mongodb: bool) -> AsyncIterator[tuple[Lab, User, User]]:
    lab = await start(name, own_mongodb=own_mongodb)
    try:
        yield lab, await lab.user("alice"), await lab.user("bob")
    finally:
        await lab.end()


# --- exercises ------------------------------------------------------------------------------------

MADE_UP = (
    ("send", HOLDS),
    ("send", HOLDS),
    ("send", FAILS),
    ("memory", DEPENDS),
    ("memory", None),
    ("keys", None),
)


@check
async def counts_verdicts(_lab: Lab, answer: Any) -> CheckResult:
    """Check a function that counts the verdicts of each part of the document."""
    made_up = [{"part": part, "verdict": verdict} for part, verdict in MADE_UP]
    for name, table in (
        ("six made-up rows", made_up),
        ("an empty list", []),
        ("your scorecard", [row.as_dict() for row in rows()]),
    ):
        expected = _count_by_part(table)
        returned = call_answer(answer, list(table))
        if _without_zeros(returned) != expected:
            return not_yet(
                f"For {name} your function returned {returned!r}. {_count_hint(returned, expected)}"
            )
    left = [row.claim.name for row in rows() if row.entry is None]
    measured = f"{len(left)} claims are not measured yet." if left else "Every claim is measured."
    return correct(f"It counts your scorecard, and made-up rows, too. {measured}")


def _count_by_part(table: list[dict[str, Any]]) -> dict[str, dict[str | None, int]]:
    counts: dict[str, dict[str | None, int]] = {}
    for row in table:
        part = counts.setdefault(row["part"], {})
        part[row["verdict"]] = part.get(row["verdict"], 0) + 1
    return counts


def _without_zeros(returned: Any) -> dict[Any, dict[Any, int]]:
    if not isinstance(returned, dict) or not all(
        isinstance(one, dict) for one in returned.values()
    ):
        raise UnusableAnswer(
            f"Your function returned {returned!r}. It must return a dict with a dict for each part."
        )
    return {
        part: {verdict: number for verdict, number in one.items() if number}
        for part, one in returned.items()
    }


def _count_hint(
    returned: dict[Any, dict[Any, int]], expected: dict[str, dict[str | None, int]]
) -> str:
    parts = [part for part in expected if part not in returned]
    if parts:
        return f"It has no entry for {parts[0]!r}."
    part = next((part for part in returned if returned[part] != expected.get(part)), None)
    return f"Look at {part!r}: a row without a measurement has the verdict None."


@check
async def wrong_everywhere(_lab: Lab, answer: Any) -> CheckResult:
    """Check the name of a claim that does not hold on any machine, by measuring it again."""
    by_name = {row.claim.name: row for row in rows()}
    if answer not in by_name:
        return not_yet(
            f"The answer is the name of a claim, such as {next(iter(by_name))!r}. Each row of the"
            " scorecard has one: row['name']."
        )
    row = by_name[answer]
    if hint := _not_everywhere(row):
        return not_yet(hint)
    experiment, own_mongodb = next(
        (one, series.own_mongodb)
        for series in SERIES
        for one in series.experiments
        if row.claim.notebook in one.notebooks
    )
    async with _session(f"{SCORECARD_NOTEBOOK}_once_more", own_mongodb=own_mongodb) as users:
        await experiment.measure(*users)
    again = next(one for one in rows() if one.claim.name == answer)
    measured = again.entry.result.measured if again.entry else ""
    if again.verdict != FAILS:
        return not_yet(f"Measured again, it is different: {measured}. Try another claim.")
    return correct(f"Measured again: {measured}. The document says: {row.claim.text}.")


def _not_everywhere(row: Row) -> str:
    """Return why this row does not answer the question, or an empty text if it may."""
    if row.entry is None:
        return f"{row.claim.name} is not measured. Run the cell with measure_missing again."
    result = row.entry.result
    if result.verdict != FAILS:
        return f"Measured: {result.measured}. The verdict is: {result.verdict}. Look for one that does not hold."
    if result.timed:
        return (
            f"Measured: {result.measured}. It does not hold here, but it may on another machine, or"
            " with MongoDB far away."
        )
    return ""
