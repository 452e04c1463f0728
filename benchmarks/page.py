"""The page of the results: a table for each row, a picture, the machine. Only what stands between the two marks is made here."""

import json
from pathlib import Path
from typing import Any

from benchmarks.rows import ROWS
from chatlab.bench.charts import Bar, BarGroup, format_figure, render_svg

BEGIN, END = "<!-- results: made by python -m benchmarks -->", "<!-- end of results -->"
MET = {True: "met", False: "**not met**", None: ""}

Json = dict[str, Any]


def write_page(results: Path, page: Path) -> None:
    """Put all results that are in the folder into the page, with a picture each."""
    found = [json.loads(path.read_text(encoding="utf-8")) for name in ROWS if (path := results / f"{name}.json").exists()]
    for one in found:
        (results / f"{one['row']}.svg").write_text(_picture(one), encoding="utf-8")
    folder = "" if results == page.parent else f"{results.name}/"
    section = "\n".join([BEGIN, "", *_summary(found), *(line for one in found for line in _row(one, folder)), END])
    before, after = _around(page)
    page.write_text(f"{before}{section}{after}", encoding="utf-8")


def _around(page: Path) -> tuple[str, str]:
    """What the page says by hand, before and after."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    before, mark, rest = text.partition(BEGIN)
    return before, rest.partition(END)[2] if mark else "\n"


def _summary(found: list[Json]) -> list[str]:
    lines = ["| work | target | measured | |", "| --- | --- | --- | --- |"]
    for one in found:
        judged = [check for check in one["checks"] if check["met"] is not None]
        told = "; ".join(f"{check['what']} {format_figure(check['median'])}" for check in judged)
        met = MET[all(check["met"] for check in judged)] if judged else "not measured"
        lines.append(f"| [{one['title']}](#{_anchor(one['title'])}) | {one['target']} | {told} | {met} |")
    return [*lines, ""]


def _anchor(title: str) -> str:
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def _row(one: Json, folder: str) -> list[str]:
    settings = ", ".join(f"{name} {value}" for name, value in one["settings"].items())
    lines = [f"### {one['title']}", "", f"Target: {one['target']}. Settings: {settings}.", ""]
    lines += [
        f"![{one['title']}]({folder}{one['row']}.svg)",
        "",
        f"| | median, {one['unit']} | lowest to highest round |",
        "| --- | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {format_figure(side['median'])} | {format_figure(side['low'])} to {format_figure(side['high'])} |"
        for name, side in one["sides"].items()
    ]
    lines += ["", "| round by round | median | lowest to highest | target | |", "| --- | ---: | ---: | ---: | --- |"]
    for check in one["checks"]:
        told = "" if check["target"] is None else f"{'at least' if check['at_least'] else 'at most'} {check['target']:g}"
        spread = f"{format_figure(check['low'])} to {format_figure(check['high'])}"
        lines.append(f"| {check['what']} | {format_figure(check['median'])} | {spread} | {told} | {MET[check['met']]} |")
    lines += ["", *(f"* {remark}" for remark in one["remarks"])]
    about = "; ".join(f"{name} {value}" for name, value in one["machine"].items())
    return [*lines, "", f"<sub>{about}</sub>", ""]


def _picture(one: Json) -> str:
    """All sides of one unit on one scale; the thin line is the spread of the rounds. `a, kind` makes a group for each kind."""
    groups: dict[str, list[Bar]] = {}
    for name, side in one["sides"].items():
        side_name, _, kind = name.partition(", ")
        groups.setdefault(kind or one["title"], []).append(Bar(side_name, side["median"], side["low"], side["high"]))
    return render_svg(f"{one['title']}", [BarGroup(title, one["unit"], bars) for title, bars in groups.items()])
