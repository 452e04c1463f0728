"""What many measurements say together: the middle, the slow end, and how sure of it one can be. Pure; chance has a fixed seed.

A median has an interval by the bootstrap: the same number of samples is drawn again and again from those there are, with putting back;
95 of 100 medians of such draws lie inside. Two sides are told apart by the same means: the share of time that is saved, of each draw.
"""

import random
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

DRAWS = 500
SEED = 5


class Interval(NamedTuple):
    """95 % of the draws lie from `low` to `high`."""

    middle: float
    low: float
    high: float


class Summary(NamedTuple):
    """Of samples in one unit; `median` with its interval."""

    samples: int
    median: Interval
    p95: float
    p99: float


def summary(samples: Sequence[float]) -> Summary:
    chance = random.Random(SEED)  # noqa: S311 - chance, no secret
    medians = [_drawn(samples, chance) for _ in range(DRAWS)]
    return Summary(len(samples), _interval(median(samples), medians), percentile(samples, 95), percentile(samples, 99))


def saved(without: Sequence[float], with_it: Sequence[float]) -> Interval:
    """The share of time that is saved, by the medians: 0.6 is 60 % less time, below 0 is more time."""
    chance = random.Random(SEED)  # noqa: S311
    shares = [1 - _drawn(with_it, chance) / _drawn(without, chance) for _ in range(DRAWS)]
    return _interval(1 - median(with_it) / median(without), shares)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The sample below which `percent` of 100 lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def _drawn(samples: Sequence[float], chance: random.Random) -> float:
    return median(chance.choices(samples, k=len(samples)))


def _interval(middle: float, draws: Sequence[float]) -> Interval:
    return Interval(middle, percentile(draws, 2.5), percentile(draws, 97.5))
