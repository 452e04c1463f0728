"""What a MongoClient does with its connections."""

from typing import Any

from pymongo.monitoring import (
    ConnectionCheckedInEvent,
    ConnectionCheckedOutEvent,
    ConnectionCheckOutFailedEvent,
    ConnectionCheckOutStartedEvent,
    ConnectionPoolListener,
)


class PoolUsage(ConnectionPoolListener):
    """Counts the connections of a MongoClient that are in use, and the operations that wait for one."""

    def __init__(self) -> None:
        self.in_use = self.waiting = 0

    def connection_check_out_started(self, _event: ConnectionCheckOutStartedEvent) -> None:
        self.waiting += 1

    def connection_check_out_failed(self, _event: ConnectionCheckOutFailedEvent) -> None:
        self.waiting -= 1

    def connection_checked_out(self, _event: ConnectionCheckedOutEvent) -> None:
        self.waiting -= 1
        self.in_use += 1

    def connection_checked_in(self, _event: ConnectionCheckedInEvent) -> None:
        self.in_use -= 1

    def _ignore(self, event: Any) -> None:
        """The other events say nothing about usage."""

    connection_created = connection_ready = connection_closed = _ignore
    pool_created = pool_ready = pool_cleared = pool_closed = _ignore
