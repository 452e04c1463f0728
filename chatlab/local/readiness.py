"""Which version a server runs, when it is ready, and why a private one did not start."""

import contextlib
import errno
import os
import re
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dns.exception import DNSException
from pymongo import MongoClient
from pymongo.errors import ConfigurationError, OperationFailure, PyMongoError
from redis.cluster import RedisCluster
from redis.exceptions import RedisError

from chatlab.connections.cluster import SLOTS
from chatlab.connections.diagnosis import diagnose, diagnose_kind
from chatlab.connections.redis import connect_blocking
from chatlab.errors import EngineError
from chatlab.local.binaries import KINDS, Member, Name, kind_of
from chatlab.local.cluster_places import Places
from chatlab.local.data_folder import FIX_DISK, FIX_FOLDER
from chatlab.local.redis_cluster import version_of, wait_until_cluster
from chatlab.local.supervisor_client import SupervisorClient
from chatlab.local.versions import old_version
from chatlab.server_urls import redact, unsafe_tls
from chatlab.settings import Settings

READY_TIMEOUT_S = 60.0  # a busy machine needs more than 20
CLUSTER_VERSION = 7  # the first one with sharded pub/sub
VERSION_TIMEOUT_S = 1.5  # for a server that is configured by a URL
# Of a replica set with several members. By default an election begins after 10 s.
MEMBER_SETTINGS = {"electionTimeoutMillis": 3000, "heartbeatIntervalMillis": 500}

# A pattern in the log or exit status of a server that did not start, what it means, and how to fix
# it.
START_FAILURES = (
    (r"No space left on device|Disk quota", "the disk is full", FIX_DISK),
    (
        r"SIGXFSZ|File too large",
        "its files may not grow large enough",
        "raise the file size limit that `ulimit -f` shows",
    ),
    (
        r"Read-only file system|Permission denied|Operation not permitted",
        "it cannot write to its folder",
        FIX_FOLDER,
    ),
    (
        r"DBPathInUse|Unable to lock",
        "another mongod uses its folder",
        "stop that mongod, or set CHATLAB_DATA_DIR to another folder",
    ),
    (
        r"featureCompatibilityVersion|unsupported WiredTiger|IncompatibleServerVersion",
        "its data was written by another version of MongoDB",
        "set CHATLAB_MONGOD to a mongod of that version, or CHATLAB_DATA_DIR to a new folder",
    ),
)


@dataclass(frozen=True)
class Engine:
    """A MongoDB or Redis in use.

    `version` is empty while it cannot be used; `warning` is for the user, with its `fix`.
    """

    name: str
    url: str = field(repr=False)  # it may contain a password
    version: str
    private: bool
    binary: str | None
    warning: str | None
    fix: str = ""


def check_configured(name: Name, settings: Settings) -> Engine:
    """Ask the server at a URL from the settings for its version, and whether it can be used.

    It may be down now and start later.

    Raises EngineError if the URL itself is invalid.
    """
    label, url = KINDS[name].label, settings.redis_url if name == "redis" else settings.mongo_url
    assert url
    try:
        version, warning = _ask_redis(url) if name == "redis" else _ask_mongo(url, settings)
    except (PyMongoError, RedisError, OSError, ValueError) as error:
        return _unusable(name, url, error)
    if option := unsafe_tls(url):
        warning = warning or (
            f"The certificate of {label} is not checked, because of {option} in the URL",
            "name the file of its authority instead, with tlsCAFile or ssl_ca_certs",
        )
    if warning is None and (old := old_version(label, version)):
        warning = old, ""
    return Engine(label, url, version, False, None, *(warning or (None, "")))


