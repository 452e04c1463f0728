"""Running the service as a process: the port, the workers, the signals, the log; and what else runs beside it (worker, JupyterLab)."""

import asyncio
import contextlib
import json
import logging
import logging.config
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from rich.console import Console
from uvicorn.supervisors import Multiprocess

from chatlab import __version__
from chatlab.app import create_app
from chatlab.cache import connect
from chatlab.engines import Engine, Engines, open_engines
from chatlab.errors import EngineError
from chatlab.flow import Flow
from chatlab.settings import PREFIX, Settings
from chatlab.sweeper import Sweeper

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
READY_WITHIN = 30.0  # seconds a child service has to answer


def serve(settings: Settings, console: Console) -> None:
    """Serve until SIGINT or SIGTERM; then answer what is in flight, tell every socket, and leave."""
    with _listening(settings) as door, open_engines(settings) as engines, _announced(settings, door):
        here = settings.model_copy(update={"mongo_url": engines.mongo.url, "redis_url": engines.redis.url})
        _greet(console, door, engines, here)
        _leave_quietly()
        with _for_workers(here) if here.workers > 1 else contextlib.nullcontext():
            _run(here, door)


def _run(settings: Settings, door: socket.socket) -> None:
    config = uvicorn.Config(
        "chatlab.app:create_app" if settings.workers > 1 else create_app(settings),
        factory=settings.workers > 1,
        workers=settings.workers,
        lifespan="on",
        log_config=_log_config(settings.log_level),
        access_log=False,
        server_header=False,
        ws_max_size=settings.max_body,
        ws_per_message_deflate=False,  # a deflate window is 300 KB for each idle socket
        ws_ping_interval=None,  # Engine.IO has its own pings
        timeout_graceful_shutdown=round(settings.shutdown_timeout),
    )
    if settings.workers > 1:
        Multiprocess(config, sockets=[door]).run()
    else:
        uvicorn.Server(config).run(sockets=[door])


@contextlib.contextmanager
def _for_workers(settings: Settings) -> Iterator[None]:
    """What worker processes inherit: the settings as they stand here, and a folder where their metrics meet."""
    for name, value in settings.model_dump(mode="json", exclude_defaults=True).items():
        os.environ[f"{PREFIX}{name.upper()}"] = str(value)
    with tempfile.TemporaryDirectory(prefix="chatlab-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        yield


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """The port, taken before anything is started. Raises EngineError when somebody else has it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind, protocol)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
    except OSError as error:
        mend = f"chatlab serve --port 0   (a free port; or set {PREFIX}PORT)"
        raise EngineError(f"Cannot listen on {settings.host}:{settings.port}: {error.strerror or error}.", mend) from None
    with door:
        yield door


def address_of(door: socket.socket) -> str:
    host, port = door.getsockname()[:2]
    host = "127.0.0.1" if host == "0.0.0.0" else "[::1]" if host == "::" else f"[{host}]" if ":" in host else host  # noqa: S104 - a comparison
    return f"http://{host}:{port}"


@contextlib.contextmanager
def _announced(settings: Settings, door: socket.socket) -> Iterator[None]:
    """A note in the data folder, so that notebooks on this machine find the service."""
    note = note_of(settings)
    mine = json.dumps({"url": address_of(door), "pid": os.getpid(), "flow": settings.flow})
    try:
        note.write_text(mine)
    except OSError:  # its own URLs, and no folder to write to: then it is just not found
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if note.read_text() == mine:
                note.unlink()


def note_of(settings: Settings) -> Path:
    return settings.data_dir / "service.json"


def _greet(console: Console, door: socket.socket, engines: Engines, settings: Settings) -> None:
    console.print(f"[bold]chatlab {__version__}[/bold] on [bold]{address_of(door)}[/bold]   API at {address_of(door)}/docs")
    for engine in (engines.mongo, engines.redis):
        console.print(f"  {_told(engine)}", soft_wrap=True)
    console.print(
        f"  cache {settings.cache_mode.value}, TTL {settings.cache_ttl:g} s, sweep every {settings.sweep_interval:g} s; Ctrl-C stops"
    )


def _told(engine: Engine) -> str:
    where = "private, in the data folder" if engine.private else "as configured"
    warning = f"  [yellow]{engine.warning}[/yellow]" if engine.warning else ""
    return f"{engine.name} {engine.version or 'does not answer yet'} ({where}){warning}"


def _leave_quietly() -> None:
    """Uvicorn raises a signal again after it has shut down; by then everything is done, and the exit is an ordinary one."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: None)


def _log_config(level: str) -> dict[str, Any]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s  %(message)s", "datefmt": "%H:%M:%S"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {"chatlab": {"level": level}, "uvicorn": {"level": "WARNING"}},
    }


