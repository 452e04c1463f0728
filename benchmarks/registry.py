"""All benchmarks, with their titles and their targets in words."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.costs import measure_costs
from benchmarks.environment import CONNECTIONS, Environment
from benchmarks.footprint import (
    IDLE_CROWD,
    measure_idle,
    measure_idle_crowd,
    measure_start,
    measure_sweep,
)
from benchmarks.growth import (
    MAX_GROWTH,
    MAX_IDLE,
    MAX_LIST_GROWTH,
    MAX_LIST_MS,
    MAX_PROCESS_GROWTH,
    measure_keys,
    measure_length,
    measure_lists,
    measure_online,
    measure_processes,
)
from benchmarks.hostile import MAX_P95_MS, measure_hostile
from benchmarks.hostile_log_in import MAX_P95_MS as MAX_LOG_IN_MS
from benchmarks.hostile_log_in import measure_log_ins
from benchmarks.hostile_reconnect import MAX_P99_MS, MAX_SECONDS, SOCKETS, measure_reconnects
from benchmarks.joining import JOINING, MAX_CONNECT_MS, MAX_JOINING_MB, measure_joining
from benchmarks.latency import measure_cache, measure_p99, measure_single
from benchmarks.pages import (
    BURST,
    FRAMES,
    KILOBITS,
    LATENCY_MS,
    LONG,
    MAX_KEYSTROKE_MS,
    MAX_VIEW_MS,
    measure_first_view,
    measure_lab_frames,
    measure_long_conversation,
)
from benchmarks.result import Result
from benchmarks.throughput import (
    measure_cached,
    measure_sends,
    measure_sockets,
    measure_uncached,
    measure_workers,
)


class Benchmark(NamedTuple):
    """`title` and `target` appear in README.md."""

    title: str
    target: str
    measure: Callable[[Environment], Result]


BENCHMARKS = {
    "sends": Benchmark(
        f"Sends over HTTP, {CONNECTIONS} connections",
        "at least 4 times the Express server",
        measure_sends,
    ),
    "cached": Benchmark(
        "Cached reads of 50 messages",
        "at least 2 times the Express server, and half of bare ASGI + one GET",
        measure_cached,
    ),
    "uncached": Benchmark(
        "Uncached reads of 50 messages", "at least 2.5 times the Express server", measure_uncached
    ),
    "sockets": Benchmark(
        "Sends over sockets, acknowledged and delivered",
        "at least 2 times the Express server",
        measure_sockets,
    ),
    "p99": Benchmark("p99 at half of the peer's peak rate", "lower than the peer's", measure_p99),
    "single": Benchmark(
        "One user, one request at a time",
        "no operation slower than on the Express server",
        measure_single,
    ),
    "cache": Benchmark(
        "With and without the cache",
        "60 % less time for reads of 50 messages, 80 % for 500, 50 % for reactions",
        measure_cache,
    ),
    "workers": Benchmark(
        "2 processes", "at least 1.3 times the reads of one process", measure_workers
    ),
    "lists": Benchmark(
        "A page of conversations and of users, with 1,000 to 1,000,000 users",
        f"p50 of at most {MAX_LIST_MS} ms, and at most {MAX_LIST_GROWTH} times that with 1,000 users",
        measure_lists,
    ),
    "online": Benchmark(
        "A send and a new connection, with 100 to 10,000 people online",
        f"at most {MAX_LIST_GROWTH} times the time with 100",
        measure_online,
    ),
    "length": Benchmark(
        "Conversations of 10 to 1,000,000 messages",
        f"at most {MAX_GROWTH} times the time of the shortest for a cached read of the newest 50, and for a send",
        measure_length,
    ),
    "keys": Benchmark(
        "Sends, cached reads and sweeps, with 1,000 to 1,000,000 live keys",
        f"at most {MAX_GROWTH} times the time with 1,000 for a send and a read",
        measure_keys,
    ),
    "processes": Benchmark(
        "CPU time of a cached read and of a send, with 1 to 8 processes",
        f"at most {MAX_PROCESS_GROWTH} times that of one process; 8 idle processes use at most {MAX_IDLE} % of a core",
        measure_processes,
    ),
    "costs": Benchmark(
        "What each operation costs",
        "none; docs/scaling.md computes from it what more users need",
        measure_costs,
    ),
    "joining": Benchmark(
        f"{JOINING:,} users who join in a minute",
        f"at most {MAX_JOINING_MB} MB to all clients, and a p99 of a connection of at most {MAX_CONNECT_MS} ms",
        measure_joining,
    ),
    "idle": Benchmark("Idle sockets", "at most 45 KB each", measure_idle),
    "crowd": Benchmark(
        f"{IDLE_CROWD:,} idle sockets in one process",
        "at most 42 KB each, and 5 % of a core",
        measure_idle_crowd,
    ),
    "sweep": Benchmark(
        "Sweep with 100,000 live keys",
        "under 0.5 s of CPU time for each sweep; p99 of a send at most 1.3 times",
        measure_sweep,
    ),
    "start": Benchmark(
        "Start",
        "first response within 3 s, engines included; import in at most 0.3 s",
        measure_start,
    ),
    "hostile": Benchmark(
        "Hostile clients",
        f"no failed request of a bystander, and a p95 of at most {MAX_P95_MS} ms",
        measure_hostile,
    ),
    "log-ins": Benchmark(
        "Log-ins during attacks on them",
        f"no failed log-in of a user, and a p95 of at most {MAX_LOG_IN_MS} ms",
        measure_log_ins,
    ),
    "reconnects": Benchmark(
        f"{SOCKETS:,} sockets that reconnect at once",
        f"all within {MAX_SECONDS} s, no refusal, and a p99 of a bystander's send of at most {MAX_P99_MS} ms",
        measure_reconnects,
    ),
    "first-view": Benchmark(
        f"The chat page on a network with {LATENCY_MS} ms and {KILOBITS} kbit/s",
        f"the first view within {MAX_VIEW_MS / 1000} s",
        measure_first_view,
    ),
    "long": Benchmark(
        f"A conversation of {LONG:,} messages on the chat page",
        f"at most {MAX_KEYSTROKE_MS} ms of the page for a keystroke, and for a turn of the wheel",
        measure_long_conversation,
    ),
    "frames": Benchmark(
        f"The page /lab during a burst of {BURST} messages",
        f"at least {FRAMES} of 60 frames a second",
        measure_lab_frames,
    ),
}

GROUPS = {"growth": ("lists", "online", "length", "keys", "processes")}
