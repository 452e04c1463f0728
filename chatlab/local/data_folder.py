"""The data folder of the private servers: its paths, its lock, its disk space.

It also knows the command line and the URL of each server.

    DATA_DIR/
    ├── lock    held by the supervisor as long as it runs
    ├── db/     the data of mongod (db1/, db2/, db3/: of a replica set with three members)
    ├── redis1/ ... redis6/, cluster.json: of a Redis Cluster
    ├── log/    mongo.log, redis.log, supervisor.log: a few MB each at most
    └── run/    the unix sockets, mode 0700

If the path of `run/` is too long for a socket, a folder under /tmp is used instead.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from chatlab.errors import EngineError
from chatlab.local import supervisor
from chatlab.local.binaries import MEMBERS, NODES, Member, Name, kind_of
from chatlab.local.cluster_places import Places, choose_places, read_places
from chatlab.settings import Settings

MONGODS: tuple[Name | Member, ...] = ("mongo", *MEMBERS)
REDIS_SERVERS: tuple[Name | Member, ...] = ("redis", *NODES)
MAX_SOCKET_PATH_BYTES = 100  # systems allow 103 to 107
# Before it answers, mongod creates a journal of three files in a new folder.
JOURNAL_FILE_MB = 16
NEW_FOLDER_DISK_BYTES, USED_FOLDER_DISK_BYTES = 128 * 2**20, 64 * 2**20
FIX_DISK = "free some disk space, or set CHATLAB_DATA_DIR to a folder on another disk"
FIX_FOLDER = "set CHATLAB_DATA_DIR to a folder that you can write to"

# mongod runs in run/ and knows itself, the only member of the replica set, by the relative path of
# its socket. So a folder that is moved is still the same replica set. Three members know each other
# by absolute paths, because clients get these from them. `--nounixsocket` turns off
# the other socket, in /tmp. Network compression is off because of its known security holes, and
# diagnostic data because it fills the disk, as would MongoDB's usual journal of 300 MB.
MONGOD_OPTIONS = f"""
    --nounixsocket --replSet rs0 --networkMessageCompressors disabled
    --wiredTigerCacheSizeGB 0.25 --setParameter diagnosticDataCollectionEnabled=false
    --wiredTigerEngineConfigString log=(file_max={JOURNAL_FILE_MB}MB)
    --quiet --logappend --logRotate reopen
"""
# A member that is stopped would wait for 15 s, so that clients can find another one first.
MEMBER_OPTIONS = "--setParameter shutdownTimeoutMillisForSignaledShutdown=100"
REDIS_OPTIONS = """
    --unixsocketperm 700 --daemonize no --appendonly no
    --maxmemory 256mb --maxmemory-policy volatile-ttl --notify-keyspace-events Ex
