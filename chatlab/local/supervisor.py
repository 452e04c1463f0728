"""The supervisor: a small process that runs the private servers of one data folder.

    service ──┐                                    ┌── mongod
    sweeper ──┼── supervisor.sock ── supervisor ───┤
    notebook ─┘   (in a 0700 folder)               └── redis-server

Each client keeps one connection open. The kernel closes it when the client dies, also after
`kill -9`. When the last connection is closed, the supervisor stops the servers and exits. So a
client that ends never stops the servers of another client, and no server runs without a client.
The supervisor restarts a server that dies. It runs in a session of its own, so Ctrl-C in a terminal
does not reach it. There is one supervisor per data folder: the process that starts it passes on the
lock of the folder.

The supervisor knows nothing about MongoDB or Redis. A client sends commands as lines of JSON, and
gets the state of all servers as the reply to each line:
    {"command": "status"}
    {"command": "start" | "stop", "name"}
    {"command": "add", "name", "argv", "folder", "socket", "log", "reopen_signal": number | null}

This file imports only the standard library and is started by its path, so it is ready in 50 ms:
    supervisor.py RUN_FOLDER LOG_FILE LOCK_FD
"""

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SOCKET = "supervisor.sock"
FIRST_CLIENT_TIMEOUT_S = (
    2.0  # the process that started the supervisor may have died before it connected
)
STOP_TIMEOUT_S = 10.0  # a server that has not ended by then gets SIGKILL
FIRST_RESTART_DELAY_S, MAX_RESTART_DELAY_S = 0.1, 5.0  # the delay doubles with each restart
STABLE_AFTER_S = 30.0  # a server that ran this long gets the first restart delay again
LOG_CHECK_INTERVAL_S = 30.0
MAX_LOG_BYTES = (
    4 * 2**20
)  # a longer log becomes *.log.1, so there are at most two of these per server
BUSY_POLL_S, IDLE_POLL_S = 0.02, 0.25  # interval between two checks of the servers

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class Server:
    """One server: its command line, whether it should run, and its process."""

    def __init__(
        self,
        name: str,
        argv: list[str],
        folder: str,
        socket_path: str,
        log: str,
        reopen_signal: int | None,
    ) -> None:
        self.name, self.argv, self.folder, self.socket_path = name, argv, folder, socket_path
        self.log, self.reopen_signal = Path(log), reopen_signal
        self.pid_file = Path(
            folder, f"{name}.pid"
        )  # for the next supervisor, if this one is killed
        self.child: subprocess.Popen[bytes] | None = None
        self.should_run, self.ready, self.was_ready = True, False, False
        self.exit_code: int | None = None
        self.log_offset = 0
        self.started_at = self.start_at = self.kill_at = 0.0
        self.restart_delay_s = FIRST_RESTART_DELAY_S

    @property
    def state(self) -> str:
        """`failed` means that the server died before it ever answered: a restart would not help."""
        if not self.should_run:
            return "stopping" if self.child else "stopped"
        if self.ready:
            return "running"
        return "failed" if self.exit_code is not None and not self.was_ready else "starting"

    def report(self) -> dict[str, Any]:
        """Return the state as JSON. `log_offset` is the length of the log before the last start."""
        return {
            "state": self.state,
            "pid": self.child and self.child.pid,
            "exit_code": self.exit_code,
            "binary": self.argv[0],
            "log": str(self.log),
            "log_offset": self.log_offset,
        }

    def start(self) -> None:
        """Let the next `check` start the process."""
        self.should_run, self.exit_code, self.start_at = True, None, 0.0
        self.restart_delay_s = FIRST_RESTART_DELAY_S

    def stop(self) -> None:
        """Send SIGTERM. `check` sends SIGKILL if the process has not ended after STOP_TIMEOUT_S."""
        self.should_run = self.ready = False
        if self.child:
            self.child.terminate()
            self.child.send_signal(signal.SIGCONT)  # a stopped process does not react to SIGTERM
            self.kill_at = time.monotonic() + STOP_TIMEOUT_S

    def check(self) -> None:
        """Look at the process once: note its end, start it, see whether it answers, or kill it."""
        now = time.monotonic()
        if self.child and self.child.poll() is not None:
            self._note_exit(now)
        if self.child is None:
            if self.state == "starting" and now >= self.start_at:
                self._spawn(now)
        elif self.should_run and not self.ready:
            self.ready = accepts_connections(self.socket_path)
            self.was_ready |= self.ready
        elif not self.should_run and now > self.kill_at:
            self.child.kill()

    def _spawn(self, now: float) -> None:
        self.started_at = now
        try:
            self.rotate_log()
            with self.log.open("ab") as out:
                self.log_offset = out.tell()
                self.child = subprocess.Popen(  # noqa: S603 - `data_folder` made the command line
                    self.argv,
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    preexec_fn=die_with_parent,  # noqa: PLW1509 - safe: the supervisor has one thread
                )
            self.pid_file.write_text(str(self.child.pid))
        except OSError as error:
            log_line(f"cannot start {self.name}: {error}")
            if self.child is None:
                self._plan_restart(now, error.errno or 1)

    def _note_exit(self, now: float) -> None:
        assert self.child
        exit_code, self.child = self.child.returncode, None
        log_line(f"{self.name} exited with code {exit_code}")
        with contextlib.suppress(OSError):
            self.pid_file.unlink()
        self._plan_restart(now, exit_code)

    def _plan_restart(self, now: float, exit_code: int) -> None:
        self.ready, self.exit_code, self.start_at = False, exit_code, now + self.restart_delay_s
        was_stable = now - self.started_at > STABLE_AFTER_S
        self.restart_delay_s = (
            FIRST_RESTART_DELAY_S
            if was_stable
            else min(2 * self.restart_delay_s, MAX_RESTART_DELAY_S)
        )

    def rotate_log(self) -> None:
        """Rename a log longer than MAX_LOG_BYTES to *.log.1 and let the server open a new one."""
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > MAX_LOG_BYTES:
                self.log.replace(f"{self.log}.1")
                if self.child and self.reopen_signal:
                    self.child.send_signal(self.reopen_signal)