def _unusable(name: Name, url: str, error: Exception) -> Engine:
    """Return the engine of a server that reported an error or does not answer.

    Raises EngineError if the driver finds the URL invalid.
    """
    label = KINDS[name].label
    found = diagnose("Redis" if name == "redis" else "MongoDB", error)
    is_dns = isinstance(error.__cause__, DNSException)  # of `mongodb+srv://`
    if found is None and not is_dns and isinstance(error, ConfigurationError | ValueError):
        raise EngineError(
            f"CHATLAB_{name.upper()}_URL is not usable: {redact(str(error))}.",
            "correct the URL, or unset it to use a private server",
        ) from None
    if found is None:
        warning = f"{label} does not answer yet at the URL in the settings"
        return Engine(label, url, "", False, None, warning)
    return Engine(label, url, "", False, None, f"{label} {found.problem}", found.fix)


def wait_until_running(client: SupervisorClient, names: list[Name | Member]) -> dict[str, Any]:
    """Return the states of all servers once these are running, or were stopped with `Engines.stop`.

    Raises EngineError if one fails, or is still not running after READY_TIMEOUT_S.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        states = client.send("status")
        for name in names:
            if states[name]["state"] == "failed" or time.monotonic() > deadline:
                raise start_error(name, states[name])
        if all(states[name]["state"] in {"running", "stopped"} for name in names):
            return states
        time.sleep(0.02)  # a server does not announce that it is ready


def wait_until_writable(name: Name, urls: list[str], hosts: list[str]) -> str:
    """Return the version of a private server once it accepts writes. Raises EngineError.

    `urls` are those of the members of a replica set that run, `hosts` the addresses of all members.
    """
    try:
        if name == "redis":
            return _redis_version(urls[0], READY_TIMEOUT_S)
        return wait_until_replica_set(urls, hosts)
    except (PyMongoError, RedisError) as error:
        raise EngineError(
            f"{KINDS[name].label} does not answer on its socket: {error}.",
            "try again, or run `chatlab doctor`",
        ) from None


def wait_until_complete(places: Places, running: list[int]) -> str:
    """Return the version of a private Redis Cluster once each slot has a primary.

    `running` are the numbers of the nodes that run. Raises EngineError.
    """
    try:
        return wait_until_cluster(places, running, READY_TIMEOUT_S)
    except RedisError as error:
        raise EngineError(
            f"A node of the Redis Cluster does not answer: {error}.",
            "try again, or run `chatlab doctor`",
        ) from None


def start_error(
    name: Name | Member, state: dict[str, Any], default: EngineError | None = None
) -> EngineError:
    """Return the error that explains why a server did not start, from the end of its log.

    Without a known cause it is `default`, or an error that names the log.
    """
    log, outcome = Path(state["log"]), _describe_exit(state["exit_code"])
    label = KINDS[kind_of(name)].label
    evidence = f"{outcome}\n{_errors_in_log(log, state['log_offset'])}"
    for pattern, cause, fix in START_FAILURES:
        if re.search(pattern, evidence):
            return EngineError(f"{label} did not start: {cause} ({log.parent.parent}).", fix)
    return default or EngineError(f"{label} did not start: {outcome}.", f"read {log}")


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is None:
        return f"it did not answer within {READY_TIMEOUT_S:g} s"
    return (
        f"exit code {exit_code}"
        if exit_code >= 0
        else f"ended by {signal.Signals(-exit_code).name}"
    )


def _errors_in_log(log: Path, offset: int) -> str:
    """Return the log from this offset on, without mongod's lines of severity information and
    warning.

    On a full disk there may be no log, so the result is the operating system's message for that.
    """
    if shutil.disk_usage(log.parent).free < 2**20:
        return os.strerror(errno.ENOSPC)
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(offset)
        lines = file.read(2**20).decode(errors="replace").splitlines()
        return "\n".join(line for line in lines if '"s":"I"' not in line and '"s":"W"' not in line)
    return ""


def wait_until_replica_set(urls: list[str], hosts: list[str]) -> str:
    """Initiate the replica set of new members, wait until it accepts writes, return its version.

    `urls` are those of the members that run. All of them have the data in the end. If they are no
    majority, they elect no primary. `hosts` are the addresses of all members. Raises EngineError,
    PyMongoError.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S * len(hosts)
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(MongoClient[dict[str, Any]](url, timeoutMS=READY_TIMEOUT_S * 1000))
            for url in urls
        ]
        while True:
            members = [client.admin.command("hello") for client in clients]
            primaries = sum(member["isWritablePrimary"] for member in members)
            secondaries = sum(member["secondary"] for member in members)
            has_primary = primaries > 0 or 2 * len(urls) <= len(hosts)
            if has_primary and primaries + secondaries == len(urls):
                return _mongo_version(clients[0])
            if "setName" not in members[0]:
                _initiate(clients[0], hosts)
            if time.monotonic() > deadline:
                raise EngineError(
                    f"MongoDB did not elect a primary within {READY_TIMEOUT_S * len(hosts):g} s.",
                    "set CHATLAB_DATA_DIR to a new folder",
                )
            time.sleep(0.01)  # a server does not announce the end of its election


