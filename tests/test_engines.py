"""The private engines: how they are found, started, shared, stopped and restarted, and what the errors say."""

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
from chatlab.local.binaries import find_program, old_version
from chatlab.local.data_folder import DataFolder
from chatlab.local.engines import Engines, open_engines
from chatlab.local.readiness import wait_until_writable
from chatlab.settings import Settings, load_settings

USER = """
import json, os, sys, time
from pathlib import Path
from types import SimpleNamespace
from chatlab.local import supervisor_client
from chatlab.local.engines import open_engines
from chatlab.errors import EngineError
from chatlab.settings import load_settings

def sleep(seconds):  # `open_engines` sleeps only while another process holds the folder, or while MongoDB elects itself
    Path(sys.argv[1], f"waits.{os.getpid()}").touch()
    time.sleep(seconds)

supervisor_client.time = SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
try:
    with open_engines(load_settings(data_dir=Path(sys.argv[1]))) as opened:
        pids = [opened.pid("mongo"), opened.pid("redis")]
        print(json.dumps({"mongo": opened.mongo.url, "redis": opened.redis.url, "pids": pids}), flush=True)
        sys.stdin.read()
except EngineError as wrong:
    print(json.dumps({"detail": wrong.detail, "fix": wrong.fix}), flush=True)
"""


