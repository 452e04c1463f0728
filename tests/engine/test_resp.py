"""The Redis protocol on a connection that redis-py has made."""

import asyncio
from typing import Any

import pytest
from waiting import LIMIT_S

from chatlab.connections.redis import connect, connect_blocking
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


async def test_callers_at_the_same_time_get_their_own_replies(engines: Engines) -> None:
    """A probe and the commands of requests may use the connection at the same time."""
    async with connect(engines.redis.url, LIMIT_S) as redis:
        connection = RedisConnection(redis)
        await connection.open()
        replies = await asyncio.gather(
            *(connection.execute([("ECHO", number)] * number, LIMIT_S) for number in range(1, 5))
        )
        assert replies == [[str(number).encode()] * number for number in range(1, 5)]
        await connection.close()


async def test_opening_can_be_cancelled_at_any_moment(engines: Engines) -> None:
    """Wait_for, which redis-py uses, can swallow a cancellation in Python 3.11. Then a service would not stop."""
    async with connect(engines.redis.url, LIMIT_S) as redis:
        steps, opened = 0, False
        while not opened:
            connection = RedisConnection(redis)
            opening = asyncio.create_task(connection.open())
            for _ in range(steps):
                await asyncio.sleep(0)
            if not (opened := opening.done()):
                opening.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await opening
            await connection.close()
            steps += 1


async def test_a_caller_may_give_up_in_the_moment_of_its_reply(engines: Engines) -> None:
    """The reply is there in the turn of the event loop in which the caller is cancelled. That is no error."""
    loop, errors = asyncio.get_running_loop(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    async with connect(engines.redis.url, LIMIT_S) as redis:
        connection = RedisConnection(redis)
        await connection.open()
        asking = asyncio.create_task(connection.execute([("PING",)], LIMIT_S))
        await asyncio.sleep(0)
        with connect_blocking(engines.redis.url, LIMIT_S) as other:
            for _ in range(2):  # the second answer comes after the reply, which is not read yet
                other.ping()
        loop.call_soon(asking.cancel)
        with pytest.raises(asyncio.CancelledError):
            await asking
        await connection.close()
    assert errors == []
