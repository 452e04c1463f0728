"""Bars, as text for a terminal and as SVG for a page. Pure. A bar may carry a thin line: from the lowest to the highest that was seen."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

COLOURS = ("#2563eb", "#f59e0b", "#10b981", "#9ca3af", "#ef4444", "#8b5cf6")
LABEL, ROOM, BAR, GAP = 230, 420, 18, 14  # pixels: of the names, of the longest bar, of a bar's height, between two groups
EIGHTHS = " ▏▎▍▌▋▊▉"


class Bar(NamedTuple):
    """`name` says which side it is, and has the same colour in every group."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


class Group(NamedTuple):
    """Bars that are compared; each group has a scale of its own, since the units differ."""

    title: str
    unit: str
    bars: Sequence[Bar]

    @property
    def longest(self) -> float:
        return max([bar.high or bar.value for bar in self.bars if bar.value] or [1.0])


def text_bar(value: float, longest: float, width: int) -> str:
    """A bar of at most `width` columns, exact to an eighth of one."""
    eighths = round(8 * width * min(1.0, value / longest)) if longest else 0
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def figure(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def svg(title: str, groups: Sequence[Group]) -> str:
    """One picture: the groups below each other, a legend for the colours. Readable on white and on black."""
    names = list(dict.fromkeys(bar.name for group in groups for bar in group.bars))
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    parts, y = [_text(12, 24, title, "font-weight:bold;font-size:15px")], 44
    for group in groups:
        parts.append(_text(12, y + 12, f"{group.title}, {group.unit}", "font-weight:bold"))
        y += BAR + 2
        for bar in group.bars:
            parts += _bar(bar, group.longest, y, colours[bar.name])
            y += BAR + 3
        y += GAP
    width = LABEL + ROOM + 90
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}" role="img">'
    style = "<style>text{font:12px system-ui,sans-serif;fill:#1f2937}</style>"
    return "\n".join(
        [head, f"<title>{escape(title)}</title>", style, f'<rect width="{width}" height="{y}" fill="#fff"/>', *parts, "</svg>\n"]
    )


def _bar(bar: Bar, longest: float, y: int, colour: str) -> list[str]:
    wide = ROOM * bar.value / longest
    parts = [
        _text(24, y + 13, bar.name),
        f'<rect x="{LABEL}" y="{y}" width="{max(wide, 1):.1f}" height="{BAR}" fill="{colour}" rx="2"/>',
    ]
    end = wide
    if bar.low is not None and bar.high is not None:
        low, end, middle = ROOM * bar.low / longest, ROOM * bar.high / longest, y + BAR / 2
        parts.append(f'<path d="M{LABEL + low:.1f} {middle}H{LABEL + end:.1f}" stroke="#111827" stroke-width="1.5"/>')
    return [*parts, _text(LABEL + max(end, wide) + 6, y + 13, figure(bar.value))]


def _text(x: float, y: float, words: str, style: str = "") -> str:
    styled = f' style="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y}"{styled}>{escape(words)}</text>'
