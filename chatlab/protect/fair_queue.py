"""A bounded queue for expensive work, which no single client can fill."""

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator

from chatlab.errors import RateLimited

BUSY = "Too many people are signing up or logging in right now. Try again in 2 s."
BUSY_S = 2


class FairQueue:
    """Lets `slots` callers work at a time; at most `places` others wait.

    Each caller has a key, such as an address. The keys take turns, so a caller waits for at most
    one caller of each other key that is ahead. If all places are taken, the key with the most
    callers loses the newest of them.
    """

    def __init__(self, slots: int, places: int) -> None:
        self._free, self._places = slots, places
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        """Wait for a slot, and keep it during the block. Raises RateLimited without a place."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(key)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, key: str) -> None:
        if sum(map(len, self._waiting.values())) >= self._places:
            self._make_room(key)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._remove(key, turn)
            elif not turn.exception():
                self._pass_on()  # the caller was cancelled after it had got the slot
            raise

    def _make_room(self, key: str) -> None:
        """Take a place from the key with the most callers. Raises RateLimited if this is `key`."""
        longest = max(self._waiting, key=lambda other: len(self._waiting[other]))
        if len(self._waiting[longest]) <= len(self._waiting.get(key, ())) + 1:
            raise RateLimited(BUSY, BUSY_S)
        newest = self._waiting[longest][-1]
        self._remove(longest, newest)
        if not newest.done():
            newest.set_exception(RateLimited(BUSY, BUSY_S))

    def _remove(self, key: str, turn: "asyncio.Future[None]") -> None:
        turns = self._waiting.get(key, deque())
        if turn in turns:
            turns.remove(turn)
        if not turns:
            self._waiting.pop(key, None)

    def _pass_on(self) -> None:
        """Give the slot to the first caller of the next key. That key is the last one then."""
        while self._waiting:
            key, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[key] = turns
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
