"""The document's claims about speed and memory, and the verdict on each from what was measured.

The document's milliseconds are those of a distant MongoDB, while here both servers are on one
machine. So each claim is judged twice: as measured, and as computed for a distance at which the
operation takes the document's time without a cache. The distance is the time by which each round
trip to MongoDB would have to be longer; Redis stays near. A claim `holds` if it holds in both
places, and `depends` if it holds in only one.
"""

from typing import NamedTuple

from chatlab.bench.samples import Interval, Summary, share_saved, summarize

HOLDS, DEPENDS, FAILS = "holds", "depends", "does not hold"
TOLERANCE = 0.2  # how far a measured figure may be from one that the document gives with "~"
ROUNDING = 0.005  # the document gives whole percents


class PerformanceClaim(NamedTuple):
    """A row of the document's performance table. Times in ms are ranges, from and to."""

    operation: str
    without_ms: tuple[float, float]
    with_cache_ms: tuple[float, float]
    share_saved: float
    hypothesis: str


SEND = PerformanceClaim(
    "Send Message",
    (150, 150),
    (100, 100),
    0.33,
    "A send takes 33 % less time with the cache than without.",
)
GET = PerformanceClaim(
    "Get Conversation",
    (200, 500),
    (50, 100),
    0.60,
    "Reading a conversation takes 60 % less time from Redis than from MongoDB.",
)
UPDATE = PerformanceClaim(
    "Message Updates",
    (100, 100),
    (50, 50),
    0.50,
    "A reaction takes 50 % less time when the message is cached.",
)


class Comparison(NamedTuple):
    """Samples in ms for one claim, measured with and without the cache in turn.

    `condition` says what exactly was requested. `round_trips` is the number of consecutive round
    trips to MongoDB, without the cache and with it.
    """

    claim: PerformanceClaim
    condition: str
    without_ms: list[float]
    with_cache_ms: list[float]
    round_trips: tuple[int, int]


class Outcome(NamedTuple):
    """A comparison with its verdict.

    `extra_round_trip_ms` is how much longer a round trip to MongoDB would have to take to match the
    document. `distant_ms` and `distant_saved` are the time with the cache, and the share saved, at
    that distance.
    """

    comparison: Comparison
    without: Summary
    with_cache: Summary
    saved: Interval
    extra_round_trip_ms: float
    distant_ms: float
    distant_saved: float
    verdict: str


def judge(comparison: Comparison) -> Outcome:
    claim, trips = comparison.claim, comparison.round_trips
    without, with_cache = summarize(comparison.without_ms), summarize(comparison.with_cache_ms)
    saved = share_saved(comparison.without_ms, comparison.with_cache_ms)
    extra_ms = max(0.0, (claim.without_ms[0] - without.median.middle) / trips[0])
    distant_without_ms = without.median.middle + extra_ms * trips[0]
    distant_ms = with_cache.median.middle + extra_ms * trips[1]
    distant_saved = 1 - distant_ms / distant_without_ms
    verdict = _verdict(claim, saved.middle, distant_saved)
    return Outcome(
        comparison, without, with_cache, saved, extra_ms, distant_ms, distant_saved, verdict
    )


def _verdict(claim: PerformanceClaim, saved_here: float, distant_saved: float) -> str:
    """Compare the two shares with the claim. Both may be below it by the rounding of the document."""
    needed = claim.share_saved - ROUNDING
    holds_here, holds_at_distance = saved_here >= needed, distant_saved >= needed
    if holds_here and holds_at_distance:
        return HOLDS
    return DEPENDS if holds_here or holds_at_distance else FAILS


class MemoryRow(NamedTuple):
    """A row of the memory table, in bytes.

    `claimed` is the document's figure: None if it gives none, and 0 for "all of it is freed". In
    the latter case `total` is the memory of which `measured` is left.
    """

    what: str
    claimed: float | None
    measured: float
    remark: str
    total: float = 0

    @property
    def verdict(self) -> str:
        if self.claimed is None:
            return ""
        if not self.claimed:
            return HOLDS if self.measured <= TOLERANCE * self.total else FAILS
        return HOLDS if abs(self.measured / self.claimed - 1) <= TOLERANCE else FAILS
