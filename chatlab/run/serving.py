"""`chatlab serve`: the port, the private servers, the worker processes and their signals."""

import contextlib
import errno
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI
from rich.console import Console
from uvicorn.supervisors import Multiprocess

import chatlab.run.server_only  # noqa: F401 - before python-socketio is imported
from chatlab import __version__
from chatlab.errors import EngineError
from chatlab.local.engines import Engines, open_engines
from chatlab.run.console import describe_engine, greet, log_config
from chatlab.run.lab_key import lab_addresses, presenter_key
from chatlab.run.quiet_port import QuietServer
from chatlab.settings import PREFIX, Settings
from chatlab.web.app import create_app
from chatlab.web.descriptors import raise_limit
from chatlab.web.exit_deadline import ExitDeadline, stop_at_hang_up

log = logging.getLogger(__name__)

# Python looks for reference cycles after this many new objects. A read of 50 messages creates about
# 300 short-lived ones; Python's own threshold of 700 cost such reads a fifth of their time.
GC_THRESHOLD = 10_000
# The operating system keeps this much for a client that does not read. Linux would keep up to 4 MB,
# so a thousand such clients could fill the memory.
SEND_BUFFER_BYTES = 131_072


def serve(
    settings: Settings,
    console: Console,
    *,
    replica_set: bool = False,
    redis_cluster: bool = False,
    attached: bool = False,
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, then answer open requests and close all sockets.

    With `replica_set`, a private MongoDB has three members. With `redis_cluster`, a private Redis
    is a cluster of six nodes.

    With `attached`, the process belongs to the program that started it: it prints its URL as the
    first line of standard output, and stops when its standard input ends.

    Raises EngineError if the port is taken or MongoDB or Redis cannot be started.
    """
    raise_limit(settings.max_connections)
    with _listen(settings) as listener:
        if attached:
            _attach(listener)
        with open_engines(
            settings, replica_set=replica_set, redis_cluster=redis_cluster
        ) as engines:
            urls = {"mongo_url": engines.mongo.url, "redis_url": engines.redis.url}
            key = presenter_key(settings) if settings.flow else None
            settings = settings.model_copy(update=urls | {"lab_key": key})
            _greet(console, listener, engines, settings)
            _ignore_repeated_signals()
            with (
                _worker_environment(settings) if settings.workers > 1 else contextlib.nullcontext()
            ):
                _run(settings, listener)


def _run(settings: Settings, listener: socket.socket) -> None:
    config = _uvicorn_config(settings)
    if settings.workers > 1:
        workers = _Workers(config, sockets=[listener])
        ExitDeadline(settings.exit_limit_s, _kill_workers, on_signal=_stop_workers).watch_signals()
        workers.run()
    else:
        # Without a drain period the service stops at once.
        server = QuietServer(config) if settings.drain_seconds else uvicorn.Server(config)
        server.run(sockets=[listener])


def _uvicorn_config(settings: Settings) -> uvicorn.Config:
    several = settings.workers > 1
    return uvicorn.Config(
        "chatlab.run.serving:tuned_app" if several else tuned_app(settings),
        factory=several,
        workers=settings.workers,
        lifespan="on",
        http="chatlab.web.http_protocol:LimitedHttpProtocol",
        ws="chatlab.web.websocket_protocol:LimitedWebSocketProtocol",
        timeout_keep_alive=settings.keep_alive_timeout,
        log_config=log_config(settings),
        access_log=False,
        server_header=False,
        # For HTTP and websockets. Without a trusted proxy, a client that sends X-Forwarded-For
        # could seem to have any address.
        proxy_headers=bool(settings.proxy_networks),
        forwarded_allow_ips=settings.proxy_networks,
        ws_max_size=settings.max_body,
        ws_per_message_deflate=False,  # it needs 300 KB of memory for each idle socket
        ws_ping_interval=None,  # Engine.IO sends its own pings
        timeout_graceful_shutdown=round(settings.shutdown_timeout),
    )


def tuned_app(settings: Settings | None = None) -> FastAPI:
    """Return the application for a process of its own, with the garbage collector tuned.

    All objects that exist after start-up stay, so the collector does not look at them again.
    """
    app = create_app(settings)
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    return app


# --- worker processes ---------------------------------------------------------------------------


class _Workers(Multiprocess):
    """The parent of the workers. It logs each worker that died, and stops at SIGHUP."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        stop_at_hang_up()
        hang_up = getattr(signal, "SIGHUP", None)
        handler = hang_up and signal.getsignal(hang_up)
        super().__init__(config, sockets)  # sets its own handler, which restarts the workers
        if hang_up:
            signal.signal(hang_up, handler)

    def keep_subprocess_alive(self) -> None:
        """Replace the workers that died or hang."""
        if self.should_exit.is_set():
            return
        before, hanging = list(self.processes), []
        for worker in before:
            # One that was about to end does not answer either, but has ended in the meantime.
            answers = worker.is_alive(self.config.timeout_worker_healthcheck)
            if not answers and worker.process.is_alive():
                hanging.append(worker)
                worker.kill()
                worker.join()
        super().keep_subprocess_alive()
        for worker in before:
            if worker not in self.processes:
                how = "did not respond and was killed" if worker in hanging else "died"
                log.error("Worker %s %s (exit code %s)", worker.pid, how, worker.exitcode)


@contextlib.contextmanager
def _worker_environment(settings: Settings) -> Iterator[None]:
    """Set what the workers inherit: these settings, and the folder that merges their metrics."""
    for name, value in settings.model_dump(mode="json", exclude_defaults=True).items():
        os.environ[f"{PREFIX}{name.upper()}"] = str(value)
    os.environ[f"{PREFIX}DATABASE"] = settings.database  # it may be needed in addition to the URL
    with tempfile.TemporaryDirectory(prefix="chatlab-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        yield


def _stop_workers() -> None:
    """Send SIGTERM to the workers at once.

    Uvicorn first asks each worker whether it is alive, which takes 5 s for one that hangs.
    """
    for worker in multiprocessing.active_children():
        worker.terminate()


def _kill_workers() -> str:
    killed = [worker for worker in multiprocessing.active_children() if worker.is_alive()]
    for worker in killed:
        worker.kill()
    return (
        f"killed the workers {', '.join(str(worker.pid) for worker in killed)}"
        if killed
        else "no worker"
    )


def _ignore_repeated_signals() -> None:
    """Exit with status 0 after SIGINT or SIGTERM.

    Uvicorn raises the signal again after its shutdown, when everything is already done.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)


# --- the port -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _listen(settings: Settings) -> Iterator[socket.socket]:
    """Bind the port, before anything else is started.

    Raises EngineError if another program uses the port, or the address is not one of this machine.
    """
    place = (settings.host, settings.port)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"Cannot listen on {settings.host}:{settings.port}: {reason}."
        raise EngineError(message, _fix_for(error)) from None
    with listener:
        yield listener


def _fix_for(error: Exception) -> str:
    """The problem is either the address (unknown name, or not of this machine) or the port."""
    unknown = isinstance(error, socket.gaierror | UnicodeError)
    if unknown or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
        return f"chatlab serve --host 127.0.0.1   (an address of this machine; or set {PREFIX}HOST)"
    return f"chatlab serve --port 0   (a free port; or set {PREFIX}PORT)"


def address_of(listener: socket.socket) -> str:
    """Return a URL that this machine can open: a socket on all addresses is reached on loopback."""
    host, port = listener.getsockname()[:2]
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing binds to it here
    host = loopback.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


# --- start-up -----------------------------------------------------------------------------------


def _attach(listener: socket.socket) -> None:
    sys.stdout.write(f"{address_of(listener)}\n")
    sys.stdout.flush()  # now, so that the starter learns the URL even if the start fails afterwards
    threading.Thread(target=_stop_at_end_of_input, name="chatlab-attached", daemon=True).start()


def _stop_at_end_of_input() -> None:
    """Wait until standard input ends, then send SIGTERM to this process every second.

    The first one may arrive before there is anything to stop. `os.read` takes no lock: this thread
    would still hold the lock of `sys.stdin` when Python shuts down after a failed start.
    """
    while os.read(sys.stdin.fileno(), 4096):
        pass
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


def _greet(console: Console, listener: socket.socket, engines: Engines, settings: Settings) -> None:
    url = address_of(listener)
    cache = f"cache {settings.cache_mode.value}, TTL {settings.cache_ttl:g} s"
    greet(
        console,
        settings,
        f"[bold]chatlab {__version__}[/bold] on [bold]{url}[/bold]   API at {url}/docs",
        *(f"  {describe_engine(engine)}" for engine in (engines.mongo, engines.redis)),
        *_describe_lab(url, settings),
        f"  {cache}, sweep every {settings.sweep_interval:g} s; Ctrl-C stops",
    )


def _describe_lab(url: str, settings: Settings) -> list[str]:
    if not settings.flow or settings.lab_key is None:
        return []
    presenter, viewer = lab_addresses(url, settings.lab_key)
    return [
        f"  live diagram, for the presenter: [bold]{presenter}[/bold]",
        f"  live diagram, to watch only:     {viewer}",
    ]
