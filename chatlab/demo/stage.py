"""The demo's place and its screen: engines, a service of its own, the play shown as it goes, the summary; and every trace removed.

In a terminal it is one picture that moves, elsewhere (a pipe, a log of CI, fewer columns than the picture needs) one line a fact.
"""

import asyncio
import contextlib
import io
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live

from chatlab.demo.picture import complaints, figures, frame, summary
from chatlab.demo.play import GONE_WRONG, Place, Show, play
from chatlab.demo.promises import Verdict, verdicts
from chatlab.demo.record import Moments, Record
from chatlab.errors import EngineError
from chatlab.local.engines import Engine, open_engines
from chatlab.run.serving import child_service
from chatlab.settings import PREFIX, CacheMode, Settings

NARROWEST = 80  # columns that the picture needs
SVG_COLUMNS = 100
FONTS = re.compile(r"@font-face\s*{[^}]*}\s*")  # rich's SVG fetches one from a server; the reader's own does as well


def perform(settings: Settings, console: Console, svg: Path | None) -> int:
    """The whole demo; its exit status."""
    with _place(settings, console) as place:
        with _screen(settings, console, svg) as show:
            record = _played(place, settings, show)
        found = verdicts(record)
        _conclude(found, record, console)
    return 0 if all(verdict.seen for verdict in found) else 1


def _played(place: Place, settings: Settings, show: Show) -> Record:
    try:
        return asyncio.run(play(place, settings, show))
    except GONE_WRONG as error:  # before there was anything to judge
        raise EngineError(f"The demo could not begin: {error or type(error).__name__}", "chatlab doctor") from None


# --- the place ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _place(settings: Settings, console: Console) -> Iterator[Place]:
    """Engines and a service, with a database and a key prefix that nobody else has; all gone afterwards."""
    with contextlib.ExitStack() as stack:
        with _busy(console, "starting MongoDB and Redis"):
            engines = stack.enter_context(open_engines(settings))
        place = Place("", engines.mongo.url, engines.redis.url, f"demo-{secrets.token_hex(4)}")
        stack.callback(place.forget)
        with _busy(console, f"{_told(engines.mongo)}, {_told(engines.redis)}; starting the service"):
            nowhere = stack.enter_context(tempfile.TemporaryDirectory(prefix="chatlab-demo-"))
            url = stack.enter_context(child_service(_here(settings, place, nowhere)))
        try:
            yield place._replace(url=url)
        finally:
            with _busy(console, "tidying up"):
                stack.close()


def _told(engine: Engine) -> str:
    return f"{engine.name} {engine.version or '(it does not answer)'}"


def _here(settings: Settings, place: Place, nowhere: str) -> Settings:
    """One process, for /flow tells what passes in its own; a data folder in which nobody looks for a service."""
    return settings.model_copy(
        update={
            "mongo_url": place.mongo_url,
            "redis_url": place.redis_url,
            "database": place.space,
            "key_prefix": place.keys.prefix,
            "data_dir": Path(nowhere),
            "host": "127.0.0.1",
            "port": 0,
            "workers": 1,
            "rate_limit": 0,
        }
    )


# --- the screen --------------------------------------------------------------------------------------------------------------------


def _moves(console: Console) -> bool:
    return console.is_terminal and sys.stdout.isatty() and not console.is_dumb_terminal and console.width >= NARROWEST


@contextlib.contextmanager
def _busy(console: Console, doing: str) -> Iterator[None]:
    if _moves(console):
        with console.status(f"{doing} ..."):
            yield
    else:
        _line(console, time.time() * 1000, "demo", f"{doing} ...")
        yield


@contextlib.contextmanager
def _screen(settings: Settings, console: Console, svg: Path | None) -> Iterator[Show]:
    """What shows the play: the picture or the lines, and the photographer if one was asked for."""
    with contextlib.ExitStack() as stack:
        shows: list[Show] = []
        if _moves(console):
            live = stack.enter_context(Live(console=console, auto_refresh=False, vertical_overflow="crop"))
            shows.append(lambda record: live.update(frame(record, time.time() * 1000, console.width), refresh=True))
        else:
            shows.append(_Lines(console))
        if svg:
            shows.append(_Photographer(svg))
        _say_what_is_scaled(settings, console)
        yield lambda record: _all(shows, record)


def _all(shows: list[Show], record: Record) -> None:
    for show in shows:
        show(record)


class _Lines:
    """Each fact once, when it has become known."""

    def __init__(self, console: Console) -> None:
        self._console, self._told = console, 0

    def __call__(self, record: Record) -> None:
        new = record.facts[self._told :]
        self._told += len(new)
        for at, who, what in sorted(new, key=lambda fact: fact[0]):
            _line(self._console, at, who, what)


def _line(console: Console, at: float, who: str, what: str) -> None:
    clock = time.strftime("%H:%M:%S", time.localtime(at / 1000))
    console.print(f"{clock}.{int(at) % 1000:03d}  {who:<10} {what}", soft_wrap=True, markup=False)
    console.file.flush()


class _Photographer:
    """One picture, when the first life is a little over its half."""

    def __init__(self, path: Path) -> None:
        self._path, self._done = path, False

    def __call__(self, record: Record) -> None:
        if self._done or record.journeys[0].age() < 0.55 * record.moments.end or not record.journeys[0].cached:
            return
        self._done = True
        paper = Console(record=True, width=SVG_COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
        paper.print(frame(record, time.time() * 1000, SVG_COLUMNS))
        self._path.write_text(FONTS.sub("", paper.export_svg(title="chatlab demo")), encoding="utf-8")


# --- the conclusion ----------------------------------------------------------------------------------------------------------------


def _conclude(found: list[Verdict], record: Record, console: Console) -> None:
    if _moves(console):
        console.print(summary(found))
    else:
        for verdict in found:
            console.print(
                f"{'seen' if verdict.seen else 'not seen':<10}{verdict.promise:<40}{figures(verdict)}", soft_wrap=True, markup=False
            )
    missed = complaints(found)
    if not missed:
        console.print(f"[green]All {len(found)} promises of the diagram were seen.[/green]")
        return
    broken = sum(not verdict.seen for verdict in found)
    console.print(f"[red]{broken} of the diagram's {len(found)} promises were not seen:[/red]")
    for line in [*missed, *_reasons(record)]:
        console.print(f"  {line}", soft_wrap=True, markup=False)


def _reasons(record: Record) -> list[str]:
    """What went wrong on the way, and settings under which the diagram cannot hold."""
    settings = record.settings
    reasons = [f"{journey.name} could not be followed to its end: {journey.trouble}" for journey in record.journeys if journey.trouble]
    if settings.cache_mode is CacheMode.OFF:
        reasons.append(f"{PREFIX}CACHE_MODE=off: nothing is written to Redis, so nothing can be cached, expire or be cleaned there.")
    if not settings.sweeper:
        reasons.append(f"{PREFIX}SWEEPER=false: the service ran without its worker.")
    if settings.sweep_interval >= settings.cache_ttl:
        reasons.append(f"A worker that looks every {settings.sweep_interval:g} s may never meet a key that lives {settings.cache_ttl:g} s.")
    return reasons


def _say_what_is_scaled(settings: Settings, console: Console) -> None:
    moments = Moments.of(settings)
    if tuple(moments) != (0, 2, 5, 6):
        scaled = ", ".join(f"{moment:g}" for moment in moments)
        console.print(
            f"TTL {moments.end:g} s, a beat every {settings.sweep_interval:g} s: the diagram's 0, 2, 5, 6 s are {scaled} s here.",
            soft_wrap=True,
        )
