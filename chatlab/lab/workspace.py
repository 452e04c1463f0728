"""What a session reserves: a name, a database, a key prefix and the engines."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any, TypeVar

from chatlab.errors import EngineError
from chatlab.lab.session_names import remove_abandoned, reserve_name
from chatlab.lab.store_inspector import StoreInspector
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


class SessionEnded(EngineError):
    def __init__(self) -> None:
        super().__init__("The session has ended.", "run the cell with `await start(...)` again")


class Workspace:
    """A reserved name with its data, until `close`.

    `own_engines`: start engines that no other session uses. Raises EngineError if an engine cannot
    be started.
    """

    def __init__(self, name: str, settings: dict[str, Any], *, own_engines: bool) -> None:
        self.own_engines = own_engines
        folder = lab_folder()
        remove_abandoned(folder)
        with contextlib.ExitStack() as resources:
            reserved, self.lock_fd = reserve_name(name, folder)
            resources.callback(os.close, self.lock_fd)
            names = {"database": reserved, "key_prefix": f"{reserved}:"}
            self._settings: dict[str, Any] = SERVICE_SETTINGS | names | settings
            if own_engines:
                self._settings["data_dir"] = folder / reserved
                resources.callback(shutil.rmtree, folder / reserved, ignore_errors=True)
            self.engines = resources.enter_context(open_engines(self.settings()))
            prefix = self.settings().key_prefix
            stores = StoreInspector(self.engines, reserved, prefix)
            resources.callback(stores.close)
            stores.erase()  # data of a kernel that was killed
            self._stores: StoreInspector | None = stores
            self._resources = resources.pop_all()

    def settings(self, **changed: Any) -> Settings:
        """Return the settings of the service, with these changes."""
        settings = load_settings(**self._settings | changed)
        if self.own_engines:
            return settings.model_copy(update={"mongo_url": None, "redis_url": None})
        return settings

    @property
    def stores(self) -> StoreInspector:
        """Direct access to the data. Raises SessionEnded after `close`."""
        if self._stores is None:
            raise SessionEnded
        return self._stores

    def keep_open(self, resource: contextlib.AbstractContextManager[Resource]) -> Resource:
        """Enter a context manager, which is left when the workspace is closed."""
        return self._resources.enter_context(resource)

    def close(self) -> None:
        """Release the name and the engines, and delete the data of own engines."""
        self._stores = None
        self._resources.close()


def lab_folder() -> Path:
    """Return the folder for the data of all sessions."""
    return load_settings().data_dir.expanduser() / "lab"
