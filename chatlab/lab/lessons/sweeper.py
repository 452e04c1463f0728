"""Notebook 07: measurements of the sweeper, and checks of a sweep that the learner writes."""

import asyncio
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from redis.connection import Connection

from chatlab.cache.deadline_tracker import CLOCK_ERROR_S, GONE
from chatlab.lab.checks import CheckResult, UnusableAnswer, call_answer, check, correct, not_yet
from chatlab.lab.claims import ClaimResult, ClaimResults, holds_if
from chatlab.lab.key_lifetime import KeyLifetime
from chatlab.lab.plain_text import PlainText
from chatlab.lab.polling import poll_until
from chatlab.lab.race import Race
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.stepped_redis import record_steps
from chatlab.lab.tables import TIMED, Rows
from chatlab.lab.widgets import Chart

TTL_MS, SWEEP_MS = 5000, 1000
LATE_MS = 490  # TTL rounds this to 0
TIMEOUT_S = 10.0
TRIES = 20
PAGES, PAGES_PER_COMMAND = 200_000, 10_000
SCAN_COUNT, ROUNDS = 1000, 20
FEWEST_SCANS = 20  # in 200,000 keys
ENTRY_TTL_S = 600  # longer than a slow sweep; the service gives 5 s to entries without an expiry
NEAR_A_SECOND_S = 0.05
COMMANDS = ("SCAN", "KEYS", "DEL", "UNLINK")
ONE = "message:exercise"  # the entry of the exercise


# --- the sweeper of the service -------------------------------------------------------------------


class Sweeps(NamedTuple):
    """When the sweeper reported a sweep, in milliseconds since 1970."""

    at_ms: list[float]

    @property
    def interval_s(self) -> float:
        """The median time from one sweep to the next."""
        pairs = zip(self.at_ms, self.at_ms[1:], strict=False)
        return statistics.median(after - before for before, after in pairs) / 1000

    def __repr__(self) -> str:
        passed_ms = self.at_ms[-1] - self.at_ms[0]
        off_ms = abs(passed_ms - round(passed_ms / SWEEP_MS) * SWEEP_MS)
        return (
            f"{TIMED} {len(self.at_ms)} sweeps, {self.interval_s:.3f} s apart. After"
            f" {passed_ms / 1000:.3f} s, the last one is {off_ms:.1f} ms off the whole second."
        )


async def sweeps(lab: Lab, at_least: int = 5) -> Sweeps:
    """Return the sweeps of this session."""

    def at_ms() -> list[float]:
        return [event["at"] for event in lab.events if event["stage"] == "sweep"]

    if not await lab.events.wait_for(lambda: len(at_ms()) >= at_least, TIMEOUT_S):
        raise PremiseGone("The sweeper is not running.", "await lab.restart(sweeper=True)")
    return Sweeps(at_ms())


class Watched(NamedTuple):
    """The lifetime of one key, the sweeper's log of it, and how often Redis ran some commands."""

    lifetime: KeyLifetime
    hits: list[str]
    cleaned: list[str]
    commands: dict[str, int]

    @property
    def is_logged_once_after_the_end(self) -> bool:
        deadline_ms = self.lifetime.deadline_ms - CLOCK_ERROR_S * 1000
        return len(self.cleaned) == 1 and self.lifetime.reported_ms >= deadline_ms

    def __repr__(self) -> str:
        ran = ", ".join(name for name, count in self.commands.items() if count)
        never = ", ".join(name for name, count in self.commands.items() if not count)
        counted = f"During this time Redis ran {ran}. It never ran {never}."
        lines = [f"· {line}" for line in self.hits + self.cleaned]
        return "\n".join(["The sweeper's log of this key:", *lines, counted])


