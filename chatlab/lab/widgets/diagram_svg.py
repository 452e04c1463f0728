"""Draw the frame and the texts of a diagram as SVG, and embed an SVG in HTML.

For diagrams that a saved notebook shows where nothing is live. Charts are drawn by
`chatlab.bench.charts`.
"""

import base64
import html
from collections.abc import Iterable

WIDTH, LEFT = 640, 20
INK, QUIET, LINE, GROUND = "#1b2430", "#566170", "#b9c3cf", "#ffffff"


def framed(title: str, height: float, drawn: Iterable[str]) -> str:
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}"'
    return "\n".join([
        f'<svg class="measured" xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13" role="img">',
        f"<title>{html.escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height:.0f}" rx="8" fill="{GROUND}" stroke="{LINE}"/>',
        f'<text x="{LEFT}" y="24" font-size="15" font-weight="700" fill="{INK}">{html.escape(title)}</text>',
        *drawn,
        "</svg>",
    ])  # fmt: skip


def image_of(svg: str, words: str) -> str:
    """Embed an SVG picture in HTML as an image.

    Pages that remove inline SVG (but keep its text) also show an image. `words` is the alternative
    text for readers who cannot see it.
    """
    data = base64.b64encode(svg.encode()).decode()
    about = f'class="measured" style="max-width: 100%" alt="{html.escape(words)}"'
    return f'<img {about} src="data:image/svg+xml;base64,{data}">'


def text(x: float, y: float, words: str, colour: str, anchor: str = "start") -> str:
    """Return an SVG text. `words` may contain tspans, so it must be escaped already."""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{words}</text>'


def rule(path: str) -> str:
    return f'<path d="{path}" stroke="{LINE}" stroke-opacity="0.6"/>'
