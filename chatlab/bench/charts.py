"""Draw charts: bars of text for a terminal, and pictures (SVG) for pages and saved notebooks.

The pictures have one style, and the same data gives the same SVG. Matplotlib is in the extra
`notebooks`. It is imported when the first picture is drawn, because that takes a second.
"""

import io
import logging
import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EIGHTHS = " ▏▎▍▌▋▊▉"
WIDTH, BAR, GROUP, STRIP, LINES = 720, 23, 34, 92, 380  # pixels
PX, PAD = 1 / 96, 0.1  # inches
INK, QUIET, LINE = "#1b2430", "#566170", "#d5dbe2"
# A contrast of 3:1 or more with white and with black. static/widgets.css has the first five too.
COLOURS = ("#1d6fb8", "#c2570c", "#14917f", "#8a4fbf", "#8a6d00", "#6b7280")
NAME_ROW = 0.06  # height of a row of a line's name, as a share of the plot
MARKERS = "os^Dv"
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "chatlab",  # ids do not change from run to run
    "font.size": 10,  # points: 13 pixels
    "axes.titlesize": 10,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a name is a dollar
    "axes.labelcolor": QUIET,
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    **dict.fromkeys(("axes.spines.left", "axes.spines.right", "axes.spines.top"), False),
    **dict.fromkeys(("figure.constrained_layout.w_pad", "figure.constrained_layout.h_pad"), PAD),
    "xtick.color": LINE,
    "xtick.labelcolor": QUIET,
    "ytick.left": False,
    "ytick.labelcolor": QUIET,
}


class Bar(NamedTuple):
    """A bar, and optionally a thin line from `low` to `high`.

    Bars with the same name have the same colour in every group.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None


class BarGroup(NamedTuple):
    """Bars of one unit. Each group has its own scale."""

    title: str
    unit: str
    bars: Sequence[Bar]


def text_bar(value: float, maximum: float, width: int) -> str:
    """Return a bar of at most `width` columns, exact to an eighth of a column."""
    eighths = round(8 * width * min(1.0, value / maximum)) if maximum else 0
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def format_figure(value: float) -> str:
    """Return the value with three significant digits, or as an integer from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def bar_chart(title: str, groups: Sequence[BarGroup]) -> str:
    """Return an SVG with the groups below each other. Each bar is labelled with its value."""
    counts = [len(group.bars) for group in groups]
    names = dict.fromkeys(bar.name for group in groups for bar in group.bars)
    colours = dict(zip(names, cycle(COLOURS), strict=False))

    def draw(figure: "Figure") -> None:
        rows = figure.subplots(len(groups), squeeze=False, height_ratios=counts)[:, 0]
        for axes, group in zip(rows, groups, strict=True):
            _draw_bars(axes, group, [colours[bar.name] for bar in group.bars])

    return _svg(title, 44 + GROUP * len(groups) + BAR * sum(counts), draw)


def _draw_bars(axes: "Axes", group: BarGroup, colours: list[str]) -> None:
    values = [bar.value for bar in group.bars]
    below = [0 if bar.low is None else bar.value - bar.low for bar in group.bars]
    above = [0 if bar.high is None else bar.high - bar.value for bar in group.bars]
    places = range(len(values))
    line = {"ecolor": INK, "elinewidth": 1.5}
    bars = axes.barh(places, values, color=colours, xerr=[below, above], error_kw=line)
    axes.bar_label(bars, labels=[format_figure(value) for value in values], padding=5)
    axes.set_title(", ".join(filter(None, (group.title, group.unit))), loc="left", weight="bold")
    axes.set_yticks(places, [bar.name for bar in group.bars], color=INK)
    axes.set_xticks([])
    axes.spines.bottom.set_visible(False)
    axes.grid(visible=False)
    axes.margins(x=0.1)
    axes.invert_yaxis()


def strip_chart(title: str, sides: Sequence[Mapping[str, Any]], *, unit: str, log: bool) -> str:
    """Return an SVG with a strip of dots for each side, its median and its 95th percentile.

    `sides` has the form that `Chart.sides` returns, and the interval of the median, `low` to `high`.
    `hidden` values have no dot. A logarithmic axis needs values above zero.
    """

    def draw(figure: "Figure") -> None:
        rows = figure.subplots(len(sides), sharex=True, squeeze=False)[:, 0]
        for axes, side, colour in zip(rows, sides, cycle(COLOURS), strict=False):
            _draw_strip(axes, side, unit, colour)
        _scale(rows[-1], "x", [dot for side in sides for dot in side["dots"]], log=log)
        rows[-1].set_xlabel(unit)

    return _svg(title, 88 + STRIP * len(sides), draw)