# --- the worker alone ----------------------------------------------------------------------------------------------------------


def sweep(settings: Settings, console: Console) -> None:
    """Sweep until Ctrl-C."""
    with open_engines(settings) as engines:
        console.print(f"Sweeping {settings.key_prefix}message:* every {settings.sweep_interval:g} s; Ctrl-C stops. {_told(engines.redis)}")
        logging.config.dictConfig(_log_config(settings.log_level))
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_sweep(settings, engines.redis.url))


async def _sweep(settings: Settings, url: str) -> None:
    task = asyncio.current_task()
    assert task
    with contextlib.suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with connect(url) as redis:
        with contextlib.suppress(asyncio.CancelledError):
            await Sweeper(redis, settings, Flow()).run()


# --- JupyterLab ----------------------------------------------------------------------------------------------------------------


def lab(settings: Settings, port: int, *, open_browser: bool, console: Console) -> int:
    """JupyterLab on the notebooks, beside a service with its flow on. Ends both with Ctrl-C."""
    if shutil.which("jupyter-lab", path=_with_scripts()) is None:
        raise EngineError("JupyterLab is not installed.", "pip install 'chatlab[notebooks]'")
    if not NOTEBOOKS.is_dir():
        raise EngineError("The notebooks are not here: they come with the repository, not with the package.", "git clone the repository")
    with child_service(settings) as url:
        console.print(f"The service runs on [bold]{url}[/bold]; JupyterLab opens on notebook 00. Ctrl-C stops both.")
        command = ["jupyter-lab", str(NOTEBOOKS / "00_start_here.ipynb"), f"--port={port}"]
        command += [] if open_browser else ["--no-browser"]
        command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        with contextlib.suppress(KeyboardInterrupt):
            return subprocess.run(command, env=os.environ | {"PATH": _with_scripts()}, cwd=NOTEBOOKS, check=False).returncode  # noqa: S603
    return 0


def _with_scripts() -> str:
    """PATH with the folder of this Python's own commands first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


@contextlib.contextmanager
def child_service(settings: Settings, **variables: str) -> Iterator[str]:
    """`chatlab serve` as a child, with its flow on, on a free port if the configured one is taken; its URL. Stopped at the end."""
    given = {f"{PREFIX}{name.upper()}": str(value) for name, value in settings.model_dump(mode="json", exclude_defaults=True).items()}
    environment = os.environ | given | {f"{PREFIX}FLOW": "1", f"{PREFIX}PORT": str(_free_port(settings))} | variables
    child = subprocess.Popen([sys.executable, "-m", "chatlab", "serve"], env=environment, start_new_session=True, stderr=subprocess.PIPE)
    try:
        url = f"http://{environment.get(PREFIX + 'HOST', settings.host)}:{environment[PREFIX + 'PORT']}"
        _wait_until_ready(child, url)
        yield url
    finally:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(15)
        child.kill()


def _free_port(settings: Settings) -> int:
    for port in (settings.port, 0):
        with contextlib.suppress(OSError), socket.create_server((settings.host, port)) as probe:
            return int(probe.getsockname()[1])
    raise EngineError(f"Cannot listen on {settings.host}.", f"set {PREFIX}HOST")


def _wait_until_ready(child: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        if child.poll() is not None:
            assert child.stderr
            raise EngineError(f"The service did not start: {child.stderr.read().decode().strip()}", "chatlab doctor")
        with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(f"{url}/readyz", timeout=2):  # noqa: S310 - http
            return
        time.sleep(0.05)
    raise EngineError(f"The service did not answer within {READY_WITHIN:g} s.", "chatlab doctor")
