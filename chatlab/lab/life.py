"""The life of one cached key as it was observed: what Redis answered when it was asked, and when the worker told of the end.

Three moments that are easily taken for one another are kept apart: the deadline, the first time that Redis no longer had the key, and the
worker's word. A `Life` is told what was seen and draws nothing but its own snapshot; the widgets show it while it runs.
"""

from dataclasses import dataclass
from typing import Any

from chatlab.cache.deadline_tracker import CLOCK_ERROR_S, GONE, NO_EXPIRY
from chatlab.domain.trace import StageEvent

NEAR = 100  # milliseconds before its deadline from which a key is asked for often
OFTEN, SELDOM = 0.01, 0.5  # seconds between two looks


@dataclass
class Life:
    """Times are in milliseconds since 1970. `state`: live, kept (no expiry), expired, lost (gone before its deadline), gone (told)."""

    key: str
    ttl_ms: int
    cached_ms: float
    deadline_ms: float
    state: str = "live"
    alive_ms: float = 0.0  # the last look that found it
    ended_ms: float = 0.0  # the first look that did not
    end_code: int = 0  # what PTTL answered then
    told_ms: float = 0.0

    @classmethod
    def of(cls, event: StageEvent) -> "Life":
        """The life that a flow event `cached` begins."""
        return cls(event["key"], event["ttlMs"], event["at"], event["at"] + event["ttlMs"])

    @property
    def seconds(self) -> float:
        """From being cached to the first look that found it gone."""
        return (self.ended_ms - self.cached_ms) / 1000

    @property
    def lasted(self) -> float:
        """Seconds that it lived: to its deadline if it ended there, however late the look that found it gone; else to that look."""
        return (self.deadline_ms - self.cached_ms) / 1000 if self.to_deadline else self.seconds

    @property
    def told_at(self) -> float:
        """Seconds from being cached to the worker's word."""
        return (self.told_ms - self.cached_ms) / 1000

    @property
    def to_deadline(self) -> bool:
        """True when the last look before the deadline found it, and the first after it did not: it ended there, wherever the looks fell."""
        error = CLOCK_ERROR_S * 1000
        return self.state in ("expired", "gone") and self.alive_ms <= self.deadline_ms + error and self.ended_ms >= self.deadline_ms - error

    def looked(self, pttl: int, now: float) -> bool:
        """Take in what PTTL answered. True when it is news."""
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
        """It cannot end later than `latest`. Each look narrows it down; a much later one is another life that somebody gave it."""
        return latest if latest > self.deadline_ms + NEAR else min(self.deadline_ms, latest)

    def told(self, event: StageEvent) -> None:
        """The worker's `cleaned`."""
        self.state, self.told_ms = "gone", event["at"]

    def next_look(self, now: float) -> float:
        """Seconds until it is worth asking again: often when the end is near, so that the first look after it comes at once."""
        left = self.deadline_ms - now
        return OFTEN if left < NEAR else min(SELDOM, (left - NEAR / 2) / 1000)

    def item(self) -> dict[str, Any]:
        """As the TTL board wants it."""
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
        """What happened, with its second."""
        rows = [(0.0, f"cached, to live {self.ttl_ms / 1000:g} s"), ((self.alive_ms - self.cached_ms) / 1000, "last look that found it")]
        if self.ended_ms:
            rows.append((self.seconds, f"first look that did not: PTTL answers {self.end_code}"))
        if self.told_ms:
            rows.append((self.told_at, "the worker tells of it: Cache cleaned"))
        return rows

    def __repr__(self) -> str:
        return "\n".join([self.key, *(f"{second:6.2f} s  {what}" for second, what in self.moments())])

    def _repr_svg_(self) -> str:
        return life_svg(self)


WIDTH, LEFT, PER_SECOND = 640, 20, 85.0


def life_svg(life: Life) -> str:
    """The life on a ruler of seconds. A picture for where nothing moves: a saved notebook, a print."""
    end = life.seconds if life.ended_ms else life.ttl_ms / 1000
    scale = min(PER_SECOND, (WIDTH - 2 * LEFT) / max(end, life.told_at if life.told_ms else 0.0, 0.1))

    def x(second: float) -> str:
        return f"{LEFT + second * scale:.1f}"

    moments = life.moments()
    height = 100 + 20 * len(moments)
    colours = ["#000000", "#000000", *["#c2410c"] * bool(life.ended_ms), *["#1d4ed8"] * bool(life.told_ms)]  # those of the marks
    rows = [
        f'<text x="{LEFT}" y="{100 + 20 * row}" fill="{colour}">{second:.2f} s  {what}</text>'
        for row, ((second, what), colour) in enumerate(zip(moments, colours, strict=True))
    ]
    ticks = [
        f'<path d="M{x(second)} 62v6" stroke="#566170"/><text x="{x(second)}" y="80" text-anchor="middle" fill="#566170">{second}</text>'
        for second in range(int(7 if scale == PER_SECOND else end) + 1)
    ]
    marks = [f'<path d="M{x(end)} 26v40" stroke="#c2410c" stroke-width="2"/>'] if life.ended_ms else []
    marks += [f'<circle cx="{x(life.told_at)}" cy="48" r="6" fill="#1d4ed8"/>'] if life.told_ms else []
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
