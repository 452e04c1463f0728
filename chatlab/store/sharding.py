"""The shard keys: they decide on which shard of a sharded cluster a document is.

docs/scaling.md says why these, and lists the commands that cannot name them.
"""

import pymongo
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure

from chatlab.connections.mongo import Document
from chatlab.errors import EngineError

# Every unique index of a collection must begin with its shard key. The keys are ranged, because an
# existing index can then serve each of them.
SHARD_KEYS = {"messages": "conversation", "users": "_id", "sessions": "_id", "reads": "userId"}
ALREADY_INITIALIZED = 23  # MongoDB's error code


async def shard_collections(database: AsyncDatabase[Document]) -> None:
    """Distribute each collection over the shards of the cluster. Repeating it changes nothing.

    The indexes must exist. Raises EngineError if the server is not the router of a sharded cluster,
    or if a collection has another shard key, and PyMongoError.
    """
    admin = database.client.admin
    with pymongo.timeout(0):  # the client's own limit is for requests
        if (await admin.command("hello")).get("msg") != "isdbgrid":
            raise EngineError(
                "CHATLAB_MONGO_URL does not name a mongos, the router of a sharded cluster.",
                "name one, or leave out --shard: a replica set needs no shard keys",
            )
        for name, field in SHARD_KEYS.items():
            try:
                await admin.command("shardCollection", f"{database.name}.{name}", key={field: 1})
            except OperationFailure as error:
                if error.code != ALREADY_INITIALIZED:
                    raise
                raise EngineError(
                    f"The collection {name} has another shard key than {field}.",
                    f"sh.reshardCollection('{database.name}.{name}', {{{field}: 1}}) in mongosh",
                ) from None
