"""Finds or starts MongoDB and Redis: real ones, private to one data folder, on unix sockets only.

With a URL in the settings that engine is only asked for its version. Without, `open_engines` joins the keeper of the data folder, or
starts one, has it run mongod and redis-server, and waits until both answer. What goes wrong until then is an EngineError.

    DATA_DIR/            the lock on it is held by the keeper for its life
    ├── db/              what mongod stores
    ├── log/             mongo.log, redis.log, keeper.log: a few MB each at most
    └── run/             the sockets, 0700; under the temporary folder when the path is too long for a socket
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import psutil
from pymongo import MongoClient
from pymongo.errors import ConfigurationError, OperationFailure, PyMongoError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from chatlab.errors import EngineError
from chatlab.local import supervisor as keeper
from chatlab.local.binaries import KINDS, Name, environment, find_program, old_version
from chatlab.settings import Settings

log = logging.getLogger("chatlab.engines")

READY_WITHIN = 20.0  # seconds
ASK_WITHIN = 1.5  # seconds for an engine that is not ours to say its version
LONGEST_SOCKET = 100  # bytes; systems allow 103 to 107
FRESH_DISK, USED_DISK = 400 * 2**20, 64 * 2**20  # bytes: mongod lays out a journal of 300 MiB before it answers; measured
MORE_DISK = "free some disk, or set CHATLAB_DATA_DIR to a folder on another one"
OTHER_FOLDER = "set CHATLAB_DATA_DIR to a folder that can be written"


# Its socket as seen from run/, where it runs, is also the name of the set's one member: a folder that moves stays the same set.
# Compression is off for the holes in it, diagnostics for the disk; nounixsocket is about the one in /tmp that it makes as well.
MONGOD = """
    --bind_ip ./mongod.sock --nounixsocket --replSet rs0 --networkMessageCompressors disabled --wiredTigerCacheSizeGB 0.25
    --setParameter diagnosticDataCollectionEnabled=false --quiet --logappend --logRotate reopen
"""
REDIS = """
    --port 0 --unixsocketperm 700 --daemonize no --appendonly no
    --maxmemory 256mb --maxmemory-policy volatile-ttl --notify-keyspace-events Ex
