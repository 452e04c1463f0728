"""Running the service as a process: the port, the workers, the signals, the log; and what else runs beside it (worker, JupyterLab)."""

import asyncio
import contextlib
import errno
import gc
import importlib.util
import logging
import logging.config
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

import uvicorn
from fastapi import FastAPI
from rich.console import Console
from uvicorn.supervisors import Multiprocess

from chatlab import __version__
from chatlab.cache.sweeper import Sweeper
from chatlab.connections.redis import connect
from chatlab.domain.trace import EventBus
from chatlab.errors import EngineError
from chatlab.local.engines import Engine, Engines, open_engines
from chatlab.local.readiness import check_configured
from chatlab.settings import PREFIX, Settings
from chatlab.web.app import create_app
from chatlab.web.exit_deadline import ExitDeadline

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
QUIET = Path(__file__).parent.parent / "lab" / "jupyter"  # JupyterLab asks nobody for news; everybody may still set that otherwise
_ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # a proxy is not on the way to one's own child
READY_WITHIN = 30.0  # seconds a child service has to answer
STOP_WITHIN = 15.0  # seconds it has to end
GARBAGE = 10_000  # objects more than before, and Python looks for cycles among them


def serve(settings: Settings, console: Console, *, attached: bool = False) -> None:
    """Serve until SIGINT or SIGTERM; then answer what is in flight, tell every socket, and leave.

    `attached`: to the program that started it. The URL is the first line of standard output, and the end of standard input is a SIGTERM.
    """
    with _listening(settings) as door:
        if attached:
            _attach(door)
        with open_engines(settings) as engines:
            here = settings.model_copy(update={"mongo_url": engines.mongo.url, "redis_url": engines.redis.url})
            _greet(console, door, engines, here)
            _leave_quietly()
            with _for_workers(here) if here.workers > 1 else contextlib.nullcontext():
                _run(here, door)


def _run(settings: Settings, door: socket.socket) -> None:
    config = uvicorn.Config(
        "chatlab.run.serving:tuned_app" if settings.workers > 1 else tuned_app(settings),
        factory=settings.workers > 1,
        workers=settings.workers,
        lifespan="on",
        http="chatlab.web.http_protocol:LimitedHeadProtocol"
        if importlib.util.find_spec("httptools")
        else "h11",  # h11 has an end of its own
        log_config=_log_config(settings.log_level),
        access_log=False,
        server_header=False,
        proxy_headers=False,  # X-Forwarded-For is what a client likes to say: with it, each log-in attempt would come from a new address
        ws_max_size=settings.max_body,
        ws_per_message_deflate=False,  # a deflate window is 300 KB for each idle socket
        ws_ping_interval=None,  # Engine.IO has its own pings
        timeout_graceful_shutdown=round(settings.shutdown_timeout),
    )
    if settings.workers > 1:
        workers = Multiprocess(config, sockets=[door])
        ExitDeadline(settings.exit_limit_s, _kill_workers, on_signal=_stop_workers).watch_signals()
        workers.run()
    else:
        uvicorn.Server(config).run(sockets=[door])


def _stop_workers() -> None:
    """Tell the workers at once: uvicorn does so only after it has asked each one whether it is alive, 5 s for one that hangs."""
    for worker in multiprocessing.active_children():
        worker.terminate()


def _kill_workers() -> str:
    killed = [worker for worker in multiprocessing.active_children() if worker.is_alive()]
    for worker in killed:
        worker.kill()
    return f"killed the workers {', '.join(str(worker.pid) for worker in killed)}" if killed else "no worker"


def tuned_app(settings: Settings | None = None) -> FastAPI:
    """The application, in a process of its own: what is there now stays, and is not looked through for garbage again and again.

    A read of 50 messages makes some 300 objects that live for a moment. Python's own threshold, 700 of them, cost it a fifth of its time.
    """
    app = create_app(settings)
    gc.freeze()
    gc.set_threshold(GARBAGE)
    return app


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
    """The port, taken before anything is started. Raises EngineError when somebody else has it, or the address is not ours."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind, protocol)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise EngineError(f"Cannot listen on {settings.host}:{settings.port}: {why}.", _mend_of_listening(error)) from None
    with door:
        yield door


def _mend_of_listening(error: Exception) -> str:
    """It is the address that is wrong (not a name that is known, or not this machine's), or else the port."""
    if isinstance(error, socket.gaierror | UnicodeError) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
        return f"chatlab serve --host 127.0.0.1   (an address of this machine; or set {PREFIX}HOST)"
    return f"chatlab serve --port 0   (a free port; or set {PREFIX}PORT)"


def address_of(door: socket.socket) -> str:
    host, port = door.getsockname()[:2]
    host = "127.0.0.1" if host == "0.0.0.0" else "[::1]" if host == "::" else f"[{host}]" if ":" in host else host  # noqa: S104 - a comparison
    return f"http://{host}:{port}"


def _attach(door: socket.socket) -> None:
    sys.stdout.write(f"{address_of(door)}\n")
    sys.stdout.flush()  # before anything can end it: who asks only whether it starts has an answer
    threading.Thread(target=_end_with_parent, name="chatlab-attached", daemon=True).start()


def _end_with_parent() -> None:
    """SIGTERM to this process once its standard input has ended; again, should the first come before there is anything to stop."""
    sys.stdin.buffer.read()
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


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
    with _redis_alone(settings) as redis:
        console.print(f"Sweeping {settings.key_prefix}message:* every {settings.sweep_interval:g} s; Ctrl-C stops. {_told(redis)}")
        logging.config.dictConfig(_log_config(settings.log_level))
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_sweep(settings, redis.url))


