"""Start services as copies of a process that has loaded their libraries already.

A start of `chatlab serve` needs more than a second of processor time, nearly all of it to load the
libraries, and the tests start some hundred services. `start` asks a child process, which has loaded
them once, to fork. The copy then runs the same Python program as a new process would.
"""

import atexit
import contextlib
import functools
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class ForkedProcess:
    """A started copy, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile()
        self.pid = int(self._lines.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, or None if the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status, as soon as the process has ended."""
        if self.returncode is None:
            with selectors.DefaultSelector() as ready:
                ready.register(self._connection, selectors.EVENT_READ)
                if not ready.select(timeout):
                    raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._lines.readline())
            self._lines.close()
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(program: Sequence[str], environment: Mapping[str, str], log: Path) -> ForkedProcess:
    """Run `python PROGRAM...` with its output at the end of a log file."""
    log.touch()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(_server())
    request = {"program": program, "environment": dict(environment), "log": str(log)}
    connection.sendall(json.dumps(request).encode() + b"\n")
    return ForkedProcess(connection)


@functools.cache
def _server() -> str:
    """Start the process that forks, and return the path of its socket."""
    folder = tempfile.TemporaryDirectory(prefix="chatlab-tests-")
    path = f"{folder.name}/socket"
    process = subprocess.Popen(
        [sys.executable, __file__, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    process.stdout.readline()  # it listens

    def stop() -> None:
        process.communicate()  # the end of its input ends it
        folder.cleanup()

    atexit.register(stop)
    return path


Request = dict[str, Any]


def _serve(path: str) -> Request | None:
    """Fork for each request, and report each end of a copy to the one who asked.

    Return the request in the copy, and None in this process when its standard input has ended.
    """
    waiting: dict[int, socket.socket] = {}
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as ready:
        listener.bind(path)
        listener.listen()
        for source in (listener, woken, sys.stdin):
            ready.register(source, selectors.EVENT_READ)
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        while True:
            sources = [key.fileobj for key, _ in ready.select()]
            if woken in sources:
                woken.recv(4096)
                _report_ends(waiting)
            if listener in sources:
                connection, request = _accept(listener)
                pid = os.fork()
                if pid == 0:
                    return request
                waiting[pid] = connection
                connection.sendall(b"%d\n" % pid)
            if sys.stdin in sources:
                return None


def _accept(listener: socket.socket) -> tuple[socket.socket, Request]:
    connection, _ = listener.accept()
    with connection.makefile() as lines:
        return connection, json.loads(lines.readline())


def _report_ends(waiting: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):  # no child is left
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with waiting.pop(pid) as connection, contextlib.suppress(BrokenPipeError):
                connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _run(program: list[str], environment: dict[str, str], log: str) -> None:
    """Run the program in this process, with no file open but its standard ones."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, output + 2)
    if program[0] == "-m":
        sys.argv = program[1:]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = program
        runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    import chatlab.cli
    import chatlab.run.serving  # noqa: F401

    if (request := _serve(sys.argv[1])) is not None:
        _run(**request)
