"""How much one user may read from MongoDB, so that long reads do not slow down other users.

A read is charged by its work: the messages that came from MongoDB. Long reads wait in line for a
slot of their user and for one of all users.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

from chatlab.protect.fair_slots import FairSlots
from chatlab.protect.rate_limit import TokenBucket

FREE_MESSAGES = 100  # of each read: a page of this size is charged as one request
MESSAGES_PER_TOKEN = 500  # further messages that cost a user as much as a request

# Queries for more than FREE_MESSAGES messages: each keeps the event loop busy for up to 30 ms.
QUERIES = 4
QUERIES_PER_USER = 2
WAITING_QUERIES = 2000
WAITING_QUERIES_PER_USER = 32
# Histories that are streamed: each has one chunk in memory until its client has taken it.
STREAMS = 64
STREAMS_PER_USER = 4
WAITING_STREAMS = 400
WAITING_STREAMS_PER_USER = 16
# Chunks of them that are read from MongoDB at the same time.
CHUNKS = 2
CHUNKS_PER_USER = 1


class ReadLimits:
    """The limits of all users in this process.

    `rate_limit` is the number of tokens for each user per second, with bursts of twice as many; 0
    means no charge. These tokens are not those of requests: after a long read a user can still
    send. `clock` returns seconds.
    """

    def __init__(self, rate_limit: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._tokens = TokenBucket(rate_limit, 2 * rate_limit, clock=clock)
        self._queries = FairSlots(
            QUERIES,
            QUERIES_PER_USER,
            waiting=WAITING_QUERIES,
            waiting_per_key=WAITING_QUERIES_PER_USER,
        )
        self._streams = FairSlots(
            STREAMS,
            STREAMS_PER_USER,
            waiting=WAITING_STREAMS,
            waiting_per_key=WAITING_STREAMS_PER_USER,
        )
        self._chunks = FairSlots(CHUNKS, CHUNKS_PER_USER)

    def query(self, user: str) -> contextlib.AbstractAsyncContextManager[None]:
        """Wait for the slot of one large query. Raises RateLimited.

        The user may be in debt for earlier reads, or the waiting line may be full.
        """
        self._tokens.require(user)
        return self._queries.hold(user)

    def stream(self, user: str) -> contextlib.AbstractAsyncContextManager[None]:
        """Wait for the slot of one streamed history. Raises RateLimited, as `query` does."""
        self._tokens.require(user)
        return self._streams.hold(user)

    def chunk(self, user: str) -> contextlib.AbstractAsyncContextManager[None]:
        """Wait for the slot of one chunk of a streamed history."""
        return self._chunks.hold(user)

    def charge(self, user: str, messages: int) -> float:
        """Charge a user for messages of MongoDB. Return the seconds until the debt is paid."""
        return self._tokens.spend(user, messages / MESSAGES_PER_TOKEN) if messages > 0 else 0.0

    async def charge_chunk(self, user: str, messages: int) -> None:
        """Charge a user for a chunk, and wait until the debt is paid."""
        await asyncio.sleep(self.charge(user, messages))
