"""Who is online: the users with a socket in this process, and those that other processes report.

Each process publishes the list of its users every second and after each change. A process that has
been silent for SILENCE_S seconds, for example after a crash, no longer counts.

Clients receive the whole list with each change. One user who reconnects all the time, or many who
connect at once, would therefore keep all clients busy. Three limits prevent this.
"""

import asyncio
import bisect
import secrets
import time
from collections import Counter

import msgspec
import socketio

from chatlab import metrics
from chatlab.connections.pipeline import AutoPipeline
from chatlab.domain.ids import UserId
from chatlab.realtime.peer_settings import PeerSettings, Values
from chatlab.realtime.task_set import TaskSet

REPORT_INTERVAL_S = 1.0  # between two reports of a process about its users
SILENCE_S = 3.0  # three missed reports: the process has stopped
PEER_MEMORY_S = 60.0  # how long the events of another process are expected after its last report
NOTIFY_INTERVAL_S = 0.1  # changes within this time reach the clients and processes together
ANNOUNCE_INTERVAL_S = 1.0  # between two changes of the same user that reach the clients
NOTIFIED_AT_ONCE = 50  # users; 2,000 at once would keep the event loop busy for half a second
NOTIFIED_NAMES_PER_S = 1_000_000  # in the lists to all clients together: with 1,000 users, one list


class PresenceReport(msgspec.Struct, array_like=True):
    """What a process publishes. `is_new` asks the others to answer with a report at once."""

    process_id: str
    users: list[UserId]
    is_new: bool
    settings: Values = msgspec.field(default_factory=dict)


