"""The batcher: what arrives while batches are in flight waits for the next one, and every caller gets a result or an error."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from chatlab.errors import Conflict, StoreUnavailable
from chatlab.protect.batcher import PUT_BACK, Batcher, Callers, Waiting

IN_FLIGHT = 2


class Sent:
    """A batch in flight. `finish` lets it return: with an item that is put back in the queue, if given."""

    def __init__(self, items: list[str]) -> None:
        self.items = items
        self.finished: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def finish(self, put_back: str | None = None) -> None:
        self.finished.set_result(put_back)


class Server:
    """Takes all waiting items as one batch. The result of an item is the item in upper case."""

    def __init__(self) -> None:
        self.sent = asyncio.Queue[Sent]()
        self.queue: dict[str, Callers[str]] = {}
        self.batcher = Batcher(self._take, self._send, max_in_flight=IN_FLIGHT)

    def ask(self, item: str) -> asyncio.Future[str]:
        return self.batcher.join(self.queue.setdefault(item, []))

    def _take(self) -> list[Waiting[str, str]]:
        taken, self.queue = list(self.queue.items()), {}
        return taken

    async def _send(self, batch: list[Waiting[str, str]]) -> list[str]:
        sent = Sent([item for item, _ in batch])
        self.sent.put_nowait(sent)
        put_back = await sent.finished
        self.queue |= {item: callers for item, callers in batch if item == put_back}
        return [PUT_BACK if item == put_back else item.upper() for item in sent.items]


@pytest.fixture
def server() -> Server:
    """A server on which nothing is in flight."""
    return Server()


@pytest.fixture
async def busy(server: Server) -> AsyncIterator[list[Sent]]:
    """The most batches that may be in flight."""
    batches = []
    for item in "ab":
        server.ask(item)
        batches.append(await server.sent.get())
    assert [batch.items for batch in batches] == [["a"], ["b"]]
    yield batches
    for batch in batches:
        if not batch.finished.done():
            batch.finish()
    await server.batcher.drain()


async def test_items_wait_for_the_next_batch(server: Server, busy: list[Sent]) -> None:
    """Items that arrive while no further batch may be sent go together in the next one, and identical items go once."""
    replies = [server.ask(item) for item in ("c", "d", "c")]
    await asyncio.sleep(0)
    assert server.sent.empty()
    busy[1].finish()
    sent = await server.sent.get()
    assert sent.items == ["c", "d"]
    sent.finish()
    assert await asyncio.gather(*replies) == ["C", "D", "C"]


async def test_an_item_that_arrives_as_the_last_batches_return_is_sent(
    server: Server, busy: list[Sent]
) -> None:
    """When all batches return in one turn of the event loop, an item of that turn is sent. It does not wait for another item."""
    for batch in busy:
        batch.finish()
    await asyncio.sleep(0)  # the batches have returned; the callbacks of their tasks come later
    reply = server.ask("c")
    await asyncio.sleep(0)
    sent = server.sent.get_nowait()
    sent.finish()
    assert await reply == "C"


async def test_cancelling_a_caller_changes_nothing_for_the_others(
    server: Server, busy: list[Sent]
) -> None:
    """An item is sent although a caller was cancelled, and the other callers of the item get its result."""
    cancelled, waits = server.ask("c"), server.ask("c")
    cancelled.cancel()
    busy[0].finish()
    (await server.sent.get()).finish()
    assert await waits == "C"


@pytest.mark.parametrize(
    ("raised", "expected"), [(Conflict("no"), Conflict), (KeyError("a bug"), StoreUnavailable)]
)
async def test_an_error_reaches_every_caller(
    server: Server, raised: Exception, expected: type[Exception]
) -> None:
    """When a batch fails, all its callers get the error, and later batches are sent. An unexpected error becomes StoreUnavailable."""
    replies = [server.ask(item) for item in ("c", "d", "c")]
    (await server.sent.get()).finished.set_exception(raised)
    found = await asyncio.gather(*replies, return_exceptions=True)
    assert [type(one) for one in found] == [expected] * 3
    later = server.ask("e")
    (await server.sent.get()).finish()
    assert await later == "E"


async def test_an_item_that_was_put_back_is_sent_again(server: Server) -> None:
    """The callers of an item that was put back in the queue get the result of the batch in which it is sent again."""
    put_back, other = server.ask("c"), server.ask("d")
    (await server.sent.get()).finish(put_back="c")
    assert await other == "D"
    assert not put_back.done()
    again = await server.sent.get()
    assert again.items == ["c"]
    again.finish()
    assert await put_back == "C"


async def test_draining_waits_for_all_items(server: Server, busy: list[Sent]) -> None:
    """`drain` returns when no batch is in flight and nothing waits."""
    replies = [server.ask(item) for item in "cd"]
    drained = asyncio.create_task(server.batcher.drain())
    busy[0].finish()
    last = await server.sent.get()
    busy[1].finish()
    await asyncio.sleep(0)
    assert not drained.done()
    last.finish()
    await drained
    assert [reply.result() for reply in replies] == ["C", "D"]
