"""The windows that a write of this process did not reach."""

import time
from collections import OrderedDict


class MissedWindows:
    """Remember the key of each window for one TTL. After that the outdated window has expired."""

    def __init__(self) -> None:
        self._missed_at: OrderedDict[str, float] = OrderedDict()

    def add(self, key: str, ttl_ms: int) -> None:
        """Remember that a write to this window was missed now.

        Forget those that were missed more than a TTL ago.
        """
        now = self._missed_at[key] = time.monotonic()
        self._missed_at.move_to_end(key)
        while now - next(iter(self._missed_at.values())) > ttl_ms / 1000:
            self._missed_at.popitem(last=False)

    def __bool__(self) -> bool:
        return bool(self._missed_at)

    def take_all(self) -> list[str]:
        """Return the keys and forget them."""
        missed, self._missed_at = list(self._missed_at), OrderedDict()
        return missed
