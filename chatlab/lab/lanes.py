"""Programs that use one Redis at the same time, drawn as lanes: who did what, and in which order."""

import html
import json
import re
import textwrap
from typing import Any, NamedTuple

LANE, AFTER, LINE, TOP, GAP = 255, 240, 16, 46, 10  # pixels of the picture
CUT = 40  # characters of a line in a lane, and of a value
ID = re.compile(r"(?<=\bmessage:)[0-9a-f]{24}\b")  # a fence has such a value, too, and keeps it
INK, QUIET, LOST, KEPT, BOX = "#1c2430", "#566170", "#c2410c", "#17877a", "#eef2f6"
PAUSE = "⏸ stops here: "


class LaneStep(NamedTuple):
    """A step of one lane, or a point where it stopped. `value`: the key's value after it."""

    lane: str
    text: str
    value: str


class LanesPicture(NamedTuple):
    """The steps of some lanes, as a picture and as a table in text.

    Without a `key`, the steps have no values.
    """

    key: str
    names: tuple[str, ...]
    steps: list[LaneStep]
    lost: str

    @property
    def losing_step(self) -> LaneStep | None:
        """The step that replaced a value with `lost` in it by one without it."""
        before = ""
        for step in self.steps:
            if self.lost and self.lost in before and self.lost not in step.value:
                return step
            before = step.value
        return None

    def __repr__(self) -> str:
        heads = ["", *self.names, self._after]
        rows = [
            [
                str(number),
                *(_shown(step.text) if name == step.lane else "" for name in self.names),
                f"{_cut(step.value)}{f'  <- lost: {self.lost}' if step is self.losing_step else ''}",
            ]
            for number, step in enumerate(self.steps, 1)
        ]
        wide = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(row, wide, strict=True)).rstrip()
            for row in [heads, *rows]
        )

    def _repr_svg_(self) -> str:
        width = self._x(len(self.names)) + (AFTER if self.key else 0)
        rows, y = list[str](), TOP
        for number, step in enumerate(self.steps, 1):
            lines = textwrap.wrap(_shown(step.text), CUT)
            rows += self._row(number, step, lines, y)
            y += LINE * len(lines) + 2 * GAP
        size = f'viewBox="0 0 {width} {y}" width="{width}"'
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
            f"<title>{html.escape(', '.join(self.names))}: steps in their order</title>",
            f'<rect width="{width}" height="{y}" rx="8" fill="#ffffff" stroke="#b9c3cf"/>',
            *self._heads(y),
            *rows,
            "</svg>",
        ]
        return "\n".join(parts)

    @property
    def _after(self) -> str:
        return f"{_without_id(self.key)} afterwards" if self.key else ""

    def _x(self, lane: int) -> int:
        return 30 + lane * (LANE + GAP)

    def _heads(self, height: int) -> list[str]:
        heads = [
            _text(self._x(lane), 30, name, INK, "bold") for lane, name in enumerate(self.names)
        ]
        lines = [
            f'<path d="M{self._x(lane) + 8} 38V{height - 10}" stroke="#b9c3cf"/>'
            for lane in range(len(self.names))
        ]
        after = _text(self._x(len(self.names)), 30, self._after, QUIET)
        return [*heads, *lines, *([after] if self.key else [])]

    def _row(self, number: int, step: LaneStep, lines: list[str], y: int) -> list[str]:
        x, end = self._x(self.names.index(step.lane)), self._x(len(self.names))
        is_lost = step is self.losing_step
        colour = LOST if is_lost else QUIET if step.text.startswith(PAUSE) else INK
        edge = LOST if is_lost else "#b9c3cf"
        value = f"{_cut(step.value)}{f' (lost: {self.lost})' if is_lost else ''}"
        has_it = KEPT if self.lost and self.lost in step.value else QUIET
        after = _text(end, y + LINE, value, LOST if is_lost else has_it)
        height = LINE * len(lines) + GAP
        return [
            _text(10, y + LINE, str(number), QUIET),
            f'<rect x="{x}" y="{y}" width="{LANE}" height="{height}" rx="5" fill="{BOX}" stroke="{edge}"/>',
            *(_text(x + 8, y + LINE * row, line, colour) for row, line in enumerate(lines, 1)),
            *([after] if self.key else []),
        ]


def _without_id(text: str) -> str:
    return ID.sub("{_id}", text)


def _shown(text: str) -> str:
    """Return the text of a step without ids. Long words, such as a large value, are cut."""
    return re.sub(r"\S+", lambda word: _cut(word[0]), _without_id(text))


def _cut(value: str) -> str:
    return value if len(value) <= CUT else f"{value[: CUT - 1]}…"


def _text(x: int, y: int, text: str, colour: str, weight: str = "normal") -> str:
    return (
        f'<text x="{x}" y="{y}" fill="{colour}" font-weight="{weight}">{html.escape(text)}</text>'
    )


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
