"""What the document claims of speed and memory, as hypotheses, and the verdict on each from what was measured. Pure.

The document's milliseconds are those of a database far away; here both engines are on one machine. So each operation also has a figure for
distance: how much longer a round trip to MongoDB would have to take for the document's time without a cache, with Redis near; and what the
cache would save then. A claim that holds here and there `holds`; one that holds in one of the places only `depends`.
"""

from typing import NamedTuple

from chatlab.bench.samples import Interval, Summary, saved, summary

HOLDS, DEPENDS, FAILS = "holds", "depends", "does not hold"
ABOUT = 0.2  # how far from a figure that is given with "~" a measured one may be
ROUNDED = 0.01  # the document gives whole percents


class Claim(NamedTuple):
    """A row of the document's performance table; times in ms, from and to."""

    operation: str
    without: tuple[float, float]
    with_cache: tuple[float, float]
    faster: float
    hypothesis: str


SEND = Claim("Send Message", (150, 150), (100, 100), 0.33, "A send takes 33 % less time with the cache than without.")
GET = Claim("Get Conversation", (200, 500), (50, 100), 0.60, "A conversation comes in 60 % less time from Redis than from MongoDB.")
UPDATE = Claim("Message Updates", (100, 100), (50, 50), 0.50, "A reaction takes 50 % less time when the message is cached.")


class Race(NamedTuple):
    """Samples of one claim in milliseconds, taken of both sides in turn. `condition`: what exactly was asked.

    `trips`: to MongoDB, one after the other, without the cache and with it.
    """

    claim: Claim
    condition: str
    without: list[float]
    with_cache: list[float]
    trips: tuple[int, int]


class Outcome(NamedTuple):
    """A race, judged. `distance_ms`: what a trip to MongoDB would have to take more; `far_*`: with the cache, at that distance."""

    race: Race
    without: Summary
    with_cache: Summary
    saved: Interval
    distance_ms: float
    far_ms: float
    far_saved: float
    verdict: str


def judge(race: Race) -> Outcome:
    without, with_cache, share = summary(race.without), summary(race.with_cache), saved(race.without, race.with_cache)
    away = max(0.0, (race.claim.without[0] - without.median.middle) / race.trips[0])
    slow, quick = (side.median.middle + away * trips for side, trips in zip((without, with_cache), race.trips, strict=True))
    return Outcome(race, without, with_cache, share, away, quick, 1 - quick / slow, verdict(race.claim, share, 1 - quick / slow))


def verdict(claim: Claim, here: Interval, there: float) -> str:
    """`here`: the share saved on this machine, with its interval. `there`: with MongoDB far away."""
    far = there >= claim.faster - ROUNDED
    if here.low >= claim.faster and far:
        return HOLDS
    return FAILS if here.high < claim.faster and not far else DEPENDS


class Size(NamedTuple):
    """A row of the memory table, in bytes. `told`: the document's figure, 0 for "all of it is freed"; None when it has none."""

    what: str
    told: float | None
    measured: float
    remark: str
    among: float = 0  # of what it should be 0: how much it was

    @property
    def verdict(self) -> str:
        if self.told is None:
            return ""
        if not self.told:
            return HOLDS if self.measured <= ABOUT * self.among else FAILS
        return HOLDS if abs(self.measured / self.told - 1) <= ABOUT else FAILS
