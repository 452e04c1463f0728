"""Stop, freeze and kill the servers that belong to one session."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import psutil

from chatlab.errors import EngineError
from chatlab.lab.plain_text import PlainText
from chatlab.lab.polling import poll_until
from chatlab.lab.workspace import Servers
from chatlab.local.binaries import KINDS, MEMBERS, NODES, Member, Name
from chatlab.local.engines import Engines

Server = Name | Member

CRASH_TIMEOUT_S = 2.0  # the supervisor has to notice the crash
FREEZE_POLL_S = 0.0005


class SessionEngines:
    """The engines of one session: `redis`, and with `own_mongodb` also `mongo`.

    With `redis_cluster` the nodes are `redis1` to `redis6`, and with `replica_set` the members are
    `mongo1` to `mongo3`. After a stop or a crash MongoDB still has its saved data, and Redis is
    empty. Every method raises EngineError for a MongoDB that other sessions use, too.
    """

    def __init__(self, engines: Engines, session: str, servers: Servers) -> None:
        self._engines, self._session = engines, session
        self._names: list[Server] = [*NODES] if servers.redis_cluster else ["redis"]
        if servers.replica_set:
            self._names += MEMBERS
        elif servers.own_mongodb:
            self._names.append("mongo")

    async def stop(self, name: Server) -> PlainText:
        """Stop an engine until `start`."""
        self._check_own(name)
        await asyncio.to_thread(self._engines.stop, name)
        return _report(name, "stopped", "start")

    async def start(self, name: Server) -> PlainText:
        """Start an engine again."""
        self._check_own(name)
        await asyncio.to_thread(self._engines.start, name)
        return PlainText(f"{_label(name)} is running again.")

    async def crash(self, name: Server) -> PlainText:
        """Kill an engine with SIGKILL, even a frozen one. Its supervisor restarts it at once."""
        self._check_own(name)
        former = self._engines.pid(name)
        self._signal(name, signal.SIGKILL)
        await poll_until(lambda: self._engines.pid(name) not in (None, former), CRASH_TIMEOUT_S)
        await asyncio.to_thread(self._engines.start, name)
        return PlainText(f"{_label(name)} was killed and is running again.")

    def freeze(self, name: Server) -> PlainText:
        """Freeze an engine until `thaw`: its connections stay open but it does not reply.

        This looks like a broken network. When the method returns, the process has stopped.
        """
        pid = self._signal(name, signal.SIGSTOP)
        while not _has_stopped(pid):
            time.sleep(FREEZE_POLL_S)  # its threads stop one after another, within microseconds
        return _report(name, "frozen", "thaw")

    def thaw(self, name: Server) -> PlainText:
        """Let a frozen engine continue."""
        self._signal(name, signal.SIGCONT)
        return PlainText(f"{_label(name)} replies again.")

    async def kill(self, name: Server) -> PlainText:
        """Kill an engine with SIGKILL. It stays away until `start`."""
        self._signal(name, signal.SIGKILL)
        await asyncio.to_thread(self._engines.stop, name)  # its supervisor would restart it
        return _report(name, "killed", "start")

    def name_of(self, address: int | str) -> Server:
        """Return the node of the Redis Cluster with this port, or the member with this socket.

        redis-py and PyMongo name servers by these addresses.
        """
        return next(name for name in self._names if self._address_of(name) == address)

    async def repair(self) -> None:
        """Start or thaw all engines that are stopped or frozen."""
        for name in self._names:
            if self._engines.pid(name):
                self.thaw(name)
            await self.start(name)

    def _address_of(self, name: Server) -> int | str:
        if name in NODES:
            return self._engines.port_of(name)
        return self._engines.socket_of(name)

    def _check_own(self, name: Server) -> None:
        if name in self._names:
            return
        if name == "mongo" and "mongo1" not in self._names:
            raise EngineError(
                "Other notebooks use this MongoDB, too.",
                f"await start({self._session!r}, own_mongodb=True)",
            )
        raise EngineError(f"This session has no {name}.", f"name one of {', '.join(self._names)}")

    def _signal(self, name: Server, signal_number: signal.Signals) -> int:
        self._check_own(name)
        pid = self._engines.pid(name)
        if pid is None:
            raise EngineError(
                f"{_label(name)} is not running.", f"await lab.engines.start({name!r})"
            )
        os.kill(pid, signal_number)
        return pid


def _label(name: Server) -> str:
    return KINDS[name].label if name in KINDS else name


def _report(name: Server, state: str, undo: str) -> PlainText:
    call = f"lab.engines.{undo}({name!r})"
    await_call = f"await {call}" if undo == "start" else call
    return PlainText(f"{_label(name)} is {state}. To undo this: {await_call}")


def _has_stopped(pid: int) -> bool:
    """Return True if every thread of this process has stopped.

    Where threads cannot be checked one by one, the state of the process is used.
    """
    threads = list(Path(f"/proc/{pid}/task").glob("*/stat"))
    if not threads:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    with contextlib.suppress(OSError):  # a thread that has just ended
        return all(thread.read_text().rpartition(") ")[2].startswith("T") for thread in threads)
    return False
