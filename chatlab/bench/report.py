"""The results of `chatlab bench`, as JSON and as a chart. `tables` prints them."""

from typing import Any, NamedTuple

from chatlab.bench.charts import Bar, BarGroup, bar_chart
from chatlab.bench.claims import MemoryRow, Outcome
from chatlab.bench.samples import Summary


class LatencyRow(NamedTuple):
    """How long a read of cached data takes in microseconds, seen from one place."""

    seen_from: str
    microseconds: Summary


class Report(NamedTuple):
    machine: dict[str, str]
    outcomes: list[Outcome]
    latencies: list[LatencyRow]
    memory: list[MemoryRow]

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "performance": [_outcome_json(outcome) for outcome in self.outcomes],
            "redis_microseconds": {
                row.seen_from: _summary_json(row.microseconds) for row in self.latencies
            },
            "memory_bytes": [_memory_json(row) for row in self.memory],
        }


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    comparison, claim = outcome.comparison, outcome.comparison.claim
    return {
        "operation": claim.operation,
        "condition": comparison.condition,
        "hypothesis": claim.hypothesis,
        "document": {
            "without_ms": claim.without_ms,
            "with_ms": claim.with_cache_ms,
            "saved": claim.share_saved,
        },
        "measured": {
            "without_ms": _summary_json(outcome.without),
            "with_ms": _summary_json(outcome.with_cache),
            "saved": outcome.saved._asdict(),
        },
        "at_the_documents_distance": {
            "added_ms_a_trip": outcome.extra_round_trip_ms,
            "with_ms": outcome.distant_ms,
            "saved": outcome.distant_saved,
        },
        "verdict": outcome.verdict,
    }


def _summary_json(summary: Summary) -> dict[str, Any]:
    return summary._asdict() | {"median": summary.median._asdict()}


def _memory_json(row: MemoryRow) -> dict[str, Any]:
    return {
        "what": row.what,
        "told": row.claimed,
        "measured": row.measured,
        "remark": row.remark,
        "among": row.total,
        "verdict": row.verdict,
    }


def render_chart(report: Report) -> str:
    """Return an SVG of each operation without and with the cache, up to the 95th percentile."""
    groups = [
        BarGroup(
            f"{outcome.comparison.claim.operation} ({outcome.comparison.condition.partition(';')[0]})",
            f"ms, {outcome.verdict}: {_less_or_more(outcome.saved.middle)} time, {outcome.comparison.claim.share_saved:.0%} less claimed",
            [_bar("without cache", outcome.without), _bar("with cache", outcome.with_cache)],
        )
        for outcome in report.outcomes
    ]
    return bar_chart("chatlab bench: median, with a line to the 95th percentile", groups)


def _less_or_more(share: float) -> str:
    return f"{abs(share):.0%} {'less' if share >= 0 else 'more'}"


def _bar(name: str, summary: Summary) -> Bar:
    return Bar(name, summary.median.middle, summary.median.middle, summary.p95)