"""


class DataFolder:
    """The paths of one data folder. Two spellings of one real path are the same folder."""

    def __init__(self, settings: Settings) -> None:
        self.path = settings.data_dir.expanduser().resolve()
        self.db, self.log, self.lock = self.path / "db", self.path / "log", self.path / "lock"
        self.run = self.path / "run"
        if len(os.fsencode(self.run / supervisor.SOCKET)) > MAX_SOCKET_PATH_BYTES:
            digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
            self.run = _short_folder() / f"chatlab-{os.geteuid()}-{digest}"

    def create(self) -> None:
        """Create what is missing.

        Raises OSError if that fails, EngineError if run/ is not private.
        """
        for folder in (self.path, self.db, self.log, self.run):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.lock.touch(mode=0o600)
        self._check_run_is_private()

    def remove(self) -> None:
        """Delete the folder with all data. No supervisor may be running in it."""
        for folder in (self.run, self.path):
            shutil.rmtree(folder, ignore_errors=True)

    def _check_run_is_private(self) -> None:
        """The sockets are only as private as their folder, and another user may have created one in
        /tmp.
        """
        found = self.run.lstat()
        if self.run.is_symlink() or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise EngineError(
                f"{self.run} must be a folder that only you can use (your own, mode 0700).",
                f"remove {self.run}",
            )

    def db_of(self, server: Name | Member) -> Path:
        """Return the folder with the data of this mongod."""
        return self.path / server.replace("mongo", "db")

    def databases(self) -> list[Path]:
        """Return the folders with the data of all mongods that have run here."""
        return [db for server in MONGODS if (db := self.db_of(server)).exists()]

    def check_disk(self, servers: Iterable[Name | Member] = ("mongo",)) -> None:
        """Raise EngineError if the disk has too little free space for these mongods to start."""
        free, needed = shutil.disk_usage(self.db).free, self.needed_disk_bytes(servers)
        if free < needed:
            space = f"{free >> 20} MB free, but MongoDB needs {needed >> 20} MB"
            raise EngineError(f"The disk of {self.path} has {space}.", FIX_DISK)

    def needed_disk_bytes(self, servers: Iterable[Name | Member] = ("mongo",)) -> int:
        """Return the free space that these mongods need. Existing journals are used again."""
        return sum(_needed_disk_bytes(self.db_of(server)) for server in servers)

    def error_from(self, error: OSError) -> EngineError:
        """Return the error for the user when the operating system refuses an operation in this
        folder.
        """
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return EngineError(f"The disk of {self.path} is full.", FIX_DISK)
        return EngineError(
            f"Cannot use the data folder {self.path}: {error.strerror or error}.", FIX_FOLDER
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[int | None]:
        """Yield the lock's file descriptor, or None if the supervisor or a process that starts it
        has the lock.

        The kernel releases the lock when the last process that holds it ends.
        """
        with self.lock.open("rb+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield lock.fileno()

    def add_command(self, name: Name | Member, binary: str) -> dict[str, Any]:
        """Return the command that makes the supervisor run this server."""
        log, socket_path = str(self.log / f"{name}.log"), self.socket_path(name)
        if kind_of(name) == "redis":
            options = [*REDIS_OPTIONS.split(), "--save", "", "--unixsocket", socket_path]
            options += ["--logfile", log, *self._redis_options(name)]
        else:
            db = self.db_of(name)
            db.mkdir(mode=0o700, exist_ok=True)
            options = [*MONGOD_OPTIONS.split(), "--bind_ip", f"./{_socket_name(name)}"]
            options += ["--dbpath", str(db), "--logpath", log]
            options += MEMBER_OPTIONS.split() if name in MEMBERS else []
        return {
            "command": "add",
            "name": name,
            "argv": [binary, *options],
            "folder": str(self.run),
            "socket": socket_path,
            "log": log,
            # redis-server opens its log for each line
            "reopen_signal": signal.SIGUSR1 if kind_of(name) == "mongo" else None,
        }

    def _redis_options(self, name: Name | Member) -> list[str]:
        if name == "redis":
            return ["--port", "0", "--dir", str(self.run)]
        folder, number = self.path / name, REDIS_SERVERS.index(name) - 1
        config = self.cluster_places().write_config(folder, number)
        return ["--include", str(config), "--dir", str(folder)]

    def choose_cluster_places(self) -> None:
        """Choose ports and a password for a cluster of which no node runs."""
        before = self._cluster_file.read_bytes() if self._cluster_file.exists() else b""
        choose_places(self._cluster_file, len(NODES))
        if self._cluster_file.read_bytes() != before:  # nodes know each other by their ports
            for name in NODES:
                shutil.rmtree(self.path / name, ignore_errors=True)

    def cluster_places(self) -> Places:
        """Return where the nodes of the cluster listen."""
        return read_places(self._cluster_file)

    @property
    def _cluster_file(self) -> Path:
        return self.path / "cluster.json"

    def socket_path(self, name: Name | Member) -> str:
        return str(self.run / _socket_name(name))

    def host(self, name: Name | Member) -> str:
        """Return how the members of the replica set know this mongod."""
        return "./mongod.sock" if name == "mongo" else self.socket_path(name)

    def url(self, name: Name | Member) -> str:
        """Return the URL of this private server."""
        socket_path = self.socket_path(name)
        if kind_of(name) == "redis":
            return f"unix://{quote(socket_path)}"
        return f"mongodb://{quote(socket_path, safe='')}/?directConnection=true"

    def replica_set_url(self) -> str:
        """Return the URL of the replica set with three members."""
        hosts = ",".join(quote(self.socket_path(member), safe="") for member in MEMBERS)
        return f"mongodb://{hosts}/?replicaSet=rs0"


def _needed_disk_bytes(db: Path) -> int:
    journal = sum(file.stat().st_size for file in (db / "journal").glob("WiredTiger*log.*"))
    return max(USED_FOLDER_DISK_BYTES, NEW_FOLDER_DISK_BYTES - journal)


def _socket_name(name: Name | Member) -> str:
    return name.replace("mongo", "mongod") + ".sock"


def _short_folder() -> Path:
    """Return a folder with a short path, the same for all processes whatever their TMPDIR is."""
    usable = os.access("/tmp", os.W_OK)  # noqa: S108 - the folder inside it is checked
    return Path("/tmp") if usable else Path(tempfile.gettempdir())  # noqa: S108
