"""What a row of the table found: figures for each side and round, ratios of the same round, and whether the target was met. Pure."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple


class MeasurementError(Exception):
    """A side did not start, or refused its work: what it did is no measurement."""


class Check(NamedTuple):
    """A target: `rounds` holds the figure that it is about, once a round. `at_least` or at most the target; None: for information."""

    what: str
    rounds: list[float]
    target: float | None = None
    at_least: bool = True

    @property
    def middle(self) -> float:
        """The median round decides."""
        return median(self.rounds)

    @property
    def met(self) -> bool | None:
        """None when there is no target."""
        if self.target is None:
            return None
        return self.middle >= self.target if self.at_least else self.middle <= self.target

    def as_json(self) -> dict[str, Any]:
        """For the results."""
        spread = {"median": self.middle, "low": min(self.rounds), "high": max(self.rounds)}
        return self._asdict() | spread | {"met": self.met}


class Result(NamedTuple):
    """`sides`: for each bar its figures in `unit`, one a round. `settings`: how it was measured. `remarks`: what else was seen."""

    unit: str
    sides: dict[str, list[float]]
    checks: list[Check]
    settings: dict[str, Any]
    remarks: list[str]

    def as_json(self) -> dict[str, Any]:
        """For the results."""
        sides = {
            name: {"median": median(rounds), "low": min(rounds), "high": max(rounds), "rounds": rounds}
            for name, rounds in self.sides.items()
        }
        return self._asdict() | {"sides": sides, "checks": [check.as_json() for check in self.checks]}


def ratios(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """Round by round: what moved the whole machine moved both."""
    return [one / other for one, other in zip(of, to, strict=True)]


def interleaved(rounds: int, acts: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """A B C A B C ..., as often as there are rounds."""
    found: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(rounds):
        for name, act in acts.items():
            found[name].append(act())
    return found
