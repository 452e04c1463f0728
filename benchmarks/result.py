"""The result of a benchmark: figures for each round, ratios within a round, and the targets."""

import math
from collections.abc import Callable, Sequence
from statistics import linear_regression, median
from typing import Any, NamedTuple

Curves = dict[str, dict[int, list[float]]]  # by name and size, a figure for each round


class MeasurementError(Exception):
    """A server did not start or rejected requests, so there is nothing to measure."""


class Check(NamedTuple):
    """A figure for each round and, unless `target` is None, the target for its median.

    The median must be at least the target, or at most if `at_least` is False.
    """

    what: str
    rounds: list[float]
    target: float | None = None
    at_least: bool = True

    @property
    def median(self) -> float:
        """Return the median of the rounds, which decides."""
        return median(self.rounds)

    @property
    def met(self) -> bool | None:
        """Return whether the target is met, or None if there is no target."""
        if self.target is None:
            return None
        return self.median >= self.target if self.at_least else self.median <= self.target

    def as_json(self) -> dict[str, Any]:
        """Return the check as it is written to a result file."""
        spread = {"median": self.median, "low": min(self.rounds), "high": max(self.rounds)}
        return self._asdict() | spread | {"met": self.met}


class Result(NamedTuple):
    """The measured figures and how they were measured.

    `series` has the figures of each bar in `unit`, one for each round. `remarks` are notes that
    appear below the tables. `curves`, if any, are drawn instead of bars; `x` is what their sizes
    count.
    """

    unit: str
    series: dict[str, list[float]]
    checks: list[Check]
    settings: dict[str, Any]
    remarks: list[str]
    curves: Curves | None = None
    x: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the result as it is written to a result file."""
        return {
            "unit": self.unit,
            "sides": {
                name: {
                    "median": median(rounds),
                    "low": min(rounds),
                    "high": max(rounds),
                    "rounds": rounds,
                }
                for name, rounds in self.series.items()
            },
            "checks": [check.as_json() for check in self.checks],
            "settings": self.settings,
            "remarks": self.remarks,
            "x": self.x,
            "curves": {
                name: [(size, median(rounds)) for size, rounds in points.items()]
                for name, points in (self.curves or {}).items()
            },
        }


def slope(points: dict[int, list[float]]) -> float:
    """Return the slope of a curve on two logarithmic axes: 0 is constant, 1 is proportional.

    A figure that is too small to be measured is zero, which has no logarithm, so it is left out.
    """
    measured = [(size, figure) for size, one in points.items() if (figure := median(one)) > 0]
    if len(measured) < 2:
        return 0.0
    sizes, figures = zip(*measured, strict=True)
    return linear_regression(list(map(math.log, sizes)), list(map(math.log, figures))).slope


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratio within each round. Load on the machine changes both figures of a round."""
    return [one / other for one, other in zip(numerators, denominators, strict=True)]


def interleave(rounds: int, measurements: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run A B C A B C ..., once in each round, and return the figures of each."""
    figures: dict[str, list[float]] = {name: [] for name in measurements}
    for _ in range(rounds):
        for name, measure in measurements.items():
            figures[name].append(measure())
    return figures
