"""What a cell shows instead of a traceback. One real kernel, without a session."""

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from jupyter_client.manager import start_new_async_kernel
from waiting import LIMIT_S

SETUP = """
from redis import Redis
from chatlab.errors import EngineError
from chatlab.lab.sentences import PremiseGone, show_sentences
sessions = ["running"]
show_sentences(has_ended=lambda: not sessions)
redis = Redis(unix_socket_path="/nowhere/redis.sock")
"""
SLOW = """
import asyncio
import httpx
from chatlab.lab.lessons import saving

class User:
    class http:
        async def get(path):
            await asyncio.Event().wait()

saving.BACK_S = 0.1
await saving.until_ready(User)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel() -> AsyncIterator[Any]:
    """Return the client of a kernel that runs SETUP."""
    manager, client = await start_new_async_kernel()
    await shown(client, SETUP)
    yield client
    client.stop_channels()
    await manager.shutdown_kernel(now=True)


async def shown(kernel: Any, source: str) -> list[str]:
    """Run a cell, and return the traceback that it shows."""
    reply = await kernel.execute_interactive(source, timeout=LIMIT_S, output_hook=lambda _: None)
    return list(reply["content"].get("traceback", []))


class TestSentences:
    """Tests that share one kernel, in this order."""

    async def test_a_premise_that_is_gone_is_one_sentence(self, kernel: Any) -> None:
        """It says what is gone and what to do, also in an `await`."""
        source = "async def look():\n    raise PremiseGone('The key has expired.', 'send again')\nawait look()"
        assert await shown(kernel, source) == ["The key has expired. To fix this: send again."]

    async def test_a_server_that_does_not_start_is_one_sentence(self, kernel: Any) -> None:
        """Without a fix, it is only the error."""
        assert await shown(kernel, "raise EngineError('No mongod.')") == ["No mongod."]

    async def test_a_socket_that_is_not_connected_is_one_sentence(self, kernel: Any) -> None:
        """A cell that blocks the kernel for a minute loses the connections of all users."""
        source = "import socketio\nawait socketio.AsyncClient().emit('typing')"
        assert await shown(kernel, source) == [
            "This socket is not connected. To fix this: run the cell that connects it."
        ]

    async def test_a_helper_that_takes_too_long_is_one_sentence(self, kernel: Any) -> None:
        """A time limit of the package has no traceback."""
        took_too_long = ["This took too long. To fix this: run the cell again."]
        assert await shown(kernel, SLOW) == took_too_long
        by_httpx = SLOW.replace("await asyncio.Event().wait()", "raise httpx.ReadTimeout('')")
        assert await shown(kernel, by_httpx) == took_too_long

    async def test_other_errors_keep_their_traceback(self, kernel: Any) -> None:
        """While a session is running, an error of a client is for the learner to read."""
        assert "ConnectionError" in "".join(await shown(kernel, "redis.ping()"))
        assert len(await shown(kernel, "redis.ping()")) > 1

    async def test_after_the_end_a_client_says_how_to_start_again(self, kernel: Any) -> None:
        """An error of the learner's own code keeps its traceback."""
        assert await shown(kernel, "sessions.clear()\nredis.ping()") == [
            "The session has ended. To fix this: run the cell with `await start(...)` again."
        ]
        assert "ZeroDivisionError" in "".join(await shown(kernel, "1 / 0"))

    async def test_a_start_that_fails_says_why(self, kernel: Any) -> None:
        """It does not say that a session has ended, although none is running."""
        source = """
from chatlab.lab import start
await start("sentences", own_mongodb=True, mongod="/nonexistent/mongod")
"""
        (sentence,) = await shown(kernel, source)
        assert "/nonexistent/mongod" in sentence
