"""Start services as copies of a process that has loaded their libraries already.

A start of `chatlab serve` needs more than a second of processor time, nearly all of it to load the
libraries, and the tests start some hundred services. `start` asks a process that has loaded them
once to fork. The copy then runs the same Python program as a new process would. The kernels of
notebooks and the commands that a test starts use the process of that test.
"""

import atexit
import contextlib
import functools
import itertools
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

SOCKET = "PREFORK_SOCKET"  # in the environment of children: the socket of the process that forks
CHUNK_BYTES, MAX_FILES = 65536, 16


class ForkedProcess:
    """A started copy, with the methods of `subprocess.Popen` that tests and chatlab use."""

    def __init__(
        self, connection: socket.socket, stdin: IO[bytes] | None, stdout: IO[bytes] | None
    ) -> None:
        self.stdin, self.stdout, self._connection = stdin, stdout, connection
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

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(program: Sequence[str], environment: Mapping[str, str], log: Path) -> ForkedProcess:
    """Run `python PROGRAM...` with its output at the end of a log file."""
    with Path(os.devnull).open("rb") as nothing, log.open("ab") as output:
        return ForkedProcess(_fork(program, environment, nothing, output, output), None, None)


def start_with_pipes(
    program: Sequence[str], environment: Mapping[str, str], errors: IO[bytes], kept: Iterable[int]
) -> ForkedProcess:
    """Run `python PROGRAM...` in a session of its own, with pipes as its input and output.

    The file descriptors `kept` stay open in it.
    """
    (read, stdin), (stdout, write) = os.pipe(), os.pipe()
    with os.fdopen(read, "rb") as its_input, os.fdopen(write, "wb") as its_output:
        connection = _fork(program, environment, its_input, its_output, errors, kept)
    return ForkedProcess(connection, os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb"))


def _fork(
    program: Sequence[str],
    environment: Mapping[str, str],
    stdin: IO[bytes],
    stdout: IO[bytes],
    stderr: IO[bytes],
    kept: Iterable[int] | None = None,
) -> socket.socket:
    """Ask for a copy. Return the connection to the process that forks. With `kept`, it is the
    leader of a session.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(server())
    request = {
        "program": program,
        "environment": dict(environment),
        "folder": str(Path.cwd()),
        "leads": kept is not None,
    }
    files = [stdin.fileno(), stdout.fileno(), stderr.fileno(), *(kept or ())]
    socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], files)
    return connection


@functools.cache
def server() -> str:
    """Return the path of the socket of the process that forks. It is started if there is none yet."""
    if path := os.environ.get(SOCKET):
        return path
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
    os.environ[SOCKET] = path  # for the children of this process
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
                for descriptor in request["files"]:
                    os.close(descriptor)
                waiting[pid] = connection
                connection.sendall(b"%d\n" % pid)
            if sys.stdin in sources:
                return None


def _accept(listener: socket.socket) -> tuple[socket.socket, Request]:
    connection, _ = listener.accept()
    line, files, _, _ = socket.recv_fds(connection, CHUNK_BYTES, MAX_FILES)
    while not line.endswith(b"\n"):
        line += connection.recv(CHUNK_BYTES)
    return connection, {**json.loads(line), "files": files}


def _report_ends(waiting: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):  # no child is left
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with waiting.pop(pid) as connection, contextlib.suppress(BrokenPipeError):
                connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _run(
    program: list[str],
    environment: dict[str, str],
    folder: str,
    files: list[int],
    *,
    leads: bool,
) -> None:
    """Run the program in this process. No file is open but these, of which the first three are the
    standard ones.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if leads:
        os.setsid()
    for number, descriptor in enumerate(files[:3]):
        os.dup2(descriptor, number)
    kept = sorted(files[3:])
    for descriptor in kept:
        os.set_inheritable(descriptor, True)
    for below, above in itertools.pairwise([2, *kept, os.sysconf("SC_OPEN_MAX")]):
        os.closerange(below + 1, above)
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
