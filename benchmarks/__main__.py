"""`python -m benchmarks`: run benchmarks, write their results as JSON, and update README.md."""

import contextlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.environment import (
    EXPRESS,
    HERE,
    MISSING_EXPRESS,
    Environment,
    has_express,
    open_environment,
)
from benchmarks.generators import MISSING_WRK, has_wrk
from benchmarks.page import write_page
from benchmarks.registry import BENCHMARKS, GROUPS, Benchmark
from benchmarks.result import MeasurementError
from chatlab.bench.machine import describe_machine
from chatlab.errors import EngineError

RESULTS = HERE / "results"
VERDICTS = {True: "[green]met[/green]", False: "[red]not met[/red]", None: ""}
console = Console(highlight=False)

Names = Annotated[
    list[str] | None,
    typer.Argument(
        help=f"Benchmarks to run: {', '.join(BENCHMARKS)}; growth: {', '.join(GROUPS['growth'])}. Default: all of them.",
        show_default=False,
    ),
]
Without = Annotated[
    list[str] | None, typer.Option(help="Leave out a peer: express or plain.", show_default=False)
]


def run(
    names: Names = None,
    *,
    seconds: Annotated[float, typer.Option(help="Seconds for each server in each round.")] = 4.0,
    rounds: Annotated[
        int, typer.Option(min=1, help="Number of rounds; the servers take turns.")
    ] = 3,
    users: Annotated[int, typer.Option(min=20, help="Number of users, who write in pairs.")] = 500,
    without: Without = None,
    mongo_url: Annotated[
        str | None, typer.Option(help="A MongoDB to use instead of a private one.")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(help="An empty Redis to use instead of a private one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results and the page.")] = RESULTS,
    page: Annotated[
        bool,
        typer.Option(
            help="Update the page from existing results; run only the benchmarks that are named."
        ),
    ] = False,
) -> None:
    """Run benchmarks and write the page. Everything that was started is stopped, also on Ctrl-C."""
    names = names or ([] if page else list(BENCHMARKS))
    selected = [_known(one) for name in names for one in GROUPS.get(name, (name,))]
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    out.mkdir(parents=True, exist_ok=True)
    _print_missing_programs(set(without or []))
    if selected:
        with open_environment(
            seconds=seconds,
            rounds=rounds,
            users=users,
            without=set(without or []),
            mongo_url=mongo_url,
            redis_url=redis_url,
        ) as environment:
            _run_all(environment, selected, out)
    write_page(out, HERE / "README.md" if out == RESULTS else out / "README.md")


def _known(name: str) -> str:
    if name not in BENCHMARKS:
        raise typer.BadParameter(f"{name} is not a benchmark. Choose from {', '.join(BENCHMARKS)}.")
    return name


def _print_missing_programs(without: set[str]) -> None:
    if not has_wrk():
        console.print(f"[yellow]{MISSING_WRK}[/yellow]")
    if "express" not in without and not has_express():
        console.print(f"[yellow]{MISSING_EXPRESS}[/yellow]")


def _run_all(environment: Environment, names: list[str], out: Path) -> None:
    engines = environment.engines
    machine = describe_machine(
        MongoDB=engines.mongo.version, Redis=engines.redis.version, **_tool_versions()
    )
    with _progress_bar(len(names)) as step:
        for name in names:
            step(BENCHMARKS[name].title)
            started = time.monotonic()
            result = _run_one(environment, name, BENCHMARKS[name])
            result |= {"machine": machine, "took_s": round(time.monotonic() - started, 1)}
            (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            _print_result(result)


def _run_one(environment: Environment, name: str, benchmark: Benchmark) -> dict[str, Any]:
    try:
        result = benchmark.measure(environment)
    finally:
        environment.stop_servers()
    settings = result.settings | {"rounds": environment.rounds}
    heading = {"row": name, "title": benchmark.title, "target": benchmark.target}
    return heading | result.as_json() | {"settings": settings}


def _print_result(result: dict[str, Any]) -> None:
    console.print(f"[bold]{result['title']}[/bold] ({result['took_s']:.0f} s)")
    for name, series in result["sides"].items():
        limits = f"({series['low']:,.3f} to {series['high']:,.3f})"
        console.print(
            f"  {name:<60} {series['median']:>12,.3f} {result['unit']}  {limits}", soft_wrap=True
        )
    for check in result["checks"]:
        console.print(
            f"  {check['what']:<60} {check['median']:>12.3f} {VERDICTS[check['met']]}",
            soft_wrap=True,
        )


@contextlib.contextmanager
def _progress_bar(count: int) -> Iterator[Callable[[str], None]]:
    """Show a bar. Call the yielded function with a title when a benchmark starts."""
    columns = (
        TextColumn("{task.description:<45}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task, started = bar.add_task("", total=count), 0

        def step(title: str) -> None:
            nonlocal started
            bar.update(task, description=title, completed=started)
            started += 1

        yield step


def _tool_versions() -> dict[str, str]:
    """Return the versions of Node, the Express server's packages, and wrk, if installed."""
    tools = {}
    if has_express():
        tools["Node"] = subprocess.run(
            ["node", "--version"], capture_output=True, text=True, check=True
        ).stdout.strip()
        packages = ("express", "mongoose", "ioredis", "socket.io")
        versions = {
            name: json.loads((EXPRESS / "node_modules" / name / "package.json").read_text())[
                "version"
            ]
            for name in packages
        }
        tools["peer"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    if wrk := shutil.which("wrk"):
        output = subprocess.run(
            [wrk, "--version"], capture_output=True, text=True, check=False
        ).stdout
        tools["wrk"] = output.split()[1] if output else "unknown version"
    return tools


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(run)
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (EngineError, MeasurementError, OSError) as error:
        raise SystemExit(str(error)) from None
