"""Draw the last state of a timeline as SVG, for places without live widgets."""

from collections.abc import Callable
from typing import Any

from chatlab.lab.widgets.diagram_svg import INK, QUIET, WIDTH, framed, rule, text

LEFT, RIGHT, TOP, LANE = 20, 620, 56, 22
TEAL, BLUE = "#17877a", "#1d4ed8"
TITLE = "The sweeper's timeline"
Json = dict[str, Any]


def timeline_svg(state: Json) -> str:
    """Draw the period that a Timeline's `state` shows, up to the last sweep or deadline."""
    sweeps, lifetimes = state["sweeps"], state["lifetimes"]
    if not sweeps:
        return framed(TITLE, 70, [text(WIDTH / 2, 46, "No sweep yet.", QUIET, "middle")])
    end = max([sweeps[-1]["at"], *(lifetime["deadlineMs"] for lifetime in lifetimes)])
    scale = (RIGHT - LEFT) / state["shownMs"]

    def x(moment: float) -> float:
        return float(min(RIGHT, max(LEFT, RIGHT - (end - moment) * scale)))

    bottom = TOP + LANE * max(1, len(lifetimes))
    ticks = [
        f'<path d="M{x(sweep["at"]):.1f} 44V{bottom}" stroke="{BLUE if sweep["cleaned"] else QUIET}"/>'
        for sweep in sweeps
    ]
    bars = [
        part
        for lane, lifetime in enumerate(lifetimes)
        for part in _bar(lifetime, TOP + LANE * lane, x)
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
    axis = rule(f"M{LEFT} {bottom}H{RIGHT}")
    return framed(TITLE, bottom + 30, [*ticks, *bars, axis, *marks])


def _bar(lifetime: Json, y: float, x: Callable[[float], float]) -> list[str]:
    begin, end = x(lifetime["cachedMs"]), x(lifetime["deadlineMs"])
    bar = f'<rect x="{begin:.1f}" y="{y + 3:.1f}" width="{max(1.0, end - begin):.1f}" height="{LANE - 6}" rx="4" fill="{TEAL}"/>'
    if not lifetime["reportedMs"]:
        return [bar]
    reported = x(lifetime["reportedMs"])
    near_edge = reported > RIGHT - 90
    label_x, anchor = (reported - 8, "end") if near_edge else (reported + 8, "start")
    return [
        bar,
        f'<circle cx="{reported:.1f}" cy="{y + LANE / 2:.1f}" r="5" fill="{BLUE}"/>',
        text(label_x, y + 15, f"{lifetime['lagMs']:.0f} ms late", INK, anchor),
    ]
