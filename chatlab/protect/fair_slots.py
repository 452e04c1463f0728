"""Slots for expensive work: a limited number in all and for each user, with a waiting line."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from chatlab.errors import RateLimited

RETRY_AFTER_S = 2.0  # for a caller that finds the waiting line full


class FairSlots:
    """Bounds how much of one kind of work runs at the same time, in all and for each key.

    A key is a user id, for example. Who finds no free slot waits in line, behind at most `per_key`
    others of the same key. The line is full when `waiting` callers are in it, or `waiting_per_key`
    callers of one key; None means that it never is.
    """

    def __init__(
        self,
        total: int,
        per_key: int,
        *,
        waiting: int | None = None,
        waiting_per_key: int | None = None,
    ) -> None:
        self._all, self._per_key = asyncio.Semaphore(total), per_key
        self._own: dict[str, asyncio.Semaphore] = {}
        self._inside = Counter[str]()  # callers of each key that run or wait
        self._max_inside = None if waiting is None else total + waiting
        self._max_per_key = None if waiting_per_key is None else per_key + waiting_per_key

    @contextlib.asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Wait for a slot and hold it until the block ends.

        Raises RateLimited if the line is full.
        """
        self._require_room(key)
        own = self._own.setdefault(key, asyncio.Semaphore(self._per_key))
        self._inside[key] += 1
        try:
            async with own, self._all:  # so a key has at most `per_key` callers in the common line
                yield
        finally:
            self._inside[key] -= 1
            if not self._inside[key]:
                del self._inside[key], self._own[key]

    def _require_room(self, key: str) -> None:
        if self._max_per_key is not None and self._inside[key] >= self._max_per_key:
            raise RateLimited(
                "You do too much of this at the same time. Wait a moment.", RETRY_AFTER_S
            )
        if self._max_inside is not None and self._inside.total() >= self._max_inside:
            raise RateLimited(
                "Too many users do this at the same time. Wait a moment.", RETRY_AFTER_S
            )
