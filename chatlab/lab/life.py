"""The lifetime of one cached key, as observed from outside.

Three moments are kept apart because they are easily confused: the deadline, the first time that
Redis no longer had the key, and the sweeper's expiry report. A `Life` only records what it is given
and renders a static picture; the widgets show it while it runs.
"""

from dataclasses import dataclass
from typing import Any

from chatlab.cache.deadline_tracker import CLOCK_ERROR_S, GONE, NO_EXPIRY
from chatlab.domain.trace import StageEvent

# Milliseconds before the deadline. From then on the key is checked often.
NEAR = 100
OFTEN, SELDOM = 0.01, 0.5  # seconds between two checks


@dataclass
class Life:
    """The observed lifetime of one key. Times are in milliseconds since 1970.

    `state` is live, kept (no expiry), expired, lost (gone before its deadline) or gone (reported by
    the sweeper).
    """

    key: str
    ttl_ms: int
    cached_ms: float
    deadline_ms: float
    state: str = "live"
    alive_ms: float = 0.0  # the last check that found the key
    ended_ms: float = 0.0  # the first check that did not
    end_code: int = 0  # what PTTL returned then
    told_ms: float = 0.0

    @classmethod
    def of(cls, event: StageEvent) -> "Life":
        """Create the lifetime that starts with a `cached` flow event."""
        return cls(event["key"], event["ttlMs"], event["at"], event["at"] + event["ttlMs"])

    @property
    def seconds(self) -> float:
        """Seconds from being cached to the first check that found the key gone."""
        return (self.ended_ms - self.cached_ms) / 1000

    @property
    def lasted(self) -> float:
        """Seconds that the key lived.

        If it expired at its deadline, the deadline counts, however late the check that found it
        gone. Otherwise that check counts.
        """
        return (self.deadline_ms - self.cached_ms) / 1000 if self.to_deadline else self.seconds

    @property
    def told_at(self) -> float:
        """Seconds from being cached to the sweeper's expiry report."""
        return (self.told_ms - self.cached_ms) / 1000

    @property
    def to_deadline(self) -> bool:
        """True if the key expired at its deadline.

        The last check before the deadline found it and the first check after it did not.
        """
        error = CLOCK_ERROR_S * 1000
        return (
            self.state in ("expired", "gone")
            and self.alive_ms <= self.deadline_ms + error
            and self.ended_ms >= self.deadline_ms - error
        )

    def looked(self, pttl: int, now: float) -> bool:
        """Record what PTTL returned. True if this changes the state or the deadline."""
        before = (self.state, self.deadline_ms)
        if pttl == GONE:
            self.state = "expired" if now >= self.deadline_ms - CLOCK_ERROR_S * 1000 else "lost"
            self.ended_ms, self.end_code = now, pttl
        elif pttl == NO_EXPIRY:
            self.state = "kept"
        else:
            self.state, self.alive_ms = "live", now
            self.deadline_ms = self._deadline(now + pttl)
        return self.state != before[0] or abs(self.deadline_ms - before[1]) > NEAR

    def _deadline(self, latest: float) -> float:
        """Return the corrected deadline: the key cannot end later than `latest`.

        Each check narrows the deadline down. A much later one means that the key was given a new
        TTL.
        """
        return latest if latest > self.deadline_ms + NEAR else min(self.deadline_ms, latest)

    def told(self, event: StageEvent) -> None:
        """Record the sweeper's `cleaned` event."""
        self.state, self.told_ms = "gone", event["at"]

    def next_look(self, now: float) -> float:
        """Return the seconds until the next check.

        The pause is short near the end, so that the expiry is noticed at once.
        """
        left = self.deadline_ms - now
        return OFTEN if left < NEAR else min(SELDOM, (left - NEAR / 2) / 1000)

    def item(self) -> dict[str, Any]:
        """Return the row that the TTL board shows."""
        return {
            "key": self.key,
            "ttlMs": self.ttl_ms,
            "cachedMs": self.cached_ms,
            "deadlineMs": self.deadline_ms,
            "state": self.state,
            "endedMs": self.ended_ms,
            "toldMs": self.told_ms,
        }

    def moments(self) -> list[tuple[float, str]]:
        """Return what happened, each with its time in seconds."""
        rows = [
            (0.0, f"cached, to live {self.ttl_ms / 1000:g} s"),
            ((self.alive_ms - self.cached_ms) / 1000, "last look that found it"),
        ]
        if self.ended_ms:
            rows.append((self.seconds, f"first look that did not: PTTL answers {self.end_code}"))
        if self.told_ms:
            rows.append((self.told_at, "the worker tells of it: Cache cleaned"))
        return rows

    def __repr__(self) -> str:
        return "\n".join(
            [self.key, *(f"{second:6.2f} s  {what}" for second, what in self.moments())]
        )

    def _repr_svg_(self) -> str:
        return life_svg(self)


WIDTH, LEFT, PER_SECOND = 640, 20, 85.0


def life_svg(life: Life) -> str:
    """Draw the lifetime on a ruler of seconds.

    For places without live widgets, such as a saved notebook or a printout.
    """
    end = life.seconds if life.ended_ms else life.ttl_ms / 1000
    scale = min(
        PER_SECOND, (WIDTH - 2 * LEFT) / max(end, life.told_at if life.told_ms else 0.0, 0.1)
    )

    def x(second: float) -> str:
        return f"{LEFT + second * scale:.1f}"

    moments = life.moments()
    height = 100 + 20 * len(moments)
    # the colours of the marks
    colours = [
        "#000000",
        "#000000",
        *["#c2410c"] * bool(life.ended_ms),
        *["#1d4ed8"] * bool(life.told_ms),
    ]
    rows = [
        f'<text x="{LEFT}" y="{100 + 20 * row}" fill="{colour}">{second:.2f} s  {what}</text>'
        for row, ((second, what), colour) in enumerate(zip(moments, colours, strict=True))
    ]
    ticks = [
        f'<path d="M{x(second)} 62v6" stroke="#566170"/><text x="{x(second)}" y="80" text-anchor="middle" fill="#566170">{second}</text>'
        for second in range(int(7 if scale == PER_SECOND else end) + 1)
    ]
    marks = (
        [f'<path d="M{x(end)} 26v40" stroke="#c2410c" stroke-width="2"/>'] if life.ended_ms else []
    )
    marks += (
        [f'<circle cx="{x(life.told_at)}" cy="48" r="6" fill="#1d4ed8"/>'] if life.told_ms else []
    )
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" font-family="sans-serif" font-size="13">',
        f"<title>The life of {life.key}</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff" stroke="#b9c3cf"/>',
        f'<text x="{LEFT}" y="22" font-family="monospace">{life.key}</text>',
        f'<rect x="{LEFT}" y="38" width="{end * scale:.1f}" height="20" rx="6" fill="#17877a"/>',
        f'<path d="M{LEFT} 62H{WIDTH - LEFT}" stroke="#566170"/>',
        *ticks,
        *marks,
        *rows,
        "</svg>",
    ])  # fmt: skip
