"""`chatlab user`: what operators do for users, directly in MongoDB."""

import asyncio
import contextlib
from collections.abc import Iterator

from chatlab.accounts import Accounts
from chatlab.connections.mongo import MongoDatabase
from chatlab.local.engines import open_engines
from chatlab.local.readiness import check_configured
from chatlab.receivers import Receivers
from chatlab.sessions import Sessions
from chatlab.settings import Settings
from chatlab.store.users import UserStore


def reset_password(settings: Settings, name: str) -> str:
    """Return the new password of the user. Raises NotFound, StoreUnavailable, EngineError."""
    with _mongo_url(settings) as url:
        return asyncio.run(_reset_password(settings, url, name))


@contextlib.contextmanager
def _mongo_url(settings: Settings) -> Iterator[str]:
    """Yield the URL of MongoDB.

    If the settings name one, Redis is neither started nor contacted.
    """
    if settings.mongo_url:
        yield check_configured("mongo", settings).url
    else:
        with open_engines(settings) as engines:
            yield engines.mongo.url


async def _reset_password(settings: Settings, url: str, name: str) -> str:
    async with contextlib.AsyncExitStack() as stack:
        mongo = MongoDatabase(url, settings.database, _prepare_nothing)
        stack.push_async_callback(mongo.close)
        store = UserStore(mongo)
        receivers = Receivers(store)
        sessions = Sessions(store, receivers, settings)
        accounts = Accounts(store, sessions, receivers, settings, _without_redis)
        return await accounts.reset_password(name)


async def _prepare_nothing(_: MongoDatabase) -> None:
    """Leave the indexes to the service."""


async def _without_redis(*_command: object) -> None:
    """Count for no limit: an operator has none."""