"""

# What an engine says when it cannot start, the sentence for it, and what mends it.
TROUBLES = (
    (r"No space left on device|Disk quota", "the disk is full", MORE_DISK),
    (r"SIGXFSZ|File too large", "its files may not grow as they must", "raise the limit that `ulimit -f` shows"),
    (r"Read-only file system|Permission denied|Operation not permitted", "its folder cannot be written", OTHER_FOLDER),
    (r"DBPathInUse|Unable to lock", "another mongod uses its folder", "end that mongod, or set CHATLAB_DATA_DIR to another folder"),
    (
        r"featureCompatibilityVersion|unsupported WiredTiger|IncompatibleServerVersion",
        "its data was written by another version of MongoDB",
        "set CHATLAB_MONGOD to that version, or CHATLAB_DATA_DIR to a new folder",
    ),
)


@dataclass(frozen=True)
class Engine:
    """What runs. `version` is empty while it does not answer; `warning` is for a person."""

    name: str
    url: str
    version: str
    private: bool
    binary: str | None
    warning: str | None


class DataFolder:
    """Where everything of one data folder lies. The real path counts: two spellings of one folder are the same folder."""

    def __init__(self, settings: Settings) -> None:
        self.path = settings.data_dir.expanduser().resolve()
        self.db, self.log, self.lock = self.path / "db", self.path / "log", self.path / "lock"
        self.run = self.path / "run"
        if len(os.fsencode(self.run / "mongod.sock")) > LONGEST_SOCKET:
            self.run = _short_folder() / f"chatlab-{os.geteuid()}-{hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]}"

    def make(self) -> None:
        """OSError if it cannot be."""
        for folder in (self.path, self.db, self.log, self.run):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.lock.touch(mode=0o600)
        self._check_owner()

    def _check_owner(self) -> None:
        """The sockets are as private as their folder; under the temporary folder somebody else may have been there first."""
        found = self.run.lstat()
        if self.run.is_symlink() or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise EngineError(f"{self.run} is not a private folder of this user (mode 0700).", f"remove {self.run}")

    def check_disk(self) -> None:
        free, needed = shutil.disk_usage(self.db).free, self.disk_needed()
        if free < needed:
            raise EngineError(
                f"The disk of {self.path} has {free >> 20} MB free, and MongoDB needs {needed >> 20} MB.",
                MORE_DISK,
            )

    def disk_needed(self) -> int:
        """Bytes. The journal, once laid out, is used again."""
        journal = sum(file.stat().st_size for file in (self.db / "journal").glob("WiredTiger*log.*"))
        return max(USED_DISK, FRESH_DISK - journal)

    def unusable(self, wrong: OSError) -> EngineError:
        if wrong.errno in {errno.ENOSPC, errno.EDQUOT}:
            return EngineError(f"The disk of {self.path} is full.", MORE_DISK)
        return EngineError(f"The data folder {self.path} cannot be used: {wrong.strerror or wrong}.", OTHER_FOLDER)

    @contextlib.contextmanager
    def locked(self) -> Iterator[int | None]:
        """The lock as a file descriptor, or None: a keeper has it, or somebody who starts one. Whoever dies lets it go."""
        with self.lock.open("rb+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield lock.fileno()

    def order(self, name: Name, binary: str) -> dict[str, Any]:
        """What the keeper is told to run, and how."""
        log = str(self.log / f"{name}.log")
        order = {"do": "keep", "name": name, "folder": str(self.run), "log": log}
        if name == "redis":
            door = str(self.run / "redis.sock")
            argv = [binary, *REDIS.split(), "--save", "", "--unixsocket", door, "--dir", str(self.run), "--logfile", log]
            return order | {"argv": argv, "socket": door, "reopen": None}
        argv = [binary, *MONGOD.split(), "--dbpath", str(self.db), "--logpath", log]
        return order | {"argv": argv, "socket": str(self.run / "mongod.sock"), "reopen": signal.SIGUSR1}

    def url(self, name: Name) -> str:
        if name == "redis":
            return f"unix://{quote(str(self.run / 'redis.sock'))}"
        return f"mongodb://{quote(str(self.run / 'mongod.sock'), safe='')}/?directConnection=true"


def _short_folder() -> Path:
    """The same for everybody who uses the data folder, whatever their TMPDIR is."""
    return Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())  # noqa: S108 - the folder in it is checked


class Held:
    """A connection to the keeper: while it is open, the engines run."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(2 * keeper.STOP_WITHIN)
        try:
            self.socket.connect(str(path))
        except BaseException:
            self.socket.close()
            raise

    def ask(self, **order: Any) -> dict[str, Any]:
        """The state of all engines, after the order. OSError if the keeper goes away."""
        self.socket.sendall(json.dumps(order).encode() + b"\n")
        line = b""
        while not line.endswith(b"\n"):
            data = self.socket.recv(65_536)
            if not data:
                raise ConnectionResetError
            line += data
        states: dict[str, Any] = json.loads(line)
        return states

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def hold(folder: DataFolder) -> Held:
    """Join the keeper of this folder, or start one. One that is leaving is waited for."""
    until = time.monotonic() + READY_WITHIN
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            held = Held(folder.run / keeper.SOCKET)
            try:
                held.ask(do="status")
            except BaseException:
                held.socket.close()
                raise
            return held
        with folder.locked() as lock:
            if lock is not None:
                end_leftovers(folder)
                start_keeper(folder, lock)
                continue
        time.sleep(0.05)  # somebody else is starting the keeper, or it is stopping the engines
    raise EngineError(f"The keeper of {folder.path} does not answer.", f"end the process that `fuser {folder.lock}` names")


def start_keeper(folder: DataFolder, lock: int) -> None:
    """Returns when it listens. It inherits the lock."""
    command = [sys.executable, "-IS", keeper.__file__, str(folder.run), str(folder.log / "keeper.log"), str(lock)]
    started = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, pass_fds=[lock], start_new_session=True, check=False, env=environment()
    )
    if started.returncode:
        raise EngineError(f"The keeper of {folder.path} cannot start: {started.stderr.strip().rpartition(chr(10))[2]}.", OTHER_FOLDER)


def end_leftovers(folder: DataFolder) -> None:
    """Stop the engines of a keeper that was killed, where the kernel did not (it does on Linux, but a clean end takes a second)."""
    for file in folder.run.glob("*.pid"):
        with contextlib.suppress(psutil.Error, ValueError, OSError):
            process = psutil.Process(int(file.read_text()))
            if any(argument == str(folder.db) or str(folder.run / "redis.sock") in argument for argument in process.cmdline()):
                process.terminate()
                process.resume()  # a frozen process cannot hear
                _gone, alive = psutil.wait_procs([process], keeper.STOP_WITHIN)
                for stubborn in alive:
                    stubborn.kill()
        file.unlink(missing_ok=True)


