"""A private Redis Cluster: three primaries with a replica each."""

import contextlib
import time
from typing import Any

import redis
from redis.exceptions import ResponseError

from chatlab.connections.cluster import SLOTS
from chatlab.errors import EngineError
from chatlab.local.cluster_places import HOST, Places

PRIMARIES = 3  # each of them has one replica


def wait_until_cluster(places: Places, running: list[int], timeout_s: float) -> str:
    """Create the cluster of new nodes, wait until each slot has a primary, return the version.

    `running` are the numbers of the nodes that run. If all of them do, each primary has a replica
    in the end. Raises EngineError, RedisError.
    """
    deadline = time.monotonic() + timeout_s
    with contextlib.ExitStack() as stack:
        nodes = {
            number: stack.enter_context(_connect(places, places.nodes[number].port, timeout_s))
            for number in running
        }
        while True:
            with contextlib.suppress(ResponseError):  # the nodes do not know each other yet
                if len(nodes) == len(places.nodes):
                    _create(list(nodes.values()), places)
                if all(_is_complete(node, places, len(nodes)) for node in nodes.values()):
                    return version_of(next(iter(nodes.values())))
            if time.monotonic() > deadline:
                raise EngineError(
                    f"The Redis Cluster was not complete within {timeout_s:g} s.",
                    "set CHATLAB_DATA_DIR to a new folder",
                )
            time.sleep(0.1)  # a node does not announce that it knows the others


def _connect(places: Places, port: int, timeout_s: float) -> redis.Redis:
    return redis.Redis(
        HOST, port, password=places.password, decode_responses=True, socket_timeout=timeout_s
    )


def _create(nodes: list[redis.Redis], places: Places) -> None:
    """Do the next step towards a cluster. Nothing is done to one that exists."""
    if len(_nodes_of(nodes[0])) < len(places.nodes):
        for place in places.nodes[1:]:
            nodes[0].execute_command("CLUSTER MEET", HOST, place.port, place.bus_port)
        return
    own = [_own_entry(node) for node in nodes]
    if not any(entry["slots"] for entry in own):
        for number, node in enumerate(nodes[:PRIMARIES]):
            first, end = (SLOTS * place // PRIMARIES for place in (number, number + 1))
            node.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
        return
    followed = {entry["master_id"] for entry in own}
    lonely = [one["node_id"] for one in own if one["slots"] and one["node_id"] not in followed]
    idle = [
        node
        for node, entry in zip(nodes, own, strict=True)
        if "master" in entry["flags"] and not entry["slots"]
    ]
    for node, primary in zip(idle, lonely, strict=False):
        if _knows_slots_of(node, primary):  # gossip takes its time
            node.execute_command("CLUSTER REPLICATE", primary)


def _own_entry(node: redis.Redis) -> dict[str, Any]:
    return next(one for one in _nodes_of(node).values() if "myself" in one["flags"])


def _knows_slots_of(node: redis.Redis, primary: str) -> bool:
    known = _nodes_of(node).values()
    return any(one["node_id"] == primary and one["slots"] for one in known)


def _nodes_of(node: redis.Redis) -> dict[str, Any]:
    known: dict[str, Any] = node.execute_command("CLUSTER NODES")
    return known


def _is_complete(node: redis.Redis, places: Places, running: int) -> bool:
    known = [one for one in _nodes_of(node).values() if "fail" not in one["flags"]]
    primaries = [one for one in known if "master" in one["flags"] and one["slots"]]
    covered = sum(int(last) - int(first) + 1 for one in primaries for first, last in _ranges(one))
    info: Any = node.execute_command("CLUSTER INFO")  # a new primary waits before it serves
    if covered < SLOTS or info["cluster_state"] != "ok":
        return False
    if running < len(places.nodes):
        return True
    replication: Any = node.info("replication")
    linked = replication["connected_slaves"] == 1 or replication.get("master_link_status") == "up"
    return len(known) == len(places.nodes) and len(primaries) == PRIMARIES and linked


def _ranges(node: dict[str, Any]) -> list[tuple[str, str]]:
    return [(part[0], part[-1]) for part in node["slots"]]


def version_of(client: redis.Redis) -> str:
    """Return the version of a server, and whether it is Valkey."""
    info: Any = client.info("server")
    valkey = info.get("valkey_version")
    return f"{valkey} (Valkey)" if valkey else str(info["redis_version"])
