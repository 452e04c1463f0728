"""The indexes of each collection, created when the service reaches MongoDB."""

from pymongo import ASCENDING, IndexModel

from chatlab.connections.mongo import MongoDatabase

INDEXES: dict[str, list[IndexModel]] = {
    "messages": [
        # No two messages of a conversation have the same seq.
        IndexModel([("conversation", ASCENDING), ("seq", ASCENDING)], unique=True, name="place"),
        # A repeated send with the same client id cannot save a second message.
        IndexModel(
            [("conversation", ASCENDING), ("senderId", ASCENDING), ("clientId", ASCENDING)],
            unique=True,
            name="once",
            partialFilterExpression={"clientId": {"$type": "string"}},
        ),
    ],
    "sessions": [
        IndexModel([("expiresAt", ASCENDING)], expireAfterSeconds=0, name="expiry"),
        IndexModel([("userId", ASCENDING), ("expiresAt", ASCENDING)], name="user"),
    ],
    "reads": [
        IndexModel([("userId", ASCENDING), ("conversation", ASCENDING)], unique=True, name="mark")
    ],
}


async def create_indexes(mongo: MongoDatabase) -> None:
    """Create the indexes that do not exist yet. Raises PyMongoError or CallOverdueError.

    It runs while the circuit breaker is open, so it does not use `MongoDatabase.execute`.
    """
    for name, indexes in INDEXES.items():
        await mongo.calls.run(mongo.database[name].create_indexes(indexes))
