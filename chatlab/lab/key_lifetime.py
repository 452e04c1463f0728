"""The lifetime of one cached key, as observed from outside.

Three moments are kept apart because they are easily confused: the deadline, the first time that
Redis no longer had the key, and the sweeper's expiry report. A `KeyLifetime` records them and draws
a static picture; the widgets show it while it runs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chatlab.cache.deadline_tracker import CLOCK_ERROR_S, GONE, NO_EXPIRY
from chatlab.domain.trace import StageEvent

# Milliseconds before the deadline. From then on the key is checked at the shorter interval.
NEAR_DEADLINE_MS = 100
SHORT_INTERVAL_S, LONG_INTERVAL_S = 0.01, 0.5
BLACK, RED, BLUE = "#000000", "#c2410c", "#1d4ed8"


@dataclass
class KeyLifetime:
    """The observed lifetime of one key. Times are in milliseconds since 1970.

    `state` is live, kept (no expiry), expired, lost (gone before its deadline) or gone (reported by
    the sweeper). `cached_ms` and `deadline_ms` are upper bounds.
    """

    key: str
    ttl_ms: int
    cached_ms: float
    deadline_ms: float
    state: str = "live"
    alive_ms: float = 0.0  # when the last check that found the key was sent
    ended_ms: float = 0.0  # when the reply to the first check that did not find it arrived
    end_pttl: int = 0  # what PTTL returned then
    reported_ms: float = 0.0

    @classmethod
    def from_event(cls, event: StageEvent) -> "KeyLifetime":
        """Create the lifetime that starts with a `cached` flow event."""
        return cls(event["key"], event["ttlMs"], event["at"], event["at"] + event["ttlMs"])

    @property
    def missing_after_s(self) -> float:
        """Seconds from being cached to the first check that found the key gone."""
        return (self.ended_ms - self.cached_ms) / 1000

    @property
    def lifetime_s(self) -> float:
        """Seconds that the key lived.

        If it expired at its deadline, the deadline counts, however late the check that found it
        gone. Otherwise that check counts.
        """
        end_ms = self.deadline_ms if self.expired_at_deadline else self.ended_ms
        return (end_ms - self.cached_ms) / 1000

    @property
    def reported_after_s(self) -> float:
        """Seconds from being cached to the sweeper's expiry report."""
        return (self.reported_ms - self.cached_ms) / 1000

    @property
    def expired_at_deadline(self) -> bool:
        """True if the key expired at its deadline.

        The last check before the deadline found it and the first check after it did not.
        """
        error_ms = CLOCK_ERROR_S * 1000
        return (
            self.state in ("expired", "gone")
            and self.alive_ms <= self.deadline_ms + error_ms
            and self.ended_ms >= self.deadline_ms - error_ms
        )

    def check(self, read_pttl: Callable[[str], int]) -> bool:
        """Read the PTTL of the key now. Return True if this changes the state or the deadline."""
        asked_ms = _now_ms()
        pttl = read_pttl(self.key)
        return self.record_pttl(pttl, asked_ms, _now_ms())

    def record_pttl(self, pttl: int, asked_ms: float, replied_ms: float) -> bool:
        """Record what PTTL returned, and return True if this changes the state or the deadline.

        Redis replied at an unknown time between `asked_ms` and `replied_ms`. So a key that it found
        was alive at `asked_ms`, and a key that it did not find was gone at `replied_ms`.
        """
        before = (self.state, self.deadline_ms)
        if pttl == GONE:
            error_ms = CLOCK_ERROR_S * 1000
            self.state = "expired" if replied_ms >= self.deadline_ms - error_ms else "lost"
            self.ended_ms, self.end_pttl = replied_ms, pttl
        elif pttl == NO_EXPIRY:
            self.state, self.alive_ms = "kept", asked_ms
        else:
            self._record_deadline(asked_ms + pttl, replied_ms + pttl)
            self.state, self.alive_ms = "live", asked_ms
        return self.state != before[0] or abs(self.deadline_ms - before[1]) > NEAR_DEADLINE_MS

    def _record_deadline(self, earliest_ms: float, latest_ms: float) -> None:
        """Narrow the deadline down, which is between these two times.

        If even the earliest one is much later, the key was given a new TTL. The first check also
        corrects the time of caching, which is late if the service was slow to report it.
        """
        if earliest_ms > self.deadline_ms + NEAR_DEADLINE_MS:
            self.deadline_ms = latest_ms
            return
        self.deadline_ms = min(self.deadline_ms, latest_ms)
        if not self.alive_ms:
            self.cached_ms = min(self.cached_ms, self.deadline_ms - self.ttl_ms)

    def record_report(self, event: StageEvent) -> None:
        """Record the sweeper's `cleaned` event."""
        self.state, self.reported_ms = "gone", event["at"]

    def next_check_s(self) -> float:
        """Return the seconds until the next check.

        The pause is short near the end, so that the expiry is noticed at once.
        """
        left_ms = self.deadline_ms - _now_ms()
        if left_ms < NEAR_DEADLINE_MS:
            return SHORT_INTERVAL_S
        return min(LONG_INTERVAL_S, (left_ms - NEAR_DEADLINE_MS / 2) / 1000)

    def board_row(self) -> dict[str, Any]:
        """Return the row that the TTL board shows."""
        return {
            "key": self.key,
            "ttlMs": self.ttl_ms,
            "cachedMs": self.cached_ms,
            "deadlineMs": self.deadline_ms,
            "state": self.state,
            "endedMs": self.ended_ms,
            "reportedMs": self.reported_ms,
        }

    def moments(self) -> list[tuple[float, str, str]]:
        """Return what happened: the time in seconds, a text, and the colour of its mark."""
        moments = [(0.0, f"cached with a TTL of {self.ttl_ms / 1000:g} s", BLACK)]
        if self.alive_ms:
            alive_s = (self.alive_ms - self.cached_ms) / 1000
            moments.append((alive_s, "last check that found the key", BLACK))
        if self.ended_ms:
            text = f"first check that did not find it: PTTL returned {self.end_pttl}"
            moments.append((self.missing_after_s, text, RED))
        if self.reported_ms:
            text = "the sweeper logged it: Cache cleaned"
            moments.append((self.reported_after_s, text, BLUE))
        return moments

    def __repr__(self) -> str:
        rows = [f"{second:6.2f} s  {text}" for second, text, _ in self.moments()]
        return "\n".join([self.key, *rows])

    def _repr_svg_(self) -> str:
        return lifetime_svg(self)


