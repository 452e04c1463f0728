"""Reads of newest messages that arrive together share a question to MongoDB; each gets its own answer, and nobody another's failure."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from faults import Site, frozen, open_site
from live import eventually

from chatlab.errors import StoreUnavailable
from chatlab.identity import Conversation, UserId
from chatlab.message import Message, create
from chatlab.store import LARGEST_FIND, Store

LENGTHS = {Conversation(f"a{number:02}:b{number:02}"): number for number in range(3 * LARGEST_FIND)}  # messages of each


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Engines of this file alone: MongoDB's own counters are exact."""
    with open_site(tmp_path_factory.mktemp("finds")) as site:
        yield site


@pytest.fixture
async def store(site: Site) -> AsyncIterator[Store]:
    """A store with conversations of every length, the first of them empty."""
    store = Store(site.engines.mongo.url, f"finds{secrets.token_hex(4)}", clock=lambda: 0)
    await store.open()
    for conversation, length in LENGTHS.items():
        one, other = (UserId(name) for name in conversation.split(":"))
        drafts = [create(one, other, f"{conversation} {seq}", None).document(seq) for seq in range(1, length + 1)]
        if drafts:
            await store.insert(drafts)
    yield store
    await store.close()


def questions(site: Site) -> int:
    """Finds and aggregates that MongoDB has answered."""
    commands = site.database.command("serverStatus")["metrics"]["commands"]
    return int(commands["find"]["total"] + commands["aggregate"]["total"])


def seqs(messages: list[Message]) -> list[int]:
    """Their places."""
    return [message.seq for message in messages]


async def test_each_gets_its_own_messages(site: Site, store: Store) -> None:
    """Readers of many conversations, with two limits, need few questions; what each gets is the end of its conversation."""
    wanted = [(conversation, limit) for conversation in LENGTHS for limit in (5, 50)]
    before = questions(site)
    found = await asyncio.gather(*(store.newest(*one) for one in wanted))
    assert questions(site) - before <= len(wanted) / 4
    for (conversation, limit), messages in zip(wanted, found, strict=True):
        length = LENGTHS[conversation]
        assert seqs(messages) == list(range(max(length - limit, 0) + 1, length + 1))
        assert all(message.text == f"{conversation} {message.seq}" for message in messages)


async def test_one_who_gives_up_does_not_speak_for_the_others(store: Store) -> None:
    """Of readers of one conversation some are cancelled; the others get their answer."""
    conversation, length = list(LENGTHS.items())[7]
    readers = [asyncio.create_task(store.newest(conversation, 50)) for _ in range(9)]
    await asyncio.sleep(0)  # all of them wait
    for reader in readers[::2]:
        reader.cancel()
    assert [seqs(await reader) for reader in readers[1::2]] == [list(range(1, length + 1))] * 4


async def test_while_mongodb_is_silent_everybody_is_told(site: Site, store: Store) -> None:
    """A question that is not answered is `StoreUnavailable` for all who wait, and what comes after it works again."""
    with frozen(site.pid("mongo")):
        found = await asyncio.gather(*(store.newest(conversation, 50) for conversation in LENGTHS), return_exceptions=True)
        assert {type(one) for one in found} == {StoreUnavailable}
    await eventually(lambda: not store.breaker.is_open)
    conversation, length = list(LENGTHS.items())[3]
    assert len(await store.newest(conversation, 50)) == length
