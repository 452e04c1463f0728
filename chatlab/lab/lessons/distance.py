"""Notebook 10: what the measured times would be if MongoDB were further away, under a slider.

The curves are drawn once, by Matplotlib. When the slider moves, only the marks on them are drawn, so
the picture follows the slider on a slow machine, too.
"""

import asyncio
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import ipywidgets

from chatlab.lab.lessons.faster import WITH, WITHOUT, Measured
from chatlab.lab.widgets.diagram_svg import image_of
from chatlab.lab.widgets.live import VIEW

FARTHEST_MS = 250  # added to each trip to MongoDB
COLOURS = {WITHOUT: "#c2570c", WITH: "#1d6fb8"}
SIZE = (9.6, 3.6)  # inches; at 72 dots per inch a dot is a unit of the SVG


class Curve(NamedTuple):
    """An operation on one side: its median here, its trips to MongoDB, and the document's range."""

    side: str
    here_ms: float
    trips: int
    document_ms: tuple[float, float]

    def at(self, extra_ms: float) -> float:
        """Return the time if each trip took this much longer."""
        return self.here_ms + self.trips * extra_ms


class Panel(NamedTuple):
    """The two curves of an operation, and the share of time that the document says is saved."""

    operation: str
    curves: tuple[Curve, Curve]
    claimed: float

    def saved(self, extra_ms: float) -> float:
        without, with_cache = (curve.at(extra_ms) for curve in self.curves)
        return 1 - with_cache / without

    def saved_text(self, extra_ms: float) -> str:
        """Return the share of time that the cache saves, or costs."""
        saved = self.saved(extra_ms)
        return f"{saved:.0%} less" if saved >= 0 else f"{-saved:.0%} more"


def panel_of(measured: Measured) -> Panel:
    comparison = measured.outcome.comparison
    claim = comparison.claim
    told = claim.without_ms, claim.with_cache_ms
    sides = zip((WITHOUT, WITH), measured.medians, comparison.round_trips, told, strict=True)
    without, with_cache = (Curve(*side) for side in sides)
    return Panel(measured.operation, (without, with_cache), claim.share_saved)


class Picture:
    """The curves of all panels as an SVG, and the place of a value in it."""

    def __init__(self, panels: Sequence[Panel]) -> None:
        from matplotlib.figure import Figure  # noqa: PLC0415 - takes a second

        self._panels = panels
        figure = Figure(figsize=SIZE, dpi=72, layout="constrained")
        self._axes = list(figure.subplots(1, len(panels)))
        for axes, panel in zip(self._axes, panels, strict=True):
            for curve in panel.curves:
                ends = (0, FARTHEST_MS)
                colour = COLOURS[curve.side]
                axes.plot(ends, [curve.at(end) for end in ends], color=colour, label=curve.side)
                low, high = curve.document_ms
                axes.axhspan(low - 2, high + 2, color=colour, alpha=0.15, linewidth=0)
            axes.set(xlabel="each trip takes longer by (ms)", xlim=(0, FARTHEST_MS), ylim=0)
            axes.set_title(panel.operation, loc="left", weight="bold", pad=18)
        self._axes[0].set_ylabel("ms (bands: the document)")
        self._axes[0].legend(loc="upper left")
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        self._height = figure.bbox.height
        self._svg = svg.getvalue()[svg.getvalue().index("<svg") :]

    def at(self, extra_ms: float) -> str:
        """Return the picture with marks at this distance."""
        marks = [
            mark
            for axes, panel in zip(self._axes, self._panels, strict=True)
            for mark in self._marks(axes, panel, extra_ms)
        ]
        return self._svg.replace("</svg>", f"{''.join(marks)}</svg>")

    def _marks(self, axes: Any, panel: Panel, extra_ms: float) -> list[str]:
        def place(ms: float) -> tuple[float, float]:
            x, y = axes.transData.transform((extra_ms, ms))
            return float(x), self._height - float(y)

        top, bottom = axes.get_ylim()[1], 0.0
        (x, high), (_, low) = place(top), place(bottom)
        times = " → ".join(f"{curve.at(extra_ms):.1f}" for curve in panel.curves)
        told = f"{times} ms: {panel.saved_text(extra_ms)} (claimed {panel.claimed:.0%})"
        left = axes.transData.transform((0, 0))[0]
        return [
            f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="#1b2430" stroke-dasharray="3 2"/>',
            *(
                f'<circle cx="{x:.1f}" cy="{place(curve.at(extra_ms))[1]:.1f}" r="4"'
                f' fill="{COLOURS[curve.side]}"/>'
                for curve in panel.curves
            ),
            f'<text x="{left:.1f}" y="{high - 5:.1f}" font-family="sans-serif" font-size="10">{told}</text>',
        ]


class Distance(ipywidgets.VBox):  # type: ignore[misc]  # the library has no types
    """A slider for the distance of MongoDB, and the learner's own medians at that distance."""

    def __init__(self, *measured: Measured) -> None:
        self._panels = [panel_of(one) for one in measured]
        self._picture = Picture(self._panels)
        self._loop = asyncio.get_running_loop()
        self.slider = ipywidgets.IntSlider(
            value=0,
            max=FARTHEST_MS,
            description="each trip to MongoDB takes longer by (ms)",
            style={"description_width": "initial"},
            layout={"width": "50em", "max_width": "100%"},
        )
        self._shown = ipywidgets.HTML(self._image())
        self.slider.observe(lambda _: self._loop.call_soon_threadsafe(self._draw), "value")
        super().__init__([self.slider, self._shown])

    def _draw(self) -> None:
        self._shown.value = self._image()

    def _image(self) -> str:
        extra_ms = self.slider.value
        words = "; ".join(
            f"{panel.operation} {panel.saved_text(extra_ms)} time" for panel in self._panels
        )
        return image_of(self._picture.at(extra_ms), f"{extra_ms} ms longer: {words}")

    def __repr__(self) -> str:
        return "A slider for the distance of MongoDB: live in a running notebook."

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        html = f"<p>{self!r}</p>\n{self._image()}"
        return {"text/plain": repr(self), "text/html": html, VIEW: view}
