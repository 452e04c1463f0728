"""The keeper: a small process that keeps the private engines of one data folder running for as long as somebody uses them.

    service ──┐                            ┌── mongod
    sweeper ──┼── keeper.sock ── keeper ───┤
    notebook ─┘   (0700 folder)            └── redis-server

Each user holds a connection; the kernel closes it when the user dies, `kill -9` included. When the last one is closed, the keeper stops
the engines and leaves: nobody's end takes the engines from another, and none is left behind. It is a session of its own, so Ctrl-C in a
terminal does not reach it. An engine that dies is started again. One keeper a folder: whoever starts it hands it the lock on the folder.

It knows nothing of MongoDB and Redis. `engines` tells it what to run in lines of JSON; each is answered with the state of all engines:
    {"do": "status" | "stop" | "start", "name"}   {"do": "keep", "name", "argv", "folder", "socket", "log", "reopen": signal | null}

It imports the standard library alone and runs as a plain file, so it is there in about 50 ms: keeper.py RUN_FOLDER LOG LOCK_FD
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

SOCKET = "keeper.sock"
FIRST_USER_WITHIN = 2.0  # seconds; whoever started the keeper may have died before it connected
STOP_WITHIN = 10.0  # seconds for a clean end, then SIGKILL
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds before an engine that died is started again; doubled each time
STEADY = 30.0  # seconds of life after which the pause is the first one again
LOG_BYTES = 4 * 2**20  # a log is put aside as *.log.1 when it is longer, so two of these at most
LOOK_BUSY, LOOK_IDLE = 0.02, 0.25  # seconds between two looks at the engines

_C = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class Kept:
    """One engine: what is wanted of it, and how it is."""

    def __init__(self, name: str, argv: list[str], folder: str, socket_path: str, log: str, reopen: int | None) -> None:
        self.name, self.argv, self.folder, self.socket_path, self.log, self.reopen = name, argv, folder, socket_path, Path(log), reopen
        self.pid_file = Path(folder, f"{name}.pid")  # for the next keeper, should this one be killed
        self.child: subprocess.Popen[bytes] | None = None
        self.wanted, self.ready, self.proven = True, False, False
        self.code: int | None = None
        self.log_from = 0
        self.since = self.start_at = self.kill_at = 0.0
        self.pause = FIRST_PAUSE

    @property
    def state(self) -> str:
        """`failed`: it died before it ever answered, so starting it again is no use."""
        if not self.wanted:
            return "stopping" if self.child else "stopped"
        if self.ready:
            return "running"
        return "failed" if self.code is not None and not self.proven else "starting"

    def report(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "pid": self.child and self.child.pid,
            "code": self.code,
            "binary": self.argv[0],
            "log": str(self.log),
            "from": self.log_from,
        }

    def start(self) -> None:
        self.wanted, self.code, self.start_at, self.pause = True, None, 0.0, FIRST_PAUSE

    def stop(self) -> None:
        self.wanted = self.ready = False
        if self.child:
            self.child.terminate()
            self.child.send_signal(signal.SIGCONT)  # a frozen process cannot hear
            self.kill_at = time.monotonic() + STOP_WITHIN

    def look(self) -> None:
        """One glance: has it died, is it to be started, does it answer, is it too slow to end?"""
        now = time.monotonic()
        if self.child and self.child.poll() is not None:
            self._bury(now)
        if self.child is None:
            if self.state == "starting" and now >= self.start_at:
                self._spawn(now)
        elif self.wanted and not self.ready:
            self.ready = answers(self.socket_path)
            self.proven |= self.ready
        elif not self.wanted and now > self.kill_at:
            self.child.kill()

    def _spawn(self, now: float) -> None:
        self.since = now
        try:
            self.keep_log_short()
            with self.log.open("ab") as out:
                self.log_from = out.tell()
                self.child = subprocess.Popen(  # noqa: S603 - `engines` made the command line
                    self.argv,
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    preexec_fn=die_with_the_keeper,  # noqa: PLW1509 - safe: the keeper has one thread
                )
            self.pid_file.write_text(str(self.child.pid))
        except OSError as wrong:
            say(f"{self.name} cannot be started: {wrong}")
            if self.child is None:
                self._plan_again(now, code=wrong.errno or 1)

    def _bury(self, now: float) -> None:
        assert self.child
        code, self.child = self.child.returncode, None
        say(f"{self.name} ended with {code}")
        with contextlib.suppress(OSError):
            self.pid_file.unlink()
        self._plan_again(now, code)

    def _plan_again(self, now: float, code: int) -> None:
        self.ready, self.code, self.start_at = False, code, now + self.pause
        self.pause = FIRST_PAUSE if now - self.since > STEADY else min(2 * self.pause, LONGEST_PAUSE)

    def keep_log_short(self) -> None:
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > LOG_BYTES:
                self.log.replace(f"{self.log}.1")
                if self.child and self.reopen:
                    self.child.send_signal(self.reopen)


def die_with_the_keeper() -> None:
    """On Linux the kernel ends the engines should the keeper be killed; elsewhere `engines` finds them by their pid files."""
    if sys.platform == "linux":
        _C.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(1)
        with contextlib.suppress(OSError):
            door.connect(path)
            return True
    return False


class Keeper:
    """Serves its users until the last one has left."""

    def __init__(self, listener: socket.socket) -> None:
        self.kept: dict[str, Kept] = {}
        self.listener = listener
        self.users: dict[socket.socket, bytes] = {}  # with the beginning of a line that has not ended yet
        self.leavers: list[socket.socket] = []
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ)

    def serve(self) -> None:
        patience, tidy_at = time.monotonic() + FIRST_USER_WITHIN, 0.0
        while self.users or (not self.leavers and time.monotonic() < patience):
            self._hear(LOOK_BUSY if any(kept.state in {"starting", "stopping"} for kept in self.kept.values()) else LOOK_IDLE)
            for kept in self.kept.values():
                kept.look()
            if time.monotonic() > tidy_at:
                tidy_at = time.monotonic() + STEADY
                for kept in self.kept.values():
                    kept.keep_log_short()

    def leave(self) -> None:
        """Stop everything. The last user's connection ends only now: it sees that all is done."""
        self.listener.close()
        for kept in self.kept.values():
            kept.stop()
        while any(kept.child for kept in self.kept.values()):
            for kept in self.kept.values():
                kept.look()
            time.sleep(LOOK_BUSY)
        for user in self.leavers:
            user.close()

    def _hear(self, seconds: float) -> None:
        for key, _ in self.selector.select(seconds):
            if key.fileobj is self.listener:
                user, _ = self.listener.accept()
                self.users[user] = b""
                self.selector.register(user, selectors.EVENT_READ)
            else:
                assert isinstance(key.fileobj, socket.socket)
                self._read(key.fileobj)
        if self.users:
            self._dismiss()

    def _read(self, user: socket.socket) -> None:
        try:
            data = user.recv(65_536)
            *lines, self.users[user] = (self.users[user] + data).split(b"\n")
            for line in lines:
                user.sendall(json.dumps(self._obey(json.loads(line))).encode() + b"\n")
        except (OSError, ValueError, KeyError, TypeError) as wrong:  # gone in the middle, or not one of ours: either way it is dropped
            say(f"a user was dropped: {wrong!r}")
            data = b""
        if not data:
            self.selector.unregister(user)
            del self.users[user]
            self.leavers.append(user)

    def _dismiss(self) -> None:
        while self.leavers:
            self.leavers.pop().close()

    def _obey(self, order: dict[str, Any]) -> dict[str, Any]:
        match order["do"]:
            case "keep" if order["name"] not in self.kept:
                names = ("name", "argv", "folder", "socket", "log", "reopen")
                self.kept[order["name"]] = Kept(*(order[name] for name in names))
            case "start":
                self.kept[order["name"]].start()
            case "stop":
                self.kept[order["name"]].stop()
        return {name: kept.report() for name, kept in self.kept.items()}


def say(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk: the engines are worth more than the log
        sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}\n")
        sys.stderr.flush()


def listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)  # left by a keeper that was killed; the lock says that it is gone
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    return listener


def detach(log: Path) -> None:
    """The starter goes on once this process listens; it is nobody's child then, and leaves no zombie."""
    if os.fork():
        os._exit(0)
    log.unlink(missing_ok=True)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for old, new in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (out, 2)):
        os.dup2(old, new)
    os.chdir("/")  # the starter's folder may be removed while the keeper runs


def main() -> None:
    run, log, lock = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    os.umask(0o077)
    os.set_inheritable(lock, False)
    try:
        keeper = Keeper(listen(run / SOCKET))
        detach(log)
    except OSError as wrong:
        sys.exit(f"{wrong.strerror or wrong}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        keeper.serve()
    finally:
        keeper.leave()


if __name__ == "__main__":
    main()
