"""The nodes of the private Redis Cluster: which one has a key, and how to make it fail."""

import contextlib
from collections.abc import Iterator
from typing import Any

import redis
from faults import Deployment
from waiting import block_until

from chatlab.connections.cluster import slot_of
from chatlab.local.binaries import NODES, Member
from chatlab.local.cluster_places import Places


def places_of(deployment: Deployment) -> Places:
    """Return the ports and the password of the nodes."""
    return deployment.engines._folder.cluster_places()


@contextlib.contextmanager
def direct(deployment: Deployment, node: Member) -> Iterator[redis.Redis]:
    """Connect to one node, whatever it is. It follows no redirection."""
    places = places_of(deployment)
    port = places.nodes[NODES.index(node)].port
    with redis.Redis(port=port, password=places.password, decode_responses=True) as client:
        yield client


def _nodes_seen_by(deployment: Deployment, witness: Member) -> dict[Member, dict[str, Any]]:
    """Return what a node says of all nodes."""
    ports = [place.port for place in places_of(deployment).nodes]
    with direct(deployment, witness) as client:
        known: Any = client.execute_command("CLUSTER NODES")
    return {NODES[ports.index(int(at.rpartition(":")[2]))]: node for at, node in known.items()}


def _has_slot(node: dict[str, Any], slot: int) -> bool:
    ranges = (part for part in node["slots"] if part[0].isdigit())
    return any(int(part[0]) <= slot <= int(part[-1]) for part in ranges)


def _running(deployment: Deployment) -> list[Member]:
    return [node for node in NODES if deployment.engines.pid(node)]


def _owners(deployment: Deployment, key: str, witnesses: list[Member]) -> set[Member | None]:
    """Return who has the slot of a key, as these nodes see it. None: nobody who works."""
    owners = set[Member | None]()
    for witness in witnesses:
        nodes = _nodes_seen_by(deployment, witness).items()
        able = [name for name, node in nodes if "fail" not in node["flags"].replace("?", "")]
        mapped = dict(nodes)
        owners.add(next((name for name in able if _has_slot(mapped[name], slot_of(key))), None))
    return owners


def primary_of(deployment: Deployment, key: str) -> Member:
    """Return the node that has a key, once all nodes that run agree on it."""
    owners = block_until(
        lambda: _owners(deployment, key, _running(deployment)),
        "the nodes to agree",
        is_reached=lambda found: len(found) == 1 and None not in found,
    )
    (owner,) = owners
    return owner  # type: ignore[no-any-return]


def wait_for_another_primary(deployment: Deployment, key: str, old: Member) -> Member:
    """Return the next node that has a key, once the others agree on it."""
    others = [node for node in _running(deployment) if node != old]
    (owner,) = block_until(
        lambda: _owners(deployment, key, others),
        "another primary",
        is_reached=lambda found: len(found) == 1 and not found & {None, old},
    )
    return owner  # type: ignore[no-any-return]


def replica_of(deployment: Deployment, primary: Member) -> Member:
    """Return the replica of a primary."""
    nodes = _nodes_seen_by(deployment, primary)
    node_id = nodes[primary]["node_id"]
    return next(name for name, node in nodes.items() if node["master_id"] == node_id)


def begin_move(deployment: Deployment, key: str, to: Member) -> None:
    """Begin to move the slot of a key, with all keys that it has now, as a resharding does.

    Until `end_move`, the old primary has the slot, and redirects commands for other keys (ASK).
    """
    slot, places = slot_of(key), places_of(deployment)
    source = primary_of(deployment, key)
    with direct(deployment, source) as old, direct(deployment, to) as new:
        new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", _id_of(old))
        old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", _id_of(new))
        port, password = places.nodes[NODES.index(to)].port, places.password
        while keys := old.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
            wanted = ("MIGRATE", "127.0.0.1", port, "", 0, 5000, "REPLACE", "AUTH", password)
            old.execute_command(*wanted, "KEYS", *keys)


def end_move(deployment: Deployment, key: str, to: Member) -> None:
    """Let the new primary have the slot."""
    source = primary_of(deployment, key)
    with direct(deployment, source) as old, direct(deployment, to) as new:
        for client in (new, old):
            client.execute_command("CLUSTER SETSLOT", slot_of(key), "NODE", _id_of(new))
    block_until(lambda: primary_of(deployment, key), "the move", is_reached=to.__eq__)


def move_slot(deployment: Deployment, key: str, to: Member) -> None:
    """Move the slot of a key to another primary."""
    begin_move(deployment, key, to)
    end_move(deployment, key, to)


def _id_of(client: redis.Redis) -> str:
    return str(client.execute_command("CLUSTER MYID"))
