"""Draw a chart as SVG: strips of dots, or lines. Used for live charts and saved notebooks.

The SVG attributes are for plain pages; in JupyterLab the CSS classes apply the theme's colours.
"""

import base64
import html
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Json = dict[str, Any]
Scale = Callable[[float], float]

# The last tick label may be "1,000,000", centred at RIGHT, so there must be room for half of it.
WIDTH, LEFT, RIGHT = 640, 20, 608
ROW = 66  # height of one side's row
PLOT = 240  # height of the plot area of lines
COLOURS = ("#1d6fb8", "#c2570c", "#14917f", "#8a4fbf", "#8a6d00")
INK, QUIET, LINE, GROUND = "#1b2430", "#566170", "#b9c3cf", "#ffffff"


def chart_svg(
    title: str, sides: Sequence[Json], *, unit: str, log: bool, x: str, begun: bool = False
) -> str:
    """Draw the chart. `sides` has the form that `Chart.sides` returns.

    With `log` each axis is logarithmic, unless it has values of zero or less.
    """
    if not any(side["count"] for side in sides):
        return (
            framed(title, 40, [])
            if begun
            else framed(title, 90, [text(WIDTH / 2, 58, "Nothing measured yet.", QUIET, "middle")])
        )
    if "points" in sides[0]:
        return framed(title, PLOT + 112, _lines(sides, unit, log, x))
    return framed(title, 86 + ROW * len(sides), _strips(sides, unit, log))


# --- strips ---------------------------------------------------------------------------------------


def _strips(sides: Sequence[Json], unit: str, log: bool) -> list[str]:
    values = [value for side in sides for value in side["dots"]]
    place, ticks = _axis(values, LEFT, RIGHT, log)
    bottom = 42 + ROW * len(sides)
    drawn = _ruler(place, ticks, 42, bottom, unit)
    for row, side in enumerate(sides):
        drawn += _strip(side, row, 42 + ROW * row, place, unit)
    return drawn


def _strip(side: Json, number: int, top: float, place: Scale, unit: str) -> list[str]:
    middle = top + 44
    same = Counter[float]()
    dots = []
    for value in side["dots"]:
        same[value] += 1
        y = middle + _aside(value, same[value])
        dots.append(f'<circle cx="{place(value):.1f}" cy="{y:.1f}" r="2.5"/>')
    said = f"median {short(side['median'])} {unit} · p95 {short(side['p95'])} {unit} · {side['count']} values"
    return [
        text(
            LEFT,
            top + 20,
            f'<tspan font-weight="700" {_of(number)}>{html.escape(side["side"])}</tspan>  {html.escape(said)}',
            INK,
        ),
        f'<g {_of(number)} stroke="none" fill-opacity="0.45">{"".join(dots)}</g>',
        *(
            _needle(place(side[name]), middle, number, dashes)
            for name, dashes in (("median", ""), ("p95", ' stroke-dasharray="3 2"'))
        ),
    ]


def _needle(x: float, middle: float, number: int, dashes: str) -> str:
    return f'<path d="M{x:.1f} {middle - 15:.1f}v30" {_of(number, "stroke")} stroke-width="2.5"{dashes}/>'


def _aside(value: float, time: int) -> float:
    """Return a vertical offset that looks random but is repeatable.

    It depends on the value and on how many times this value came before.
    """
    return ((abs(value) * 7919.7919 + time * 0.618034) % 1 - 0.5) * 18


# --- lines ----------------------------------------------------------------------------------------


def _lines(sides: Sequence[Json], unit: str, log: bool, x: str) -> list[str]:
    points = [point for side in sides for point in side["points"]]
    top, bottom, left = 64.0, 64.0 + PLOT, 70
    across, x_ticks = _axis([point[0] for point in points], left, RIGHT, log)
    up, y_ticks = _axis([point[1] for point in points], bottom, top, log, from_zero=not log)
    drawn = _ruler(across, x_ticks, top, bottom, x)
    for tick in y_ticks:
        drawn += [
            rule(f"M{left} {up(tick):.1f}H{RIGHT}"),
            text(left - 8, up(tick) + 4, f"{short(tick)}", QUIET, "end"),
        ]
    drawn.append(text(62, 44, html.escape(unit), QUIET, "end"))
    for number, side in enumerate(sides):
        drawn += _line(side, number, across, up)
    return [*drawn, _legend(sides)]