def die_with_parent() -> None:
    """Ask the Linux kernel to send SIGTERM to this server if the supervisor is killed.

    On other systems the next supervisor client finds the server by its pid file and stops it.
    """
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def accepts_connections(path: str) -> bool:
    """Return True if a server listens on this unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        with contextlib.suppress(OSError):
            connection.connect(path)
            return True
    return False


class Supervisor:
    """Serves its clients until the last one has disconnected."""

    def __init__(self, listener: socket.socket) -> None:
        self.servers: dict[str, Server] = {}
        self.listener = listener
        self.clients: dict[socket.socket, bytes] = {}  # each with the start of an incomplete line
        self.disconnected: list[socket.socket] = []
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ)

    def serve(self) -> None:
        """Handle commands and check the servers until there is no client any more."""
        first_client_by, rotate_at = time.monotonic() + FIRST_CLIENT_TIMEOUT_S, 0.0
        while self.clients or (not self.disconnected and time.monotonic() < first_client_by):
            busy = any(server.state in {"starting", "stopping"} for server in self.servers.values())
            self._handle_clients(BUSY_POLL_S if busy else IDLE_POLL_S)
            for server in self.servers.values():
                server.check()
            if time.monotonic() > rotate_at:
                rotate_at = time.monotonic() + LOG_CHECK_INTERVAL_S
                for server in self.servers.values():
                    server.rotate_log()

    def stop(self) -> None:
        """Stop all servers, and only then close the last client's connection: it waits for that."""
        self.listener.close()
        for server in self.servers.values():
            server.stop()
        while any(server.child for server in self.servers.values()):
            for server in self.servers.values():
                server.check()
            time.sleep(BUSY_POLL_S)
        self._close_disconnected()

    def _handle_clients(self, timeout_s: float) -> None:
        for key, _ in self.selector.select(timeout_s):
            if key.fileobj is self.listener:
                client, _ = self.listener.accept()
                self.clients[client] = b""
                self.selector.register(client, selectors.EVENT_READ)
            else:
                assert isinstance(key.fileobj, socket.socket)
                self._read(key.fileobj)
        if self.clients:
            self._close_disconnected()

    def _read(self, client: socket.socket) -> None:
        """Execute the commands that have arrived.

        A client that is gone or sends garbage is dropped.
        """
        try:
            data = client.recv(65_536)
            *lines, self.clients[client] = (self.clients[client] + data).split(b"\n")
            for line in lines:
                client.sendall(json.dumps(self._execute(json.loads(line))).encode() + b"\n")
        except (OSError, ValueError, KeyError, TypeError) as error:
            log_line(f"dropped a client: {error!r}")
            data = b""
        if not data:
            self.selector.unregister(client)
            del self.clients[client]
            self.disconnected.append(client)

    def _close_disconnected(self) -> None:
        while self.disconnected:
            self.disconnected.pop().close()

    def _execute(self, command: dict[str, Any]) -> dict[str, Any]:
        match command["command"]:
            case "add" if command["name"] not in self.servers:
                fields = ("name", "argv", "folder", "socket", "log", "reopen_signal")
                self.servers[command["name"]] = Server(*(command[field] for field in fields))
            case "start":
                self.servers[command["name"]].start()
            case "stop":
                self.servers[command["name"]].stop()
        return {name: server.report() for name, server in self.servers.items()}


def log_line(text: str) -> None:
    """Write a line to the log, or skip it if the disk is full: the servers matter more."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}\n")
        sys.stderr.flush()


def listen(path: Path) -> socket.socket:
    """Listen on a unix socket.

    A file left there by a killed supervisor is removed; the lock says it is gone.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    return listener


def detach(log: Path) -> None:
    """Continue in a child process whose output goes to the log.

    The parent exits, so the starter can continue. The child then has no parent that must reap it.
    """
    if os.fork():
        os._exit(0)
    log.unlink(missing_ok=True)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.chdir("/")  # the starter's working folder may be removed while the supervisor runs


def main() -> None:
    """Run the supervisor. Exit with a one-line message if it cannot listen or open its log."""
    run_folder, log, lock_fd = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    os.umask(0o077)
    os.set_inheritable(lock_fd, False)
    try:
        supervisor = Supervisor(listen(run_folder / SOCKET))
        detach(log)
    except OSError as error:
        sys.exit(f"{error.strerror or error}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        supervisor.serve()
    finally:
        supervisor.stop()


if __name__ == "__main__":
    main()
