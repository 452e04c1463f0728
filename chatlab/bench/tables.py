"""Print a report of `chatlab bench` in a terminal."""

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from chatlab.bench.charts import format_figure, text_bar
from chatlab.bench.claims import DEPENDS, FAILS, HOLDS, MemoryRow, Outcome
from chatlab.bench.report import Report
from chatlab.bench.samples import Interval, Summary

STYLES = {HOLDS: "green", DEPENDS: "yellow", FAILS: "red", "": ""}
BAR_COLUMNS = 30
EXPLANATION = """\
Median, its 95 % interval (bootstrap) and 95th percentile of {samples:,} or more samples with the cache and without.
One request at a time, with and without the cache in turn. Without the cache means CHATLAB_CACHE_MODE=off.
MongoDB and Redis run on this machine, while the document's milliseconds are those of a distant MongoDB.
"+147 ms a round trip" is how much longer a round trip to MongoDB would have to take to reach the document's time
without a cache, with Redis still near."""


def print_report(report: Report, console: Console) -> None:
    machine = ", ".join(
        f"{name} {value}" for name, value in report.machine.items() if name != "libraries"
    )
    console.print(machine, style="dim")
    parts = (
        _performance(report),
        _explanation(report),
        _bars(report),
        _latencies(report),
        _memory(report),
    )
    for part in parts:
        console.print()
        console.print(part)


def _performance(report: Report) -> Table:
    table = Table(
        title="Performance: the document and this machine", title_justify="left", show_lines=True
    )
    columns = (
        "Operation",
        "Document",
        "Without cache",
        "With cache",
        "Time saved",
        "With a distant MongoDB",
        "Claim",
    )
    for column in columns:
        table.add_column(column)
    for outcome in report.outcomes:
        table.add_row(*_performance_row(outcome))
    return table


def _performance_row(outcome: Outcome) -> tuple[RenderableType, ...]:
    claim = outcome.comparison.claim
    extra_ms, distant_ms = (
        format_figure(outcome.extra_round_trip_ms),
        format_figure(outcome.distant_ms),
    )
    distant = f"+{extra_ms} ms a round trip:\n{claim.without_ms[0]:.0f} → {distant_ms} ms, {outcome.distant_saved:.0%}"
    return (
        Text.assemble((claim.operation, "bold"), "\n", (outcome.comparison.condition, "dim")),
        f"{_range(claim.without_ms)} → {_range(claim.with_cache_ms)} ms\n{claim.share_saved:.0%} faster",
        _times(outcome.without),
        _times(outcome.with_cache),
        f"{outcome.saved.middle:.0%}\n{_limits(outcome.saved)}",
        distant,
        Text(outcome.verdict, STYLES[outcome.verdict]),
    )


def _range(limits: tuple[float, float]) -> str:
    return "-".join(f"{value:.0f}" for value in dict.fromkeys(limits))


def _times(summary: Summary) -> str:
    half_interval = (summary.median.high - summary.median.low) / 2
    return f"{summary.median.middle:.2f} ms\n±{half_interval:.2f}, p95 {summary.p95:.2f}"


def _limits(share: Interval) -> str:
    return f"{share.low:.0%} to {share.high:.0%}"


def _explanation(report: Report) -> Text:
    samples = min(outcome.without.samples for outcome in report.outcomes)
    hypotheses = dict.fromkeys(outcome.comparison.claim.hypothesis for outcome in report.outcomes)
    lines = [EXPLANATION.format(samples=samples), *(f"Hypothesis: {text}" for text in hypotheses)]
    return Text("\n".join(lines), style="dim")


def _bars(report: Report) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    medians = [
        summary.median.middle
        for one in report.outcomes
        for summary in (one.without, one.with_cache)
    ]
    for outcome in report.outcomes:
        title = outcome.comparison.claim.operation
        rows = (
            (title, "without", outcome.without, "yellow"),
            ("", "with", outcome.with_cache, "blue"),
        )
        for heading, name, summary, style in rows:
            median_ms = summary.median.middle
            bar = Text(text_bar(median_ms, max(medians), BAR_COLUMNS), style)
            table.add_row(Text(heading, "bold"), name, bar, f"{median_ms:.2f} ms")
    return table


def _latencies(report: Report) -> Table:
    title = "“Redis serves data instantly (microseconds)”: it depends on where you measure"
    table = Table(title=title, title_justify="left")
    table.add_column("Measured")
    for column in ("median", "p95"):
        table.add_column(column, justify="right")
    for row in report.latencies:
        median, p95 = row.microseconds.median.middle, row.microseconds.p95
        table.add_row(row.seen_from, f"{format_figure(median)} µs", f"{format_figure(p95)} µs")
    return table


def _memory(report: Report) -> Table:
    table = Table(title="Memory: the document and this Redis", title_justify="left")
    for column in ("What", "Document", "Measured", "Claim", "Remark"):
        table.add_column(column, justify="right" if column in ("Document", "Measured") else "left")
    for row in report.memory:
        verdict, remark = Text(row.verdict, STYLES[row.verdict]), Text(row.remark, "dim")
        table.add_row(row.what, _claimed(row), _bytes(row.measured), verdict, remark)
    return table


def _claimed(row: MemoryRow) -> str:
    if row.claimed is None:
        return ""
    return f"~{_bytes(row.claimed)}" if row.claimed else "nothing"


def _bytes(value: float) -> str:
    if value < 2000:
        return f"{value:,.0f} bytes"
    return f"{value / 1000:,.0f} KB" if value < 2e6 else f"{value / 1e6:,.1f} MB"
