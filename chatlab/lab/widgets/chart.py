"""A chart of a measurement while it runs.

It shows a strip of dots with median and p95 for each side, or lines over x. The message to the
browser stays small with any number of values: at most DOTS values of each side are sent, evenly
spaced over the sorted values.
"""

import html
import math
import time
from bisect import insort
from typing import Any

from chatlab.lab.widgets.chart_svg import chart_svg, image_of
from chatlab.lab.widgets.live import OWN, Paced

DOTS = 240
Json = dict[str, Any]


class Chart(Paced):
    """A live chart, created by `Lab.chart`.

    The model's `picture` is the chart as SVG, the same as in a saved notebook.
    """

    drawing = OWN / "chart.js"

    def __init__(
        self,
        title: str,
        *,
        unit: str = "ms",
        log: bool = False,
        x: str = "",
        lines: bool = False,
        **traits: Any,
    ) -> None:
        self.title, self.unit, self.lines = title, unit, lines or bool(x)
        self._look: Json = {"unit": unit, "log": log, "x": x}
        self._values: dict[str, list[float]] = {}  # the sorted values of each side
        # the points of each side, sorted by x
        self._points: dict[str, list[tuple[float, float]]] = {}
        self._marks: list[str] = []
        self._done, self._of, self._began = 0, 0, 0.0
        super().__init__(**traits)

    @property
    def kind(self) -> str:
        return f"Chart {self.title}"

    # --- measuring --------------------------------------------------------------------------------

    def add(self, side: str, value: float) -> None:
        """Add a value of this side. Raises ValueError if it is not a number."""
        insort(self._values.setdefault(side, []), _number(value))
        self.changed()

    def point(self, side: str, x: float, y: float) -> None:
        """Add a point to this side's line."""
        insort(self._points.setdefault(side, []), (_number(x), _number(y)))
        self.changed()

    def mark(self, text: str) -> None:
        """Add a line of text below the chart."""
        self._marks.append(text)
        self.changed()

    def progress(self, done: int, of: int) -> None:
        """Show that `done` of `of` steps are complete.

        The remaining time is estimated from the time so far. A different `of` restarts the
        estimate.
        """
        if of != self._of or done < self._done:
            self._began = time.time()
        self._done, self._of = done, of
        self.changed()

    # --- results ----------------------------------------------------------------------------------

    def median(self, side: str) -> float:
        """Return the median of all values of this side. Raises KeyError if there are none."""
        return quantile(self._values[side], 0.5)

    def p95(self, side: str) -> float:
        return quantile(self._values[side], 0.95)

    def sides(self) -> list[Json]:
        """Return the data of each side.

        That is `{side, count, median, p95, dots}`, or `{side, count, points}` for lines.
        """
        if self.lines:
            return [
                {"side": side, "count": len(points), "points": points}
                for side, points in self._points.items()
            ]
        return [
            {
                "side": side,
                "count": len(values),
                "median": self.median(side),
                "p95": self.p95(side),
                "dots": thinned(values),
            }
            for side, values in self._values.items()
        ]

    def state(self) -> Json:
        progress = {
            "done": self._done,
            "of": self._of,
            "beganMs": self._began * 1000,
            "toldMs": time.time() * 1000,
        }
        said = "; ".join(self._lines())
        return {
            "title": self.title,
            "picture": self._picture(),
            "marks": list(self._marks),
            "progress": progress,
            "said": said,
        }

    def _picture(self) -> str:
        return chart_svg(self.title, self.sides(), **self._look, begun=self._of > 0)

    def _lines(self) -> list[str]:
        return [_line(side, self.unit) for side in self.sides()]

    def snapshot(self) -> str:
        marks = "".join(f"<p>{html.escape(mark)}</p>" for mark in self._marks)
        return f"{image_of(self._picture(), '; '.join([self.title, *self._lines()]))}\n{marks}"

    def __repr__(self) -> str:
        return "\n".join([self.title, *self._lines(), *self._marks])


def quantile(ordered: list[float], share: float) -> float:
    """Return the quantile `share` of sorted values, interpolated between its two neighbours."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def thinned(ordered: list[float]) -> list[float]:
    """Return at most DOTS of the sorted values, including the lowest and the highest."""
    if len(ordered) <= DOTS:
        return list(ordered)
    return [ordered[round(place * (len(ordered) - 1) / (DOTS - 1))] for place in range(DOTS)]


def _line(side: Json, unit: str) -> str:
    if "points" in side:
        return f"{side['side']}: {side['count']} points"
    return f"{side['side']}: {side['count']} values, median {side['median']:.3f} {unit}, p95 {side['p95']:.3f} {unit}"


def _number(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is no measurement")
    return float(value)
