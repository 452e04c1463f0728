"""Statistics of samples: the median with an interval, percentiles, and the share of time saved.

An interval comes from the bootstrap: the same number of samples is drawn again and again, with
replacement, and 95 % of the medians of these draws lie in the interval. The random numbers have a
fixed seed, so the same samples always give the same interval.
"""

import random
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

DRAWS = 500
SEED = 5


class Interval(NamedTuple):
    """A value, and the limits between which 95 % of the draws lie."""

    middle: float
    low: float
    high: float


class Summary(NamedTuple):
    """The number of samples, their median and two percentiles, in the unit of the samples."""

    samples: int
    median: Interval
    p95: float
    p99: float


def summarize(samples: Sequence[float]) -> Summary:
    random_numbers = random.Random(SEED)  # noqa: S311 - not a secret
    medians = [_median_of_draw(samples, random_numbers) for _ in range(DRAWS)]
    interval = _interval(median(samples), medians)
    return Summary(len(samples), interval, percentile(samples, 95), percentile(samples, 99))


def share_saved(without: Sequence[float], with_cache: Sequence[float]) -> Interval:
    """Return the share of time that is saved, computed from the medians.

    0.6 means 60 % less time. A negative share means more time.
    """
    random_numbers = random.Random(SEED)  # noqa: S311
    shares = [
        1 - _median_of_draw(with_cache, random_numbers) / _median_of_draw(without, random_numbers)
        for _ in range(DRAWS)
    ]
    return _interval(1 - median(with_cache) / median(without), shares)


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the sample that is greater than or equal to `percent` of all samples."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def _median_of_draw(samples: Sequence[float], random_numbers: random.Random) -> float:
    return median(random_numbers.choices(samples, k=len(samples)))


def _interval(middle: float, draws: Sequence[float]) -> Interval:
    return Interval(middle, percentile(draws, 2.5), percentile(draws, 97.5))