class Engines:
    """Both engines, for as long as this is open. Closing it stops the private ones if nobody else uses them."""

    mongo: Engine
    redis: Engine

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        urls: dict[Name, str | None] = {"mongo": settings.mongo_url, "redis": settings.redis_url}
        self._private: list[Name] = [name for name, url in urls.items() if url is None]
        self._closed = threading.Event()
        self._held: Held | None = None
        self._watcher = threading.Thread(target=self._watch, name="chatlab-engines", daemon=True)
        try:
            engines = self._join() if self._private else {}
            engines |= {name: ask_named(name, url) for name, url in urls.items() if url is not None}
            self.mongo, self.redis = engines["mongo"], engines["redis"]
            if self._private:
                self._watcher.start()
        except BaseException:
            self.close()
            raise

    def stop(self, name: Name) -> None:
        """Stop a private engine for everybody who uses this folder, until `start`."""
        self._order("stop", name)

    def start(self, name: Name) -> None:
        """Start it again. Returns when it answers."""
        self._order("start", name)
        _settle(name, self._folder.url(name))

    def pid(self, name: Name) -> int | None:
        """The process of a private engine; None if it is stopped or not ours."""
        if name not in self._private:
            return None
        with contextlib.suppress(OSError), Held(self._folder.run / keeper.SOCKET) as caller:
            pid: int | None = caller.ask(do="status").get(name, {}).get("pid")
            return pid
        return None

    def close(self) -> None:
        """Let go. When this returns, the private engines are stopped, or somebody else still uses them."""
        self._closed.set()
        held = self._held
        if held:
            with contextlib.suppress(OSError):
                held.socket.settimeout(2 * keeper.STOP_WITHIN)
                held.socket.shutdown(socket.SHUT_WR)
                while held.socket.recv(65_536):  # the keeper hangs up when it is done
                    pass
            held.socket.close()
        if self._watcher.is_alive():
            self._watcher.join(1)  # seconds; it may be bringing a new keeper, and then lets go of it by itself

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _join(self) -> dict[Name, Engine]:
        self._folder = DataFolder(self._settings)
        try:
            self._folder.make()
            for _ in range(3):
                with contextlib.suppress(ConnectionError):  # the keeper was killed just now: the next one, then
                    return self._join_keeper()
        except OSError as wrong:
            raise self._folder.unusable(wrong) from None
        raise EngineError(f"The keeper of {self._folder.path} goes away again and again.", f"read {self._folder.log / 'keeper.log'}")

    def _join_keeper(self) -> dict[Name, Engine]:
        if self._held:
            self._held.socket.close()
        self._held = hold(self._folder)
        states = self._held.ask(do="status")
        for name in self._private:
            if name not in states:
                self._held.ask(**self._new_order(name))
        states = _await(self._held, self._private)
        return {name: self._engine(name, states[name]) for name in self._private}

    def _new_order(self, name: Name) -> dict[str, Any]:
        program = find_program(name, self._settings)
        if name == "mongo":
            self._folder.check_disk()
        return self._folder.order(name, program.path)

    def _engine(self, name: Name, state: dict[str, Any]) -> Engine:
        url, label = self._folder.url(name), KINDS[name].label
        if state["state"] == "stopped":
            return Engine(label, url, "", True, state["binary"], f"{label} was stopped on purpose, until it is started again")
        try:
            version = _settle(name, url)
        except EngineError as wrong:
            raise _why(name, state, wrong) from None
        return Engine(label, url, version, True, state["binary"], old_version(name, version))

    def _order(self, do: str, name: Name) -> None:
        if name not in self._private:
            raise EngineError(f"{KINDS[name].label} is not private: its URL is in the settings.", "stop and start it where it runs")
        with Held(self._folder.run / keeper.SOCKET) as caller:
            caller.ask(do=do, name=name)
            _await(caller, [name])

    def _watch(self) -> None:
        """Should the keeper be killed, its users bring a new one: the first of them starts it, the others join."""
        while not self._closed.is_set():
            assert self._held
            with contextlib.suppress(OSError):
                self._held.socket.settimeout(None)
                self._held.socket.recv(1)  # it never speaks: this ends when the keeper does
            if not self._closed.is_set():
                self._rejoin()
        if self._held:  # a new one, perhaps, that close() has not seen
            self._held.socket.close()

    def _rejoin(self) -> None:
        log.warning("the keeper of the private engines is gone: bringing a new one")
        pause = 0.1
        while not self._closed.is_set():
            try:
                self._join()
            except EngineError as wrong:
                log.error("the private engines cannot be had: %s (%s)", wrong.detail, wrong.fix)  # noqa: TRY400 - one sentence, no trace
                self._closed.wait(pause := min(2 * pause, 5))
            else:
                log.warning("the private engines are back")
                return


