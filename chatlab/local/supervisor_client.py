"""The client side of the supervisor: connect to the one of a data folder, or start it."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from typing import Any, Self

import psutil

from chatlab.errors import EngineError
from chatlab.local import supervisor
from chatlab.local.binaries import environment
from chatlab.local.data_folder import FIX_FOLDER, MONGODS, REDIS_SERVERS, DataFolder

CONNECT_TIMEOUT_S = 60.0  # longer than a supervisor needs to stop its servers
REPLY_TIMEOUT_S = 2 * supervisor.STOP_TIMEOUT_S


class SupervisorClient:
    """A connection to the supervisor of a data folder. The servers run while at least one is open.

    Raises OSError if no supervisor listens.
    """

    def __init__(self, folder: DataFolder) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(REPLY_TIMEOUT_S)
        try:
            self._socket.connect(str(folder.run / supervisor.SOCKET))
        except BaseException:
            self._socket.close()
            raise

    def send(self, command: str = "status", **fields: Any) -> dict[str, Any]:
        """Send a command and return the state of each server after it.

        Raises OSError if the supervisor ends.
        """
        self._socket.sendall(json.dumps({"command": command} | fields).encode() + b"\n")
        line = b""
        while not line.endswith(b"\n"):
            data = self._socket.recv(65_536)
            if not data:
                raise ConnectionResetError
            line += data
        states: dict[str, Any] = json.loads(line)
        return states

    def fileno(self) -> int:
        return self._socket.fileno()

    def wait_until_lost(self) -> None:
        """Block until the supervisor has ended or `disconnect` was called."""
        with contextlib.suppress(OSError):
            self._socket.settimeout(None)
            self._socket.recv(1)  # the supervisor only answers commands, so this returns at its end

    def disconnect(self) -> None:
        """Leave. For the last client, block until the supervisor has stopped the servers."""
        with contextlib.suppress(OSError):
            self._socket.settimeout(REPLY_TIMEOUT_S)
            self._socket.shutdown(socket.SHUT_WR)
            while self._socket.recv(65_536):  # ends when the supervisor closes the connection
                pass
        self.close()

    def close(self) -> None:
        """Close the connection at once."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect_supervisor(folder: DataFolder) -> SupervisorClient:
    """Connect to the supervisor of this folder; start one if none runs, wait if one is about to
    end.

    Raises EngineError after CONNECT_TIMEOUT_S.
    """
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            return _connect_and_check(folder)
        with folder.locked() as lock_fd:
            if lock_fd is not None:
                stop_leftover_servers(folder)
                start_supervisor(folder, lock_fd)
                continue
        time.sleep(
            0.05
        )  # another process starts the supervisor, or the supervisor stops its servers
    raise EngineError(
        f"The supervisor of {folder.path} did not answer within {CONNECT_TIMEOUT_S:g} s.",
        f"stop the process that `fuser {folder.lock}` shows",
    )


def _connect_and_check(folder: DataFolder) -> SupervisorClient:
    """A supervisor that is about to end may still accept a connection, so ask it for something."""
    client = SupervisorClient(folder)
    try:
        client.send("status")
    except BaseException:
        client.close()
        raise
    return client


def start_supervisor(folder: DataFolder, lock_fd: int) -> None:
    """Start the supervisor, which inherits the lock, and return once it listens."""
    arguments = [str(folder.run), str(folder.log / "supervisor.log"), str(lock_fd)]
    started = subprocess.run(  # noqa: S603
        [sys.executable, "-IS", supervisor.__file__, *arguments],
        capture_output=True,
        text=True,
        pass_fds=[lock_fd],
        start_new_session=True,
        check=False,
        env=environment(),
    )
    if started.returncode:
        reason = started.stderr.strip().rpartition("\n")[2]
        raise EngineError(f"Cannot start the supervisor of {folder.path}: {reason}.", FIX_FOLDER)


def stop_leftover_servers(folder: DataFolder) -> None:
    """Stop the servers of a supervisor that was killed.

    On Linux the kernel has already sent them SIGTERM, but a clean shutdown takes about a second.
    """
    for pid_file in folder.run.glob("*.pid"):
        with contextlib.suppress(psutil.Error, ValueError, OSError):
            process = psutil.Process(int(pid_file.read_text()))
            if _belongs_to(process, folder):
                process.terminate()
                process.resume()  # a stopped process does not react to SIGTERM
                _, alive = psutil.wait_procs([process], supervisor.STOP_TIMEOUT_S)
                for survivor in alive:
                    survivor.kill()
        pid_file.unlink(missing_ok=True)


def _belongs_to(process: psutil.Process, folder: DataFolder) -> bool:
    """The pid may have been given to another process since.

    Our servers have these paths in their command line.
    """
    databases = {str(folder.db_of(server)) for server in MONGODS}
    sockets = [folder.socket_path(server) for server in REDIS_SERVERS]
    return any(
        argument in databases or any(path in argument for path in sockets)
        for argument in process.cmdline()
    )
