"""The service of a session, a child process, and extra services for comparisons."""

import asyncio
import os
import signal
from typing import Any

from chatlab.lab.polling import poll_until
from chatlab.lab.sentences import SessionEnded
from chatlab.lab.workspace import Workspace
from chatlab.run.child import ChildService

KILL_TIMEOUT_S = 2.0  # the operating system needs a moment


class SessionService:
    """Starts, restarts and stops the service of a session, and extra services.

    `settings` are those of the running service, `changed` those that were changed since the start.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.changed: dict[str, Any] = {}
        self.settings = workspace.settings()
        self._child: ChildService | None = None
        self._extras: dict[str, ChildService] = {}

    async def start(self) -> None:
        self._child = await asyncio.to_thread(
            ChildService, self.settings, pass_fds=[self._workspace.lock_fd]
        )

    async def stop(self) -> None:
        """Stop the service and the extra services, and forget the changes of the settings."""
        await self.stop_extras()
        if self._child:
            await asyncio.to_thread(self._child.stop)
        self._child = None
        self.changed.clear()
        self.settings = self._workspace.settings()

    async def restart(self, **changed: Any) -> None:
        """Restart the service at the same address with changed settings, also after `kill`."""
        port = int(self.child.url.rpartition(":")[2])
        await asyncio.to_thread(self.child.stop)
        self.change_settings(port=port, **changed)
        await self.start()

    async def kill(self) -> None:
        """Kill the service with SIGKILL, and wait until it has ended."""
        if self.child.is_running:
            os.kill(self.child.pid, signal.SIGKILL)
        await poll_until(lambda: not self.child.is_running, KILL_TIMEOUT_S)

    def change_settings(self, **changed: Any) -> None:
        """Record settings that have changed. None means unchanged."""
        self.changed |= {name: value for name, value in changed.items() if value is not None}
        self.settings = self._workspace.settings(**self.changed)

    async def start_extra(self, name: str, **changed: Any) -> str:
        """Start an extra service with these settings unless it is running, and return its URL.

        It is another process on the same database and the same Redis. With a `key_prefix` it has a
        cache of its own. It reports no flow events. It stops with the session.
        """
        if self._child is None:
            raise SessionEnded
        if name not in self._extras or not self._extras[name].is_running:
            settings = self._workspace.settings(**changed)
            self._extras[name] = await asyncio.to_thread(
                ChildService, settings, flow=False, pass_fds=[self._workspace.lock_fd]
            )
        return self._extras[name].url

    async def stop_extras(self) -> None:
        """Stop all extra services."""
        services, self._extras = self._extras, {}
        await asyncio.gather(*(asyncio.to_thread(service.stop) for service in services.values()))

    @property
    def has_extras(self) -> bool:
        return any(service.is_running for service in self._extras.values())

    @property
    def child(self) -> ChildService:
        """The child process. Raises SessionEnded if there is none."""
        if self._child is None:
            raise SessionEnded
        return self._child

    @property
    def pid(self) -> int | None:
        """The process id, or None if there is no service."""
        return self._child.pid if self._child else None

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.is_running

    def log(self, text: str = "") -> list[str]:
        """Return the lines of the log that contain `text`."""
        return [line for line in self.child.log().splitlines() if text in line]