async def watch(lab: Lab, key: str) -> Watched:
    """Wait until the sweeper has logged the end of a key."""
    if lab.redis.pttl(key) == GONE:
        raise PremiseGone(f"{key} has expired.", "send a message and watch it in one cell")
    before = command_counts(lab)
    lifetime = await lab.key_lifetime(key)
    counts = {name: count - before[name] for name, count in command_counts(lab).items()}
    return Watched(lifetime, log(lab, "Cache hit", key), log(lab, "Cache cleaned", key), counts)


def command_counts(lab: Lab) -> dict[str, int]:
    """Return how often Redis has run these commands."""
    stats = lab.redis.info("commandstats")
    return {name: stats.get(f"cmdstat_{name.lower()}", {"calls": 0})["calls"] for name in COMMANDS}


def log(lab: Lab, start: str, key: str) -> list[str]:
    """Return the sweeper's log lines that begin with `start` and are about this key."""
    lines = [line.split() for line in lab.service.log(start) if key in line.split()]
    return [" ".join([line[0], *line[3:]]) for line in lines]


async def wait_for_log(lab: Lab, start: str, key: str) -> PlainText:
    """Wait for a line of the sweeper's log about this key."""
    if not await poll_until(lambda: log(lab, start, key), TIMEOUT_S):
        raise PremiseGone(
            f"The sweeper's log has no line {start} about {key}.",
            "run the cell with the message of this key again, and then this cell",
        )
    return PlainText(f"· {log(lab, start, key)[-1]}")


async def lifetime_without_sweeper(lab: Lab, key: str) -> KeyLifetime:
    """Return the lifetime of a key when the sweeper is off, so that no log line ends it."""
    if lab.redis.pttl(key) == GONE:
        raise PremiseGone(f"{key} has expired.", "send a message and watch it in one cell")
    return await lab.key_lifetime(key)


# --- KEYS and SCAN --------------------------------------------------------------------------------

Ask = Callable[..., tuple[Any, float]]  # sends a command; returns the reply and the PING's time


async def waits(lab: Lab, chart: Chart) -> Rows:
    """Measure how long a PING of another client takes during KEYS, and during each SCAN."""
    if lab.redis.dbsize() < PAGES:
        raise PremiseGone(
            "The keys of the other application are not in Redis.",
            "run the cell that creates them again",
        )
    pool = lab.redis.connection_pool
    sweeper, neighbour = pool.get_connection(), pool.get_connection()
    ask = functools.partial(_ask, sweeper, neighbour)
    scans = 0
    try:
        for number in range(ROUNDS):
            chart.add("KEYS", ask("KEYS", "message:*")[1])
            waited = _scan(ask)
            chart.add("SCAN", max(waited))
            scans = len(waited)
            chart.progress(number + 1, ROUNDS)
            await asyncio.sleep(0)  # the chart is drawn
    finally:
        pool.release(sweeper)
        pool.release(neighbour)
    stats = lab.redis.info("commandstats")
    keys_ms, scan_ms = (
        stats[f"cmdstat_{name}"]["usec_per_call"] / 1000 for name in ("keys", "scan")
    )
    return Rows(
        ("to get message:*", "one command looks at", "and blocks Redis for"),
        [
            ("KEYS", "all keys", f"{TIMED} {keys_ms:.2f} ms, once"),
            (f"SCAN COUNT {SCAN_COUNT}", f"about {SCAN_COUNT} keys", f"{TIMED} {scan_ms:.2f} ms, {scans} times"),
        ],
    )  # fmt: skip


def _ask(sweeper: Connection, neighbour: Connection, *command: Any) -> tuple[Any, float]:
    """Send a command, and at once a PING on another connection; time the PING in milliseconds."""
    sweeper.send_command(*command)
    asked = time.perf_counter()
    neighbour.send_command("PING")
    neighbour.read_response()
    took_ms = (time.perf_counter() - asked) * 1000
    return sweeper.read_response(), took_ms


def _scan(ask: Ask) -> list[float]:
    cursor, waited = "0", list[float]()
    while not waited or cursor != "0":
        (cursor, _), took_ms = ask("SCAN", cursor, "MATCH", "message:*", "COUNT", SCAN_COUNT)
        waited.append(took_ms)
    return waited


