"""Draw bar charts, as text for a terminal and as SVG for a page."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

COLOURS = ("#2563eb", "#f59e0b", "#10b981", "#9ca3af", "#ef4444", "#8b5cf6")
LABEL_PX, BARS_PX, BAR_HEIGHT_PX, GROUP_GAP_PX = 230, 420, 18, 14
VALUE_PX = 90  # for the figure right of a bar
EIGHTHS = " ▏▎▍▌▋▊▉"


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

    @property
    def maximum(self) -> float:
        return max([bar.high or bar.value for bar in self.bars if bar.value] or [1.0])


def text_bar(value: float, maximum: float, width: int) -> str:
    """Return a bar of at most `width` columns, exact to an eighth of a column."""
    eighths = round(8 * width * min(1.0, value / maximum)) if maximum else 0
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def format_figure(value: float) -> str:
    """Return the value with three significant digits, or as an integer from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def render_svg(title: str, groups: Sequence[BarGroup]) -> str:
    """Return an SVG with the groups below each other, on a white background."""
    names = list(dict.fromkeys(bar.name for group in groups for bar in group.bars))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    parts, y = [_text(12, 24, title, "font-weight:bold;font-size:15px")], 44
    for group in groups:
        parts.append(_text(12, y + 12, f"{group.title}, {group.unit}", "font-weight:bold"))
        y += BAR_HEIGHT_PX + 2
        for bar in group.bars:
            parts += _bar(bar, group.maximum, y, colours[bar.name])
            y += BAR_HEIGHT_PX + 3
        y += GROUP_GAP_PX
    width = LABEL_PX + BARS_PX + VALUE_PX
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}" role="img">',
        f"<title>{escape(title)}</title>",
        "<style>text{font:12px system-ui,sans-serif;fill:#1f2937}</style>",
        f'<rect width="{width}" height="{y}" fill="#fff"/>',
        *parts,
        "</svg>\n",
    ]
    return "\n".join(lines)


def _bar(bar: Bar, maximum: float, y: int, colour: str) -> list[str]:
    scale = BARS_PX / maximum
    width, end = bar.value * scale, bar.value * scale
    parts = [
        _text(24, y + 13, bar.name),
        f'<rect x="{LABEL_PX}" y="{y}" width="{max(width, 1):.1f}" height="{BAR_HEIGHT_PX}" fill="{colour}" rx="2"/>',
    ]
    if bar.low is not None and bar.high is not None:
        low, end, middle = bar.low * scale, bar.high * scale, y + BAR_HEIGHT_PX / 2
        line = f"M{LABEL_PX + low:.1f} {middle}H{LABEL_PX + end:.1f}"
        parts.append(f'<path d="{line}" stroke="#111827" stroke-width="1.5"/>')
    return [*parts, _text(LABEL_PX + max(end, width) + 6, y + 13, format_figure(bar.value))]


def _text(x: float, y: float, text: str, style: str = "") -> str:
    style_attribute = f' style="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y}"{style_attribute}>{escape(text)}</text>'
