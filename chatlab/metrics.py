"""The Prometheus metrics. Any module may count; only HTTP shows them, at `/metrics`.

With several worker processes, the values are in files of one folder, and `prometheus_text` adds
them up. The command line creates this folder and sets `PROMETHEUS_MULTIPROC_DIR`.
"""

import os
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import REGISTRY

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_LAG_SECONDS = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 5, 10)


class BusyHistogram:
    """A histogram for what is observed with every request.

    It collects values, and `flush` adds them to the library's histogram. That takes a quarter of
    the time of the library's own `observe`, and a tenth with several worker processes. The library
    has no public way to add many observations at once.
    """

    def __init__(
        self, name: str, text: str, labels: Sequence[str] = (), *, buckets: Sequence[float]
    ) -> None:
        self._histogram = Histogram(name, text, labels, buckets=buckets)
        self._bounds = buckets
        self._waiting: defaultdict[tuple[object, ...], list[float]] = defaultdict(list)

    def observe(self, value: float, *labels: object) -> None:
        """Note a value. Each label must have few different values."""
        self._waiting[labels].append(value)

    def flush(self) -> None:
        """Count the values that were observed since the last call."""
        for labels, values in self._waiting.items():
            child = self._histogram.labels(*labels) if labels else self._histogram
            values.sort()
            ends = [0, *(bisect_right(values, bound) for bound in self._bounds), len(values)]
            for bucket, (start, end) in zip(child._buckets, pairwise(ends), strict=True):  # noqa: SLF001 - see above
                bucket.inc(end - start)
            child._sum.inc(sum(values))  # noqa: SLF001
        self._waiting.clear()


# Requests. The label `door` is the transport; its name stays for existing dashboards.
_reads = Counter("chatlab_reads", "Conversation reads, by value of X-Cache", ["cache"])
_OUTCOMES = ("hit", "partial", "miss", "bypass", "stale")
READS = {outcome: _reads.labels(outcome) for outcome in _OUTCOMES}
_sends = Counter("chatlab_sends", "Messages sent, by transport", ["door"])
SENDS = {transport: _sends.labels(transport) for transport in ("http", "socket")}
_errors = Counter("chatlab_errors", "Errors returned, by transport and code", ["door", "code"])
HTTP_SECONDS = BusyHistogram(
    "chatlab_http_request_seconds",
    "Duration of a request; 499: the client closed the connection",
    ["method", "route", "status"],
    buckets=_SECONDS,
)
SOCKET_SECONDS = BusyHistogram(
    "chatlab_socket_event_seconds",
    "Duration of an event from a client, until its acknowledgement",
    ["event", "result"],
    buckets=_SECONDS,
)
_stage = Histogram(
    "chatlab_stage_seconds",
    "Duration of a stage of the diagram (only with CHATLAB_FLOW)",
    ["door", "stage"],
    buckets=_SECONDS,
)

# MongoDB and Redis.
SAVE_SECONDS = BusyHistogram(
    "chatlab_save_seconds",
    "Duration of a group commit to MongoDB",
    buckets=_SECONDS,
)
SAVE_BATCH = BusyHistogram(
    "chatlab_save_batch_messages",
    "Messages in one group commit",
    buckets=_BATCH_SIZES,
)
CACHE_SECONDS = BusyHistogram(
    "chatlab_cache_seconds",
    "Duration of a pipeline to Redis",
    buckets=_SECONDS,
)
REDIS_ROUND_TRIP_SECONDS = Gauge(
    "chatlab_redis_round_trip_seconds",
    "Fastest of the last round trips to Redis",
    multiprocess_mode="livemax",
)
_breaker = Gauge(
    "chatlab_breaker_open",
    "Open circuit breakers, because a server is unavailable: 0 or 1, or more in a Redis Cluster",
    ["part"],
    multiprocess_mode="livemax",
)
BREAKERS = {part: _breaker.labels(part) for part in ("mongodb", "mongodb secondaries", "redis")}
_opened = Counter("chatlab_breaker_opened", "How often the circuit breaker has opened", ["part"])
BREAKERS_OPENED = {part: _opened.labels(part) for part in BREAKERS}
_own_load = Counter(
    "chatlab_own_load_timeouts",
    "Timeouts that did not open the circuit breaker, because this process was overloaded",
    ["part"],
)
OWN_LOAD_TIMEOUTS = {part: _own_load.labels(part) for part in BREAKERS}
CALLS_UNDER_WAY = Gauge(
    "chatlab_mongodb_calls",
    "Calls to MongoDB that have not returned",
    multiprocess_mode="livesum",
)
CALLS_OVERDUE = Gauge(
    "chatlab_mongodb_calls_overdue",
    "Calls to MongoDB that have exceeded their limit: the driver is stuck",
    multiprocess_mode="livesum",
)
POOL_IN_USE = Gauge(
    "chatlab_mongodb_connections_in_use",
    "Connections of the pool that are in use",
    multiprocess_mode="livesum",
)
POOL_WAITING = Gauge(
    "chatlab_mongodb_pool_waiting",
    "Operations that wait for a connection of the pool",
    multiprocess_mode="livesum",
)