def _initiate(client: MongoClient[dict[str, Any]], hosts: list[str]) -> None:
    config: dict[str, Any] = {
        "_id": "rs0",
        "members": [{"_id": number, "host": host} for number, host in enumerate(hosts)],
    }
    if len(hosts) > 1:
        config["settings"] = MEMBER_SETTINGS
    # It fails if another process does it at the same time, or while mongod still reads its
    # configuration.
    with contextlib.suppress(OperationFailure):
        client.admin.command("replSetInitiate", config)


def _ask_mongo(url: str, settings: Settings) -> tuple[str, tuple[str, str] | None]:
    """Return the version, and a warning if it is no replica set. Raises PyMongoError.

    The version is public. So one document is read first, which needs a primary and the right.
    """
    timeout_ms = VERSION_TIMEOUT_S * 1000
    with MongoClient[dict[str, Any]](
        url,
        timeoutMS=timeout_ms,
        serverSelectionTimeoutMS=timeout_ms,
        connectTimeoutMS=timeout_ms,  # also for the DNS query of mongodb+srv://
    ) as client:
        client[settings.database]["installation"].find_one()
        hello, version = client.admin.command("hello"), _mongo_version(client)
    if hello.get("secondary"):
        return version, (
            "MongoDB is a secondary, which accepts no writes",
            "name all members of the replica set in CHATLAB_MONGO_URL, without directConnection",
        )
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        return version, (
            "MongoDB is not a replica set, so a message is lost with this one server",
            "start it with --replSet, and initiate it with rs.initiate() in mongosh",
        )
    return version, None


def _ask_redis(url: str) -> tuple[str, tuple[str, str] | None]:
    """Return the version, and a warning if the cache cannot use this server. Raises RedisError.

    HELLO needs no right of an ACL.
    """
    client: Any
    with connect_blocking(url, VERSION_TIMEOUT_S) as client:
        is_cluster = isinstance(client, RedisCluster)
        options = {"target_nodes": client.get_default_node()} if is_cluster else {}
        reply: Any = client.execute_command("HELLO", **options)
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    about = {_text(key): _text(value) for key, value in pairs}
    version = about["version"] + (" (Valkey)" if about["server"] == "valkey" else "")
    if is_cluster:
        return version, _warn_of_cluster(client, version)
    found = diagnose_kind(about["mode"]) or diagnose_kind(about.get("role", ""))
    return version, found and (f"Redis {found.problem}", found.fix)


def _warn_of_cluster(client: Any, version: str) -> tuple[str, str] | None:
    """Return a warning if the cache cannot use all of this cluster."""
    if int(version.partition(".")[0]) < CLUSTER_VERSION:
        return (
            "Redis has no sharded pub/sub, so no process gets the events of another one",
            f"use Redis {CLUSTER_VERSION} or newer for a cluster",
        )
    if (count := len(client.nodes_manager.slots_cache)) < SLOTS:
        return (
            f"The Redis Cluster has a primary for {count} of its {SLOTS} slots only",
            "look at CLUSTER SHARDS in redis-cli",
        )
    return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _mongo_version(client: MongoClient[dict[str, Any]]) -> str:
    return str(client.server_info()["version"])


def _redis_version(url: str, timeout_s: float) -> str:
    with connect_blocking(url, timeout_s) as client:
        return version_of(client)
