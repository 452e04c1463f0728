"""The Redis protocol on a connection that redis-py has made."""

from waiting import LIMIT_S

from chatlab.connections.redis import connect
from chatlab.connections.resp import RedisConnection, transaction
from chatlab.local.engines import Engines


async def test_redis_py_gives_us_its_stream(engines: Engines, space: str) -> None:
    """The private attribute of redis-py that `resp.py` needs is there, and commands and a transaction get their replies through it."""
    async with connect(engines.redis.url, LIMIT_S) as redis:
        connection, key = RedisConnection(redis), f"{space}:key"
        await connection.open()
        commands = [("PING",), transaction(("SET", key, 1, "PX", 60_000), ("GET", key))]
        assert await connection.execute(commands, LIMIT_S) == [b"PONG", [b"OK", b"1"]]
        await connection.close()