# This process.
CLOSED = Counter(
    "chatlab_connections_closed", "Connections closed because of a limit, by reason", ["reason"]
)
SOCKETS = Gauge("chatlab_sockets", "Authenticated sockets", multiprocess_mode="livesum")
SOCKETS_REFUSED = Counter("chatlab_sockets_refused", "Sockets refused when they connect", ["code"])
LOOP_LAG_SECONDS = Histogram(
    "chatlab_event_loop_lag_seconds",
    "Delay of the event loop, measured 20 times a second",
    buckets=_SECONDS,
)

# Presence.
USERS_HERE = Gauge(
    "chatlab_users_here", "Users with a socket in this process", multiprocess_mode="livesum"
)
USERS_ONLINE = Gauge(
    "chatlab_users_online", "Users shown as online, in all processes", multiprocess_mode="livemax"
)
PEERS = Gauge("chatlab_peers", "Other processes whose reports arrive", multiprocess_mode="livemin")

# The sweeper.
SWEEPS = Counter("chatlab_sweeps", "Sweeps")
SWEPT = Counter(
    "chatlab_sweeper_live_keys",
    "Live keys seen by the sweeper (logged as 'Cache hit'; these are not hits of readers)",
)
CLEANED = Counter("chatlab_sweeper_cleaned_keys", "Expired keys logged by the sweeper")
LEAKED = Counter("chatlab_sweeper_leaked_keys", "Keys without an expiry repaired by the sweeper")
SWEEP_SECONDS = Histogram("chatlab_sweep_seconds", "Duration of a sweep", buckets=_SECONDS)
CLEAN_LAG_SECONDS = Histogram(
    "chatlab_clean_lag_seconds",
    "Time from a key's deadline until the sweeper logs it",
    buckets=_LAG_SECONDS,
)


def count_stage(event: dict[str, Any]) -> None:
    """Observe the duration of a stage. Subscribe this to the event bus."""
    _stage.labels(event["door"], event["stage"]).observe(event["tookMs"] / 1000)


def count_error(transport: str, code: str) -> None:
    _errors.labels(transport, code).inc()


def flush() -> None:
    """Add what was observed since the last call, for other processes that show these metrics."""
    for histogram in (HTTP_SECONDS, SOCKET_SECONDS, SAVE_SECONDS, SAVE_BATCH, CACHE_SECONDS):
        histogram.flush()


def prometheus_text() -> bytes:
    """Return all metrics in the Prometheus text format, summed over the worker processes."""
    flush()
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)


def remove_dead_processes() -> None:
    """Remove the gauges of killed worker processes. Call it when a worker starts."""
    folder = Path(os.environ.get("PROMETHEUS_MULTIPROC_DIR", os.devnull))
    for file in folder.glob("gauge_live*.db"):
        pid = re.search(r"_(\d+)\.db$", file.name)
        if pid and not psutil.pid_exists(int(pid[1])):
            mark_process_dead(int(pid[1]))


def remove_this_process() -> None:
    """Remove the gauges of this process, and keep the rest. Call it before the process exits."""
    flush()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        mark_process_dead(os.getpid())