def _line(side: Json, number: int, across: Scale, up: Scale) -> list[str]:
    places = [(across(x), up(y)) for x, y in side["points"]]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" {_of(number)}/>' for x, y in places]
    return [
        f'<polyline points="{path}" fill="none" {_of(number, "stroke")} stroke-width="2"/>',
        *dots,
    ]


def _legend(sides: Sequence[Json]) -> str:
    names = "  ".join(
        f'<tspan font-weight="700" {_of(number)}>● {html.escape(side["side"])}</tspan>  '
        for number, side in enumerate(sides)
    )
    return text(70, 44, names, INK)


# --- axes -----------------------------------------------------------------------------------------


def _axis(
    values: Sequence[float], low: float, high: float, log: bool, *, from_zero: bool = True
) -> tuple[Scale, list[float]]:
    """Return the function from a value to its position between `low` and `high`, and the ticks."""
    if log and min(values) > 0:
        marks = _decades(min(values), max(values))
        first, last = math.log10(marks[0]), math.log10(marks[-1])
        return (
            lambda value: low + (math.log10(value) - first) / (last - first) * (high - low),
            marks,
        )
    least = min(0.0, *values) if from_zero else min(values)
    step = _step(max(values) - least)
    top = least + step * max(1, math.ceil((max(values) - least) / step))
    return lambda value: low + (value - least) / (top - least) * (high - low), [
        least + step * count for count in range(round((top - least) / step) + 1)
    ]


def _decades(least: float, most: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten from just below `least` to just above `most`.

    Over many powers, return only the powers.
    """
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 2)
    factors = (1, 2, 5) if len(powers) <= 5 else (1,)
    marks = [factor * 10.0**power for power in powers for factor in factors]
    first = max(place for place, mark in enumerate(marks) if mark <= least)
    last = next(place for place, mark in enumerate(marks) if place > first and mark >= most)
    return marks[first : last + 1]


def _step(span: float) -> float:
    """Return 1, 2 or 5 times a power of ten, so that the axis has four to ten ticks."""
    rough = (span or 1.0) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


def _ruler(place: Scale, ticks: Iterable[float], top: float, bottom: float, what: str) -> list[str]:
    drawn = []
    for tick in ticks:
        drawn += [
            rule(f"M{place(tick):.1f} {top:.0f}V{bottom + 5:.0f}"),
            text(place(tick), bottom + 20, short(tick), QUIET, "middle"),
        ]
    return [*drawn, text(WIDTH / 2, bottom + 36, html.escape(what), QUIET, "middle")]


def short(value: float) -> str:
    """Format with three significant digits, never in exponent notation such as 1e+03."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return (
        f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}".rstrip("0").rstrip(".")
        if abs(value) < 100
        else f"{value:.0f}"
    )


# --- the picture ----------------------------------------------------------------------------------


def framed(title: str, height: float, drawn: Iterable[str]) -> str:
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}"'
    return "\n".join([
        f'<svg class="measured" xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13" role="img">',
        f"<title>{html.escape(title)}</title>",
        f'<rect class="ground" width="{WIDTH}" height="{height:.0f}" rx="8" fill="{GROUND}" stroke="{LINE}"/>',
        f'<text class="ink" x="{LEFT}" y="24" font-size="15" font-weight="700" fill="{INK}">{html.escape(title)}</text>',
        *drawn,
        "</svg>",
    ])  # fmt: skip


def image_of(svg: str, words: str) -> str:
    """Embed an SVG picture in HTML as an image.

    Pages that remove inline SVG (but keep its text) also show an image. `words` is the alternative
    text for readers who cannot see it.
    """
    data = base64.b64encode(svg.encode()).decode()
    return (
        f'<img class="measured" alt="{html.escape(words)}" src="data:image/svg+xml;base64,{data}">'
    )


def _of(number: int, what: str = "fill") -> str:
    """Return the SVG attributes for the colour of a side, and its CSS class."""
    return f'class="side-{number % len(COLOURS)}" {what}="{COLOURS[number % len(COLOURS)]}"'


def text(x: float, y: float, words: str, colour: str, anchor: str = "start") -> str:
    """Return an SVG text. `words` may contain tspans, so it must be escaped already."""
    name = "ink" if colour == INK else "quiet"
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" xml:space="preserve">{words}</text>'


def rule(path: str) -> str:
    return f'<path class="rule" d="{path}" stroke="{LINE}" stroke-opacity="0.6"/>'
