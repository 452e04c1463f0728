"""The Redis Cluster of deploy/compose.yaml, with its commands and its health check, but no Docker."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis
import yaml
from live import free_port
from own_servers import is_up
from waiting import LIMIT_S, block_until

from chatlab.local.binaries import environment, find_program
from chatlab.settings import load_settings

pytestmark = pytest.mark.slow

COMPOSE = Path(__file__).parents[2] / "deploy" / "compose.yaml"
SERVICES = cast("dict[str, Any]", yaml.safe_load(COMPOSE.read_text("utf-8"))["services"])
NODES = [name for name in SERVICES if name.startswith("redis-")]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[dict[str, redis.Redis]]:
    """Run all nodes with the command of the file, each on a port of this machine."""
    program = find_program("redis", load_settings(mongo_url=None, redis_url=None)).path
    clients: dict[str, redis.Redis] = {}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for name in NODES:
            port, folder = free_port(), tmp_path / name
            folder.mkdir()
            own = ["--port", str(port), "--cluster-port", str(free_port()), "--dir", str(folder)]
            command = [program, *SERVICES[name]["command"][1:], *own, "--bind", "127.0.0.1"]
            with (folder / "log").open("wb") as log:
                processes.append(subprocess.Popen(command, stdout=log, env=environment()))
            clients[name] = redis.Redis(port=port, decode_responses=True)
            block_until(lambda name=name: is_up(clients[name].ping), "a node to answer")  # type: ignore[misc]
        yield clients
    finally:
        for client in clients.values():
            client.close()
        for process in processes:
            process.kill()
            process.wait(LIMIT_S)


def port_of(client: redis.Redis) -> int:
    """Return the port of the node that a client uses."""
    return int(client.connection_pool.connection_kwargs["port"])


def test_the_health_check_creates_the_cluster(nodes: dict[str, redis.Redis]) -> None:
    """It fails at first, is healthy a little later, and then stays so."""
    if not shutil.which("redis-cli"):
        pytest.skip("redis-cli is not on the PATH")
    script = SERVICES["redis-1"]["healthcheck"]["test"][-1]
    for name, client in nodes.items():
        address = SERVICES[name]["networks"]["servers"]["ipv4_address"]
        script = script.replace(f"{address}:6379", f"127.0.0.1:{port_of(client)}")
    script = script.replace(
        "redis-cli cluster", f"redis-cli -p {port_of(nodes['redis-1'])} cluster"
    )
    assert not re.search(r"6379|172\.", script)

    def check() -> int:
        return subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, check=False).returncode

    assert check() == 1
    block_until(check, "the cluster", is_reached=lambda status: status == 0)
    roles = [client.role()[0] for client in nodes.values()]
    assert sorted(roles) == ["master"] * 3 + ["slave"] * 3
    assert check() == 0