def _draw_strip(axes: "Axes", side: Mapping[str, Any], unit: str, colour: str) -> None:
    dots, median, p95 = side["dots"], side["median"], side["p95"]
    heights = [(number * 0.618034) % 1 for number in range(len(dots))]  # scattered, but repeatable
    axes.plot(dots, heights, "o", color=colour, alpha=0.45, markersize=5, markeredgewidth=0)
    axes.axvspan(side["low"], side["high"], color=colour, alpha=0.2, linewidth=0)
    axes.axvline(median, color=colour, linewidth=2.5)
    interval = " to ".join(map(format_figure, (side["low"], side["high"])))
    said = [f"┃ median {format_figure(median)} {unit} ({interval})"]
    if p95 is not None:
        axes.axvline(p95, color=colour, linewidth=2.5, linestyle=(0, (2, 1)))
        said.append(f"┇ p95 {format_figure(p95)} {unit}")
    hidden = f", {side['hidden']} above" if side["hidden"] else ""
    axes.set_title(side["side"], loc="left", color=colour, weight="bold")
    axes.set_title(" · ".join([*said, f"{side['count']:,} values{hidden}"]), loc="right")
    axes.set_yticks([])
    axes.margins(y=0.15)


def line_chart(
    title: str, sides: Sequence[Mapping[str, Any]], *, unit: str, x: str, log: bool
) -> str:
    """Return an SVG with a line for each side, named at its right end.

    `sides` has the form that `Chart.sides` returns. A logarithmic axis needs values above zero.
    """
    lines = [tuple(zip(*side["points"], strict=True)) for side in sides]

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for line, marker, colour in zip(lines, cycle(MARKERS), cycle(COLOURS), strict=False):
            axes.plot(*line, marker=marker, color=colour, linewidth=2, clip_on=False)
        _scale(axes, "x", [place for xs, _ in lines for place in xs], log=log, from_zero=False)
        _scale(axes, "y", [value for _, ys in lines for value in ys], log=log)
        axes.set(xlabel=x, ylabel=unit)
        if len(sides) > 1:
            _name_lines(axes, sides)

    return _svg(title, LINES, draw)


def _name_lines(axes: "Axes", sides: Sequence[Mapping[str, Any]]) -> None:
    """Write each name next to the end of its line. Names of close ends are moved upwards."""
    axes.autoscale_view()
    to_share = axes.transScale + axes.transLimits  # from data to shares of the plot
    ends = [to_share.transform(side["points"][-1])[1] for side in sides]
    free = 0.0
    for end, side, line in sorted(zip(ends, sides, axes.lines, strict=True), key=itemgetter(0)):
        rows = textwrap.wrap(side["side"], 18)
        bottom = max(end - NAME_ROW * len(rows) / 2, free)
        name = axes.text(1.02, bottom, "\n".join(rows), color=line.get_color(), weight="bold")
        name.set(transform=axes.transAxes, verticalalignment="bottom")
        free = bottom + NAME_ROW * (len(rows) + 0.25)


def _scale(
    axes: "Axes", which: str, values: Sequence[float], *, log: bool, from_zero: bool = True
) -> None:
    """Scale the axis `x` or `y`, and label its ticks as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis = getattr(axes, f"{which}axis")
    if log and min(values) > 0:
        axes.set(**{f"{which}scale": "log"})
        axis.set_major_locator(LogLocator(subs=_multiples(max(values) / min(values))))
        axis.set_minor_locator(NullLocator())
    elif from_zero:
        axes.set(**{f"{which}lim": (min(0, *values), None)})
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_figure(value)))


def _multiples(ratio: float) -> Sequence[float]:
    """Return the multiples of each power of ten that have a tick, few on a long axis."""
    return range(1, 10) if ratio < 5 else (1, 2, 5) if ratio < 10_000 else (1,)


def _svg(title: str, height: float, draw: Callable[["Figure"], None]) -> str:
    """Return the SVG of the figure on which `draw` has drawn. `height` is in pixels."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # its first run warns that it is slow
    from matplotlib import style
    from matplotlib.figure import Figure

    svg = io.StringIO()
    with style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(WIDTH * PX, height * PX), layout="constrained")
        left = PAD / (WIDTH * PX)
        figure.suptitle(title, x=left, horizontalalignment="left", weight="bold", size=11.5)
        draw(figure)
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(svg, format="svg", metadata={"Title": title, **metadata})
    picture = svg.getvalue()
    return picture[picture.index("<svg") :]
