"""The schema of the database: its indexes and its version.

Every version of chatlab reads the documents of older and of newer ones, so a migration only builds
indexes. That may take minutes. The service migrates when it reaches MongoDB, and `chatlab migrate`
does the same beforehand. Several processes may migrate at the same time.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

import pymongo
from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import OperationFailure

from chatlab.connections.diagnosis import diagnose
from chatlab.connections.mongo import Document, MongoDatabase
from chatlab.errors import EngineError

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1  # one more for each change of INDEXES
VERSION_ID = "schema"  # in the collection `meta`
REPORT_INTERVAL_S = 5.0  # between two log lines about the same indexes
RETRY_INTERVAL_S = 30.0  # after a failure that somebody has to fix; a build needs much of MongoDB
FIX = "see the log of MongoDB"

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


async def migrate_until_done(mongo: MongoDatabase) -> None:
    """Migrate, and try again after a failure that somebody has to fix.

    Raises PyMongoError when MongoDB does not answer.
    """
    while True:
        try:
            await migrate(mongo)
        except EngineError as error:
            log.error("%s Fix: %s. Next try in %g s", error.detail, error.fix, RETRY_INTERVAL_S)  # noqa: TRY400 - the stack does not matter
            await asyncio.sleep(RETRY_INTERVAL_S)
        else:
            return


async def migrate(mongo: MongoDatabase) -> None:
    """Build the indexes that are missing, without a limit in time, and raise the schema version.

    Raises EngineError if an index cannot be built, and PyMongoError if MongoDB does not answer.
    """
    database, run = mongo.database, mongo.long_calls.run
    with pymongo.timeout(0):  # no limit; that of the client is for requests
        version = await find_version(mongo)
        if version > SCHEMA_VERSION:
            log.warning(
                "The database %s has schema version %d, and this version of chatlab knows %d. A "
                "newer version has used it; fields that only that one knows are ignored",
                database.name,
                version,
                SCHEMA_VERSION,
            )
        for name, wanted in INDEXES.items():
            existing = (await run(database[name].index_information())).values()
            missing = [index for index in wanted if not _is_among(existing, index)]
            if missing:
                await _build(mongo, name, missing)
        if version < SCHEMA_VERSION:
            change = {"$max": {"version": SCHEMA_VERSION}}
            await run(database["meta"].update_one({"_id": VERSION_ID}, change, upsert=True))


async def find_version(mongo: MongoDatabase) -> int:
    """Return the schema version of the database; 0 before its first migration."""
    found = await mongo.long_calls.run(mongo.database["meta"].find_one({"_id": VERSION_ID}))
    return int(found["version"]) if found else 0


def _is_among(existing: Iterable[Mapping[str, Any]], wanted: IndexModel) -> bool:
    """Return whether one of these indexes has the key and the options of this one.

    It may have another name.
    """
    options = dict(wanted.document)
    key = list(options.pop("key").items())
    del options["name"]
    return any(
        found["key"] == key and all(found.get(name) == value for name, value in options.items())
        for found in existing
    )


async def _build(mongo: MongoDatabase, name: str, indexes: list[IndexModel]) -> None:
    """Build indexes, and log what is done for a collection that has documents."""
    collection, run = mongo.database[name], mongo.long_calls.run
    what = f"{' and '.join(index.document['name'] for index in indexes)} of {name}"
    documents = await run(collection.estimated_document_count())
    if documents:
        log.warning("Building indexes: %s, of %d documents", what, documents)
    started_at = time.monotonic()
    reporting = asyncio.create_task(_report_progress(mongo, name, what))
    try:
        await run(collection.create_indexes(indexes))
    except OperationFailure as error:
        if (found := diagnose("MongoDB", error)) is None:
            raise
        message = f"MongoDB cannot build the indexes {what}: it {found.problem}."
        raise EngineError(message, found.fix or FIX) from None
    finally:
        reporting.cancel()
    if documents:
        log.warning("Built indexes: %s, in %.1f s", what, time.monotonic() - started_at)


async def _report_progress(mongo: MongoDatabase, name: str, what: str) -> None:
    """Log how far the indexes of a collection are, until cancelled."""
    for tick in itertools.count(1):
        await asyncio.sleep(REPORT_INTERVAL_S)
        progress = await mongo.long_calls.run(_find_progress(mongo.database[name]))
        log.warning("Building indexes: %s, for %g s%s", what, tick * REPORT_INTERVAL_S, progress)


async def _find_progress(collection: AsyncCollection[Document]) -> str:
    """Return how far MongoDB is with the indexes of this collection, if this user may see it."""
    building = {"ns": collection.full_name, "progress.total": {"$gt": 0}}
    pipeline: list[Document] = [{"$currentOp": {"allUsers": True}}, {"$match": building}]
    with contextlib.suppress(OperationFailure):  # it needs the role `clusterMonitor`
        async for found in await collection.database.client.admin.aggregate(pipeline):
            done, total = found["progress"]["done"], found["progress"]["total"]
            return f"; this step is {done / total:.0%} done"
    return ""
