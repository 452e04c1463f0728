"""The `chatlab` command line. Each command reads the settings and calls one function.

A command imports what it needs when it runs. So `--help` is quick, and `doctor` works on machines
where most libraries are missing.
"""

import sys
import traceback
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from chatlab import __version__
from chatlab.errors import ChatlabError, EngineError
from chatlab.server_urls import redact
from chatlab.settings import PREFIX, Settings, SettingsError, load_settings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console(stderr=True, highlight=False)

Host = Annotated[
    str | None,
    typer.Option(help=f"Address to listen on. Overrides {PREFIX}HOST.", show_default=False),
]
Port = Annotated[
    int | None,
    typer.Option(
        help=f"Port to listen on; 0 takes a free one. Overrides {PREFIX}PORT.",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help=f"Number of processes that serve requests. Overrides {PREFIX}WORKERS.",
        show_default=False,
    ),
]
Attached = Annotated[
    bool,
    typer.Option(
        "--attached",
        help="For programs that start the service: print the URL first, stop when input ends.",
    ),
]
ReplicaSet = Annotated[
    bool,
    typer.Option("--replica-set", help="Let the private MongoDB have three members."),
]
RedisClusterOption = Annotated[
    bool,
    typer.Option("--redis-cluster", help="Let the private Redis be a cluster of six nodes."),
]


def _settings_help() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else str(field.default) or "empty"
        variable = f"[bold]{PREFIX}{name.upper()}[/bold]"
        rows.append(f"{variable} ({escape(default)}): {escape(field.description or '')}")
    title = "[bold]Settings[/bold]: environment variables, with their defaults"
    return "\n\n".join([title, *rows])


