"""A shard accepts the shard keys together with the unique indexes.

The command `shardCollection` belongs to mongos, the router, which is in no package that the tests
could install. The router only passes it on. These tests send what it sends to a real shard.
"""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
from live import free_port
from pymongo.errors import OperationFailure
from waiting import LIMIT_S, block_until

from chatlab.local.binaries import environment, find_program
from chatlab.settings import load_settings
from chatlab.store.migrations import INDEXES
from chatlab.store.sharding import ALREADY_INITIALIZED, SHARD_KEYS

pytestmark = pytest.mark.slow

Client = pymongo.MongoClient[dict[str, Any]]
Distribute = Callable[[str, dict[str, Any]], object]
MAJORITY = {"w": "majority"}


@contextlib.contextmanager
def member(role: str, folder: Path) -> Iterator[tuple[Client, str]]:
    """Start a replica set with one member: a shard, or the configuration of a cluster.

    Yield a client and the address.
    """
    folder.mkdir()
    port = free_port()
    program = find_program("mongo", load_settings()).path
    command = [program, f"--{role}", "--replSet", role, "--port", str(port), "--nounixsocket"]
    command += [
        "--bind_ip",
        "127.0.0.1",
        "--dbpath",
        str(folder),
        "--wiredTigerCacheSizeGB",
        "0.25",
    ]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, env=environment()) as process,
        Client(f"mongodb://127.0.0.1:{port}/?directConnection=true") as client,
    ):
        try:
            address = f"127.0.0.1:{port}"
            config: dict[str, Any] = {"_id": role, "members": [{"_id": 0, "host": address}]}
            config |= {"configsvr": True} if role == "configsvr" else {}
            client.admin.command("replSetInitiate", config)
            block_until(lambda: client.admin.command("hello")["isWritablePrimary"], "a primary")
            yield client, f"{role}/{address}"
        finally:
            process.kill()
            process.wait(LIMIT_S)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Distribute]]:
    """A cluster with one shard, with the indexes of the service.

    The function distributes a collection of the database `chat` by a key, as a router does.
    """
    folder = tmp_path_factory.mktemp("cluster")
    with (
        member("configsvr", folder / "configuration") as (configuration, _),
        member("shardsvr", folder / "shard") as (shard, address),
    ):
        new_shard = {"_configsvrAddShard": address, "name": "shardsvr"}
        new_database = {"_configsvrCreateDatabase": "chat", "primaryShardId": "shardsvr"}
        for command in (new_shard, new_database):
            configuration.admin.command(command | {"writeConcern": MAJORITY})
        version = configuration["config"]["databases"].find_one({"_id": "chat"})
        assert version is not None

        def distribute(collection: str, key: dict[str, Any]) -> object:
            command = {"_shardsvrCreateCollection": collection, "shardKey": key, "unique": False}
            command |= {"databaseVersion": version["version"], "writeConcern": MAJORITY}
            return shard["chat"].command(command)

        for name, indexes in INDEXES.items():
            shard["chat"][name].create_indexes(indexes)
        yield shard, distribute


def test_a_shard_accepts_the_keys(shard: tuple[Client, Distribute]) -> None:
    """Each collection can be distributed when it has its indexes, and again without an effect."""
    client, distribute = shard
    client["chat"]["messages"].insert_one({"conversation": "ann:bob", "seq": 1})
    with pytest.raises(OperationFailure, match="Uniqueness can't be maintained"):
        distribute("messages", {"conversation": 1, "seq": 1})
    for _ in range(2):
        for name, field in SHARD_KEYS.items():
            distribute(name, {field: 1})
    with pytest.raises(OperationFailure) as other_key:
        distribute("messages", {"seq": 1})
    assert other_key.value.code == ALREADY_INITIALIZED
