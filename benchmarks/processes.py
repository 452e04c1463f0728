"""Start a server as a child process, and measure its memory and CPU time."""

import contextlib
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import psutil

from benchmarks.result import MeasurementError
from benchmarks.users import BenchUser
from chatlab.bench.raw_http import RawHttpClient

REPOSITORY = Path(__file__).parent.parent
START_TIMEOUT_S, STOP_TIMEOUT_S = 60.0, 10.0


class Server(NamedTuple):
    """A running server with its own users and its own database on the shared engines."""

    name: str
    url: str
    process: psutil.Process
    users: list[BenchUser]
    database: str

    def connect(self, number: int = 0) -> RawHttpClient:
        """Return an HTTP connection of the user with this number."""
        return RawHttpClient(self.url, self.users[number].token)

    def processes(self) -> list[psutil.Process]:
        """Return the process of the server and those of its workers."""
        return [self.process, *self.process.children(recursive=True)]

    def resident_bytes(self) -> int:
        """Return the memory that the server uses."""
        return sum(process.memory_info().rss for process in self.processes())

    def cpu_seconds(self) -> float:
        """Return the CPU time that the server has used since it started."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())


@contextlib.contextmanager
def running(
    command: list[str], environment: dict[str, str], log: IO[bytes]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a child process during the block.

    It also ends with this process, because it watches its standard input. Ctrl-C does not reach it.
    """
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("CHATLAB_")
    }
    process = subprocess.Popen(
        command,
        env=inherited | environment,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        assert process.stdin
        process.stdin.close()
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        process.kill()
        process.wait()


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
    """Wait until `/healthz` responds. Raises MeasurementError with the end of the log."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/healthz", timeout=2):  # noqa: S310 - http
            return
        time.sleep(0.02)
    log.seek(0)
    raise MeasurementError(f"A server did not start: {log.read().decode(errors='replace')[-2000:]}")


def free_port() -> int:
    """Return a TCP port that is free at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
