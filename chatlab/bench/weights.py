"""The memory of `chatlab bench`: what 1000 cached messages weigh in Redis, and what is left when they have expired."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from redis import Redis

from chatlab.bench.claims import Size
from chatlab.bench.races import sending
from chatlab.bench.wire import Wire
from chatlab.cache.cache import Keys
from chatlab.errors import EngineError

CACHED = 1000  # messages, as in the document
MESSAGE_BYTES = 500  # of its JSON, as in the document
SENDERS = 8  # connections that send them, so that the first still lives when the last has come
GONE_WITHIN = 15.0  # seconds; they live for 5
MANY_LIVE_MS = 6000


class Scale(NamedTuple):
    """Redis from behind, and how to reach the service: a new connection, and users to write to."""

    redis: Redis
    connect: Callable[[], Wire]
    partners: list[str]
    keys: Keys = Keys()


def thousand(scale: Scale) -> list[Size]:
    """1000 messages sent through the service: what each weighs, and what is left of them."""
    _wait_until_empty(scale)
    empty = _used(scale)
    _send(scale)
    keys = list(scale.redis.scan_iter(scale.keys.all_messages, count=1000))
    each, value = _average(scale, keys)
    windows, full = _weight(scale, list(scale.redis.scan_iter(scale.keys.window("*"), count=1000))), _used(scale) - empty
    _wait_until_empty(scale)
    return [
        Size("Average message", 500, value, "its JSON, made so long to compare like with like"),
        Size("Redis overhead for each key", 200, each - value, "name, expiry, entry: MEMORY USAGE less the value"),
        Size("Total for each message", 700, each, "`message:*` alone"),
        Size(f"Total for {CACHED:,} messages", 700_000, each * CACHED, f"seen on {len(keys):,}"),
        Size("The same with their windows", None, each * CACHED + windows, "the newest 100 of a conversation are there twice"),
        Size("Left 5 seconds later (used_memory)", 0, max(0.0, _used(scale) - empty), f"of {full / 1000:,.0f} KB", full),
    ]


def many(scale: Scale, count: int) -> list[Size]:
    """So many keys that they show in what the system has given to Redis: is it given back?"""
    empty, resident = _used(scale), _resident(scale)
    _fill(scale, count)
    full, grown = _used(scale) - empty, _resident(scale) - resident
    _wait_until_empty(scale)
    return [
        Size(f"Each of {count:,} keys (used_memory)", 700, full / count, f"{MESSAGE_BYTES} bytes under a name of 32"),
        Size("Left when they have expired (used_memory)", 0, max(0.0, _used(scale) - empty), f"of {full / 1e6:,.1f} MB", full),
        Size("Left of what the system gave (RSS)", 0, max(0.0, _resident(scale) - resident), f"of {grown / 1e6:,.1f} MB more", grown),
    ]


def _send(scale: Scale) -> None:
    with scale.connect() as wire:
        text = "x" * (MESSAGE_BYTES + 1 - len(sending(wire, scale.partners[0], "x")().body))

    def work(number: int) -> None:
        with scale.connect() as wire:
            send = sending(wire, scale.partners[number % len(scale.partners)], text)
            for _ in range(CACHED // SENDERS):
                send()

    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(work, range(SENDERS)))


def _fill(scale: Scale, count: int) -> None:
    """Keys as the service makes them, without the service; all live until the last one is there."""
    value = json.dumps({"text": "x" * (MESSAGE_BYTES - 12)})
    for start in range(0, count, 1000):
        pipeline = scale.redis.pipeline(transaction=False)
        for number in range(start, min(start + 1000, count)):
            pipeline.set(scale.keys.message(f"{number:024x}"), value, px=MANY_LIVE_MS)
        pipeline.execute()


def _wait_until_empty(scale: Scale) -> None:
    """Until no message is cached any more. The SCAN itself helps: Redis deletes the expired keys that it passes."""
    deadline = time.monotonic() + GONE_WITHIN
    while any(True for _ in scale.redis.scan_iter(scale.keys.all_messages, count=10_000)):
        if time.monotonic() > deadline:
            raise EngineError("Keys in Redis did not expire.", "chatlab doctor")
        time.sleep(0.2)  # they go when their time has come


def _average(scale: Scale, keys: list[bytes]) -> tuple[float, float]:
    """Return the average MEMORY USAGE and STRLEN of the keys that have not expired meanwhile. Raises EngineError if all have."""
    pipeline = scale.redis.pipeline(transaction=False)
    for key in keys:
        pipeline.strlen(key)
        pipeline.memory_usage(key, samples=0)
    answers = pipeline.execute()
    found = [(size, value) for value, size in zip(answers[::2], answers[1::2], strict=True) if size]
    if not found:
        raise EngineError("All cached messages expired before they were measured.", "run it again when the machine has less to do")
    sizes, values = zip(*found, strict=True)
    return sum(sizes) / len(found), sum(values) / len(found)


def _weight(scale: Scale, keys: list[bytes]) -> float:
    pipeline = scale.redis.pipeline(transaction=False)
    for key in keys:
        pipeline.memory_usage(key, samples=0)
    return float(sum(size or 0 for size in pipeline.execute()))


def _used(scale: Scale) -> float:
    return float(_memory(scale)["used_memory"])


def _resident(scale: Scale) -> float:
    return float(_memory(scale)["used_memory_rss"])


def _memory(scale: Scale) -> dict[str, Any]:
    found = scale.redis.info("memory")
    assert isinstance(found, dict)
    return found