def open_engines(settings: Settings) -> Engines:
    """Both engines, ready. Raises EngineError with one clear sentence and what mends it; an engine that is not ours only gets a warning."""
    return Engines(settings)


def _await(held: Held, names: list[Name]) -> dict[str, Any]:
    """Until each is running, or stopped on purpose."""
    until = time.monotonic() + READY_WITHIN
    while True:
        states = held.ask(do="status")
        for name in names:
            if states[name]["state"] == "failed" or time.monotonic() > until:
                raise _why(name, states[name])
        if all(states[name]["state"] in {"running", "stopped"} for name in names):
            return states
        time.sleep(0.02)  # a look at a local process; nothing tells when it begins to answer


def _why(name: Name, state: dict[str, Any], otherwise: EngineError | None = None) -> EngineError:
    """From its own last words, if they are known."""
    path, label, code = Path(state["log"]), KINDS[name].label, state["code"]
    how = "it did not answer in time" if code is None else f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
    words = f"{how}\n{_complaints(path, state['from'])}"
    for pattern, sentence, mend in TROUBLES:
        if re.search(pattern, words):
            return EngineError(f"{label} did not start: {sentence} ({path.parent.parent}).", mend)
    return otherwise or EngineError(f"{label} did not start: {how}.", f"read {path}")


def _complaints(path: Path, start: int) -> str:
    """What the log says since this start, without mongod's information and warnings; on a full disk there may be no log at all."""
    if shutil.disk_usage(path.parent).free < 2**20:
        return os.strerror(errno.ENOSPC)
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(start)
        lines = file.read(2**20).decode(errors="replace").splitlines()
        return "\n".join(line for line in lines if '"s":"I"' not in line and '"s":"W"' not in line)
    return ""


def _settle(name: Name, url: str) -> str:
    """Its version, once it takes writes."""
    try:
        return _redis_version(url, READY_WITHIN) if name == "redis" else _primary(url)
    except (PyMongoError, RedisError) as wrong:
        raise EngineError(f"{KINDS[name].label} does not answer on its socket: {wrong}.", "try again, or `chatlab doctor`") from None


def _primary(url: str) -> str:
    """Make a fresh mongod the one member of its set, and wait until it takes writes."""
    until = time.monotonic() + READY_WITHIN
    with MongoClient[dict[str, Any]](url, timeoutMS=READY_WITHIN * 1000) as client:
        while not (hello := client.admin.command("hello"))["isWritablePrimary"]:
            if "setName" not in hello:
                with contextlib.suppress(OperationFailure):  # two may do it at once, or its configuration is still being read
                    client.admin.command("replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": "./mongod.sock"}]})
            if time.monotonic() > until:
                raise EngineError("MongoDB did not become a replica set in time.", "set CHATLAB_DATA_DIR to a new folder")
            time.sleep(0.01)  # it elects itself; nothing tells when
        return _mongo_version(client)


def _mongo_version(client: MongoClient[dict[str, Any]]) -> str:
    return str(client.server_info()["version"])


def _redis_version(url: str, timeout: float) -> str:
    client = Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0))
    with contextlib.closing(client):
        info = client.info("server")
    assert isinstance(info, dict)
    return f"{info['valkey_version']} (Valkey)" if "valkey_version" in info else str(info["redis_version"])


def ask_named(name: Name, url: str) -> Engine:
    """An engine that the settings name: it may be down now and come later."""
    label = KINDS[name].label
    try:
        version = _redis_version(url, ASK_WITHIN) if name == "redis" else _asked_mongo(url)
    except (ConfigurationError, ValueError) as wrong:
        raise EngineError(f"CHATLAB_{name.upper()}_URL cannot be used: {wrong}.", "correct it, or unset it for a private engine") from None
    except (PyMongoError, RedisError, OSError):
        return Engine(label, url, "", False, None, f"{label} does not answer yet at the URL in the settings")
    return Engine(label, url, version, False, None, old_version(name, version))


def _asked_mongo(url: str) -> str:
    with MongoClient[dict[str, Any]](url, timeoutMS=ASK_WITHIN * 1000, serverSelectionTimeoutMS=ASK_WITHIN * 1000) as client:
        return _mongo_version(client)
