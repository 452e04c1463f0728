"""The command `chatlab bench`: measure everything, print the tables, and write the files."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from chatlab.bench.claims import GET, Comparison, judge
from chatlab.bench.comparisons import (
    LONG_MESSAGES,
    SHORT_MESSAGES,
    Variants,
    compare_long_reads,
    compare_reactions,
    compare_sends,
    compare_short_reads,
    make_send,
)
from chatlab.bench.environment import BenchEnvironment, Step, open_environment
from chatlab.bench.machine import describe_machine
from chatlab.bench.memory import CACHED_MESSAGES, measure_many_keys, measure_thousand_messages
from chatlab.bench.report import LatencyRow, Report, render_chart
from chatlab.bench.samples import summarize
from chatlab.bench.tables import print_report
from chatlab.settings import Settings

SECONDS = 8.0  # for each comparison
MANY_KEYS = 50_000
LATENCY_SAMPLES = 1000
COMPARISONS: dict[str, Callable[[Variants, float], list[Comparison]]] = {
    "sending messages": compare_sends,
    f"reading {SHORT_MESSAGES} messages": compare_short_reads,
    f"reading {LONG_MESSAGES} messages": compare_long_reads,
    "reacting to messages": compare_reactions,
}
STEPS = len(COMPARISONS) + 6  # of the progress bar


def measure(settings: Settings, *, seconds: float = SECONDS, many_keys: int = MANY_KEYS) -> Report:
    """Measure everything, with a progress bar on standard error. Raises EngineError."""
    with _progress_bar() as step, open_environment(settings, step) as environment:
        report = _measure(environment, seconds, many_keys, step)
        step("cleaning up")
    return report


def write_report(report: Report, *, as_json: bool, file: Path | None, chart: Path | None) -> None:
    """Print the tables, and write the JSON and the chart if they are wanted.

    JSON without a file goes to standard output, and then the tables go to standard error.
    """
    print_report(report, Console(stderr=as_json and file is None, highlight=False))
    text = json.dumps(report.as_json(), indent=2) + "\n"
    if file:
        file.write_text(text, encoding="utf-8")
    elif as_json:
        sys.stdout.write(text)
    if chart:
        chart.write_text(render_chart(report), encoding="utf-8")


def _measure(environment: BenchEnvironment, seconds: float, many_keys: int, step: Step) -> Report:
    comparisons: list[Comparison] = []
    for name, compare in COMPARISONS.items():
        step(name)
        comparisons += compare(environment.variants, seconds)
    step("timing Redis")
    reads = next(comparison for comparison in comparisons if comparison.claim is GET)
    latencies = _latencies(environment, reads)
    step(f"measuring {CACHED_MESSAGES:,} cached messages")
    memory = measure_thousand_messages(environment.memory)
    step(f"filling Redis with {many_keys:,} keys")
    memory += measure_many_keys(environment.memory, many_keys)
    step("computing the results")
    engines = environment.engines
    machine = describe_machine(MongoDB=engines.mongo.version, Redis=engines.redis.version)
    return Report(machine, [judge(comparison) for comparison in comparisons], latencies, memory)


def _latencies(environment: BenchEnvironment, reads: Comparison) -> list[LatencyRow]:
    """Measure a read of cached data at growing distances from Redis."""
    window = environment.variants["window"]
    message = json.loads(make_send(window.client, window.partner)().body)
    redis, key = environment.memory.redis, environment.memory.keys.message(message["_id"])
    redis.config_resetstat()
    gets = [_microseconds(lambda: redis.get(key)) for _ in range(LATENCY_SAMPLES)]
    stats = redis.info("commandstats")
    assert isinstance(stats, dict)
    over_http = f"by a user, {SHORT_MESSAGES} messages over HTTP"
    return [
        LatencyRow("by Redis itself, one GET", summarize([stats["cmdstat_get"]["usec_per_call"]])),
        LatencyRow("by a client on the same machine, one GET", summarize(gets)),
        LatencyRow(
            f"{over_http}, from Redis", summarize([ms * 1000 for ms in reads.with_cache_ms])
        ),
        LatencyRow(f"{over_http}, from MongoDB", summarize([ms * 1000 for ms in reads.without_ms])),
    ]


def _microseconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1e6


@contextlib.contextmanager
def _progress_bar() -> Iterator[Step]:
    """Show a bar that moves on each time the yielded function is called."""
    columns = (TextColumn("{task.description:<32}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting MongoDB and Redis", total=STEPS)
        yield lambda description: bar.update(task, description=description, advance=1)