# --- exercises ------------------------------------------------------------------------------------


@check
async def deadly_sweep(lab: Lab, before_s: float, answer: Any) -> CheckResult:
    """Check at which sweep a worker that deletes at TTL 0 deletes a live key."""
    if not isinstance(answer, int) or isinstance(answer, bool) or answer < 1:
        return not_yet("The answer is the number of a sweep: 1 is the first after the key is set.")
    left_ms = TTL_MS - round(before_s * 1000) - (answer - 1) * SWEEP_MS
    if left_ms <= 0:
        return not_yet(
            f"At sweep {answer} the key has been gone for {-left_ms} ms. TTL returns -2 then, and"
            " the worker does nothing. Which sweep comes before that?"
        )
    script = "redis.call('SET', KEYS[1], '', 'PX', ARGV[1]) return redis.call('TTL', KEYS[1])"
    ttl = lab.redis.eval(script, 1, ONE, left_ms)
    seen = f"A real key with {left_ms} ms left: TTL returned {ttl}."
    if ttl == 0:
        return correct(
            f"{seen} The key is alive, and the worker deletes it {left_ms} ms too early."
        )
    return not_yet(f"{seen} The worker logs a cache hit. At a later sweep, TTL is smaller.")


Log = list[tuple[str, str]]


class _Sweeper(NamedTuple):
    """The learner's sweep with its set of known keys, and what it has logged."""

    sweep: Any
    known: set[str]
    log: Log

    def run(self, r: Any, _db: Any = None) -> None:
        call_answer(self.sweep, r, self.known, lambda what, key: self.log.append((what, key)))

    def logged(self, key: str) -> list[str]:
        return [what for what, about in self.log if about == key]


@check
async def sweeps_well(lab: Lab, sweep: Any) -> CheckResult:
    """Check a sweep against many keys, an expired key, and changes at every moment."""
    await _finds_all(lab, sweep)
    await _logs_each_end_once(lab, sweep)
    _spares_live_keys(lab, sweep)
    return correct(
        "It finds all entries in small steps, logs each expiry once, and deletes nothing, whenever"
        " a message changes during the sweep."
    )


async def _finds_all(lab: Lab, sweep: Any) -> None:
    """Look for 20 entries among the many keys of another application."""
    r, sweeper = lab.redis, _Sweeper(sweep, set(), [])
    for first in range(0, PAGES, PAGES_PER_COMMAND):
        r.mset({f"page:{number}": "" for number in range(first, first + PAGES_PER_COMMAND)})
    wanted = {f"message:wanted-{number}" for number in range(20)}
    for key in wanted:
        r.set(key, "{}", ex=ENTRY_TTL_S)
    try:
        steps = await asyncio.to_thread(record_steps, r, sweeper.run)
    finally:
        r.delete(*wanted)
        for first in range(0, PAGES, PAGES_PER_COMMAND):
            r.unlink(*(f"page:{number}" for number in range(first, first + PAGES_PER_COMMAND)))
    if any(step.startswith("KEYS") for step in steps):
        raise UnusableAnswer(
            f"KEYS is one command that looks at all {PAGES:,} keys while no other client is served."
            " Use r.scan_iter."
        )
    scans = sum(step.startswith("SCAN") for step in steps)
    if scans < FEWEST_SCANS:
        raise UnusableAnswer(
            f"Your sweep sent {scans} SCAN commands for {PAGES:,} keys. Use r.scan_iter with a"
            " count of about 1000."
        )
    found = len(wanted & {key for what, key in sweeper.log if what == "hit"})
    if found < len(wanted):
        raise UnusableAnswer(
            f'It logged "hit" for {found} of {len(wanted)} live entries. Call log("hit", key) for'
            " each of them."
        )


