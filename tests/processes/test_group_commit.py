"""Group commit: sends that arrive while an insert is in flight share the next one; an idle service inserts at once; no seq is skipped."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from faults import Deployment
from http_clients import fetch
from live import Service, User
from waiting import wait_until

from chatlab.connections.mongo import MongoDatabase
from chatlab.domain.ids import UserId, conversation_of
from chatlab.domain.message import Draft, Message, create_draft
from chatlab.errors import Conflict, StoreUnavailable
from chatlab.store.group_commit import Rejection
from chatlab.store.messages import MessageStore
from chatlab.store.migrations import migrate

SENDER = UserId("alice")
RECEIVERS = [UserId(f"user{number}") for number in range(10)]
TEXTS = [f"message {number}" for number in range(12)]
STEPS = 10  # turns of the event loop: a save needs fewer to reach its insert, and no timer fires meanwhile


async def ignore(_message: Message, _began: int, _is_new: bool) -> None:
    """Ignore an uncertain write that was found."""


class WatchedStore(MessageStore):
    """A store that records the size of each insert. It can hold its inserts until `pass_inserts` is set, and fail its look-ups."""

    def __init__(self, mongo: MongoDatabase) -> None:
        super().__init__(mongo, clock=lambda: 0, on_found=ignore)
        self.inserts: list[int] = []
        self.pass_inserts = asyncio.Event()
        self.pass_inserts.set()
        self.fails_to_find_repeated = False

    async def insert(self, documents: list[dict[str, Any]]) -> dict[int, Rejection]:
        """Record the insert, hold it, and do it."""
        self.inserts.append(len(documents))
        await self.pass_inserts.wait()
        return await super().insert(documents)

    async def find_repeated(self, draft: Draft) -> Message:
        """Look for the message of a client id, or fail as during an outage."""
        if self.fails_to_find_repeated:
            raise StoreUnavailable
        return await super().find_repeated(draft)


@pytest.fixture(scope="module")
def service(deployment: Deployment) -> Service:
    """One process with default settings."""
    return deployment.start_patient()


@pytest.fixture
async def mongo(deployment: Deployment, patient_driver: None) -> AsyncIterator[MongoDatabase]:
    """An empty database with the indexes of the service."""
    name = f"groups{secrets.token_hex(4)}"
    mongo = MongoDatabase(deployment.engines.mongo.url, name, migrate)
    await mongo.open()
    await wait_until(lambda: not mongo.breaker.is_open, "the indexes")
    yield mongo
    await mongo.close()


@pytest.fixture
async def store(mongo: MongoDatabase) -> AsyncIterator[WatchedStore]:
    """The messages of this database."""
    store = WatchedStore(mongo)
    yield store
    store.pass_inserts.set()
    await store.close()


@pytest.fixture
async def other_process(mongo: MongoDatabase) -> AsyncIterator[MessageStore]:
    """The same messages as another process sees them: it does not know the seqs that `store` remembers."""
    other = MessageStore(mongo, clock=lambda: 0, on_found=ignore)
    yield other
    await other.close()


def draft(receiver: UserId, text: str, client_id: str | None = None) -> Draft:
    """Return a message that is not saved yet."""
    return create_draft(SENDER, receiver, text, client_id)


async def texts(store: MessageStore, receiver: UserId) -> list[tuple[int, str]]:
    """Return the seq and the text of each message of a conversation, as MongoDB has them."""
    return [
        (message.seq, message.text)
        for message in await store.find_newest(conversation_of(SENDER, receiver), 50)
    ]


async def test_sends_that_wait_share_an_insert(store: WatchedStore) -> None:
    """Sends that arrive during an insert go into the next inserts in their order, one message of each conversation in each insert."""
    store.pass_inserts.clear()
    first = asyncio.create_task(store.save(draft(SENDER, "in flight")))
    await asyncio.sleep(0)
    sends = [
        asyncio.create_task(store.save(draft(receiver, text)))
        for text in TEXTS
        for receiver in RECEIVERS
    ]
    await asyncio.sleep(0)  # all of them wait now
    store.pass_inserts.set()
    await asyncio.gather(first, *sends)
    assert store.inserts == [1] + [len(RECEIVERS)] * len(TEXTS)
    for receiver in RECEIVERS:
        assert await texts(store, receiver) == list(enumerate(TEXTS, start=1))


async def test_an_idle_store_inserts_at_once(store: WatchedStore) -> None:
    """When the last seq of the conversation is known, a save reaches its insert without a timer and without another query."""
    await store.save(draft(RECEIVERS[0], "first"))
    store.pass_inserts.clear()
    saving = asyncio.create_task(store.save(draft(RECEIVERS[0], "second")))
    for _ in range(STEPS):
        await asyncio.sleep(0)
    assert store.inserts == [1, 1]
    store.pass_inserts.set()
    assert (await saving).message.seq == 2


async def test_a_rejection_inside_a_batch_leaves_no_gap(
    store: WatchedStore, other_process: MessageStore
) -> None:
    """When another process uses the next seq of some conversations, only their messages are tried again, before the later ones."""
    contested, free = RECEIVERS[:4], RECEIVERS[4:]
    await asyncio.gather(*(store.save(draft(receiver, "first")) for receiver in RECEIVERS))
    for receiver in contested:  # the store remembers seq 1 and does not know of this one
        assert (
            await other_process.save(draft(receiver, "from the other process"))
        ).message.seq == 2
    store.inserts.clear()
    await asyncio.gather(
        *(
            store.save(draft(receiver, text))
            for text in ("second", "third")
            for receiver in RECEIVERS
        )
    )
    assert store.inserts == [
        10,
        10,
        4,
    ]  # "second" of all; "third" of the free ones and "second" again; "third" of the contested ones
    for receiver in free:
        assert await texts(store, receiver) == [(1, "first"), (2, "second"), (3, "third")]
    for receiver in contested:
        assert await texts(store, receiver) == [
            (1, "first"),
            (2, "from the other process"),
            (3, "second"),
            (4, "third"),
        ]


async def test_a_draft_that_is_tried_again_does_not_fail_with_its_batch(
    store: WatchedStore, other_process: MessageStore
) -> None:
    """When the look-up of a repeated client id fails, only that send fails. Drafts of the same insert that are tried again are saved."""
    repeated, contested = RECEIVERS[1], [RECEIVERS[0], RECEIVERS[2]]  # in front of it, and behind
    await asyncio.gather(*(store.save(draft(receiver, "first")) for receiver in contested))
    for receiver in contested:
        await other_process.save(draft(receiver, "from the other process"))
    await other_process.save(draft(repeated, "once", "c"))
    store.fails_to_find_repeated = True
    store.inserts.clear()
    before, fails, behind = [
        asyncio.create_task(store.save(one))
        for one in (
            draft(contested[0], "second"),
            draft(repeated, "once", "c"),
            draft(contested[1], "second"),
        )
    ]
    with pytest.raises(StoreUnavailable):
        await fails
    assert [(await save).message.seq for save in (before, behind)] == [3, 3]
    assert store.inserts == [3, 2]


async def test_identical_sends_that_wait_are_saved_once(store: WatchedStore) -> None:
    """Sends with one client id share a draft while they wait. Those that arrive later are answered from MongoDB. One of them is the first."""
    bob = RECEIVERS[0]
    store.pass_inserts.clear()
    sends = [asyncio.create_task(store.save(draft(bob, "one", "c"))) for _ in range(5)]
    await wait_until(lambda: store.inserts, "the first insert")
    sends += [asyncio.create_task(store.save(draft(bob, "one", "c"))) for _ in range(5)]
    other_text = asyncio.create_task(store.save(draft(bob, "another text", "c")))
    await asyncio.sleep(0)
    assert store.unsaved == 2
    store.pass_inserts.set()
    saved = await asyncio.gather(*sends)
    assert {result.message.seq for result in saved} == {1}
    assert [result.is_new for result in saved] == [True] + [False] * 9
    with pytest.raises(Conflict):
        await other_text
    assert await texts(store, bob) == [(1, "one")]


async def test_cancelling_a_caller_does_not_stop_the_commit(store: WatchedStore) -> None:
    """The message of a cancelled caller is saved with its seq, and another caller with the same client id gets its answer."""
    bob = RECEIVERS[0]
    cancelled = [
        asyncio.create_task(store.save(draft(bob, "one", "c"))),
        asyncio.create_task(store.save(draft(bob, "two"))),
    ]
    waits = asyncio.create_task(store.save(draft(bob, "one", "c")))
    await asyncio.sleep(0)  # all three wait for the first insert, which has not begun
    for task in cancelled:
        task.cancel()
    assert (await waits).message.seq == 1
    await store.save(draft(bob, "three"))
    assert await texts(store, bob) == [(1, "one"), (2, "two"), (3, "three")]


# --- through the service ---------------------------------------------------------------------------------------------------------


def inserts(deployment: Deployment) -> int:
    """Return the number of insert commands that MongoDB has answered."""
    return int(
        deployment.database.command("serverStatus")["metrics"]["commands"]["insert"]["total"]
    )


def tried(service: Service) -> int:
    """Return the number of messages that this process has put into inserts, including those that an index rejected."""
    metrics = fetch(f"{service.url}/metrics").text
    found = re.search(r"^chatlab_save_batch_messages_sum (\S+)$", metrics, re.MULTILINE)
    assert found
    return int(float(found[1]))


async def seqs(reader: User, other: User) -> list[int]:
    """Return the seqs of a conversation, as MongoDB has them."""
    return [message["seq"] for message in (await reader.read(other, fresh=True)).json()]


async def test_one_send_after_the_other_is_one_insert_each(
    deployment: Deployment, service: Service
) -> None:
    """Ten sends, each after the answer to the previous one, are ten inserts."""
    alice, bob = deployment.create_user(service), deployment.create_user(service)
    await alice.send(bob, "the first send learns the last seq")
    before = inserts(deployment)
    for text in TEXTS[:10]:
        await alice.send(bob, text)
    assert inserts(deployment) - before == 10
    await asyncio.gather(alice.close(), bob.close())


async def test_a_process_that_was_overtaken_tries_again(
    deployment: Deployment, service: Service
) -> None:
    """Two processes send in turn. Except for its first send, each tries the seq that the other has used, once, and then the next one."""
    second = deployment.start_patient()
    alice, bob = deployment.create_user(service), deployment.create_user(service)
    senders = [alice, await alice.at(second)]
    before = tried(service) + tried(second)
    answers = [await senders[number % 2].send(bob, text) for number, text in enumerate(TEXTS)]
    assert tried(service) + tried(second) - before == 2 + 2 * (len(TEXTS) - 2)
    assert (
        [answer["seq"] for answer in answers]
        == await seqs(alice, bob)
        == list(range(1, len(TEXTS) + 1))
    )
    await asyncio.gather(*(person.close() for person in [bob, *senders]))
