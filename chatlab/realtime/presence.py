"""Who is online: the users with a socket in this process, and those that other processes report.

Each process publishes who has come and who has gone, with a version, and its version every second.
A process that has missed a report asks for the whole list; a new process asks all others. One that
has been silent for SILENCE_S seconds, for example after a crash, no longer counts.

A user who reconnects at once does not go offline: the end of the last socket counts LEAVE_DELAY_S
seconds later, and so does the end of a process.
"""

import asyncio
import itertools
import secrets
import time
from collections import Counter
from collections.abc import Iterable

import msgspec
import socketio

from chatlab import metrics
from chatlab.connections.pipeline import Pipeline
from chatlab.domain.ids import UserId
from chatlab.realtime.partners import FindPartners, Partners
from chatlab.realtime.peer_settings import PeerSettings, Values
from chatlab.realtime.task_set import TaskSet

REPORT_INTERVAL_S = 1.0  # between two reports of a process
SILENCE_S = 3.0  # three missed reports: the process has stopped
LEAVE_DELAY_S = 3.0
NOTIFY_INTERVAL_S = 0.1  # changes within this time reach the processes and clients together
EVERYBODY = "*"


class PresenceReport(msgspec.Struct, array_like=True):
    """What a process publishes.

    `version` counts the changes of its users, this one included. With `is_whole`, `joined` are all
    of its users. `asks` is the process that should answer with its whole list, or EVERYBODY.
    `is_last` is a goodbye: the process has ended, and none of its events are lost.
    """

    process_id: str
    version: int
    joined: list[UserId] = []
    left: list[UserId] = []
    is_whole: bool = False
    asks: str = ""
    settings: Values = {}
    is_last: bool = False

    @property
    def is_regular(self) -> bool:
        """Return whether this is the report of each second, and no other one."""
        return not (self.joined or self.left or self.is_whole or self.asks or self.is_last)


class Peer:
    """What this process knows of another one. The version -1 means that its users are unknown."""

    def __init__(self) -> None:
        self.version, self.users = -1, set[UserId]()
        self.heard_at = self.asked_at = float("-inf")


