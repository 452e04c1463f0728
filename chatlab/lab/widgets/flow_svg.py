"""Draw the boxes of a diagram as SVG for a saved notebook, where nothing is live."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from chatlab.lab.widgets.diagram_svg import INK, LEFT, LINE, QUIET, framed, text

# The top of the first row, the height of a box, and the gap between two boxes.
TOP, HIGH, APART = 44, 44, 20
WIDE = 380  # width of a box
LIT = "#14917f"


def flow_svg(
    title: str, labels: Mapping[str, str], transport: str | None, boxes: Sequence[Mapping[str, Any]]
) -> str:
    """Draw a diagram.

    `labels` has the label of each transport, and `transport` is the one that was used. `boxes` has
    the form of the flow map; the first box is the transports' own.
    """
    drawn = _transports(labels, transport)
    for row, box in enumerate(boxes[1:], 1):
        drawn += _box(TOP + row * (HIGH + APART), box)
    return framed(title, TOP + len(boxes) * (HIGH + APART), drawn)


def _transports(labels: Mapping[str, str], used: str | None) -> list[str]:
    wide = (WIDE - APART * (len(labels) - 1)) / len(labels)
    drawn = []
    for number, (transport, label) in enumerate(labels.items()):
        x = LEFT + number * (wide + APART)
        drawn.append(_frame(x, TOP, wide, lit=transport == used))
        for line, words in enumerate(label.split("\n")):
            drawn.append(
                text(
                    x + wide / 2,
                    TOP + 18 + 17 * line,
                    html.escape(words),
                    QUIET if line else INK,
                    "middle",
                )
            )
    return drawn


def _box(y: float, box: Mapping[str, Any]) -> list[str]:
    lit, middle = box["tookMs"] is not None, LEFT + WIDE / 2
    took = f"{box['tookMs']:.2f} ms" if lit else "not asked" if box["skipped"] else ""
    drawn = [
        f'<path d="M{middle} {y - APART}v{APART - 3}m-4 -5l4 5l4 -5" fill="none" stroke="{QUIET}"/>',
        _frame(LEFT, y, WIDE, lit=lit),
        text(LEFT + 12, y + 18, html.escape(box["title"]), INK),
        text(LEFT + 12, y + 35, html.escape(box["note"]), QUIET),
        text(LEFT + WIDE - 12, y + 18, took, INK, "end"),
    ]
    return drawn + (
        [text(LEFT + WIDE + 14, y + 26, f"◄ {box['aside']}", QUIET)] if box["aside"] else []
    )


def _frame(x: float, y: float, wide: float, *, lit: bool) -> str:
    fill, stroke = ("#e3f4f1", LIT) if lit else ("none", LINE)
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{HIGH}" rx="6" fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>'
