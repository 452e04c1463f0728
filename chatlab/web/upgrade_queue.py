"""Turn connections into websockets one at a time, so that requests need not wait for a crowd."""

import asyncio
from collections import deque
from collections.abc import Callable


class UpgradeQueue:
    """Requests for websockets that wait for their turn.

    One begins in each turn of the event loop; the requests that have arrived are read in between.
    A handshake takes 0.2 ms, so those of 2,000 clients that connect at once would keep the loop
    busy for 0.4 s. None is refused: each belongs to an open connection, which limits their number.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], bool]] = deque()

    def add(self, begin: Callable[[], bool]) -> None:
        """Call `begin` in a later turn. It returns False if the client has gone."""
        self._waiting.append(begin)
        if len(self._waiting) == 1:
            self._schedule()

    def _schedule(self) -> None:
        asyncio.get_running_loop().call_soon(self._begin_next)

    def _begin_next(self) -> None:
        try:
            while self._waiting and not self._waiting.popleft()():
                pass
        finally:
            if self._waiting:
                self._schedule()
