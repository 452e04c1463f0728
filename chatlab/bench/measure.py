"""The command: the document's performance and memory tables, measured on this machine, beside the document's own figures.

It stands on engines and services of its own, which go afterwards: one with the cache as shipped, one with `CACHE_MODE=off`, one whose
window holds 500 messages. `races` and `weights` measure, `claims` judges, `report` shows.
"""

import contextlib
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pymongo import MongoClient
from redis import Redis
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from chatlab.bench.claims import GET, Race, judge
from chatlab.bench.machine import machine
from chatlab.bench.races import LONG, NARROW, SHORT, Side, Sides, long_reads, reactions, sending, sends, short_reads
from chatlab.bench.report import Cost, Report, chart, show
from chatlab.bench.samples import summary
from chatlab.bench.weights import CACHED, Scale, many, thousand
from chatlab.bench.wire import Wire
from chatlab.local.engines import Engines, open_engines
from chatlab.run.child import child_service
from chatlab.settings import CacheMode, Settings

SECONDS = 8.0  # for each race
MANY_KEYS = 50_000
PASSWORD = "measured by chatlab bench"  # noqa: S105 - of users that live for a minute
RACES = {
    "sending messages": sends,
    f"reading {SHORT} messages": short_reads,
    f"reading {LONG} messages": long_reads,
    "reacting to messages": reactions,
}

Step = Callable[[str], None]


class Place(NamedTuple):
    engines: Engines
    sides: Sides
    scale: Scale


def measure(settings: Settings, *, seconds: float = SECONDS, many_keys: int = MANY_KEYS) -> Report:
    """Measure everything, with a progress bar on standard error. Raises EngineError."""
    with _progress() as step, _place(settings, step) as place:
        report = _measure(place, seconds, many_keys, step)
        step("tidying up")
    return report


def tell(report: Report, *, as_json: bool, file: Path | None, chart_to: Path | None) -> None:
    """Show the tables, and keep what is to be kept. JSON without a file goes to standard output, and the tables then to standard error."""
    show(report, Console(stderr=as_json and file is None, highlight=False))
    text = json.dumps(report.as_json(), indent=2) + "\n"
    if file:
        file.write_text(text, encoding="utf-8")
    elif as_json:
        sys.stdout.write(text)
    if chart_to:
        chart_to.write_text(chart(report), encoding="utf-8")


def _measure(place: Place, seconds: float, many_keys: int, step: Step) -> Report:
    races: list[Race] = []
    for name, race in RACES.items():
        step(name)
        races += race(place.sides, seconds)
    step("asking Redis itself")
    costs = _costs(place, next(race for race in races if race.claim is GET))
    step(f"weighing {CACHED:,} cached messages")
    sizes = thousand(place.scale)
    step(f"filling Redis with {many_keys:,} keys")
    sizes += many(place.scale, many_keys)
    step("counting")
    about = machine(MongoDB=place.engines.mongo.version, Redis=place.engines.redis.version)
    return Report(about, [judge(race) for race in races], costs, sizes)


def _costs(place: Place, hits: Race) -> list[Cost]:
    """One cached message, asked for from further and further away."""
    message = json.loads(sending(place.sides["window"].wire, "partner-window")().body)
    redis, key = place.scale.redis, place.scale.keys.message(message["_id"])
    redis.config_resetstat()
    trips = [_microseconds(lambda: redis.get(key)) for _ in range(1000)]
    stats = redis.info("commandstats")
    assert isinstance(stats, dict)
    return [
        Cost("Redis's own clock, one GET", summary([stats["cmdstat_get"]["usec_per_call"]])),
        Cost("a client beside it, one GET", summary(trips)),
        Cost(f"a user, {SHORT} messages by HTTP, from Redis", summary([ms * 1000 for ms in hits.with_cache])),
        Cost(f"a user, {SHORT} messages by HTTP, from MongoDB", summary([ms * 1000 for ms in hits.without])),
    ]


def _microseconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1e6


# --- the place ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _progress() -> Iterator[Step]:
    """A bar that moves with each step that begins."""
    columns = (TextColumn("{task.description:<32}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting MongoDB and Redis", total=len(RACES) + 6)
        yield lambda doing: bar.update(task, description=doing, advance=1)


@contextlib.contextmanager
def _place(settings: Settings, step: Step) -> Iterator[Place]:
    """In a folder that goes afterwards: neither the user's engines nor the user's messages are touched."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chatlab-bench-", ignore_cleanup_errors=True)))
        engines = stack.enter_context(open_engines(settings.model_copy(update={"mongo_url": None, "redis_url": None, "data_dir": folder})))
        step("starting three services")
        base = _as_shipped(settings, engines, folder)
        urls = {name: stack.enter_context(child_service(base.model_copy(update=changed), flow=False)) for name, changed in VARIANTS.items()}
        stack.callback(_forget, engines, base.database)
        partners = [f"partner-{name}" for name in urls]
        token = _sign_up(urls["off"], ["reader", "short", "long", *partners])
        sides = {name: Side(stack.enter_context(Wire(url, token)), f"partner-{name}") for name, url in urls.items()}
        redis = stack.enter_context(contextlib.closing(Redis.from_url(engines.redis.url)))
        yield Place(engines, sides, Scale(redis, lambda: Wire(urls["window"], token), partners))


# Each has a key prefix of its own, so that they do not take each other for processes of one service.
VARIANTS: dict[str, dict[str, object]] = {
    "off": {"cache_mode": CacheMode.OFF, "key_prefix": "off:"},
    "window": {"cache_mode": CacheMode.WINDOW},
    "narrow": {"cache_mode": CacheMode.WINDOW, "key_prefix": "narrow:", "window_size": NARROW},
}


def _as_shipped(settings: Settings, engines: Engines, folder: Path) -> Settings:
    """The defaults, whatever the environment says; one user may ask as often as the service can answer."""
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    here = {"mongo_url": engines.mongo.url, "redis_url": engines.redis.url, "data_dir": folder / "nobody", "port": 0, "rate_limit": 0}
    return settings.model_copy(update=defaults | here | {"database": f"bench-{secrets.token_hex(4)}", "log_level": "WARNING"})


def _forget(engines: Engines, database: str) -> None:
    with MongoClient[dict[str, Any]](engines.mongo.url) as mongo:
        mongo.drop_database(database)


def _sign_up(url: str, names: list[str]) -> str:
    """The token of the first of them."""
    tokens = []
    for name in names:
        with Wire(url) as wire:
            reply = wire.ask("POST", "/api/auth/signup", json.dumps({"username": name, "password": PASSWORD}).encode())
        tokens.append(json.loads(reply.body)["token"])
    return str(tokens[0])
