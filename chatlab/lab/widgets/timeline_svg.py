"""Draw the last state of a timeline as SVG, for places without live widgets."""

from collections.abc import Callable
from typing import Any

from chatlab.lab.widgets.chart_svg import INK, QUIET, WIDTH, framed, rule, text

LEFT, RIGHT, TOP, LANE = 20, 620, 56, 22
TEAL, BLUE = "#17877a", "#1d4ed8"
Json = dict[str, Any]


def timeline_svg(state: Json) -> str:
    """Draw the period that a Timeline's `state` shows, up to the last sweep or deadline."""
    if not state["beats"]:
        return framed(
            "The worker's timeline",
            70,
            [text(WIDTH / 2, 46, "No beat of the worker yet.", QUIET, "middle")],
        )
    end = max([state["beats"][-1]["at"], *(life["deadlineMs"] for life in state["lives"])])
    scale = (RIGHT - LEFT) / state["shownMs"]

    def x(moment: float) -> float:
        return float(min(RIGHT, max(LEFT, RIGHT - (end - moment) * scale)))

    bottom = TOP + LANE * max(1, len(state["lives"]))
    beats = [
        f'<path d="M{x(beat["at"]):.1f} 44V{bottom}" stroke="{BLUE if beat["cleaned"] else QUIET}"/>'
        for beat in state["beats"]
    ]
    lives = [
        part
        for lane, life in enumerate(state["lives"])
        for part in _life(life, TOP + LANE * lane, x)
    ]
    marks = [
        text(
            x(end - second * 1000),
            bottom + 18,
            f"-{second} s" if second else "0 s",
            QUIET,
            "end" if second == 0 else "middle",
        )
        for second in range(0, int(state["shownMs"] / 1000), 5)
    ]
    return framed(
        "The worker's timeline",
        bottom + 30,
        [*beats, *lives, rule(f"M{LEFT} {bottom}H{RIGHT}"), *marks],
    )


def _life(life: Json, y: float, x: Callable[[float], float]) -> list[str]:
    begin, end = x(life["cachedMs"]), x(life["deadlineMs"])
    bar = f'<rect x="{begin:.1f}" y="{y + 3:.1f}" width="{max(1.0, end - begin):.1f}" height="{LANE - 6}" rx="4" fill="{TEAL}"/>'
    if not life["toldMs"]:
        return [bar]
    told = x(life["toldMs"])
    beside, anchor = (told - 8, "end") if told > RIGHT - 90 else (told + 8, "start")
    return [
        bar,
        f'<circle cx="{told:.1f}" cy="{y + LANE / 2:.1f}" r="5" fill="{BLUE}"/>',
        text(beside, y + 15, f"{life['lagMs']:.0f} ms late", INK, anchor),
    ]
