"""Counters for `/metrics`, in Prometheus' terms. Anyone may count; only the HTTP door shows them.

With several worker processes the values live in files of one folder (`PROMETHEUS_MULTIPROC_DIR`, set by the command line) and are summed.
"""

import os
import re
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import REGISTRY

_QUICK = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

_reads = Counter("chatlab_reads", "Conversation reads, by where the answer came from", ["cache"])
READS = {outcome: _reads.labels(outcome) for outcome in ("hit", "partial", "miss", "bypass")}
_sends = Counter("chatlab_sends", "Messages sent, by door", ["door"])
SENDS = {door: _sends.labels(door) for door in ("http", "socket")}
_errors = Counter("chatlab_errors", "Requests answered with an error, by door and code", ["door", "code"])
SAVE_SECONDS = Histogram("chatlab_save_seconds", "One group commit to MongoDB", buckets=_QUICK)
SAVE_BATCH = Histogram("chatlab_save_batch_messages", "Messages in one group commit", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512))
CACHE_SECONDS = Histogram("chatlab_cache_seconds", "One pipeline to Redis", buckets=_QUICK)
_breaker = Gauge("chatlab_breaker_open", "1 while the part is taken for down", ["part"], multiprocess_mode="livemax")
BREAKERS = {part: _breaker.labels(part) for part in ("mongodb", "redis")}
SOCKETS = Gauge("chatlab_sockets", "Authenticated sockets", multiprocess_mode="livesum")
LOOP_LAG_SECONDS = Histogram("chatlab_event_loop_lag_seconds", "How late the event loop was, measured twice a second", buckets=_QUICK)
CALLS_UNDER_WAY = Gauge("chatlab_mongodb_calls", "Calls to MongoDB that have not returned", multiprocess_mode="livesum")
CALLS_OVERDUE = Gauge(
    "chatlab_mongodb_calls_overdue", "Calls to MongoDB that are past their limit: a stuck driver", multiprocess_mode="livesum"
)
POOL_IN_USE = Gauge("chatlab_mongodb_connections_in_use", "Connections of the pool that are in use", multiprocess_mode="livesum")
POOL_WAITING = Gauge("chatlab_mongodb_pool_waiting", "Operations that wait for a connection of the pool", multiprocess_mode="livesum")
SWEEPS = Counter("chatlab_sweeps", "Passes of the sweeper")
SWEPT = Counter("chatlab_sweeper_live_keys", "Live keys seen by the sweeper (the seed's 'Cache Hit'; not hits of readers)")
CLEANED = Counter("chatlab_sweeper_cleaned_keys", "Expired keys told by the sweeper")
LEAKED = Counter("chatlab_sweeper_leaked_keys", "Keys without an expiry that the sweeper repaired")
SWEEP_SECONDS = Histogram("chatlab_sweep_seconds", "One pass of the sweeper", buckets=_QUICK)
CLEAN_LAG_SECONDS = Histogram(
    "chatlab_clean_lag_seconds", "From a key's deadline to its telling", buckets=(0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 5, 10)
)

_stage = Histogram("chatlab_stage_seconds", "One box of the diagram (counted with CHATLAB_FLOW only)", ["door", "stage"], buckets=_QUICK)


def count_stage(event: dict[str, Any]) -> None:
    """A listener of the flow."""
    _stage.labels(event["door"], event["stage"]).observe(event["tookMs"] / 1000)


def count_error(door: str, code: str) -> None:
    _errors.labels(door, code).inc()


def prometheus_text() -> bytes:
    """All metrics as Prometheus text, summed over the worker processes if there are several."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)


def remove_dead_processes() -> None:
    """Take the gauges of worker processes that were killed out of the sum (called when one begins in place of another)."""
    for file in Path(os.environ.get("PROMETHEUS_MULTIPROC_DIR", os.devnull)).glob("gauge_live*.db"):
        pid = re.search(r"_(\d+)\.db$", file.name)
        if pid and not psutil.pid_exists(int(pid[1])):
            mark_process_dead(int(pid[1]))


def remove_this_process() -> None:
    """Take the gauges of this process out of the sum (it is about to end)."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        mark_process_dead(os.getpid())
