"""`python -m benchmarks`: the rows of the table, one after the other, with a progress bar; results as JSON, and the page made of them."""

import contextlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.generators import MISSING_WRK, wrk_is_there
from benchmarks.page import write_page
from benchmarks.result import MeasurementError
from benchmarks.rows import ROWS, Row
from benchmarks.sides import EXPRESS, HERE, MISSING_EXPRESS, Place, express_is_there, open_place
from chatlab.bench.machine import describe_machine
from chatlab.errors import EngineError

RESULTS = HERE / "results"
console = Console(highlight=False)

Rows = Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(ROWS)}; none: all of them.", show_default=False)]
Without = Annotated[list[str] | None, typer.Option(help="express or plain: leave that peer out.", show_default=False)]


def run(
    rows: Rows = None,
    seconds: Annotated[float, typer.Option(help="For each side in each round.")] = 4.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often the sides take turns.")] = 3,
    users: Annotated[int, typer.Option(min=20, help="Users, in pairs.")] = 500,
    without: Without = None,
    out: Annotated[Path, typer.Option(help="Folder of the results and of the page.")] = RESULTS,
    page: Annotated[bool, typer.Option(help="Make the page of the results that are there; measure only if rows are named.")] = False,
) -> None:
    """Measure rows of the table, and write the page. Everything that is started here is stopped, also by Ctrl-C."""
    wanted = [_known(name) for name in rows or ([] if page else ROWS)]
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    out.mkdir(parents=True, exist_ok=True)
    _say_what_is_missing(set(without or []))
    if wanted:
        with open_place(seconds=seconds, rounds=rounds, users=users, without=set(without or [])) as place:
            _measure(place, wanted, out)
    write_page(out, HERE / "README.md" if out == RESULTS else out / "README.md")


def _known(name: str) -> str:
    if name not in ROWS:
        raise typer.BadParameter(f"{name} is none of {', '.join(ROWS)}")
    return name


def _say_what_is_missing(without: set[str]) -> None:
    if not wrk_is_there():
        console.print(f"[yellow]{MISSING_WRK}[/yellow]")
    if "express" not in without and not express_is_there():
        console.print(f"[yellow]{MISSING_EXPRESS}[/yellow]")


def _measure(place: Place, wanted: list[str], out: Path) -> None:
    about = describe_machine(MongoDB=place.engines.mongo.version, Redis=place.engines.redis.version, **_tools())
    with _progress(len(wanted)) as step:
        for name in wanted:
            step(ROWS[name].title)
            started = time.monotonic()
            found = _row(place, name, ROWS[name]) | {"machine": about, "took_s": round(time.monotonic() - started, 1)}
            (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            _tell(found)


def _row(place: Place, name: str, row: Row) -> dict[str, Any]:
    try:
        result = row.measure(place)
    finally:
        place.fresh()
    settings = result.settings | {"rounds": place.rounds}
    return {"row": name, "title": row.title, "target": row.target} | result.as_json() | {"settings": settings}


def _tell(found: dict[str, Any]) -> None:
    console.print(f"[bold]{found['title']}[/bold] ({found['took_s']:.0f} s)")
    for name, side in found["sides"].items():
        console.print(f"  {name:<60} {side['median']:>12,.3f} {found['unit']}  ({side['low']:,.3f} to {side['high']:,.3f})", soft_wrap=True)
    for check in found["checks"]:
        verdict = {True: "[green]met[/green]", False: "[red]not met[/red]", None: ""}[check["met"]]
        console.print(f"  {check['what']:<60} {check['median']:>12.3f} {verdict}", soft_wrap=True)


@contextlib.contextmanager
def _progress(count: int) -> Iterator[Any]:
    columns = (TextColumn("{task.description:<45}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task, first = bar.add_task("", total=count), True

        def step(title: str) -> None:
            nonlocal first
            bar.update(task, description=title, advance=0 if first else 1)
            first = False

        yield step


def _tools() -> dict[str, str]:
    """What else takes part, with its version."""
    tools = {}
    if express_is_there():
        tools["Node"] = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
        packages = ("express", "mongoose", "ioredis", "socket.io")
        versions = {name: json.loads((EXPRESS / "node_modules" / name / "package.json").read_text())["version"] for name in packages}
        tools["peer"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    if wrk := shutil.which("wrk"):
        told = subprocess.run([wrk, "--version"], capture_output=True, text=True, check=False).stdout
        tools["wrk"] = told.split()[1] if told else "there"
    return tools


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(run)
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (EngineError, MeasurementError, OSError) as wrong:
        raise SystemExit(f"{wrong}") from None
