"""How many connections may be open, and how long a client may take for its part of a request.

`LimitedConnection` is one connection. `ConnectionLimits` has all connections of the process, and
checks them once a second: a timer for each request would cost more than the rest of the limits.
"""

import asyncio
import logging
import time
from collections import Counter
from enum import StrEnum
from typing import Any, NamedTuple

from starlette.types import Scope

from chatlab import metrics
from chatlab.protect.log_limit import LogLimit
from chatlab.protect.rate_limit import address_group
from chatlab.settings import Settings
from chatlab.web.descriptors import HEALTH_CHECKS
from chatlab.web.stopping import Drain
from chatlab.web.upgrade_queue import UpgradeQueue

log = logging.getLogger(__name__)

LIMITS_KEY = "connection_limits"  # of the state of the application: the ConnectionLimits
CLIENT_KEY = "client"  # of the state of a request: the RemoteClient
LOOPBACK = ("127.0.0.1", "::/64")  # the addresses of this machine
CHECK_INTERVAL_S = 1.0
MIN_BYTES_PER_S = 1000  # a phone with a bad connection has more


class Reason(StrEnum):
    """Why connections are closed, for the log. The name is a label of the metrics."""

    IDLE = "they sent no request in time"
    HEAD = "the head of a request did not arrive in time"
    BODY = "a body arrived too slowly"
    UNREAD = "the client did not read"
    ADDRESS = "there were too many without a valid token from one address"
    TOTAL = "there were too many"
    FRAMES = "the client sent too much before a valid token"
    INVALID = "the client did not follow HTTP or the websocket protocol"


class RemoteClient:
    """What is known of the client of a connection.

    It has no reference to the connection, which would then not be freed when it ends.
    """

    __slots__ = ("address", "authenticated", "limits")

    def __init__(self, limits: "ConnectionLimits") -> None:
        self.limits, self.address, self.authenticated = limits, "", False

    def authenticate(self) -> None:
        """Note that the client has shown a valid token."""
        self.authenticated = True
        self.limits.forget_stranger(self)


def note_authenticated(scope: Scope) -> None:
    """Note that the client of this connection has shown a valid token."""
    client: RemoteClient | None = scope.get("state", {}).get(CLIENT_KEY)
    if client and not client.authenticated:
        client.authenticate()


class Step(NamedTuple):
    """What a client must do next: move bytes, and enough of them every `limit_s` seconds.

    With another `of` or another reason it is another step, and has a new time limit.
    """

    of: object
    moved_bytes: int  # until now
    limit_s: float
    reason: Reason

    def continues(self, other: "Step") -> bool:
        """Return whether both are the same step, seen at different times."""
        return self.of is other.of and self.reason is other.reason


class LimitedConnection(asyncio.Protocol):
    """A mix-in for the protocol classes of uvicorn."""

    transport: asyncio.Transport
    client: tuple[str, int] | None
    _step: Step | None = None
    _step_began = 0.0
    _unread: object = None  # another object each time that too much waits for the client to read

    def __init__(
        self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None
    ) -> None:
        self.remote = RemoteClient(app_state[LIMITS_KEY])
        super().__init__(config, server_state, app_state, _loop)  # type: ignore[call-arg]

    @property
    def limits(self) -> "ConnectionLimits":
        """The limits of this process."""
        return self.remote.limits

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.remote.address = address_group(self.client[0] if self.client else "")
        self.limits.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.limits.remove(self)

    def pause_writing(self) -> None:
        self._unread = object()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread = None
        super().resume_writing()

    def check(self, now_s: float) -> None:
        """End the connection if the client has been too slow."""
        step = self.next_step()
        if step is None:
            if self._step is not None:  # otherwise it costs each idle socket memory
                self._step = None
        elif self._step is None or not step.continues(self._step):
            self._step, self._step_began = step, now_s
        elif (took_s := now_s - self._step_began) >= step.limit_s:
            if step.moved_bytes - self._step.moved_bytes < took_s * MIN_BYTES_PER_S:
                self.give_up(step.reason)
            self._step, self._step_began = step, now_s

    def next_step(self) -> Step | None:
        """Return what the client must do next, or None while that is nothing."""
        if self._unread is None and not self.transport.is_closing():
            return None
        left_bytes = self.transport.get_write_buffer_size()
        return Step(self._unread, -left_bytes, self.limits.stalled_timeout, Reason.UNREAD)

    def give_up(self, reason: Reason) -> None:
        """End the connection at once."""
        self.limits.count(reason, self.remote)
        self.transport.abort()


class ConnectionLimits:
    """All connections of this process."""

    def __init__(self, settings: Settings, max_connections: int, drain: Drain) -> None:
        self.drain, self.upgrades = drain, UpgradeQueue()
        self.head_timeout = settings.head_timeout
        self.stalled_timeout = settings.stalled_timeout
        self._max_connections = max_connections
        # One address must never be able to use all of them.
        self._max_of_address = min(settings.connections_per_address, max_connections // 2)
        self._open: set[LimitedConnection] = set()
        # Those without a valid token, by address, the oldest first.
        self._strangers: dict[str, dict[RemoteClient, LimitedConnection]] = {}
        self._closed: Counter[Reason] = Counter()  # since the last line in the log
        self._last_address: dict[Reason, str] = {}
        self._log_limit = LogLimit()

    def add(self, connection: LimitedConnection) -> None:
        """Add a new connection, and end the oldest one without a token if there are too many."""
        address = connection.remote.address
        self._open.add(connection)
        strangers = self._strangers.setdefault(address, {})
        strangers[connection.remote] = connection
        spare = HEALTH_CHECKS if address in LOOPBACK else 0
        if len(strangers) > self._max_of_address:
            self._end_oldest(strangers, Reason.ADDRESS)
        elif len(self._open) > self._max_connections + spare:
            self._end_oldest(max(self._strangers.values(), key=len), Reason.TOTAL)

    def _end_oldest(self, strangers: dict[RemoteClient, LimitedConnection], reason: Reason) -> None:
        oldest = next(iter(strangers.values()))
        self.remove(oldest)
        oldest.give_up(reason)

    def remove(self, connection: LimitedConnection) -> None:
        self._open.discard(connection)
        self.forget_stranger(connection.remote)

    def forget_stranger(self, client: RemoteClient) -> None:
        """Do not count this client towards the limit of its address."""
        strangers = self._strangers.get(client.address, {})
        if strangers.pop(client, None) and not strangers:
            del self._strangers[client.address]

    def count(self, reason: Reason, client: RemoteClient) -> None:
        """Count a connection that is being closed."""
        metrics.CLOSED.labels(reason.name.lower()).inc()
        self._closed[reason] += 1
        self._last_address[reason] = client.address

    async def run(self) -> None:
        """Check all connections once a second.

        While this process was late, the clients were not: such time does not count.
        """
        clock_s, before = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            now = time.monotonic()
            clock_s += min(now - before, 2 * CHECK_INTERVAL_S)
            before = now
            self._check_all(clock_s)
            self._log()

    def _check_all(self, now_s: float) -> None:
        for connection in list(self._open):
            try:
                connection.check(now_s)
            except Exception:  # the other connections must be checked too
                log.exception("unexpected error")
                connection.transport.abort()

    def _log(self) -> None:
        """Log what was closed and why, at most once a minute for each reason."""
        for reason, count in list(self._closed.items()):
            if self._log_limit.allows(reason):
                level = logging.INFO if reason is Reason.IDLE else logging.WARNING
                address = self._last_address[reason]
                line = "closed connections: %d, because %s; the last from %s"
                log.log(level, line, count, reason, address)
                del self._closed[reason]
