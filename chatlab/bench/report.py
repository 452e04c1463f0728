"""What `chatlab bench` found: as tables for a person, as JSON for a program, as a chart. Measures nothing."""

from typing import Any, NamedTuple

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from chatlab.bench.bars import Bar, Group, figure, svg, text_bar
from chatlab.bench.claims import DEPENDS, FAILS, HOLDS, Outcome, Size
from chatlab.bench.samples import Interval, Summary

STYLES = {HOLDS: "green", DEPENDS: "yellow", FAILS: "red", "": ""}
WIDTH = 30  # columns of a bar
HOW = """\
Median, its 95 % interval (bootstrap) and the 95th percentile of {samples:,} samples a side or more; one request at a time, side by side.
Without the cache: CHATLAB_CACHE_MODE=off. Both engines stand on this machine; the document's milliseconds are those of a database far away:
"+147 ms a trip" is how much longer a trip to MongoDB would have to take for the document's time without a cache, while Redis is near."""


class Cost(NamedTuple):
    """How long a cached message takes, in microseconds, for the one who asks."""

    who: str
    microseconds: Summary


class Report(NamedTuple):
    machine: dict[str, str]
    outcomes: list[Outcome]
    costs: list[Cost]
    sizes: list[Size]

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "performance": [_outcome_json(outcome) for outcome in self.outcomes],
            "redis_microseconds": {cost.who: _summary_json(cost.microseconds) for cost in self.costs},
            "memory_bytes": [size._asdict() | {"verdict": size.verdict} for size in self.sizes],
        }


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    race, claim = outcome.race, outcome.race.claim
    return {
        "operation": claim.operation,
        "condition": race.condition,
        "hypothesis": claim.hypothesis,
        "document": {"without_ms": claim.without, "with_ms": claim.with_cache, "saved": claim.faster},
        "measured": {
            "without_ms": _summary_json(outcome.without),
            "with_ms": _summary_json(outcome.with_cache),
            "saved": outcome.saved._asdict(),
        },
        "at_the_documents_distance": {"added_ms_a_trip": outcome.distance_ms, "with_ms": outcome.far_ms, "saved": outcome.far_saved},
        "verdict": outcome.verdict,
    }


def _summary_json(found: Summary) -> dict[str, Any]:
    return found._asdict() | {"median": found.median._asdict()}


# --- for a person ------------------------------------------------------------------------------------------------------------------


def show(report: Report, console: Console) -> None:
    console.print(", ".join(f"{name} {value}" for name, value in report.machine.items() if name != "libraries"), style="dim")
    for part in (_performance(report), _explained(report), _bars(report), _microseconds(report), _memory(report)):
        console.print()
        console.print(part)


def _performance(report: Report) -> Table:
    table = Table(title="Performance: the document, and this machine", title_justify="left", show_lines=True)
    for column in ("Operation", "Document", "Without cache", "With cache", "Less time", "Were MongoDB far away", "Claim"):
        table.add_column(column)
    for outcome in report.outcomes:
        claim = outcome.race.claim
        table.add_row(
            Text.assemble((claim.operation, "bold"), "\n", (outcome.race.condition, "dim")),
            f"{_range(claim.without)} → {_range(claim.with_cache)} ms\n{claim.faster:.0%} faster",
            _times(outcome.without),
            _times(outcome.with_cache),
            f"{outcome.saved.middle:.0%}\n{_span(outcome.saved)}",
            f"+{figure(outcome.distance_ms)} ms a trip: {claim.without[0]:.0f} →\n{figure(outcome.far_ms)} ms, {outcome.far_saved:.0%}",
            Text(outcome.verdict, STYLES[outcome.verdict]),
        )
    return table


def _range(told: tuple[float, float]) -> str:
    return "-".join(f"{value:.0f}" for value in dict.fromkeys(told))


def _times(found: Summary) -> str:
    return f"{found.median.middle:.2f} ms\n±{(found.median.high - found.median.low) / 2:.2f}, p95 {found.p95:.2f}"


def _span(share: Interval) -> str:
    return f"{share.low:.0%} to {share.high:.0%}"


def _explained(report: Report) -> Text:
    least = min(outcome.without.samples for outcome in report.outcomes)
    hypotheses = dict.fromkeys(outcome.race.claim.hypothesis for outcome in report.outcomes)
    return Text("\n".join([HOW.format(samples=least), *(f"Hypothesis: {hypothesis}" for hypothesis in hypotheses)]), style="dim")


def _bars(report: Report) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    longest = max(max(outcome.without.median.middle, outcome.with_cache.median.middle) for outcome in report.outcomes)
    for outcome in report.outcomes:
        for name, found, style in (("without", outcome.without, "yellow"), ("with", outcome.with_cache, "blue")):
            title = outcome.race.claim.operation if name == "without" else ""
            middle = found.median.middle
            table.add_row(Text(title, "bold"), name, Text(text_bar(middle, longest, WIDTH), style), f"{middle:.2f} ms")
    return table


def _microseconds(report: Report) -> Table:
    table = Table(title="“Redis serves data instantly (microseconds)”: it depends on who asks", title_justify="left")
    table.add_column("Asked by")
    for column in ("median", "p95"):
        table.add_column(column, justify="right")
    for cost in report.costs:
        table.add_row(cost.who, f"{figure(cost.microseconds.median.middle)} µs", f"{figure(cost.microseconds.p95)} µs")
    return table


def _memory(report: Report) -> Table:
    table = Table(title="Memory: the document, and this Redis", title_justify="left")
    for column in ("What", "Document", "Measured", "Claim", "How"):
        table.add_column(column, justify="right" if column in ("Document", "Measured") else "left")
    for size in report.sizes:
        told = "" if size.told is None else "nothing" if not size.told else f"~{_bytes(size.told)}"
        table.add_row(size.what, told, _bytes(size.measured), Text(size.verdict, STYLES[size.verdict]), Text(size.remark, "dim"))
    return table


def _bytes(value: float) -> str:
    return f"{value:,.0f} bytes" if value < 2000 else f"{value / 1000:,.0f} KB" if value < 2e6 else f"{value / 1e6:,.1f} MB"


# --- the chart ---------------------------------------------------------------------------------------------------------------------


def chart(report: Report) -> str:
    """An SVG: each operation without the cache and with it, as measured; the thin line goes to the 95th percentile."""
    groups = [
        Group(
            f"{outcome.race.claim.operation} ({outcome.race.condition.partition(';')[0]})",
            f"ms, {outcome.verdict}: {_changed(outcome.saved.middle)}, {outcome.race.claim.faster:.0%} less claimed",
            [_bar("without cache", outcome.without), _bar("with cache", outcome.with_cache)],
        )
        for outcome in report.outcomes
    ]
    return svg("chatlab bench: median, and up to the 95th percentile", groups)


def _changed(saved: float) -> str:
    return f"{abs(saved):.0%} {'less' if saved >= 0 else 'more'}"


def _bar(name: str, found: Summary) -> Bar:
    return Bar(name, found.median.middle, found.median.middle, found.p95)
