"""A list of all live keys of the cache, for the page `/lab`."""

import asyncio

from chatlab.connections.pipeline import AutoPipeline


async def remaining_ttls_ms(pipe: AutoPipeline, pattern: str) -> dict[str, int] | None:
    """Return each live key that matches the pattern, with its remaining TTL in milliseconds.

    Returns None if Redis cannot be asked.
    """
    names = await _scan(pipe, pattern)
    if names is None:
        return None
    ttls_ms = await asyncio.gather(*(pipe.execute("PTTL", name) for name in names))
    return {
        name.decode("utf-8", "backslashreplace"): ttl_ms
        for name, ttl_ms in zip(names, ttls_ms, strict=True)
        if isinstance(ttl_ms, int) and ttl_ms > 0
    }


async def _scan(pipe: AutoPipeline, pattern: str) -> set[bytes] | None:
    cursor, names = b"0", set[bytes]()
    while True:
        match await pipe.execute("SCAN", cursor, "MATCH", pattern, "COUNT", 1000):
            case [bytes(cursor), list(found)]:
                names.update(found)
            case _:
                return None
        if cursor == b"0":
            return names
