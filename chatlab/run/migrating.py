"""`chatlab migrate`: prepare the database for this version, without serving."""

import asyncio
import contextlib
import logging.config
from collections.abc import Iterator

from pymongo.errors import PyMongoError
from rich.console import Console

from chatlab.connections.mongo import MongoDatabase
from chatlab.errors import EngineError
from chatlab.local.engines import open_engines
from chatlab.local.readiness import check_configured
from chatlab.run.console import log_config
from chatlab.settings import Settings
from chatlab.store import migrations
from chatlab.store.sharding import shard_collections
from chatlab.store.summaries import rebuild as rebuild_summaries

AGAIN = "run `chatlab migrate` again when MongoDB answers; what is done stays done"


def migrate(
    settings: Settings, console: Console, *, shard: bool = False, rebuild: bool = False
) -> None:
    """Build the missing indexes, and print the schema version. Raises EngineError.

    With `shard`, then distribute the collections over the shards of a cluster. With `rebuild`, then
    compute the summaries of all conversations again.
    """
    logging.config.dictConfig(log_config(settings))
    with _open_mongo(settings) as url:
        version = asyncio.run(_migrate(url, settings.database, shard=shard, rebuild=rebuild))
    console.print(f"The database {settings.database} has schema version {version}.")
    if shard:
        console.print("Its collections are distributed by their shard keys.")


@contextlib.contextmanager
def _open_mongo(settings: Settings) -> Iterator[str]:
    """Yield the URL of MongoDB. If the settings name one, no private server is started."""
    if settings.mongo_url:
        yield check_configured("mongo", settings).url
    else:
        with open_engines(settings) as engines:
            yield engines.mongo.url


async def _migrate(url: str, name: str, *, shard: bool, rebuild: bool) -> int:
    mongo = MongoDatabase(url, name, migrations.migrate)
    try:
        await migrations.migrate(mongo)
        if shard:
            await shard_collections(mongo.database)
        if rebuild:
            await rebuild_summaries(mongo)
        return await migrations.find_version(mongo)
    except PyMongoError as error:
        raise EngineError(f"The database was not migrated: {error}.", AGAIN) from None
    finally:
        await mongo.close()
