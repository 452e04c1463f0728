"""All live keys of the cache, and the value of one of them, for the page `/lab`."""

import asyncio
from collections.abc import Sequence
from typing import Any

from chatlab.cache.node import CacheNode
from chatlab.connections.pipeline import Pipeline


async def remaining_ttls_ms(nodes: Sequence[CacheNode], pattern: str) -> dict[str, int] | None:
    """Return each live key that matches the pattern, with its remaining TTL in milliseconds.

    Returns None if one of the servers cannot be asked.
    """
    ttls_ms = dict[str, int]()
    found = await asyncio.gather(*(_remaining_ttls_ms(node.pipe, pattern) for node in nodes))
    for ttls_of_node in found:
        if ttls_of_node is None:
            return None
        ttls_ms |= ttls_of_node
    return ttls_ms


async def _remaining_ttls_ms(pipe: Pipeline, pattern: str) -> dict[str, int] | None:
    names = await _scan(pipe, pattern)
    if names is None:
        return None
    ttls_ms = await asyncio.gather(*(pipe.execute("PTTL", name) for name in names))
    return {
        name.decode("utf-8", "backslashreplace"): ttl_ms
        for name, ttl_ms in zip(names, ttls_ms, strict=True)
        if isinstance(ttl_ms, int) and ttl_ms > 0
    }


async def _scan(pipe: Pipeline, pattern: str) -> set[bytes] | None:
    cursor, names = b"0", set[bytes]()
    while True:
        match await pipe.execute("SCAN", cursor, "MATCH", pattern, "COUNT", 1000):
            case [bytes(cursor), list(found)]:
                names.update(found)
            case _:
                return None
        if cursor == b"0":
            return names


async def value_of(pipe: Pipeline, key: str) -> dict[str, Any] | None:
    """Return the type and the value of a key, or None if Redis does not have it."""
    is_list = await pipe.execute("TYPE", key) in (b"list", "list")
    command = ("LRANGE", key, 0, -1) if is_list else ("GET", key)
    found = await pipe.execute(*command)
    if not found:
        return None
    lines = found if is_list else [found]
    value = [line.decode("utf-8", "backslashreplace") for line in lines]
    return {"type": "list" if is_list else "string", "value": value}