async def _logs_each_end_once(lab: Lab, sweep: Any) -> None:
    """Sweep while a key is alive, and three times after its end; and a key without an expiry."""
    r, sweeper = lab.redis, _Sweeper(sweep, set(), [])
    r.set(ONE, "{}", ex=60)
    r.set("message:kept", "{}")
    try:
        for _ in range(2):
            sweeper.run(r)
        if "cleaned" in sweeper.logged("message:kept"):
            raise UnusableAnswer(
                "PTTL returns -1 for a key without an expiry. It is alive, and your sweep logged it"
                " as cleaned."
            )
        if "hit" not in sweeper.logged("message:kept"):
            raise UnusableAnswer(
                "PTTL returns -1 for a key without an expiry. It is alive, too, and your sweep logged"
                " no hit for it."
            )
        if "cleaned" in sweeper.logged(ONE):
            raise UnusableAnswer("A key with 60 s left was logged as cleaned.")
        r.pexpire(ONE, 1)
        await poll_until(lambda: not r.exists(ONE), TIMEOUT_S)
        for _ in range(3):
            sweeper.run(r)
    finally:
        r.delete("message:kept", ONE)
    cleaned = sweeper.logged(ONE).count("cleaned")
    if cleaned != 1:
        raise UnusableAnswer(
            f'A key expired, and three sweeps logged "cleaned" {cleaned} times for it. SCAN does not'
            " return an expired key, so remember each key in `known` until its end is logged."
        )


def _spares_live_keys(lab: Lab, sweep: Any) -> None:
    """Change the message after each command of the sweep, in the last half second of its entry."""
    for number in range(TRIES):
        lab.redis.set(ONE, '{"text": "Meet at six"}', ex=5)
        race = Race(lab, ONE, sweep=_Sweeper(sweep, {ONE}, []).run)
        for _ in range(number):
            if race.unfinished:
                lab.redis.pexpire(ONE, LATE_MS)
                race.step("sweep")
        is_over = not race.unfinished
        lab.redis.set(ONE, '{"text": "Meet at seven"}', ex=5)
        race.note("service", "SET: the message was changed").run("sweep")
        if not lab.redis.exists(ONE):
            raise UnusableAnswer(
                f"The message was changed after step {number} of the sweep, and the sweep deleted"
                " the new entry. A sweep does not need to delete anything.",
                race.picture("Meet at seven"),
            )
        lab.redis.delete(ONE)
        if is_over:
            return
    raise UnusableAnswer(f"With one entry in Redis, your sweep sent more than {TRIES} commands.")


# --- claims ---------------------------------------------------------------------------------------


def claims(lab: Lab, swept: Sweeps, watched: Watched, without: KeyLifetime) -> ClaimResults:
    """Return the verdicts for the document's claims about the worker."""
    deleted = watched.commands["DEL"] + watched.commands["UNLINK"]
    windows = [line for line in lab.service.log("Cache ") if " messages:" in line]
    gets_with = ", ".join(name for name in ("SCAN", "KEYS") if watched.commands[name])
    logged = "" if watched.is_logged_once_after_the_end else "not "
    return lab.record_claims(
        ClaimResult(
            "every_second",
            f"{swept.interval_s:.3f} s from sweep to sweep",
            holds_if(abs(swept.interval_s - 1) < NEAR_A_SECOND_S),
            timed=True,
        ),
        ClaimResult(
            "gets_keys",
            f"with {gets_with}; {len(windows)} log lines are about messages:alice:bob, which the"
            " pattern does not match",
            holds_if(bool(watched.hits) and not windows),
        ),
        ClaimResult(
            "ttl_valid",
            "Cache hit, with the time that is left" if watched.hits else "no line Cache hit",
            holds_if(bool(watched.hits)),
        ),
        ClaimResult(
            "deletes_at_0",
            f"{deleted} keys deleted; without a sweeper the key lived {without.lifetime_s:.0f} s,"
            f" too; the sweeper has {logged}logged its end",
            holds_if(deleted > 0),
        ),
    )