class Presence:
    """Knows the online users.

    `sockets` is the Socket.IO server of this process, `pipe` publishes to the other processes.
    `settings` takes part in the reports.
    """

    def __init__(
        self,
        sockets: socketio.AsyncServer,
        pipe: AutoPipeline,
        prefix: str,
        settings: PeerSettings,
    ) -> None:
        self.process_id = secrets.token_hex(6)
        self.channel = ""  # until the id of the installation is known
        self._prefix = prefix
        self._sockets, self._pipe, self._settings = sockets, pipe, settings
        self._here: Counter[UserId] = Counter()  # number of sockets of each user in this process
        # process id -> (time of its last report, its users)
        self._peers: dict[str, tuple[float, frozenset[UserId]]] = {}
        self._last_report_at = float("-inf")  # of any other process
        self._announced: list[UserId] = []  # the sorted list for the clients
        self._announced_at: dict[UserId, float] = {}  # last changes, for ANNOUNCE_INTERVAL_S
        self._pending: set[UserId] = set()  # have come or gone since they were announced
        self._changed = asyncio.Event()
        self._must_report = self._must_notify = False
        self._tasks = TaskSet()

    def join(self, installation: str) -> None:
        """Report to the other processes of this installation."""
        self.channel = f"{self._prefix}{installation}:presence"

    def open(self) -> None:
        """Start to report this process's users, and to notify its clients."""
        self._tasks.start(self._report_regularly())
        self._tasks.start(self._notify_clients())

    async def close(self) -> None:
        """Report an empty list, so that other processes show these users as offline at once."""
        self._here.clear()
        self.report()
        await self._pipe.drain()
        await self._tasks.cancel()

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
            self._pending.add(user)
        return is_first

    def remove(self, user: UserId) -> bool:
        """Count one socket less. Return whether it was the user's last one here."""
        self._here[user] -= 1
        is_last = self._here[user] <= 0
        if is_last:
            del self._here[user]
            self._pending.add(user)
        return is_last

    def changed_here(self) -> None:
        """Notify the clients and the other processes that a user has come or gone."""
        self._must_report = True
        self._changed.set()

    def report(self, *, is_new: bool = False) -> None:
        """Publish the users of this process.

        `is_new` asks the other processes to answer with a report at once.
        """
        self._must_report = False
        if not self.channel:
            return
        report = PresenceReport(self.process_id, self.users_here(), is_new, self._settings.own)
        self._pipe.execute("PUBLISH", self.channel, msgspec.json.encode(report))

    # --- all processes ---

    def announced_to(self, user: UserId) -> list[UserId]:
        """Return the list for a new socket of this user.

        It is the one that all clients have or are about to receive, and this user.
        """
        if self._announce_changes():
            self._must_notify = True
            self._changed.set()
        users = list(self._announced)
        if not self._is_announced(user):
            bisect.insort(users, user)
        return users

    def has_live_peers(self) -> bool:
        """Return whether other processes run: events must be published for them."""
        return bool(self._peers)

    def had_peers_recently(self) -> bool:
        """Return whether another process has reported within PEER_MEMORY_S seconds.

        While Redis is down, no process receives the reports of another one, and after SILENCE_S
        they count as stopped. Their events may still have been lost.
        """
        return time.monotonic() - self._last_report_at < PEER_MEMORY_S

    def receive_report(self, report: PresenceReport) -> None:
        """Store the users of another process. A new process gets a report of this one in return."""
        self._settings.receive(report.settings)
        before = self._peers.get(report.process_id, (0.0, frozenset()))[1]
        users, self._last_report_at = frozenset(report.users), time.monotonic()
        self._peers[report.process_id] = (self._last_report_at, users)
        if differences := before ^ users:
            self._pending |= differences
            self._changed.set()
        if report.is_new:
            self.report()

    # --- background ---

    async def _report_regularly(self) -> None:
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            self.report()
            self._forget_silent_processes()
            metrics.USERS_HERE.set(len(self._here))
            metrics.USERS_ONLINE.set(len(self._announced))
            metrics.PEERS.set(len(self._peers))

    def _forget_silent_processes(self) -> None:
        now = time.monotonic()
        silent = [
            process_id
            for process_id, (reported_at, _) in self._peers.items()
            if now - reported_at > SILENCE_S
        ]
        for process_id in silent:
            self._pending |= self._peers.pop(process_id)[1]
        if silent:
            self._changed.set()

    async def _notify_clients(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._must_report:
                self.report()
            if self._announce_changes() or self._must_notify:
                self._must_notify = False
                await self._send_list()
            names = len(self._announced) * self._here.total()
            await asyncio.sleep(max(NOTIFY_INTERVAL_S, names / NOTIFIED_NAMES_PER_S))
            if self._pending:  # changes that may be announced later
                self._changed.set()

    def _announce_changes(self) -> bool:
        """Take the changes that may be announced now over into the list.

        Return whether there are any.
        """
        now = time.monotonic()
        has_changed = False
        for user in list(self._pending):
            if self.is_online(user) == self._is_announced(user):
                self._pending.discard(user)
            elif now - self._announced_at.get(user, float("-inf")) >= ANNOUNCE_INTERVAL_S:
                self._pending.discard(user)
                self._announce(user)
                self._announced_at[user] = now
                has_changed = True
        return has_changed

    def is_online(self, user: UserId) -> bool:
        """Return whether the user has a socket in any process."""
        return user in self._here or any(user in users for _, users in self._peers.values())

    def _is_announced(self, user: UserId) -> bool:
        place = bisect.bisect_left(self._announced, user)
        return self._announced[place : place + 1] == [user]

    def _announce(self, user: UserId) -> None:
        """Add a user to the list, or remove the user from it."""
        if self._is_announced(user):
            self._announced.remove(user)
        else:
            bisect.insort(self._announced, user)

    async def _send_list(self) -> None:
        """Send the list to all clients of this process. Other tasks run in between."""
        now, users = time.monotonic(), self.users_here()
        self._announced_at = {
            user: at for user, at in self._announced_at.items() if now - at < ANNOUNCE_INTERVAL_S
        }
        for start in range(0, len(users), NOTIFIED_AT_ONCE):
            group = users[start : start + NOTIFIED_AT_ONCE]
            await self._sockets.emit("onlineUsers", self._announced, room=group)
            await asyncio.sleep(0)
