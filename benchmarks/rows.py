"""The rows of the table: its targets in its own words, and what measures each."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.footprint import measure_idle, measure_start, measure_sweep
from benchmarks.latency import measure_cache, measure_length, measure_p99, measure_single
from benchmarks.result import Result
from benchmarks.sides import CONNECTIONS, Place
from benchmarks.throughput import measure_cached, measure_sends, measure_sockets, measure_uncached, measure_workers


class Row(NamedTuple):
    """`target` in the words of the table."""

    title: str
    target: str
    measure: Callable[[Place], Result]


ROWS = {
    "sends": Row(f"Sends over HTTP, {CONNECTIONS} connections", "at least 4 times the Express server", measure_sends),
    "cached": Row("Cached reads of 50 messages", "at least 2 times; and at least half of bare ASGI + one GET", measure_cached),
    "uncached": Row("Uncached reads of 50 messages", "at least 2.5 times", measure_uncached),
    "sockets": Row("Sends over sockets, acked and delivered", "at least 2 times", measure_sockets),
    "p99": Row("p99 at half of the peer's peak", "lower than the peer's", measure_p99),
    "single": Row("One user, one request at a time", "not slower than the peer for any", measure_single),
    "cache": Row("With the cache against without", "reads of 50 / 500: 60 % / 80 % less time; reactions 50 %", measure_cache),
    "workers": Row("2 processes", "at least 1.3 times one, for reads", measure_workers),
    "idle": Row("Idle sockets", "at most 45 KB each", measure_idle),
    "sweep": Row("Sweep with 100,000 live keys", "under 0.5 s of CPU a beat; p99 of a send at most 1.3 times", measure_sweep),
    "length": Row("Conversations of 10 to 100,000 messages", "newest 50, cached, and a send: flat", measure_length),
    "start": Row("Start", "first answer within 3 s, engines included; import at most 0.3 s", measure_start),
}