def main() -> None:
    """Run a command. Print expected errors, with their fix, instead of a traceback."""
    sys.excepthook = _print_redacted
    try:
        app()
    except SettingsError as error:
        console.print(f"[red]Invalid settings[/red]\n{escape(str(error))}", soft_wrap=True)
        sys.exit(2)
    except ChatlabError as error:
        console.print(f"[red]{escape(error.detail)}[/red]", soft_wrap=True)
        if isinstance(error, EngineError) and error.fix:
            console.print(f"Fix: [bold]{escape(error.fix)}[/bold]", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _print_redacted(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print the traceback of an unexpected error, without the passwords of URLs."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


Version = Annotated[bool, typer.Option("--version", help="Print the version and exit.")]


@app.callback(invoke_without_command=True)
def _top(version: Version = False) -> None:
    """A messaging service with a five-second cache, and notebooks that explain each stage.

    New here? Start with [bold]chatlab demo[/bold].
    """
    if version:
        print(__version__)
        raise typer.Exit


@app.command(epilog=_settings_help())
def serve(
    host: Host = None,
    port: Port = None,
    workers: Workers = None,
    replica_set: ReplicaSet = False,
    redis_cluster: RedisClusterOption = False,
    attached: Attached = False,
) -> None:
    """Run the service: HTTP, Socket.IO and the sweeper.

    Uses the MongoDB and Redis of CHATLAB_MONGO_URL and CHATLAB_REDIS_URL. If one of them is unset,
    starts a private server for it, and stops that server at the end.
    """
    from chatlab.run.serving import serve as run

    settings = load_settings(host=host, port=port, workers=workers)
    if replica_set and settings.mongo_url:
        message = f"--replica-set is for a private MongoDB, but {PREFIX}MONGO_URL is set"
        raise typer.BadParameter(message)
    if redis_cluster and settings.redis_url:
        message = f"--redis-cluster is for a private Redis, but {PREFIX}REDIS_URL is set"
        raise typer.BadParameter(message)
    run(
        settings,
        console,
        replica_set=replica_set,
        redis_cluster=redis_cluster,
        attached=attached,
    )


@app.command()
def sweep() -> None:
    """Run the sweeper alone, for a service with CHATLAB_SWEEPER=0.

    Each sweep logs which cached messages are alive, and which have expired since the last one.
    """
    from chatlab.run.sweeping import sweep as run

    run(load_settings(), console)


Shard = Annotated[
    bool,
    typer.Option("--shard", help="Then distribute the collections over the shards of a cluster."),
]
Rebuild = Annotated[
    bool,
    typer.Option(
        "--rebuild", help="Compute the summaries of all conversations from their messages again."
    ),
]


@app.command()
def migrate(shard: Shard = False, rebuild: Rebuild = False) -> None:
    """Prepare the database for this version: build the indexes that are missing.

    The service does the same when it starts, but saves no message until it is done. With many
    messages this takes minutes, so run it before you start a new version. May run while the old
    version serves, and more than once.
    """
    from chatlab.run.migrating import migrate as run

    run(load_settings(), console, shard=shard, rebuild=rebuild)


Svg = Annotated[
    Path | None,
    typer.Option(help="Also save a picture of the result to this file.", show_default=False),
]


@app.command()
def demo(svg: Svg = None) -> None:
    """Send one message by HTTP and one by Socket.IO, and watch each until it expires.

    Takes about ten seconds. Exits with 0 if every promise of the diagram was observed, or else with
    1, and names the promises that were not.
    """
    from chatlab.demo import demo as run

    raise typer.Exit(run(load_settings(), svg))


RecordingFile = Annotated[
    Path, typer.Argument(help="HTML file to write. An existing one is replaced.")
]


@app.command()
def record(file: RecordingFile) -> None:
    """Write a page that replays a send, two reads and the expiry, without a server.

    Everything in it really happens during this command, on private servers. Takes about ten
    seconds. The page is one file, and needs no network.
    """
    from chatlab.demo.recording import record as run

    run(load_settings(), file, console)


JsonFile = Annotated[
    Path | None,
    typer.Argument(help="File for the output of --json.", show_default=False),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Write all results as JSON, to FILE or to standard output."),
]
Chart = Annotated[
    Path | None,
    typer.Option(help="Also save a chart (SVG) to this file.", show_default=False),
]
Seconds = Annotated[
    float,
    typer.Option(min=0.1, max=60, help="Duration of each of the four comparisons."),
]


@app.command()
def bench(
    file: JsonFile = None,
    json: AsJson = False,
    chart: Chart = None,
    seconds: Seconds = 8,
) -> None:
    """Measure the cache on this machine, and compare it with the claims of its design document.

    Measures the speed of reads, sends and updates with and without the cache, and the memory that
    the cache uses. Takes about a minute and a half.
    """
    from chatlab.bench.measure import measure, write_report

    if file and not json:
        raise typer.BadParameter("FILE can only be used together with --json")
    if chart and not find_spec("matplotlib"):
        raise typer.BadParameter("--chart needs Matplotlib: pip install matplotlib")
    write_report(measure(load_settings(), seconds=seconds), as_json=json, file=file, chart=chart)


@app.command()
def doctor() -> None:
    """Check the installation. For each problem, show the command that fixes it.

    Exits with 1 if something is missing that the service or the notebooks need.
    """
    from chatlab.run.doctor import main as check

    raise typer.Exit(check())


user_commands = typer.Typer(no_args_is_help=True, help="Manage the users of the service.")
app.add_typer(user_commands, name="user")
UserName = Annotated[str, typer.Argument(help="The user name, such as alice.", show_default=False)]


@user_commands.command()
def reset_password(name: UserName) -> None:
    """Give a user a new random password, print it, and end all sessions of this user.

    Open pages of the user log out within 5 seconds. Exits with 1 if there is no such user.
    """
    from chatlab.run.users import reset_password as run

    print(run(load_settings(), name))


LabFolder = Annotated[
    Path,
    typer.Argument(help="Your working copy of the notebooks. It is created if it does not exist."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Make a new copy next to FOLDER.")]
InPlace = Annotated[
    bool,
    typer.Option("--in-place", help="Open the notebooks of the repository itself, to edit them."),
]
CopyOnly = Annotated[
    bool,
    typer.Option("--copy-only", help="Make or update the copy, and do not start JupyterLab."),
]
LabPort = Annotated[int, typer.Option(help="Port of JupyterLab.")]
Browser = Annotated[bool, typer.Option(help="Open JupyterLab in a browser.")]


@app.command()
def lab(
    folder: LabFolder = Path("chatlab-notebooks"),
    fresh: Fresh = False,
    in_place: InPlace = False,
    copy_only: CopyOnly = False,
    port: LabPort = 8888,
    browser: Browser = True,
) -> None:
    """Open your copy of the notebooks in JupyterLab.

    The copy has no outputs. A file that you have changed is never overwritten. Press Ctrl-C twice
    to stop.
    """
    from chatlab.run import jupyter

    settings = load_settings()
    notebooks = (
        jupyter.repository_notebooks()
        if in_place
        else jupyter.working_copy(folder, console, fresh=fresh)
    )
    if copy_only:
        return
    jupyter.print_lab_page(settings, console)
    jupyter.lab(settings, notebooks, port, open_browser=browser)


Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command()
def reset(yes: Yes = False) -> None:
    """Remove what the private servers hold: all users, messages and sessions.

    Your notebooks and what they have measured stay. So does a server that a setting names.
    """
    from chatlab.run.reset import reset as run
    from chatlab.run.reset import size_mb

    settings = load_settings()
    question = f"Remove all users and messages in {settings.data_dir} ({size_mb(settings)} MB)?"
    if not yes:
        typer.confirm(question, abort=True)
    run(settings)
    console.print("Removed.")
