"""MongoDB and Redis for the service: those that the settings name, or private ones.

If a URL is set, that server is only asked for its version. Otherwise `open_engines` connects to the
supervisor of the data folder (or starts it), lets it run mongod and redis-server, and waits until
both accept writes. The private servers listen only on unix sockets in the data folder, except a
Redis Cluster. Every failure until then is an EngineError.

A private MongoDB is one mongod, or a replica set with three members. The two have different data.
A private Redis is one redis-server, or a cluster of three primaries and three replicas, which
listens on ports of 127.0.0.1 and asks for a random password.
"""

import contextlib
import logging
import threading
from types import TracebackType
from typing import Any, Self

from chatlab.errors import EngineError
from chatlab.local.binaries import KINDS, MEMBERS, NODES, Member, Name, find_program, kind_of
from chatlab.local.data_folder import DataFolder
from chatlab.local.readiness import (
    Engine,
    check_configured,
    start_error,
    wait_until_complete,
    wait_until_running,
    wait_until_writable,
)
from chatlab.local.supervisor_client import SupervisorClient, connect_supervisor
from chatlab.local.versions import old_version
from chatlab.settings import Settings

__all__ = ["Engine", "Engines", "open_engines"]

log = logging.getLogger("chatlab.engines")

CONNECT_ATTEMPTS = 3  # each one fails only if the supervisor is killed at that moment
MAX_RECONNECT_DELAY_S = 5.0


