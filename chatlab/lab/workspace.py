"""What a session has for itself: a folder, a Redis, a database in MongoDB, and clients of both.

MongoDB itself is shared by all sessions of a data folder, because it needs the most memory. A
session that stops or freezes MongoDB has one of its own, in its folder. It may also have a replica
set and a Redis Cluster.
"""

import contextlib
import os
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pymongo.errors import PyMongoError

from chatlab.lab.plain_text import error_text
from chatlab.lab.query_log import SERVICE
from chatlab.lab.sentences import SessionEnded
from chatlab.lab.session_folder import create_folder, data_folder, remove_abandoned
from chatlab.lab.session_stores import SessionStores
from chatlab.local.engines import open_engines
from chatlab.settings import Settings, load_settings

# The settings of every session's service.
SERVICE_SETTINGS = {
    "host": "127.0.0.1",
    "port": 0,
    "workers": 1,
    "rate_limit": 0,
    "login_limit": 0,
    "login_address_limit": 0,
    "signup_limit": 0,
}

Resource = TypeVar("Resource")


class Servers(NamedTuple):
    """The private servers of a session. A `replica_set` is always its own."""

    own_mongodb: bool = False
    replica_set: bool = False
    redis_cluster: bool = False

    @property
    def has_own_mongodb(self) -> bool:
        return self.own_mongodb or self.replica_set


class Workspace:
    """The folder, the servers and the clients of a session, until `close`.

    `settings` are those given by the notebook. Raises EngineError if a server cannot be started.
    """

    def __init__(self, name: str, settings: dict[str, Any], servers: Servers) -> None:
        self.servers, self._error = servers, ""
        own_mongodb = servers.has_own_mongodb
        given = load_settings(**settings)
        parent = lab_folder(given)
        with contextlib.ExitStack() as resources:
            self.folder, self.lock_fd = create_folder(name, parent)
            resources.callback(os.close, self.lock_fd)
            resources.callback(self._remove_folder)
            mongo_url = None if own_mongodb else _open_shared_mongodb(given, resources)
            private = {"data_dir": self.folder, "mongo_url": mongo_url, "redis_url": None}
            self.engines = resources.enter_context(
                open_engines(
                    given.model_copy(update=private),
                    replica_set=servers.replica_set,
                    redis_cluster=servers.redis_cluster,
                )
            )
            self._settings: dict[str, Any] = {
                **SERVICE_SETTINGS,
                "database": self.folder.name,
                **settings,
                "data_dir": self.folder,
                "mongo_url": self.engines.mongo.url,
                "redis_url": f"{self.engines.redis.url}?client_name={SERVICE}",
            }
            stores = SessionStores(self.engines, self.settings().database)
            resources.callback(stores.close)
            remove_abandoned(parent, None if own_mongodb else stores.client.drop_database)
            self._stores: SessionStores | None = stores
            self._resources = resources.pop_all()

    def settings(self, **changed: Any) -> Settings:
        """Return the settings of the service, with these changes."""
        return load_settings(**self._settings | changed)

    @property
    def stores(self) -> SessionStores:
        """The clients. Raises SessionEnded after `close`."""
        if self._stores is None:
            raise SessionEnded
        return self._stores

    def keep_open(self, resource: contextlib.AbstractContextManager[Resource]) -> Resource:
        """Enter a context manager, which is left when the workspace is closed."""
        return self._resources.enter_context(resource)

    def close(self) -> str:
        """Delete all data, and stop the session's own servers.

        Returns why the database could not be deleted, or an empty text. In that case the folder
        stays, and a later start deletes both.
        """
        stores, self._stores = self.stores, None
        if not self.servers.has_own_mongodb:  # that one is deleted with the folder
            try:
                stores.drop_database()
            except PyMongoError as error:
                self._error = error_text(error)
        self._resources.close()
        return self._error

    def _remove_folder(self) -> None:
        if not self._error:
            data_folder(self.folder).remove()


def _open_shared_mongodb(given: Settings, resources: contextlib.ExitStack) -> str:
    return resources.enter_context(open_engines(given, only="mongo")).mongo.url


def lab_folder(settings: Settings | None = None) -> Path:
    """Return the folder for the data of all sessions."""
    return (settings or load_settings()).data_dir.expanduser() / "lab"
