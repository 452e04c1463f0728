"""Where the nodes of a private Redis Cluster listen: ports of this machine, and a random password.

A cluster needs TCP. Ports and password are kept in the data folder, so that a cluster that is
started again has the same URL.
"""

import contextlib
import json
import secrets
import socket
from pathlib import Path
from typing import NamedTuple

HOST = "127.0.0.1"
# A primary that is silent for 2 s is replaced. The others serve their keys meanwhile.
CONFIG = """
bind {host}
port {port}
cluster-port {bus_port}
cluster-enabled yes
cluster-announce-ip {host}
cluster-node-timeout 2000
cluster-replica-validity-factor 0
cluster-require-full-coverage no
cluster-allow-replica-migration no
repl-diskless-sync-delay 0
repl-ping-replica-period 1
requirepass {password}
masterauth {password}
"""


class Place(NamedTuple):
    """The ports of a node: for clients, and for the other nodes."""

    port: int
    bus_port: int


class Places(NamedTuple):
    """Where the nodes of a cluster listen, and their password."""

    nodes: list[Place]
    password: str

    @property
    def url(self) -> str:
        """Return the URL of the cluster."""
        hosts = ",".join(f"{HOST}:{place.port}" for place in self.nodes)
        return f"redis+cluster://:{self.password}@{hosts}"

    def write_config(self, folder: Path, number: int) -> Path:
        """Write the configuration of a node to its folder, where only this user can read it.

        The command line of a process is public, and so no place for a password.
        """
        place, file = self.nodes[number], folder / "redis.conf"
        folder.mkdir(mode=0o700, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(CONFIG.format(host=HOST, password=self.password, **place._asdict()))
        return file


def choose_places(file: Path, count: int) -> Places:
    """Return the places that the file has, or new ones if there is no file or a port is taken."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        places = read_places(file)
        if len(places.nodes) == count and all(_is_free(p) for ports in places.nodes for p in ports):
            return places
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(_listen(0)) for _ in range(2 * count)]
        ports = [listener.getsockname()[1] for listener in listeners]
    places = Places([*map(Place, ports[:count], ports[count:])], secrets.token_hex(16))
    file.touch(mode=0o600)
    file.write_text(json.dumps(places._asdict()))
    return places


def read_places(file: Path) -> Places:
    """Return the places of the cluster that runs."""
    kept = json.loads(file.read_text())
    return Places([Place(*ports) for ports in kept["nodes"]], kept["password"])


def _listen(port: int) -> socket.socket:
    return socket.create_server((HOST, port))


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), _listen(port):
        return True
    return False