def _now_ms() -> float:
    return time.time() * 1000


WIDTH, LEFT, PX_PER_SECOND = 640, 20, 85.0


def lifetime_svg(lifetime: KeyLifetime) -> str:
    """Draw the lifetime on a ruler of seconds.

    For places without live widgets, such as a saved notebook or a printout.
    """
    end = lifetime.missing_after_s if lifetime.ended_ms else lifetime.ttl_ms / 1000
    moments = lifetime.moments()
    last = max(end, moments[-1][0], 0.1)
    scale = min(PX_PER_SECOND, (WIDTH - 2 * LEFT) / last)

    def x(second: float) -> str:
        return f"{LEFT + second * scale:.1f}"

    height = 100 + 20 * len(moments)
    rows = [
        f'<text x="{LEFT}" y="{100 + 20 * row}" fill="{colour}">{second:.2f} s  {text}</text>'
        for row, (second, text, colour) in enumerate(moments)
    ]
    ticks = [
        f'<path d="M{x(second)} 62v6" stroke="#566170"/><text x="{x(second)}" y="80" text-anchor="middle" fill="#566170">{second}</text>'
        for second in range(int(7 if scale == PX_PER_SECOND else end) + 1)
    ]
    marks = []
    if lifetime.ended_ms:
        marks.append(f'<path d="M{x(end)} 26v40" stroke="{RED}" stroke-width="2"/>')
    if lifetime.reported_ms:
        marks.append(f'<circle cx="{x(lifetime.reported_after_s)}" cy="48" r="6" fill="{BLUE}"/>')
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" font-family="sans-serif" font-size="13">',
        f"<title>Lifetime of {lifetime.key}</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff" stroke="#b9c3cf"/>',
        f'<text x="{LEFT}" y="22" font-family="monospace">{lifetime.key}</text>',
        f'<rect x="{LEFT}" y="38" width="{end * scale:.1f}" height="20" rx="6" fill="#17877a"/>',
        f'<path d="M{LEFT} 62H{WIDTH - LEFT}" stroke="#566170"/>',
        *ticks,
        *marks,
        *rows,
        "</svg>",
    ])  # fmt: skip
