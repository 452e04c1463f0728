"""Log lines of the same kind at most once a minute, however often their cause occurs."""

import time
from collections.abc import Hashable

INTERVAL_S = 60.0


class LogLimit:
    """Remembers when a line of each kind was logged last. There must be a fixed number of kinds."""

    def __init__(self) -> None:
        self._logged_at: dict[Hashable, float] = {}

    def allows(self, kind: Hashable) -> bool:
        """Return whether a line of this kind may be logged now. The caller then logs it."""
        now = time.monotonic()
        if now - self._logged_at.get(kind, float("-inf")) < INTERVAL_S:
            return False
        self._logged_at[kind] = now
        return True
