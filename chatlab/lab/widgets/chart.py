"""A chart of a measurement while it runs.

It shows a strip of dots with median and p95 for each side, or lines over x. The browser sketches it
while it grows, because each picture drawn by Matplotlib would stop the measurement for a tenth of a
second. The finished chart is such a picture: it is drawn for the saved notebook, and replaces the
sketch. The message to the browser stays small with any number of values: at most DOTS values of
each side are sent, evenly spaced over the sorted values. The slowest hundredth is not drawn, because
one outlier would leave no room for the others.
"""

import html
import math
import time
from bisect import insort
from typing import Any

from chatlab.bench.charts import line_chart, strip_chart
from chatlab.bench.samples import summarize
from chatlab.lab.widgets.diagram_svg import image_of
from chatlab.lab.widgets.live import OWN, Paced

DOTS = 240
DRAWN = 0.99  # share of the values
MIN_FOR_P95 = 20  # values; the p95 of fewer is just the largest
Json = dict[str, Any]


class Chart(Paced):
    """A live chart, created by `Lab.chart`."""

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
        self.title, self.unit, self.x, self.lines = title, unit, x, lines or bool(x)
        self._scale: Json = {"unit": unit, "log": log}
        self._values: dict[str, list[float]] = {}  # the sorted values of each side
        # the points of each side, sorted by x
        self._points: dict[str, list[tuple[float, float]]] = {}
        self._marks: list[str] = []
        self._picture = ""  # the finished chart in HTML, until something is added
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
                "p95": self.p95(side) if len(values) >= MIN_FOR_P95 else None,
                "dots": thinned(values[: math.ceil(DRAWN * len(values))]),
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
        return {
            "title": self.title,
            **self._scale,
            "x": self.x,
            "sides": self.sides(),
            "words": self._lines(),
            "picture": self._picture,
            "marks": list(self._marks),
            "progress": progress,
        }

    def changed(self) -> None:
        self._picture = ""
        super().changed()

    def _lines(self) -> list[str]:
        return [_line(side, self.unit) for side in self.sides()]

    def snapshot(self) -> str:
        if sides := self.sides():
            self._picture = self._draw(sides)
            self.send_model()
        shown = self._picture or f"<p>{html.escape(self.title)}</p>"
        marks = "".join(f"<p>{html.escape(mark)}</p>" for mark in self._marks)
        return f"{shown}\n{marks}"

    def _draw(self, sides: list[Json]) -> str:
        svg = (
            line_chart(self.title, sides, x=self.x, **self._scale)
            if self.lines
            else strip_chart(self.title, [self._with_interval(one) for one in sides], **self._scale)
        )
        return image_of(svg, "; ".join([self.title, *self._lines()]))

    def _with_interval(self, side: Json) -> Json:
        """Add the interval of the median. A growing chart has no time to compute it."""
        values = self._values[side["side"]]
        _, low, high = summarize(values).median
        hidden = len(values) - math.ceil(DRAWN * len(values))
        return {**side, "low": low, "high": high, "hidden": hidden}

    def __repr__(self) -> str:
        return "\n".join([self.title, *self._lines(), *self._marks])


def quantile(ordered: list[float], share: float) -> float:
    """Return the quantile `share` of sorted values, interpolated between its two neighbours."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def thinned(ordered: list[float]) -> list[float]:
    """Return at most DOTS of the sorted values, including the first and the last."""
    if len(ordered) <= DOTS:
        return list(ordered)
    return [ordered[round(place * (len(ordered) - 1) / (DOTS - 1))] for place in range(DOTS)]


def _line(side: Json, unit: str) -> str:
    if "points" in side:
        return f"{side['side']}: {side['count']} points"
    p95 = "" if side["p95"] is None else f", p95 {side['p95']:.3f} {unit}"
    return f"{side['side']}: {side['count']} values, median {side['median']:.3f} {unit}{p95}"


def _number(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is no measurement")
    return float(value)
