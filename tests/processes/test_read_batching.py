"""Read batching: reads of the newest messages that arrive together share a query, and each gets its own result or error."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from faults import Deployment, frozen
from waiting import wait_until

from chatlab.connections.mongo import MongoDatabase
from chatlab.domain.ids import Conversation, UserId
from chatlab.domain.message import Message, create_draft
from chatlab.errors import StoreUnavailable
from chatlab.store.messages import MessageStore
from chatlab.store.migrations import migrate
from chatlab.store.read_batching import MAX_CONVERSATIONS

GROUPS = 3
LENGTHS = {
    Conversation(f"a{number:02}:b{number:02}"): number
    for number in range(GROUPS * MAX_CONVERSATIONS)
}  # their messages


async def ignore(_message: Message, _began: int, _is_new: bool) -> None:
    """Ignore an uncertain write that was found."""


class WatchedStore(MessageStore):
    """A store that records how many conversations each query for newest messages asks for."""

    def __init__(self, mongo: MongoDatabase) -> None:
        super().__init__(mongo, clock=lambda: 0, on_found=ignore)
        self.queries: list[int] = []

    async def query_newest(self, wanted: dict[str, Any], limit: int) -> list[dict[str, Any]]:
        """Record a query for one conversation, and do it."""
        self.queries.append(1)
        return await super().query_newest(wanted, limit)

    async def query_newest_of_each(
        self, conversations: list[Conversation], limit: int
    ) -> dict[Conversation, list[dict[str, Any]]]:
        """Record a query for several conversations, and do it."""
        self.queries.append(len(conversations))
        return await super().query_newest_of_each(conversations, limit)


@pytest.fixture(scope="module")
def database(deployment: Deployment) -> str:
    """Return the name of a database with a conversation of each of these lengths."""
    name = f"finds{secrets.token_hex(4)}"
    deployment.database.client[name]["messages"].insert_many(
        create_draft(
            UserId(conversation[:3]), UserId(conversation[4:]), f"{conversation} {seq}", None
        ).document(seq)
        for conversation, length in LENGTHS.items()
        for seq in range(1, length + 1)
    )
    # A damaged document is in no conversation: as a text, its number would be the highest one.
    damaged = [{"conversation": name, "seq": "text"} for name in LENGTHS]
    deployment.database.client[name]["messages"].insert_many(damaged)
    return name


@pytest.fixture
async def store(deployment: Deployment, database: str) -> AsyncIterator[WatchedStore]:
    """The messages of these conversations."""
    mongo = MongoDatabase(deployment.engines.mongo.url, database, migrate)
    await mongo.open()
    await wait_until(lambda: not mongo.breaker.is_open, "the indexes")
    store = WatchedStore(mongo)
    yield store
    await store.close()
    await mongo.close()


def seqs(messages: list[Message]) -> list[int]:
    """Return the seqs of the messages."""
    return [message.seq for message in messages]


async def test_each_reader_gets_its_own_messages(patient_driver: None, store: WatchedStore) -> None:
    """Readers of many conversations, with two limits, share a few full queries; each gets the newest messages of its conversation."""
    wanted = [(conversation, limit) for conversation in LENGTHS for limit in (5, 50)]
    found = await asyncio.gather(*(store.find_newest(*one) for one in wanted))
    assert store.queries == [MAX_CONVERSATIONS] * GROUPS * 2
    for (conversation, limit), messages in zip(wanted, found, strict=True):
        length = LENGTHS[conversation]
        assert seqs(messages) == list(range(max(length - limit, 0) + 1, length + 1))
        assert all(message.text == f"{conversation} {message.seq}" for message in messages)


async def test_cancelling_a_reader_does_not_cancel_the_others(
    patient_driver: None, store: WatchedStore
) -> None:
    """When some readers of a conversation are cancelled, the others still get their messages."""
    conversation, length = list(LENGTHS.items())[7]
    readers = [asyncio.create_task(store.find_newest(conversation, 50)) for _ in range(9)]
    await asyncio.sleep(0)  # all of them wait now
    for reader in readers[::2]:
        reader.cancel()
    assert [seqs(await reader) for reader in readers[1::2]] == [list(range(1, length + 1))] * 4


async def test_while_mongodb_is_silent_every_reader_gets_an_error(
    deployment: Deployment, store: WatchedStore
) -> None:
    """Every reader gets StoreUnavailable when MongoDB does not answer the query, and later reads work again."""
    with frozen(deployment.pid("mongo")):
        found = await asyncio.gather(
            *(store.find_newest(conversation, 50) for conversation in LENGTHS),
            return_exceptions=True,
        )
        assert {type(one) for one in found} == {StoreUnavailable}
    conversation, length = list(LENGTHS.items())[3]

    async def read() -> int | None:
        try:
            return len(await store.find_newest(conversation, 50))
        except StoreUnavailable:
            return None

    assert await wait_until(read, "an answer of MongoDB") == length
