"""`chatlab serve` as a child process, for the demo, the benchmarks and the notebooks."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Collection, Iterator
from typing import NoReturn

from chatlab.errors import EngineError
from chatlab.settings import PREFIX, Settings

READY_TIMEOUT_S = 120.0  # many services may start at the same time, for example those of a class
STOP_TIMEOUT_S = 15.0  # a child that has not ended by then gets SIGKILL
READY_POLL_S = 0.02

# The child runs on this machine, so HTTP_PROXY must not apply.
_open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class ChildService:
    """A child process that runs the service; it is ready once the constructor returns.

    The child ends when this process does, even after `kill -9`: it ends when its standard input, a
    pipe from this process, is closed. It uses the configured port if that is free, else any free
    port. Its log goes to a temporary file. `flow` overrides the setting of that name. The file
    descriptors in `pass_fds` stay open in the child.

    Raises EngineError if the service does not start within READY_TIMEOUT_S.
    """

    def __init__(
        self, settings: Settings, *, flow: bool = True, pass_fds: Collection[int] = ()
    ) -> None:
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed by `stop`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chatlab", "serve", "--attached"],
            env=os.environ | _environment(settings, flow=flow),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            pass_fds=pass_fds,
            start_new_session=True,  # Ctrl-C and the interrupt of a notebook must not reach it
        )
        try:
            self.url = self._read_url()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    @property
    def lifeline_fd(self) -> int:
        """The pipe to the child's standard input: the child ends when its last copy is closed."""
        assert self._process.stdin
        return self._process.stdin.fileno()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        """Return the log so far."""
        descriptor = self._log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def stop(self) -> None:
        """Stop the child with SIGTERM, or SIGKILL after STOP_TIMEOUT_S."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            assert pipe
            pipe.close()

    def _read_url(self) -> str:
        """The first line that `serve --attached` prints is its URL."""
        assert self._process.stdout
        url = self._process.stdout.readline().decode().strip()
        return url or self._raise_start_error()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if not self.is_running:
                self._raise_start_error()
            with contextlib.suppress(OSError), _open_url(f"{self.url}/readyz", timeout=2):
                return
            time.sleep(READY_POLL_S)
        raise EngineError(
            f"The service did not answer within {READY_TIMEOUT_S:g} s.", "chatlab doctor"
        )

    def _raise_start_error(self) -> NoReturn:
        self._process.wait(STOP_TIMEOUT_S)
        raise EngineError(f"The service did not start: {self.log().strip()}", "chatlab doctor")


@contextlib.contextmanager
def child_service(settings: Settings, *, flow: bool = True) -> Iterator[str]:
    """Run a ChildService while the block lasts, and yield its URL."""
    child = ChildService(settings, flow=flow)
    try:
        yield child.url
    finally:
        child.stop()


def _environment(settings: Settings, *, flow: bool) -> dict[str, str]:
    """Return all settings as environment variables."""
    port = settings.port if _is_port_free(settings) else 0
    changed = {"flow": flow, "port": port, "drain_seconds": 0}  # no load balancer sends requests
    values = settings.model_copy(update=changed).model_dump(mode="json")
    return {
        f"{PREFIX}{name.upper()}": "" if value is None else str(value)
        for name, value in values.items()
    }


def _is_port_free(settings: Settings) -> bool:
    with contextlib.suppress(OSError), socket.create_server((settings.host, settings.port)):
        return True
    return False
