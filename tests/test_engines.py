"""The private engines: found, started, shared, stopped, and brought back; and what is said when they cannot be had."""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymongo import MongoClient
from redis import Redis

from chatlab import engines as engines_module
from chatlab import keeper, programs
from chatlab.engines import DataFolder, Engines, open_engines
from chatlab.errors import EngineError
from chatlab.programs import find_program, old_version
from chatlab.settings import Settings, load_settings

USER = """
import json, sys
from pathlib import Path
from chatlab.engines import open_engines
from chatlab.errors import EngineError
from chatlab.settings import load_settings
try:
    with open_engines(load_settings(data_dir=Path(sys.argv[1]))) as engines:
        pids = [engines.pid("mongo"), engines.pid("redis")]
        print(json.dumps({"mongo": engines.mongo.url, "redis": engines.redis.url, "pids": pids}), flush=True)
        sys.stdin.read()
except EngineError as wrong:
    print(json.dumps({"detail": wrong.detail, "mend": wrong.mend}), flush=True)
"""


class User:
    """Another process that uses the engines of a folder."""

    def __init__(self, folder: Path, *before: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CHATLAB_")}
        command = [*before, sys.executable, "-c", USER, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def told(self) -> dict[str, Any]:
        """What it says once the engines are there, or are not."""
        assert self.process.stdout
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        return told

    def leave(self) -> None:
        self.process.communicate(timeout=20)

    def die(self) -> None:
        self.process.kill()
        self.leave()


def settings_for(folder: Path, **more: object) -> Settings:
    """Settings with private engines in this folder."""
    return load_settings(data_dir=folder, mongo_url=None, redis_url=None, **more)


def processes(folder: Path) -> list[psutil.Process]:
    """The keeper and the engines of a folder."""
    places, found = (str(folder), str(DataFolder(settings_for(folder)).run)), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if process.pid != os.getpid() and "-c" not in line and any(place in part for part in line for place in places):
                found.append(process)
    return found


def named(folder: Path, what: str) -> psutil.Process:
    """The one whose command says so."""
    return next(process for process in processes(folder) if what in " ".join(process.cmdline()[:3]))


def wait_until(true: Callable[[], object], seconds: float = 10) -> None:
    """Until it is true; a failure if it takes longer."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.02)  # the condition is about other processes, which do not report to a test


def works(engines: Engines) -> bool:
    """A document can be written, and a key too."""
    with contextlib.suppress(Exception), MongoClient[Any](engines.mongo.url, timeoutMS=1000) as client:
        client.test.seen.insert_one({})
        with Redis.from_url(engines.redis.url) as redis:
            return bool(redis.set("seen", 1, ex=5))
    return False


def count(engines: Engines) -> int:
    """How many documents `write` has left."""
    with MongoClient[Any](engines.mongo.url, timeoutMS=5000) as client:
        return client.test.kept.count_documents({})


def write(url: str) -> None:
    """One document that must survive."""
    with MongoClient[Any](url, timeoutMS=5000) as client:
        client.test.kept.insert_one({})


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A data folder of this test; whatever still runs for it at the end is a failure, and is ended."""
    folder = tmp_path / "data"
    yield folder
    try:
        wait_until(lambda: not processes(folder))
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
    assert wrong.value.mend
    return wrong.value


def test_mongodb_is_a_replica_set(engines: Engines) -> None:
    """Transactions and change streams work on the URL that is handed out."""
    with MongoClient[Any](engines.mongo.url, timeoutMS=5000) as client, client.test.kept.watch() as changes:
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
    assert {path.name for path in run.iterdir() if path.is_socket()} == {"keeper.sock", "mongod.sock", "redis.sock"}


def test_two_that_start_at_once_share(folder: Path) -> None:
    """Two processes that open the same folder at the same moment get the same engines."""
    users = [User(folder), User(folder)]
    first, second = (user.told() for user in users)
    assert first == second
    for user in users:
        user.leave()


def test_the_last_one_stops_them(folder: Path) -> None:
    """Who leaves takes the engines from nobody; when the last one has left they are stopped, within about two seconds."""
    user = User(folder)
    told = user.told()
    with open_engines(settings_for(folder)) as engines:
        assert [engines.pid("mongo"), engines.pid("redis")] == told["pids"]
        user.leave()
        assert works(engines)
        assert engines.pid("mongo") == told["pids"][0]
        began = time.monotonic()
    assert time.monotonic() - began < 4  # about one here; two cores may be shared
    assert not any(psutil.pid_exists(pid) for pid in told["pids"])


def test_a_killed_user_leaves_no_orphan(folder: Path) -> None:
    """After kill -9 of the only user the engines end by themselves, and the next one finds all that was written."""
    user = User(folder)
    write(user.told()["mongo"])
    user.die()
    wait_until(lambda: not processes(folder))
    with open_engines(settings_for(folder)) as engines:
        assert count(engines) == 1


def test_who_comes_while_they_stop_waits(folder: Path) -> None:
    """A user that comes while the keeper is stopping the engines simply gets new ones."""
    user = User(folder)
    write(user.told()["mongo"])
    user.die()
    with open_engines(settings_for(folder)) as engines:
        assert count(engines) == 1


@pytest.mark.parametrize("name", ["mongo", "redis"])
def test_a_killed_engine_comes_back(engines: Engines, name: programs.Name) -> None:
    """After kill -9 of an engine: it is there again within two seconds or so, with all that was written."""
    write(engines.mongo.url)
    pid = engines.pid(name)
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: engines.pid(name) not in {None, pid} and works(engines), seconds=5)
    assert count(engines) == 1


def test_a_killed_keeper_comes_back(engines: Engines, folder: Path) -> None:
    """After kill -9 of the keeper: its user brings a new one, and the same URLs work again with all that was written."""
    write(engines.mongo.url)
    old = named(folder, "keeper.py")
    old.kill()
    wait_until(lambda: not old.is_running() and works(engines) and engines.pid("mongo"), seconds=10)
    assert count(engines) == 1


def test_all_killed_at_once_recovers(folder: Path) -> None:
    """After kill -9 of the user, the keeper and both engines: the next start has no stale lock to mind, and nothing is lost."""
    user = User(folder)
    write(user.told()["mongo"])
    everything = [named(folder, "keeper.py"), *(process for process in processes(folder) if "keeper.py" not in str(process.cmdline()))]
    for process in everything:
        process.kill()
    user.die()
    with open_engines(settings_for(folder)) as engines:
        assert count(engines) == 1


def test_a_leftover_is_ended(folder: Path) -> None:
    """An engine that outlived its keeper (where no kernel ends it) is found by its pid file and ended, frozen or not."""
    with open_engines(settings_for(folder)) as engines:
        write(engines.mongo.url)
    home = DataFolder(settings_for(folder))
    order = home.order("mongo", find_program("mongo", settings_for(folder)).path)
    with subprocess.Popen(order["argv"], cwd=order["folder"], stdout=subprocess.DEVNULL) as leftover:
        (home.run / "mongo.pid").write_text(str(leftover.pid))
        wait_until(lambda: keeper.answers(order["socket"]))
        engines_module._settle("mongo", home.url("mongo"))  # one that is still electing itself does not end in time
        leftover.send_signal(signal.SIGSTOP)
        with concurrent.futures.ThreadPoolExecutor() as reaper, open_engines(settings_for(folder)) as engines:
            assert reaper.submit(leftover.wait, 5).result() == 0
            assert count(engines) == 1


def test_a_stranger_with_the_pid_is_left_alone(folder: Path) -> None:
    """A pid file that names a process that is not our engine does it no harm."""
    home = DataFolder(settings_for(folder))
    home.make()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (home.run / "mongo.pid").write_text(str(stranger.pid))
        with open_engines(settings_for(folder)):
            assert stranger.poll() is None
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


@pytest.mark.parametrize("moment", ["lock", "run/keeper.sock", "run/mongo.pid", "run/mongod.sock"])
def test_ctrl_c_during_the_start(folder: Path, moment: str) -> None:
    """Ctrl-C at any moment of the start leaves no process behind, and the next start works."""
    user = User(folder)
    wait_until((folder / moment).exists)
    user.process.send_signal(signal.SIGINT)
    user.leave()
    wait_until(lambda: not processes(folder))
    with open_engines(settings_for(folder)) as engines:
        assert works(engines)


@pytest.mark.parametrize("name", ["Ä b%3C?#'", "x" * 120], ids=["odd", "too-long-for-a-socket"])
def test_any_folder_will_do(tmp_path: Path, name: str) -> None:
    """Spaces, percent signs, letters of any case, and a path too long for a socket work as they are."""
    folder = tmp_path / name
    with open_engines(settings_for(folder)) as engines:
        assert works(engines)
        assert {Path(process.cwd()) for process in processes(folder)} >= {DataFolder(settings_for(folder)).run}
    wait_until(lambda: not processes(folder))
    run = DataFolder(settings_for(folder)).run
    if not run.is_relative_to(folder):
        shutil.rmtree(run)


def test_a_folder_that_moves_is_the_same_set(folder: Path, tmp_path: Path) -> None:
    """A data folder that was renamed starts with all that was in it."""
    with open_engines(settings_for(folder)) as engines:
        write(engines.mongo.url)
    wait_until(lambda: not processes(folder))
    with open_engines(settings_for(folder.rename(tmp_path / "moved"))) as engines:
        assert count(engines) == 1
    wait_until(lambda: not processes(tmp_path / "moved"))


def test_a_short_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """A link or an open folder that lies where the sockets should be is named, and not used."""
    folder = tmp_path / ("x" * 120)
    run = DataFolder(settings_for(folder)).run
    run.symlink_to(tmp_path)
    try:
        assert str(run) in refused(folder).detail
        run.unlink()
        run.mkdir(mode=0o755)
        assert str(run) in refused(folder).mend
    finally:
        run.rmdir()


def test_a_folder_that_is_no_folder(tmp_path: Path) -> None:
    """A data folder that cannot be made is named, with the setting that mends it."""
    (tmp_path / "file").touch()
    wrong = refused(tmp_path / "file" / "data")
    assert str(tmp_path / "file" / "data") in wrong.detail
    assert "CHATLAB_DATA_DIR" in wrong.mend


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
    assert "CHATLAB_DATA_DIR" in wrong.mend


def test_a_full_disk_is_seen_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too little disk the message names the folder, what is free and what is needed, and nothing is started."""
    monkeypatch.setattr(engines_module, "FRESH_DISK", 2**60)
    wrong = refused(folder)
    assert str(folder) in wrong.detail
    assert f"{2**40} MB" in wrong.detail
    assert "free some disk" in wrong.mend


def test_a_limit_on_files(folder: Path) -> None:
    """When mongod ends in the middle of its start, the message says why in one sentence, to every process that waits."""
    users = [User(folder, "prlimit", f"--fsize={50 * 2**20}"), User(folder, "prlimit", f"--fsize={50 * 2**20}")]
    told = [user.told() for user in users]
    for user in users:
        user.leave()
    assert ["files may not grow" in one["detail"] and "ulimit -f" in one["mend"] for one in told] == [True, True], told


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
    monkeypatch.setattr(engines_module, "FRESH_DISK", 0)
    monkeypatch.setattr(engines_module, "USED_DISK", 0)
    folder.mkdir()
    with too_little_disk(folder):
        wrong = refused(folder)
        wait_until(lambda: not processes(folder))
    assert "the disk is full" in wrong.detail or "may not grow" in wrong.detail


def test_a_program_that_is_not_there(folder: Path) -> None:
    """A mongod named in the settings that does not exist is named."""
    wrong = refused(folder, mongod=folder / "mongod")
    assert f"{folder / 'mongod'}: No such file" in wrong.detail
    assert "CHATLAB_MONGOD" in wrong.mend


@pytest.mark.parametrize("name", ["mongo", "redis"])
def test_no_program_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch, name: programs.Name) -> None:
    """With nothing on the PATH and no wheel, the message says what to install."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(programs.KINDS, name, dataclasses.replace(programs.KINDS[name], wheels=()))
    assert refused(folder).mend == f"pip install {programs.wheel_for(name)}"


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
    assert "apt-get install libcurl4" in wrong.mend


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


def test_named_engines_that_are_down(tmp_path: Path) -> None:
    """Engines in the settings that do not answer are a warning within a few seconds, never an error: they may come later."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # bound and not listening: refused at once
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with open_engines(load_settings(data_dir=tmp_path, mongo_url=f"mongodb://{place}", redis_url=f"redis://{place}")) as engines:
            assert (engines.mongo.version, engines.redis.version) == ("", "")
            assert engines.mongo.warning
            assert engines.redis.warning
        assert time.monotonic() - began < 5


def test_a_full_disk_does_not_end_the_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """When its log cannot be written the keeper goes on without."""
    with open("/dev/full", "w", encoding="utf-8", buffering=1) as full:  # noqa: PTH123 - a device
        monkeypatch.setattr(sys, "stderr", full)
        keeper.say("redis ended with 1")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()  # what it could not write


def test_logs_stay_short(folder: Path) -> None:
    """A log that has grown long is put aside, over the one before, so a folder never holds more than two of each."""
    home = DataFolder(settings_for(folder))
    home.make()
    for log in ("mongo.log", "redis.log"):
        (home.log / log).write_bytes(b"x" * (keeper.LOG_BYTES + 1))
    with open_engines(settings_for(folder)):
        assert all((home.log / log).stat().st_size < 2**20 for log in ("mongo.log", "redis.log"))
        assert (home.log / "mongo.log.1").stat().st_size > keeper.LOG_BYTES


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
