"""Measure how much memory cached messages use in Redis, and whether it is freed on expiry."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from redis import Redis

from chatlab.bench.claims import MemoryRow
from chatlab.bench.comparisons import make_send
from chatlab.bench.raw_http import RawHttpClient
from chatlab.cache.keys import Keys
from chatlab.errors import EngineError

CACHED_MESSAGES = 1000  # as in the document
MESSAGE_BYTES = 500  # of the JSON of a message, as in the document
SENDERS = 8  # concurrent connections, so that the first key still exists when the last one comes
EXPIRY_TIMEOUT_S = 15.0  # the TTL is 5 s
EXPIRY_POLL_INTERVAL_S = 0.2
BULK_TTL_MS = 6000  # of the keys that are written directly


class MemoryProbe(NamedTuple):
    """Access to Redis, and a way to send messages through the service to `partners`."""

    redis: Redis
    connect: Callable[[], RawHttpClient]
    partners: list[str]
    keys: Keys = Keys()


def measure_thousand_messages(probe: MemoryProbe) -> list[MemoryRow]:
    """Send 1000 messages through the service and measure their keys, before and after expiry."""
    _wait_until_expired(probe)
    before = _used_memory(probe)
    _send_messages(probe)
    entries = list(probe.redis.scan_iter(probe.keys.message_pattern, count=1000))
    each, value = _average_sizes(probe, entries)
    window_keys = list(probe.redis.scan_iter(probe.keys.window("*"), count=1000))
    windows, full = _total_size(probe, window_keys), _used_memory(probe) - before
    _wait_until_expired(probe)
    left = max(0.0, _used_memory(probe) - before)
    total = each * CACHED_MESSAGES
    return [
        MemoryRow(
            "Average message", 500, value, "its JSON; the text is chosen to match the document"
        ),
        MemoryRow(
            "Redis overhead for each key",
            200,
            each - value,
            "name, expiry, entry: MEMORY USAGE minus the value",
        ),
        MemoryRow("Total for each message", 700, each, "`message:*` alone"),
        MemoryRow(
            f"Total for {CACHED_MESSAGES:,} messages", 700_000, total, f"from {len(entries):,} keys"
        ),
        MemoryRow(
            "With the conversation windows",
            None,
            total + windows,
            "a window is a second copy of its messages",
        ),
        MemoryRow("Left 5 seconds later (used_memory)", 0, left, f"of {full / 1000:,.0f} KB", full),
    ]


def measure_many_keys(probe: MemoryProbe, count: int) -> list[MemoryRow]:
    """Write enough keys to see in the memory of the Redis process whether it is freed again."""
    before, resident_before = _used_memory(probe), _resident_memory(probe)
    _write_keys(probe, count)
    full, grown = _used_memory(probe) - before, _resident_memory(probe) - resident_before
    _wait_until_expired(probe)
    left = max(0.0, _used_memory(probe) - before)
    resident_left = max(0.0, _resident_memory(probe) - resident_before)
    return [
        MemoryRow(
            f"Each of {count:,} keys (used_memory)",
            700,
            full / count,
            f"{MESSAGE_BYTES} bytes, with a key of 32 bytes",
        ),
        MemoryRow(
            "Left when they have expired (used_memory)", 0, left, f"of {full / 1e6:,.1f} MB", full
        ),
        MemoryRow(
            "Left of the process's memory (RSS)",
            0,
            resident_left,
            f"of {grown / 1e6:,.1f} MB growth",
            grown,
        ),
    ]


def _send_messages(probe: MemoryProbe) -> None:
    with probe.connect() as client:
        bytes_without_text = len(make_send(client, probe.partners[0], "x")().body) - 1
    text = "x" * (MESSAGE_BYTES - bytes_without_text)

    def send_share(number: int) -> None:
        with probe.connect() as client:
            send = make_send(client, probe.partners[number % len(probe.partners)], text)
            for _ in range(CACHED_MESSAGES // SENDERS):
                send()

    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(send_share, range(SENDERS)))


def _write_keys(probe: MemoryProbe, count: int) -> None:
    """Write keys like those of the service; all exist until the last one is written."""
    value = json.dumps({"text": "x" * (MESSAGE_BYTES - 12)})
    for start in range(0, count, 1000):
        pipeline = probe.redis.pipeline(transaction=False)
        for number in range(start, min(start + 1000, count)):
            pipeline.set(probe.keys.message(f"{number:024x}"), value, px=BULK_TTL_MS)
        pipeline.execute()


def _wait_until_expired(probe: MemoryProbe) -> None:
    """Wait until no message is cached. Raises EngineError after EXPIRY_TIMEOUT_S.

    The SCAN helps, because Redis deletes the expired keys that it comes across.
    """
    deadline = time.monotonic() + EXPIRY_TIMEOUT_S
    while any(True for _ in probe.redis.scan_iter(probe.keys.message_pattern, count=10_000)):
        if time.monotonic() > deadline:
            raise EngineError("Keys in Redis did not expire.", "chatlab doctor")
        time.sleep(EXPIRY_POLL_INTERVAL_S)


def _average_sizes(probe: MemoryProbe, keys: list[bytes]) -> tuple[float, float]:
    """Return the average MEMORY USAGE and STRLEN of the keys that have not expired.

    Raises EngineError if all have expired.
    """
    pipeline = probe.redis.pipeline(transaction=False)
    for key in keys:
        pipeline.strlen(key)
        pipeline.memory_usage(key, samples=0)
    replies = pipeline.execute()
    found = [(size, value) for value, size in zip(replies[::2], replies[1::2], strict=True) if size]
    if not found:
        raise EngineError(
            "All cached messages expired before they were measured.",
            "run it again when the machine is less busy",
        )
    sizes, values = zip(*found, strict=True)
    return sum(sizes) / len(found), sum(values) / len(found)


def _total_size(probe: MemoryProbe, keys: list[bytes]) -> float:
    pipeline = probe.redis.pipeline(transaction=False)
    for key in keys:
        pipeline.memory_usage(key, samples=0)
    return float(sum(size or 0 for size in pipeline.execute()))


def _used_memory(probe: MemoryProbe) -> float:
    return float(_memory_info(probe)["used_memory"])


def _resident_memory(probe: MemoryProbe) -> float:
    return float(_memory_info(probe)["used_memory_rss"])


def _memory_info(probe: MemoryProbe) -> dict[str, Any]:
    info = probe.redis.info("memory")
    assert isinstance(info, dict)
    return info