class User:
    """Another process that uses the engines of a folder."""

    def __init__(self, folder: Path, *before: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CHATLAB_")}
        command = [*before, sys.executable, "-c", USER, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def told(self) -> dict[str, Any]:
        """Wait until it has the engines, or has failed, and return what it printed."""
        assert self.process.stdout
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        return told

    def leave(self) -> None:
        """Let it close the engines and end."""
        self.process.communicate(timeout=LIMIT_S)

    def die(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.leave()


def settings_for(folder: Path, **more: object) -> Settings:
    """Settings with private engines in this folder."""
    return load_settings(data_dir=folder, mongo_url=None, redis_url=None, **more)


def processes(folder: Path) -> list[psutil.Process]:
    """Return the keeper and the engines of a folder."""
    places, found = (str(folder), str(DataFolder(settings_for(folder)).run)), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if process.pid != os.getpid() and "-c" not in line and any(place in part for part in line for place in places):
                found.append(process)
    return found


def wait_for_the_end(folder: Path) -> None:
    """Wait until no keeper and no engine of a folder runs."""
    block_until(lambda: processes(folder), f"the end of all processes of {folder}", is_reached=lambda seen: not seen)


def named(folder: Path, what: str) -> psutil.Process:
    """Return the process whose command line contains a word."""
    return next(process for process in processes(folder) if what in " ".join(process.cmdline()[:3]))


def works(engines: Engines) -> bool:
    """Return True if a document and a key can be written."""
    with contextlib.suppress(Exception), MongoClient[Any](engines.mongo.url, timeoutMS=5000) as client:
        client.test.seen.insert_one({})
        with Redis.from_url(engines.redis.url) as redis:
            return bool(redis.set("seen", 1, ex=5))
    return False


def count(engines: Engines) -> int:
    """Return the number of documents that `write` has stored."""
    with MongoClient[Any](engines.mongo.url, timeoutMS=LIMIT_S * 1000) as client:
        return client.test.kept.count_documents({})


def write(url: str) -> None:
    """Store one document, which must survive."""
    with MongoClient[Any](url, timeoutMS=LIMIT_S * 1000) as client:
        client.test.kept.insert_one({})


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A data folder of this test. A process that still runs for it at the end fails the test and is killed."""
    folder = tmp_path / "data"
    yield folder
    try:
        wait_for_the_end(folder)
    finally:
        for process in processes(folder):
            process.kill()


@pytest.fixture
def engines(folder: Path) -> Iterator[Engines]:
    """Private engines of this test."""
    with open_engines(settings_for(folder)) as found:
        yield found


def refused(folder: Path, **more: object) -> EngineError:
    """The one sentence with which a start is refused."""
    with pytest.raises(EngineError) as wrong:
        open_engines(settings_for(folder, **more))
    assert "\n" not in wrong.value.detail
    assert wrong.value.fix
    return wrong.value


def test_mongodb_is_a_replica_set(engines: Engines) -> None:
    """Transactions and change streams work on the URL that is handed out."""
    with MongoClient[Any](engines.mongo.url, timeoutMS=LIMIT_S * 1000) as client, client.test.kept.watch() as changes:
        with client.start_session() as session, session.start_transaction():
            client.test.kept.insert_one({"_id": 1}, session=session)
        assert changes.next()["documentKey"] == {"_id": 1}
        assert engines.mongo.version == client.server_info()["version"]


def test_redis_forgets_in_the_right_order(engines: Engines) -> None:
    """Redis keeps nothing on disk, gives up the keys that expire soonest when it is full, and tells of expired keys."""
    with Redis.from_url(engines.redis.url) as redis:
        wanted = {"save": "", "appendonly": "no", "maxmemory": str(256 * 2**20), "maxmemory-policy": "volatile-ttl", "port": "0"}
        assert {name: redis.config_get(name)[name] for name in wanted} == wanted
        assert set(redis.config_get("notify-keyspace-events")["notify-keyspace-events"]) == set("xE")


def test_nothing_listens_on_the_network(engines: Engines, folder: Path) -> None:
    """The engines and their keeper have no internet socket at all, and their unix sockets lie in a folder of this user alone."""
    run = DataFolder(settings_for(folder)).run
    assert run.stat().st_mode & 0o777 == 0o700
    for process in processes(folder):
        assert process.net_connections("inet") == []
        assert {place.laddr for place in process.net_connections("unix") if str(place.laddr).startswith("/tmp/mongodb-")} == set()
    assert {path.name for path in run.iterdir() if path.is_socket()} == {"supervisor.sock", "mongod.sock", "redis.sock"}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a data folder, as a process does that starts the keeper."""
    home = DataFolder(settings_for(folder))
    home.create()
    with home.lock.open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_two_that_start_at_once_share(folder: Path) -> None:
    """Two processes that wait for the lock of the same folder get the same engines when it is free."""
    with locked(folder):
        users = [User(folder), User(folder)]
        block_until(lambda: len(list(folder.glob("waits.*"))), "both users at the lock", is_reached=lambda seen: seen == 2)
    first, second = (user.told() for user in users)
    assert first == second
    for user in users:
        user.leave()


def test_the_last_one_stops_them(folder: Path) -> None:
    """A user that leaves does not stop the engines for others. When the last one has left, they are stopped."""
    user = User(folder)
    told = user.told()
    with open_engines(settings_for(folder)) as engines:
        assert [engines.pid("mongo"), engines.pid("redis")] == told["pids"]
        user.leave()
        assert works(engines)
        assert engines.pid("mongo") == told["pids"][0]
    assert not any(psutil.pid_exists(pid) for pid in told["pids"])


def test_a_killed_user_leaves_no_orphan(folder: Path) -> None:
    """After SIGKILL of the only user the engines end, and the next user finds all documents."""
    user = User(folder)
    write(user.told()["mongo"])
    user.die()
    wait_for_the_end(folder)
    with open_engines(settings_for(folder)) as engines:
        assert count(engines) == 1


def slow_to_end(program: Path, gate: Path) -> Path:
    """Write a redis-server that ignores SIGTERM until the file `gate` exists."""
    redis = find_program("redis", settings_for(gate.parent)).path
    wait = f'while [ ! -e "{gate}" ]; do sleep 0.05; done; kill $server'
    program.write_text(f'#!/bin/sh\n"{redis}" "$@" &\nserver=$!\ntrap \'{wait}\' TERM\nwait $server\nwait $server\n')
    program.chmod(0o700)
    return program


def test_a_user_waits_while_they_stop(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user that opens the folder while the keeper stops the engines waits, and gets new ones."""
    gate = tmp_path / "gate"
    monkeypatch.setenv("CHATLAB_REDIS_SERVER", str(slow_to_end(tmp_path / "redis-server", gate)))
    leaver = User(folder, "env", f"CHATLAB_REDIS_SERVER={tmp_path / 'redis-server'}")
    write(leaver.told()["mongo"])
    leaver.die()
    block_until(
        lambda: not supervisor.accepts_connections(str(DataFolder(settings_for(folder)).run / supervisor.SOCKET)),
        "a keeper that stops its engines",
    )

    def sleep(seconds: float) -> None:
        gate.touch()
        time.sleep(seconds)

    monkeypatch.setattr(supervisor_client, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    with open_engines(settings_for(folder)) as engines:
        assert gate.exists(), "the user did not have to wait"
        assert count(engines) == 1


@pytest.mark.parametrize("name", ["mongo", "redis"])
def test_a_killed_engine_comes_back(engines: Engines, name: programs.Name) -> None:
    """After SIGKILL the keeper starts the engine again, with all documents."""
    write(engines.mongo.url)
    pid = engines.pid(name)
    assert pid
    os.kill(pid, signal.SIGKILL)
    block_until(lambda: engines.pid(name) not in {None, pid} and works(engines), f"a new {name}")
    assert count(engines) == 1


def test_a_killed_keeper_comes_back(engines: Engines, folder: Path) -> None:
    """After SIGKILL of the keeper its user starts another one, and the same URLs work again with all documents."""
    write(engines.mongo.url)
    old = named(folder, "supervisor.py")
    old.kill()
    block_until(lambda: not old.is_running() and works(engines) and engines.pid("mongo"), "a new keeper with its engines")
    assert count(engines) == 1


def test_all_killed_at_once_recovers(folder: Path) -> None:
    """After SIGKILL of the user, the keeper and both engines the next start finds no stale lock and all documents."""
    user = User(folder)
    write(user.told()["mongo"])
    everything = [
        named(folder, "supervisor.py"),
        *(process for process in processes(folder) if "supervisor.py" not in str(process.cmdline())),
    ]
    for process in everything:
        process.kill()
    user.die()
    with open_engines(settings_for(folder)) as engines:
        assert count(engines) == 1


def test_a_leftover_is_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start finds an engine that outlived its keeper by its pid file and ends it cleanly, even a frozen one."""
    monkeypatch.setattr(supervisor, "STOP_TIMEOUT_S", LIMIT_S)  # seconds: SIGKILL would be no clean end
    with open_engines(settings_for(folder)) as engines:
        write(engines.mongo.url)
    home = DataFolder(settings_for(folder))
    order = home.add_command("mongo", find_program("mongo", settings_for(folder)).path)
    with subprocess.Popen(order["argv"], cwd=order["folder"], stdout=subprocess.DEVNULL) as leftover:
        (home.run / "mongo.pid").write_text(str(leftover.pid))
        block_until(lambda: supervisor.accepts_connections(order["socket"]), "an answer of mongod")
        wait_until_writable("mongo", home.url("mongo"))  # a mongod that is still electing itself ends late
        leftover.send_signal(signal.SIGSTOP)
        with concurrent.futures.ThreadPoolExecutor() as reaper, open_engines(settings_for(folder)) as engines:
            assert reaper.submit(leftover.wait, LIMIT_S).result() == 0
            assert count(engines) == 1


def test_a_stranger_with_the_pid_is_left_alone(folder: Path) -> None:
    """A process that is named in a pid file but is not our engine keeps running."""
    home = DataFolder(settings_for(folder))
    home.create()
    with subprocess.Popen(["sleep", "infinity"]) as stranger:
        try:
            (home.run / "mongo.pid").write_text(str(stranger.pid))
            with open_engines(settings_for(folder)):
                assert stranger.poll() is None
        finally:
            stranger.kill()


def test_an_outage_on_purpose(engines: Engines, folder: Path) -> None:
    """A stopped engine stays stopped for everybody, a newcomer is told so, and start brings it back as it was."""
    write(engines.mongo.url)
    engines.stop("mongo")
    assert engines.pid("mongo") is None
    with open_engines(settings_for(folder)) as newcomer:
        assert newcomer.mongo.version == ""
        assert newcomer.mongo.warning
        assert newcomer.redis.version
    engines.start("mongo")
    assert count(engines) == 1


@pytest.mark.parametrize("moment", ["lock", "run/supervisor.sock", "run/mongo.pid", "run/mongod.sock"])
def test_ctrl_c_during_the_start(folder: Path, moment: str) -> None:
    """Ctrl-C during the start leaves no process behind, and the next start works."""
    user = User(folder)
    block_until((folder / moment).exists, moment)
    user.process.send_signal(signal.SIGINT)
    user.leave()
    wait_for_the_end(folder)
    with open_engines(settings_for(folder)) as engines:
        assert works(engines)


@pytest.mark.parametrize("name", ["Ä b%3C?#'", "x" * 120], ids=["odd", "too-long-for-a-socket"])
def test_any_folder_will_do(tmp_path: Path, name: str) -> None:
    """Spaces, percent signs, letters of any case, and a path too long for a socket work as they are."""
    folder = tmp_path / name
    with open_engines(settings_for(folder)) as engines:
        assert works(engines)
        assert {Path(process.cwd()) for process in processes(folder)} >= {DataFolder(settings_for(folder)).run}
    wait_for_the_end(folder)
    run = DataFolder(settings_for(folder)).run
    if not run.is_relative_to(folder):
        shutil.rmtree(run)


def test_a_folder_that_moves_is_the_same_set(folder: Path, tmp_path: Path) -> None:
    """A data folder that was renamed starts with all that was in it."""
    with open_engines(settings_for(folder)) as engines:
        write(engines.mongo.url)
    wait_for_the_end(folder)
    with open_engines(settings_for(folder.rename(tmp_path / "moved"))) as engines:
        assert count(engines) == 1
    wait_for_the_end(tmp_path / "moved")


def test_a_short_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """A link or an open folder that lies where the sockets should be is named, and not used."""
    folder = tmp_path / ("x" * 120)
    run = DataFolder(settings_for(folder)).run
    run.symlink_to(tmp_path)
    try:
        assert str(run) in refused(folder).detail
        run.unlink()
        run.mkdir(mode=0o755)
        assert str(run) in refused(folder).fix
    finally:
        run.rmdir()


def test_a_folder_that_is_no_folder(tmp_path: Path) -> None:
    """A data folder that cannot be made is named, with the setting that mends it."""
    (tmp_path / "file").touch()
    wrong = refused(tmp_path / "file" / "data")
    assert str(tmp_path / "file" / "data") in wrong.detail
    assert "CHATLAB_DATA_DIR" in wrong.fix


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small disk of its own, for root."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "chatlab-test", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """For root a read-only mount (a mode does not bite root), for anybody else a mode."""
    if os.geteuid() == 0:
        with mounted(folder, "ro,size=1m"):
            yield
    else:
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)


def test_a_read_only_folder(folder: Path) -> None:
    """A read-only data folder is named, with the setting that mends it."""
    folder.mkdir()
    with read_only(folder):
        wrong = refused(folder)
    assert str(folder) in wrong.detail
    assert "CHATLAB_DATA_DIR" in wrong.fix


def test_a_full_disk_is_seen_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too little disk the message names the folder, what is free and what is needed, and nothing is started."""
    monkeypatch.setattr(data_folder, "NEW_FOLDER_DISK_BYTES", 2**60)
    wrong = refused(folder)
    assert str(folder) in wrong.detail
    assert f"{2**40} MB" in wrong.detail
    assert "free some disk" in wrong.fix


def test_a_limit_on_files(folder: Path) -> None:
    """When mongod ends in the middle of its start, the message says why in one sentence, to every process that waits."""
    users = [User(folder, "prlimit", f"--fsize={50 * 2**20}"), User(folder, "prlimit", f"--fsize={50 * 2**20}")]
    told = [user.told() for user in users]
    for user in users:
        user.leave()
    assert ["files may not grow" in one["detail"] and "ulimit -f" in one["fix"] for one in told] == [True, True], told


@contextlib.contextmanager
def too_little_disk(folder: Path) -> Iterator[None]:
    """For root a disk that is too small, for anybody else a limit that is."""
    if os.geteuid() == 0:
        with mounted(folder, "size=256k"):
            yield
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50 * 2**20, hard))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_during_the_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fills up while mongod starts, the message says so."""
    monkeypatch.setattr(data_folder, "NEW_FOLDER_DISK_BYTES", 0)
    monkeypatch.setattr(data_folder, "USED_FOLDER_DISK_BYTES", 0)
    folder.mkdir()
    with too_little_disk(folder):
        wrong = refused(folder)
        wait_for_the_end(folder)
    assert "the disk is full" in wrong.detail or "may not grow" in wrong.detail


def test_a_program_that_is_not_there(folder: Path) -> None:
    """A mongod named in the settings that does not exist is named."""
    wrong = refused(folder, mongod=folder / "mongod")
    assert f"{folder / 'mongod'}: No such file" in wrong.detail
    assert "CHATLAB_MONGOD" in wrong.fix


@pytest.mark.parametrize("name", ["mongo", "redis"])
def test_no_program_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch, name: programs.Name) -> None:
    """With nothing on the PATH and no wheel, the message says what to install."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(programs.KINDS, name, dataclasses.replace(programs.KINDS[name], wheels=()))
    assert refused(folder).fix == f"pip install {programs.wheel_for(name)}"


def broken(path: Path) -> Path:
    """A mongod that says what ld.so says when libcurl is not installed."""
    said = f"{path}: error while loading shared libraries: libcurl.so.4: cannot open shared object file: No such file or directory"
    path.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 127\n")
    path.chmod(0o700)
    return path


def test_a_missing_library(folder: Path, tmp_path: Path) -> None:
    """A mongod that cannot load a library: the message names the library and the package that has it."""
    wrong = refused(folder, mongod=broken(tmp_path / "mongod"))
    assert "libcurl.so.4" in wrong.detail
    assert "apt-get install libcurl4" in wrong.fix


def test_a_broken_program_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mongod on the PATH that does not run is passed over for the next one that does."""
    monkeypatch.setenv("PATH", f"{broken(tmp_path / 'mongod').parent}:{os.environ['PATH']}")
    assert shutil.which("mongod") == str(tmp_path / "mongod")
    monkeypatch.setattr(shutil, "which", lambda program, which=shutil.which: which(program, path=str(tmp_path)))
    assert find_program("mongo", settings_for(tmp_path)).path != str(tmp_path / "mongod")


def test_engines_that_are_named_are_only_asked(engines: Engines, folder: Path) -> None:
    """With both URLs in the settings nothing is started, and nobody may stop what is not ours."""
    before = {process.pid for process in processes(folder)}
    with open_engines(load_settings(data_dir=folder, mongo_url=engines.mongo.url, redis_url=engines.redis.url)) as others:
        assert (others.mongo.version, others.mongo.private, others.pid("mongo")) == (engines.mongo.version, False, None)
        assert (others.redis.version, others.redis.private, others.redis.url) == (engines.redis.version, False, engines.redis.url)
        with pytest.raises(EngineError):
            others.stop("redis")
    assert {process.pid for process in processes(folder)} == before


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "never-answers"])
def test_named_engines_that_are_down(tmp_path: Path, listens: bool) -> None:
    """Engines in the settings that refuse connections or never answer give a warning and no error: they may start later."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # without `listen` the kernel refuses every connection
        if listens:
            silent.listen()
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        with open_engines(load_settings(data_dir=tmp_path, mongo_url=f"mongodb://{place}", redis_url=f"redis://{place}")) as engines:
            assert (engines.mongo.version, engines.redis.version) == ("", "")
            assert engines.mongo.warning
            assert engines.redis.warning


def test_a_full_disk_does_not_end_the_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """When its log cannot be written the keeper goes on without."""
    with open("/dev/full", "w", encoding="utf-8", buffering=1) as full:  # noqa: PTH123 - a device
        monkeypatch.setattr(sys, "stderr", full)
        supervisor.log_line("redis ended with 1")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()  # what it could not write


def test_logs_stay_short(folder: Path) -> None:
    """A log that has grown long is put aside, over the one before, so a folder never holds more than two of each."""
    home = DataFolder(settings_for(folder))
    home.create()
    for log in ("mongo.log", "redis.log"):
        (home.log / log).write_bytes(b"x" * (supervisor.MAX_LOG_BYTES + 1))
    with open_engines(settings_for(folder)):
        assert all((home.log / log).stat().st_size < 2**20 for log in ("mongo.log", "redis.log"))
        assert (home.log / "mongo.log.1").stat().st_size > supervisor.MAX_LOG_BYTES


@pytest.mark.parametrize(
    ("name", "version", "old"),
    [
        ("mongo", "6.0.5", True),
        ("mongo", "6.0.27", False),
        ("mongo", "5.0.31", True),
        ("mongo", "7.0.28", False),
        ("mongo", "8.0.16", True),
        ("mongo", "8.0.17", False),
        ("mongo", "9.0.0", False),
        ("redis", "8.2.1", True),
        ("redis", "8.2.3", False),
        ("redis", "7.0.15", True),
        ("redis", "6.2.20", False),
        ("redis", "9.1.2 (Valkey)", False),
        ("redis", "8.1.3 (Valkey)", True),
    ],
)
def test_old_releases_are_named(name: programs.Name, version: str, old: bool) -> None:
    """A release with known holes gets a warning, one that has them closed gets none."""
    assert bool(old_version(name, version)) is old


def test_engines_find_the_libraries_of_a_conda_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a conda environment an engine is run with conda's libraries, behind those that were asked for."""
    (tmp_path / "conda-meta").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/first")
    assert programs.environment()["LD_LIBRARY_PATH"] == f"/first:{tmp_path}/lib"