class Engines:
    """Both servers, or only one of them, for as long as this is open.

    Closing it stops the private ones if no other process uses them. With `replica_set`, a private
    MongoDB has three members, which are called `mongo1` to `mongo3`. With `redis_cluster`, a
    private Redis is a cluster of `redis1` to `redis6`.
    """

    mongo: Engine
    redis: Engine

    def __init__(
        self,
        settings: Settings,
        *,
        only: Name | None = None,
        replica_set: bool = False,
        redis_cluster: bool = False,
    ) -> None:
        self._settings = settings
        self._folder = DataFolder(settings)
        urls: dict[Name, str | None] = {"mongo": settings.mongo_url, "redis": settings.redis_url}
        if only:
            urls = {only: urls[only]}
        self._members: dict[Name, list[Name | Member]] = {
            "mongo": [*MEMBERS] if replica_set else ["mongo"],
            "redis": [*NODES] if redis_cluster else ["redis"],
        }
        self._private = [
            server for kind, url in urls.items() if url is None for server in self._servers(kind)
        ]
        self._closed = threading.Event()
        self._client: SupervisorClient | None = None
        self._watcher = threading.Thread(target=self._watch, name="chatlab-engines", daemon=True)
        try:
            engines = self._open_private() if self._private else {}
            engines |= {name: check_configured(name, settings) for name, url in urls.items() if url}
            for name, engine in engines.items():
                setattr(self, name, engine)
            if self._private:
                self._watcher.start()
        except BaseException:
            self.close()
            raise

    @property
    def lifeline_fd(self) -> int | None:
        """The connection to the supervisor; None without private servers.

        They run until its last copy is closed, for example by the end of a child that inherits it.
        """
        return self._client.fileno() if self._client else None

    def stop(self, name: Name | Member) -> None:
        """Stop a private server for all processes that use this folder, until `start`."""
        self._command("stop", name)

    def start(self, name: Name | Member) -> None:
        """Start a private server again. Returns once it accepts writes, or is a secondary."""
        self._wait_until_writable(kind_of(name), self._command("start", name))

    def socket_of(self, name: Name | Member) -> str:
        """Return the path of the socket of a private server. Drivers call that of mongod a host."""
        return self._folder.socket_path(name)

    def port_of(self, node: Member) -> int:
        """Return the port of a node of the private Redis Cluster."""
        return self._folder.cluster_places().nodes[NODES.index(node)].port

    def pid(self, name: Name | Member) -> int | None:
        """Return the process id of a private server; None if it is stopped or set by a URL."""
        if name not in self._private:
            return None
        with contextlib.suppress(OSError), SupervisorClient(self._folder) as client:
            pid: int | None = client.send("status").get(name, {}).get("pid")
            return pid
        return None

    def close(self) -> None:
        """Disconnect.

        Afterwards the private servers are stopped, or another process still uses them.
        """
        self._closed.set()
        if self._client:
            self._client.disconnect()
        if self._watcher.is_alive():
            self._watcher.join(
                1
            )  # seconds; if it is reconnecting just now, it disconnects again by itself

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_private(self) -> dict[Name, Engine]:
        try:
            self._folder.create()
            for _ in range(CONNECT_ATTEMPTS):
                with contextlib.suppress(ConnectionError):
                    return self._connect()
        except OSError as error:
            raise self._folder.error_from(error) from None
        raise EngineError(
            f"The supervisor of {self._folder.path} ended {CONNECT_ATTEMPTS} times in a row.",
            f"read {self._folder.log / 'supervisor.log'}",
        )

    def _connect(self) -> dict[Name, Engine]:
        """Connect to the supervisor, let it run what is missing, and wait until the servers accept
        writes.
        """
        if self._client:
            self._client.close()
        self._client = connect_supervisor(self._folder)
        states = self._client.send("status")
        missing = [name for name in self._private if name not in states]
        programs = {kind: find_program(kind, self._settings) for kind in _kinds(missing)}
        self._folder.check_disk(name for name in missing if kind_of(name) == "mongo")
        if set(NODES) <= set(missing):
            self._folder.choose_cluster_places()
        for name in missing:
            self._client.send(**self._folder.add_command(name, programs[kind_of(name)].path))
        states = wait_until_running(self._client, self._private)
        return {kind: self._engine(kind, states) for kind in _kinds(self._private)}

    def _engine(self, kind: Name, states: dict[str, Any]) -> Engine:
        label, first = KINDS[kind].label, self._servers(kind)[0]
        url = self._folder.url(first)
        if first == "mongo1":
            url = self._folder.replica_set_url()
        elif first == "redis1":
            url = self._folder.cluster_places().url
        binary = states[first]["binary"]
        if any(states[name]["state"] == "stopped" for name in self._servers(kind)):
            warning = f"{label} was stopped on purpose and stays stopped until it is started again"
            return Engine(label, url, "", True, binary, warning)
        try:
            version = self._wait_until_writable(kind, states)
        except EngineError as error:
            raise start_error(first, states[first], error) from None
        return Engine(label, url, version, True, binary, old_version(label, version))

    def _servers(self, kind: Name) -> list[Name | Member]:
        return self._members[kind]

    def _wait_until_writable(self, kind: Name, states: dict[str, Any]) -> str:
        """Return the version once those of the servers that run accept writes."""
        servers = self._servers(kind)
        running = [name for name in servers if states[name]["state"] == "running"]
        if servers == [*NODES]:
            numbers = [servers.index(name) for name in running]
            return wait_until_complete(self._folder.cluster_places(), numbers)
        return wait_until_writable(
            kind, [*map(self._folder.url, running)], [*map(self._folder.host, servers)]
        )

    def _command(self, command: str, name: Name | Member) -> dict[str, Any]:
        """Send a command to the supervisor and return the states of all servers after it."""
        if name not in self._private:
            label, variable = KINDS[kind_of(name)].label, f"CHATLAB_{kind_of(name).upper()}_URL"
            raise EngineError(
                f"Cannot {command} {label}: {variable} is set, so it is not private.",
                f"{command} it where it runs",
            )
        with SupervisorClient(self._folder) as client:
            client.send(command, name=name)
            return wait_until_running(client, [name])

    def _watch(self) -> None:
        """Reconnect whenever the supervisor is killed.

        The first client to notice starts a new one.
        """
        while not self._closed.is_set():
            assert self._client
            self._client.wait_until_lost()
            if not self._closed.is_set():
                self._reconnect()
        if self._client:  # perhaps a new connection that close() has not seen
            self._client.close()

    def _reconnect(self) -> None:
        log.warning("lost the supervisor of the private servers; starting a new one")
        delay_s = 0.1
        while not self._closed.is_set():
            try:
                self._open_private()
            except EngineError as error:
                # One line without a stack trace: the message is meant for the user.
                log.error("cannot start the private servers: %s Fix: %s", error.detail, error.fix)  # noqa: TRY400
                delay_s = min(2 * delay_s, MAX_RECONNECT_DELAY_S)
                self._closed.wait(delay_s)
            else:
                log.warning("the private servers are running again")
                return


def _kinds(servers: list[Name | Member]) -> set[Name]:
    return {kind_of(name) for name in servers}


def open_engines(
    settings: Settings,
    *,
    only: Name | None = None,
    replica_set: bool = False,
    redis_cluster: bool = False,
) -> Engines:
    """Return both servers, or only this one, ready for use.

    With `replica_set`, a private MongoDB has three members. With `redis_cluster`, a private Redis
    is a cluster of three primaries with a replica each.

    A server configured by a URL that does not answer only gets a warning. Raises EngineError, with
    the fix, if a private server cannot be started.
    """
    return Engines(settings, only=only, replica_set=replica_set, redis_cluster=redis_cluster)
