"""When each key will expire, and what follows once it is gone. Nothing here talks to Redis."""

from collections.abc import Iterable
from dataclasses import dataclass, field

GONE, NO_EXPIRY = -2, -1  # replies of PTTL: there is no such key; the key has no TTL
CLOCK_ERROR_S = 0.05  # a PTTL reply is a round trip old when it is read


@dataclass
class SweepResult:
    """What one sweep found.

    `live`: remaining milliseconds of each key. `cleaned`: milliseconds between the deadline of each
    expired key and now. `lost`: keys that were gone before their deadline. `leaked`: keys without a
    TTL.
    """

    live: dict[str, int] = field(default_factory=dict)
    cleaned: dict[str, float] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)


class DeadlineTracker:
    """Know the deadline of each key that was seen and is not yet reported as gone.

    Times are seconds of the clock of Redis, which decides when a key expires.
    """

    def __init__(self) -> None:
        self._deadlines: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def keys(self) -> list[str]:
        """Return all tracked keys, as they are now."""
        return list(self._deadlines)

    def expect(self, key: str, deadline: float) -> None:
        """Track a key that expires at this time, although no sweep has seen it yet."""
        self._deadlines[key] = deadline

    def forget(self, keys: Iterable[str]) -> None:
        """Track these keys no longer: another sweeper does."""
        for key in keys:
            self._deadlines.pop(key, None)

    def shorten(self, key: str, deadline: float) -> None:
        """Move the deadline of a key, if it is tracked."""
        if key in self._deadlines:
            self._deadlines[key] = deadline

    def needing_pttl(self, keys: Iterable[str], now: float, ttl_ms: int) -> list[str]:
        """Return those live keys that must be asked for their TTL.

        These are new ones, those past their deadline, and those with a deadline that is too late
        since the clock has stepped back.
        """
        latest = now + ttl_ms / 1000 + CLOCK_ERROR_S
        return [key for key in keys if not now < self._deadlines.get(key, 0.0) <= latest]

    def record(
        self, pttls: dict[str, int], now: float, result: SweepResult | None = None
    ) -> SweepResult:
        """Take in the PTTL reply for each key and add what follows to `result`.

        A key is reported as gone once.
        """
        result = result or SweepResult()
        for key, pttl in pttls.items():
            if pttl == GONE:
                self._record_gone(key, now, result)
            elif pttl == NO_EXPIRY:
                result.leaked.append(key)
            else:
                result.live[key] = pttl
                self._deadlines[key] = now + pttl / 1000
        return result

    def _record_gone(self, key: str, now: float, result: SweepResult) -> None:
        deadline = self._deadlines.pop(key, now)  # not tracked: it expired between SCAN and PTTL
        if now >= deadline - CLOCK_ERROR_S:
            result.cleaned[key] = max(0.0, now - deadline) * 1000
        else:
            result.lost.append(key)
