"""`chatlab`: the commands. Each reads the settings, brings the engines if none are named, and says plainly what is wrong."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from chatlab import __version__
from chatlab.errors import EngineError
from chatlab.settings import PREFIX, Settings, SettingsError, load_settings

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)
console = Console(stderr=True, highlight=False)

Host = Annotated[str | None, typer.Option(help=f"Address to listen on [{PREFIX}HOST].", show_default=False)]
Port = Annotated[int | None, typer.Option(help=f"Port to listen on, 0 for a free one [{PREFIX}PORT].", show_default=False)]
Workers = Annotated[int | None, typer.Option(help=f"Processes that serve [{PREFIX}WORKERS].", show_default=False)]

Attached = Annotated[
    bool, typer.Option("--attached", help="For a program that starts it: the URL is the first line of output, the end of input is the end.")
]


def _settings_help() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else str(field.default) or "empty"
        rows.append(f"[bold]{PREFIX}{name.upper()}[/bold] ({escape(default)}): {escape(field.description or '')}")
    return "[bold]Settings[/bold], from the environment:\n\n" + "\n\n".join(rows)


def main() -> None:
    """Entry point: errors that a person can mend are told without a stack trace."""
    try:
        app()
    except SettingsError as wrong:
        console.print(f"[red]Wrong setting[/red]\n{escape(str(wrong))}", soft_wrap=True)
        sys.exit(2)
    except EngineError as error:
        console.print(f"[red]{escape(error.detail)}[/red]", soft_wrap=True)
        if error.fix:
            console.print(f"Fix: [bold]{escape(error.fix)}[/bold]", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """A messaging service with a five-second cache, and the notebooks that take it apart."""
    if version:
        print(__version__)
        raise typer.Exit


@app.command(epilog=_settings_help())
def serve(host: Host = None, port: Port = None, workers: Workers = None, attached: Attached = False) -> None:
    """Run the service: HTTP, Socket.IO, the sweeper. Without URLs it starts MongoDB and Redis for itself, and stops them again."""
    from chatlab.run.serving import serve as run

    run(load_settings(host=host, port=port, workers=workers), console, attached=attached)


@app.command()
def sweep() -> None:
    """Run the worker alone: every second, what became of each `message:*` key."""
    from chatlab.run.sweeping import sweep as run

    run(load_settings(), console)


@app.command()
def demo(svg: Annotated[Path | None, typer.Option(help="Keep a picture of it in this file.", show_default=False)] = None) -> None:
    """One message through each door, and its life from 0 to 6 s, live. Exit 0 when all that the diagram promises was seen."""
    from chatlab.demo import demo as run

    raise typer.Exit(run(load_settings(), svg))


@app.command()
def bench(
    file: Annotated[Path | None, typer.Argument(help="With --json: write it there.", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="All figures as JSON, to FILE or to standard output.")] = False,
    chart: Annotated[Path | None, typer.Option(help="Keep a chart (SVG) in this file.", show_default=False)] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=60, help="For each of the four races.")] = 8,
) -> None:
    """The document's performance and memory tables, measured here beside its own figures. About a minute and a half."""
    from chatlab.bench.measure import measure, tell

    if file and not json:
        raise typer.BadParameter("a FILE goes with --json")
    tell(measure(load_settings(), seconds=seconds), as_json=json, file=file, chart_to=chart)


@app.command()
def doctor() -> None:
    """What is installed, what is missing, and the command that mends it. Exit 1 if anything a learner needs is missing."""
    from chatlab.run.doctor import main as look

    raise typer.Exit(look())


@app.command()
def lab(
    port: Annotated[int, typer.Option(help="Port of JupyterLab.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """JupyterLab on the notebooks, with the service running."""
    from chatlab.run.jupyter import lab as run

    run(load_settings(), port, open_browser=browser, console=console)
