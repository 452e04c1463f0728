"""Write the results into README.md: tables, a chart for each benchmark, and the machine.

Only the text between the two marks is generated. The rest of the page is written by hand.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.registry import BENCHMARKS
from chatlab.bench.charts import Bar, BarGroup, bar_chart, format_figure, line_chart

BEGIN, END = "<!-- results: made by python -m benchmarks -->", "<!-- end of results -->"
MET = {True: "met", False: "**not met**", None: ""}

Json = dict[str, Any]


def write_page(results: Path, page: Path) -> None:
    """Write all results of the folder into the page, and an SVG next to each result file."""
    paths = (results / f"{name}.json" for name in BENCHMARKS)
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    for result in found:
        (results / f"{result['row']}.svg").write_text(_chart(result), encoding="utf-8")
    folder = "" if results == page.parent else f"{results.name}/"
    details = [line for result in found for line in _section(result, folder)]
    before, after = _text_around_results(page)
    text = "\n".join([BEGIN, "", *_summary_table(found), *details, END])
    page.write_text(f"{before}{text}{after}", encoding="utf-8")


def _text_around_results(page: Path) -> tuple[str, str]:
    """Return the hand-written text before and after the results."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    before, mark, rest = text.partition(BEGIN)
    return before, rest.partition(END)[2] if mark else "\n"


def _summary_table(found: list[Json]) -> list[str]:
    lines = ["| benchmark | target | measured | |", "| --- | --- | --- | --- |"]
    for result in found:
        checks = [check for check in result["checks"] if check["met"] is not None]
        measured = "; ".join(
            f"{check['what']} {format_figure(check['median'])}" for check in checks
        )
        met = MET[all(check["met"] for check in checks)] if checks else "not measured"
        title = f"[{result['title']}](#{_anchor(result['title'])})"
        lines.append(f"| {title} | {result['target']} | {measured} | {met} |")
    return [*lines, ""]


def _anchor(title: str) -> str:
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def _section(result: Json, folder: str) -> list[str]:
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
    machine = "; ".join(f"{name} {value}" for name, value in result["machine"].items())
    return [
        f"### {result['title']}",
        "",
        f"Target: {result['target']}. Settings: {settings}.",
        "",
        f"![{result['title']}]({folder}{result['row']}.svg)",
        "",
        *_figures_table(result),
        "",
        *_checks_table(result),
        "",
        *(f"* {remark}" for remark in result["remarks"]),
        "",
        f"<sub>{machine}</sub>",
        "",
    ]


def _figures_table(result: Json) -> list[str]:
    lines = [f"| | median, {result['unit']} | range of the rounds |", "| --- | ---: | ---: |"]
    for name, series in result["sides"].items():
        lines.append(f"| {name} | {format_figure(series['median'])} | {_range(series)} |")
    return lines


def _checks_table(result: Json) -> list[str]:
    lines = [
        "| check | median | range of the rounds | target | |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for check in result["checks"]:
        bound = "at least" if check["at_least"] else "at most"
        target = "" if check["target"] is None else f"{bound} {check['target']:g}"
        median = format_figure(check["median"])
        lines.append(
            f"| {check['what']} | {median} | {_range(check)} | {target} | {MET[check['met']]} |"
        )
    return lines


def _range(figures: Json) -> str:
    return f"{format_figure(figures['low'])} to {format_figure(figures['high'])}"


def _chart(result: Json) -> str:
    """Draw the curves, or else a bar for each series with a line for the range of the rounds.

    Series named `server, kind` form one group for each kind.
    """
    if curves := result.get("curves"):
        lines = [{"side": name, "points": points} for name, points in curves.items()]
        return line_chart(result["title"], lines, unit=result["unit"], x=result["x"], log=True)
    groups: dict[str, list[Bar]] = {}
    for name, series in result["sides"].items():
        server, _, kind = name.partition(", ")
        bar = Bar(server, series["median"], series["low"], series["high"])
        groups.setdefault(kind, []).append(bar)
    return bar_chart(
        result["title"], [BarGroup(title, result["unit"], bars) for title, bars in groups.items()]
    )