class Presence:
    """Knows the online users, and sends the changes to their partners.

    `sockets` is the Socket.IO server of this process, `pipe` publishes to the other processes.
    `settings` takes part in the reports, `find_partners` asks MongoDB.
    """

    def __init__(
        self,
        sockets: socketio.AsyncServer,
        pipe: Pipeline,
        prefix: str,
        settings: PeerSettings,
        find_partners: FindPartners,
    ) -> None:
        self.process_id = secrets.token_hex(6)
        self.channel = ""  # until the id of the installation is known
        self.partners = Partners(sockets, self.is_online, self._will_notify, find_partners)
        self._prefix = prefix
        self._pipe, self._settings = pipe, settings
        self._here: Counter[UserId] = Counter()  # number of sockets of each user in this process
        self._reported: set[UserId] = set()  # users of this process, also those who have just left
        self._version = 0  # of `_reported`
        self._joined: set[UserId] = set()  # will be reported
        self._left: set[UserId] = set()
        self._must_report_whole = False
        self._peers: dict[str, Peer] = {}
        # Who has left, here or with a process, counts as online until then. The oldest come first.
        self._leaving: dict[UserId, float] = {}
        self._online: set[UserId] = set()  # everywhere
        self._changes: dict[UserId, bool] = {}  # of `_online`, for the partners
        self._changed = asyncio.Event()
        self._tasks = TaskSet()

    def join(self, installation: str) -> None:
        """Report to the other processes of this installation."""
        self.channel = f"{self._prefix}{installation}:presence"

    def open(self) -> None:
        """Start to report this process's users, and to notify its clients."""
        self._tasks.start(self._report_regularly())
        self._tasks.start(self._report_changes())

    async def close(self) -> None:
        """Report an empty list, so that other processes know that this one stops."""
        await self._tasks.cancel()
        self._here.clear()
        self._reported.clear()
        self._report_whole()
        await self._pipe.drain()

    async def say_goodbye(self) -> None:
        """Report that this process has ended, and that none of its events are lost."""
        self._publish(is_last=True)
        await self._pipe.drain()

    # --- this process ---

    def is_here(self, user: UserId) -> bool:
        """Return whether the user has a socket in this process."""
        return user in self._here

    def users_here(self) -> list[UserId]:
        """Return the users with a socket in this process, sorted."""
        return sorted(self._here)

    def add(self, user: UserId) -> bool:
        """Count one more socket of this user. Return whether it is the first one here."""
        self._here[user] += 1
        is_first = self._here[user] == 1
        if is_first:
            self.partners.open(user)
            self._leaving.pop(user, None)
            if user not in self._reported:
                self._reported.add(user)
                self._note(user, self._joined, self._left)
            self._update([user])
        return is_first

    def remove(self, user: UserId) -> bool:
        """Count one socket less. Return whether it was the user's last one here."""
        self._here[user] -= 1
        is_last = self._here[user] <= 0
        if is_last:
            del self._here[user]
            self.partners.close(user)
            self._hold_back([user])
        return is_last

    # --- reports ---

    def report_new(self) -> None:
        """Publish the users of this process, and ask all other processes for theirs."""
        self._report_whole(asks=EVERYBODY)

    def _report_whole(self, asks: str = "") -> None:
        self._must_report_whole = False
        self._version += 1
        self._joined.clear()
        self._left.clear()
        self._publish(joined=sorted(self._reported), is_whole=True, asks=asks)

    def _publish(
        self,
        *,
        joined: Iterable[UserId] = (),
        left: Iterable[UserId] = (),
        is_whole: bool = False,
        asks: str = "",
        is_last: bool = False,
    ) -> None:
        if self.channel:
            report = PresenceReport(
                self.process_id,
                self._version,
                list(joined),
                list(left),
                is_whole,
                asks,
                self._settings.own,
                is_last,
            )
            self._pipe.execute("PUBLISH", self.channel, msgspec.json.encode(report))

    def _note(self, user: UserId, changes: set[UserId], opposite: set[UserId]) -> None:
        """Report a change soon, unless the opposite one has not been reported yet."""
        if user in opposite:
            opposite.remove(user)
        else:
            changes.add(user)
        self._changed.set()

    async def _report_regularly(self) -> None:
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            self._publish()
            self._forget_silent_processes()
            self._end_leaving()
            metrics.USERS_HERE.set(len(self._here))
            metrics.USERS_ONLINE.set(len(self._online))
            metrics.PEERS.set(len(self._peers))

    async def _report_changes(self) -> None:
        """Report changes to the other processes, and send them to the partners here."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._must_report_whole:
                self._report_whole()
            elif self._joined or self._left:
                self._version += 1
                self._publish(joined=self._joined, left=self._left)
                self._joined.clear()
                self._left.clear()
            for user in list(self._changes):
                await self.partners.notify(user, online=self._changes.pop(user))
            await asyncio.sleep(NOTIFY_INTERVAL_S)

    def _will_notify(self, user: UserId) -> bool:
        return user in self._changes

    # --- all processes ---

    def is_online(self, user: UserId) -> bool:
        """Return whether the user has a socket in any process, or had one until just now."""
        return (
            user in self._here
            or user in self._leaving
            or any(user in peer.users for peer in self._peers.values())
        )

    def receive_report(self, report: PresenceReport) -> None:
        """Take in the report of another process, or ask for its whole list after a gap."""
        if report.is_last:
            self._settings.forget(report.process_id)
            self._hold_back(self._peers.pop(report.process_id, Peer()).users)
            return
        self._settings.receive(report.process_id, report.settings)
        if report.asks in (EVERYBODY, self.process_id):
            self._must_report_whole = True
            self._changed.set()
        peer = self._peers.setdefault(report.process_id, Peer())
        peer.heard_at = time.monotonic()
        joined, left = set(report.joined), set(report.left)
        if report.is_whole:
            self._hold_back(peer.users - joined)
            joined, left = joined - peer.users, peer.users - joined
        elif peer.version < 0 or report.version != peer.version + bool(joined or left):
            self._ask(report.process_id, peer)
            return
        peer.version = report.version
        peer.users |= joined
        peer.users -= left
        self._update(joined | left)

    def _ask(self, process_id: str, peer: Peer) -> None:
        if peer.heard_at - peer.asked_at > REPORT_INTERVAL_S:
            peer.asked_at = peer.heard_at
            self._publish(asks=process_id)

    def _forget_silent_processes(self) -> None:
        now = time.monotonic()
        silent = [name for name, peer in self._peers.items() if now - peer.heard_at > SILENCE_S]
        for name in silent:
            self._hold_back(self._peers.pop(name).users)

    # --- changes ---

    def _hold_back(self, users: Iterable[UserId]) -> None:
        """Let users who have left count as online for a while."""
        until = time.monotonic() + LEAVE_DELAY_S
        for user in users:
            self._leaving.pop(user, None)
            self._leaving[user] = until

    def _end_leaving(self) -> None:
        """Let the users be offline who left long enough ago and have not come back."""
        now = time.monotonic()
        over = list(itertools.takewhile(lambda user: self._leaving[user] <= now, self._leaving))
        for user in over:
            del self._leaving[user]
            if user in self._reported and user not in self._here:
                self._reported.remove(user)
                self._note(user, self._left, self._joined)
        self._update(over)

    def _update(self, users: Iterable[UserId]) -> None:
        """Note for the partners which of these users have come or gone."""
        for user in users:
            online = self.is_online(user)
            if online != (user in self._online):
                (self._online.add if online else self._online.discard)(user)
                self._changes[user] = online
                self._changed.set()