@contextlib.contextmanager
def _redis_alone(settings: Settings) -> Iterator[Engine]:
    """All that the worker needs: with a Redis named, no MongoDB is started or asked."""
    if settings.redis_url:
        yield check_configured("redis", settings.redis_url)
    else:
        with open_engines(settings) as engines:
            yield engines.redis


async def _sweep(settings: Settings, url: str) -> None:
    task = asyncio.current_task()
    assert task
    with contextlib.suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with connect(url, reply_timeout_s=None) as redis:
        with contextlib.suppress(asyncio.CancelledError):
            await Sweeper(redis, settings, EventBus()).run()


# --- the service as a child ----------------------------------------------------------------------------------------------------


class ChildService:
    """`chatlab serve` as a child, with its flow on unless said otherwise; `url` once it answers. Its log is a file that goes with it.

    The child holds the other end of a pipe: it ends when this process does, `kill -9` included. Its port is the configured one if that is
    free, else any. `pass_fds` stay open in it for its life. Raises EngineError when it cannot start.
    """

    def __init__(self, settings: Settings, *, flow: bool = True, pass_fds: Collection[int] = ()) -> None:
        given = settings.model_copy(update={"flow": flow, "port": settings.port if _is_free(settings) else 0}).model_dump(mode="json")
        environment = {f"{PREFIX}{name.upper()}": "" if value is None else str(value) for name, value in given.items()}
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed by stop
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chatlab", "serve", "--attached"],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            pass_fds=pass_fds,
            start_new_session=True,  # Ctrl-C here, and the interrupt of a notebook, are not meant for it
        )
        try:
            self.url = self._told_url()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    @property
    def lifeline(self) -> int:
        """The end of the pipe: the child lives until its last copy is closed."""
        assert self._process.stdin
        return self._process.stdin.fileno()

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        """What it has said so far."""
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode(errors="replace")

    def stop(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_WITHIN)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            assert pipe
            pipe.close()

    def _told_url(self) -> str:
        assert self._process.stdout
        url = self._process.stdout.readline().decode().strip()
        return url or self._failed()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            if not self.runs:
                self._failed()
            with contextlib.suppress(OSError), _ask(f"{self.url}/readyz", timeout=2):
                return
            time.sleep(0.02)
        raise EngineError(f"The service did not answer within {READY_WITHIN:g} s.", "chatlab doctor")

    def _failed(self) -> NoReturn:
        self._process.wait(STOP_WITHIN)
        raise EngineError(f"The service did not start: {self.log().strip()}", "chatlab doctor")


@contextlib.contextmanager
def child_service(settings: Settings, *, flow: bool = True) -> Iterator[str]:
    """The URL of a ChildService, for as long as the block lasts."""
    child = ChildService(settings, flow=flow)
    try:
        yield child.url
    finally:
        child.stop()


def _is_free(settings: Settings) -> bool:
    with contextlib.suppress(OSError), socket.create_server((settings.host, settings.port)):
        return True
    return False


# --- JupyterLab ----------------------------------------------------------------------------------------------------------------


def lab(settings: Settings, port: int, *, open_browser: bool, console: Console) -> None:
    """JupyterLab on notebook 00, beside a service with its flow on. Becomes JupyterLab, so that nothing is left to end but that.

    The service is for the browser, and keeps the engines warm; a notebook starts one of its own, on a database of its own (`chatlab.lab`).
    """
    if shutil.which("jupyter-lab", path=_with_scripts()) is None:
        raise EngineError("JupyterLab is not installed.", "pip install --require-hashes -r requirements.lock")
    if not NOTEBOOKS.is_dir():
        raise EngineError("The notebooks are not here: they come with the repository, not with the package.", "git clone the repository")
    child = ChildService(settings)
    opens = "opens on notebook 00" if open_browser else "tells its address below"
    console.print(f"The service runs on [bold]{child.url}[/bold]; JupyterLab {opens}. Ctrl-C, twice, stops both.")
    command = ["jupyter-lab", f"--port={port}", f"--ServerApp.root_dir={NOTEBOOKS}", "--LabApp.default_url=/lab/tree/00_start_here.ipynb"]
    command += [] if open_browser else ["--no-browser"]
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    os.set_inheritable(child.lifeline, True)  # JupyterLab holds it now: the service ends when JupyterLab does
    quiet = os.pathsep.join(filter(None, [str(QUIET), os.environ.get("JUPYTER_CONFIG_PATH")]))
    os.execvpe(command[0], command, os.environ | {"PATH": _with_scripts(), "JUPYTER_CONFIG_PATH": quiet})  # noqa: S606 - found above


def _with_scripts() -> str:
    """PATH with the folder of this Python's own commands first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
