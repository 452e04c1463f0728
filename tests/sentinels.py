"""A Redis with two replicas that three Sentinels watch, on this machine, with passwords."""

import contextlib
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from live import free_port
from own_servers import is_up
from waiting import LIMIT_S, block_until

from chatlab.local.binaries import environment, find_program
from chatlab.settings import load_settings

SERVICE, USER, DATABASE = "chat", "chatlab", 1
PASSWORD, SENTINEL_PASSWORD = secrets.token_hex(8), secrets.token_hex(8)
REDIS = f"""
save ""
requirepass {PASSWORD}
masterauth {PASSWORD}
user {USER} on >{PASSWORD} ~* &* +@all
repl-diskless-sync-delay 0
repl-ping-replica-period 1
"""
SENTINEL = f"""
requirepass {SENTINEL_PASSWORD}
sentinel sentinel-pass {SENTINEL_PASSWORD}
sentinel monitor {SERVICE} 127.0.0.1 {{primary}} 2
sentinel auth-pass {SERVICE} {PASSWORD}
sentinel down-after-milliseconds {SERVICE} 2000
sentinel failover-timeout {SERVICE} 3000
sentinel parallel-syncs {SERVICE} 2
"""


class Server:
    """One redis-server or Sentinel. A restart has the same port and, without `save`, no data."""

    def __init__(self, folder: Path, config: str, *options: str, password: str) -> None:
        folder.mkdir(parents=True)
        self.port, self._log, self._config = free_port(), folder / "log", folder / "config"
        self._config.write_text(f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n{config}")
        self._options = options
        self.client = redis.Redis(
            port=self.port, password=password, decode_responses=True, db=0 if options else DATABASE
        )
        self.start()

    def start(self) -> None:
        """Start it, and return once it answers."""
        program = find_program("redis", load_settings(mongo_url=None, redis_url=None)).path
        command = [program, str(self._config), *self._options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
        block_until(lambda: is_up(self.client.ping), "Redis to answer")

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End it with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._process.wait(LIMIT_S)


class SentinelGroup:
    """The servers. `url` is what a service needs to find the primary."""

    def __init__(self, folder: Path) -> None:
        self._all: list[Server] = []
        primary = self._start(folder / "one", REDIS, password=PASSWORD)
        replica = f"{REDIS}replicaof 127.0.0.1 {primary.port}\n"
        self.servers = [
            primary,
            *(self._start(folder / name, replica, password=PASSWORD) for name in ("two", "three")),
        ]
        block_until(lambda: self.replicas_of(primary), "replicas", is_reached=lambda n: n == 2)
        config = SENTINEL.format(primary=primary.port)
        self.sentinels = [
            self._start(folder / f"sentinel{n}", config, "--sentinel", password=SENTINEL_PASSWORD)
            for n in range(3)
        ]
        self.wait_until_complete()
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"redis+sentinel://{USER}:{PASSWORD}@{places}/{SERVICE}/{DATABASE}"
        self.url += f"?sentinel_password={SENTINEL_PASSWORD}"

    def _start(self, folder: Path, config: str, *options: str, password: str) -> Server:
        self._all.append(Server(folder, config, *options, password=password))
        return self._all[-1]

    @staticmethod
    def replicas_of(server: Server) -> int:
        """Return how many replicas have the data of this server."""
        replication = server.client.info("replication")
        return sum(
            replica["state"] == "online"
            for name, replica in replication.items()
            if name.startswith("slave") and isinstance(replica, dict)
        )

    def wait_until_complete(self) -> None:
        """Wait until each Sentinel knows the others and two replicas that work."""
        block_until(lambda: all(map(self._knows_all, self.sentinels)), "the Sentinels")

    @staticmethod
    def _knows_all(sentinel: Server) -> bool:
        state: Any = sentinel.client.sentinel_master(SERVICE)
        replicas: Any = sentinel.client.sentinel_slaves(SERVICE)
        working = [one for one in replicas if not one["is_sdown"] and not one["is_disconnected"]]
        linked = [one for one in working if one["master-link-status"] == "ok"]
        counts = [state["num-other-sentinels"], len(linked)]
        return counts == [2, 2] and state["flags"] == "master"

    def primary(self) -> Server:
        """Return the primary that the Sentinels agree on."""
        ports = block_until(
            self._known_ports, "the Sentinels to agree", is_reached=lambda found: len(found) == 1
        )
        return next(server for server in self.servers if server.port in ports)

    def _known_ports(self) -> set[int]:
        states: list[Any] = [one.client.sentinel_master(SERVICE) for one in self.sentinels]
        return {state["port"] for state in states}

    def wait_for_another_primary(self, old: Server) -> Server:
        """Return the next primary, once it accepts writes."""
        new: Server = block_until(
            self.primary, "another primary", is_reached=lambda server: server is not old
        )
        block_until(
            lambda: new.client.info("replication")["role"], "it", is_reached="master".__eq__
        )
        return new

    @contextlib.contextmanager
    def without_replication(self) -> Iterator[list[Server]]:
        """Let the replicas keep what they have, but get no more until the block ends."""
        primary = self.primary()
        replicas = [server for server in self.servers if server is not primary]
        for server in replicas:
            server.client.config_set("masterauth", "wrong")
            server.client.client_kill_filter(_type="master")
        block_until(lambda: self.replicas_of(primary), "no replicas", is_reached=lambda n: n == 0)
        try:
            yield replicas
        finally:
            for server in replicas:
                server.client.config_set("masterauth", PASSWORD)

    def close(self) -> None:
        for server in self._all:
            server.kill()
            server.client.close()
