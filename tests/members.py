"""The members of a replica set: which one is the primary, and how to make it fail.

`kill` and `restart` also work with the nodes of a Redis Cluster.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import quote

import pymongo
from faults import Deployment
from waiting import block_until

from chatlab.errors import EngineError
from chatlab.local.binaries import MEMBERS, Member


def primary_of(deployment: Deployment) -> Member:
    """Return the primary, as soon as there is one."""
    host, _ = block_until(lambda: deployment.database.client.primary, "a primary")
    return next(name for name in MEMBERS if deployment.engines.socket_of(name) == host)


def secondaries_of(deployment: Deployment) -> list[Member]:
    """Return the other two members, as soon as both have the data and one is the primary."""
    primary = primary_of(deployment)
    block_until(
        lambda: deployment.database.client.secondaries,
        "two secondaries",
        is_reached=lambda found: len(found) == 2,
    )
    return [member for member in MEMBERS if member != primary]


@contextlib.contextmanager
def direct(deployment: Deployment, member: Member) -> Iterator[pymongo.MongoClient[dict[str, Any]]]:
    """Connect to one member, whatever it is."""
    path = quote(deployment.engines.socket_of(member), safe="")
    with pymongo.MongoClient[dict[str, Any]](f"mongodb://{path}/?directConnection=true") as client:
        yield client


@contextlib.contextmanager
def stopped(deployment: Deployment, *members: Member) -> Iterator[None]:
    """Stop these members until the block ends."""
    for member in members:
        deployment.engines.stop(member)
    try:
        yield
    finally:
        for member in members:
            restart(deployment, member)


def kill(deployment: Deployment, member: Member) -> None:
    """End a member with SIGKILL. It stays away until `restart`."""
    os.kill(deployment.pid(member), signal.SIGKILL)
    deployment.engines.stop(member)  # otherwise the supervisor starts it again


def restart(deployment: Deployment, member: Member) -> None:
    """Start a member that was killed. A busy machine may need longer than `start` waits."""
    block_until(partial(_starts, deployment, member), f"{member} to start")


def _starts(deployment: Deployment, member: Member) -> bool:
    with contextlib.suppress(EngineError):
        deployment.engines.start(member)
        return True
    return False
