"""What one account does at the same time does not take the service away from others."""

import asyncio
import contextlib
import functools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import httpx
import pytest
import socketio
from bson import ObjectId
from http_clients import open_client
from live import Service, User
from raw_socket import raw_socket
from shared_service import SharedService, create_user, sees, start_shared_service, store_messages
from waiting import LIMIT_S, wait_until

from chatlab.cache.cache import Cache
from chatlab.connections.mongo import MongoDatabase
from chatlab.domain.ids import UserId, conversation_of
from chatlab.domain.message import Message
from chatlab.domain.requests import Page
from chatlab.errors import RateLimited
from chatlab.history import HistoryReader
from chatlab.local.engines import Engines
from chatlab.protect.fair_slots import FairSlots
from chatlab.protect.rate_limit import TokenBucket
from chatlab.protect.read_limits import (
    FREE_MESSAGES,
    MESSAGES_PER_TOKEN,
    STREAMS_PER_USER,
    ReadLimits,
)
from chatlab.realtime.presence import LEAVE_DELAY_S
from chatlab.store.messages import STREAMED_MESSAGES, MessageStore
from chatlab.store.migrations import migrate
from chatlab.store.reactions import MAX_REACTION_KINDS

LONG = 5_000  # messages
LARGE_TEXT = "x" * 4000
LARGE = 10_000  # messages of this size: 40 MB, more than the buffers between a service and a client
SOCKETS = 3
FRESH = {"cache-control": "no-cache"}


@pytest.fixture(scope="module")
def limited(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    """Return a service with the default rate limit, and few sockets for each user."""
    log = tmp_path_factory.mktemp("fairness") / "service.log"
    with start_shared_service(engines, log, RATE_LIMIT="100", USER_SOCKETS=str(SOCKETS)) as service:
        yield service


@contextlib.asynccontextmanager
async def users(service: SharedService, count: int) -> AsyncIterator[list[User]]:
    """Yield this number of users without sockets."""
    created = [service.create_user() for _ in range(count)]
    try:
        yield created
    finally:
        await asyncio.gather(*(user.close() for user in created), return_exceptions=True)


# --- slots and tokens -----------------------------------------------------------------------------


async def test_slots_are_shared_fairly_and_the_line_has_an_end() -> None:
    """One key has its own limit, another key does not wait behind it, and who finds the line full is refused."""
    slots = FairSlots(total=3, per_key=2, waiting_per_key=1)
    async with slots.hold("greedy"), slots.hold("greedy"):
        waiting = asyncio.create_task(enter(slots, "greedy"))
        await asyncio.sleep(0)
        with pytest.raises(RateLimited):
            await enter(slots, "greedy")
        await enter(slots, "other")
        assert not waiting.done()
    await waiting


async def test_the_common_line_has_an_end_too() -> None:
    """Callers of many keys are refused when the line of all is full."""
    slots = FairSlots(total=1, per_key=1, waiting=1)
    async with slots.hold("one"):
        waiting = asyncio.create_task(enter(slots, "two"))
        await asyncio.sleep(0)
        with pytest.raises(RateLimited):
            await enter(slots, "three")
    await waiting


async def test_a_caller_that_is_cancelled_leaves_the_line() -> None:
    """It takes no slot with it."""
    slots = FairSlots(total=1, per_key=1, waiting_per_key=1)
    async with slots.hold("one"):
        waiting = asyncio.create_task(enter(slots, "one"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    await enter(slots, "one")
    assert not slots._inside


async def enter(slots: FairSlots, key: str) -> None:
    """Hold a slot for a moment."""
    async with slots.hold(key):
        pass


def test_work_is_charged_when_it_is_known() -> None:
    """A debt is paid over time. Until then the user may start nothing else of this kind."""
    now_s = 0.0
    bucket = TokenBucket(10, 20, clock=lambda: now_s)
    assert bucket.spend("ann", 20) == 0
    bucket.require("ann")
    assert bucket.spend("ann", 5) == 0.5
    with pytest.raises(RateLimited) as refused:
        bucket.require("ann")
    assert refused.value.retry_after == 0.5
    bucket.require("bob")
    now_s = 0.5
    bucket.require("ann")


# --- long reads -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def history(limited: SharedService) -> tuple[str, str]:
    """Return the ids of two users with a long conversation."""
    ann, bob = limited.create_user().id, limited.create_user().id
    texts = (f"message {number}" for number in range(1, LONG + 1))
    store_messages(limited.database, ann, bob, texts)
    return ann, bob


def log_in_again(service: SharedService, name: str) -> User:
    """Return a client with a new session of an existing user."""
    service.database["users"].delete_one({"_id": name})
    return create_user(service.database, service.service, name)


async def test_many_long_reads_of_one_account_fail_for_nobody_else(
    limited: SharedService, history: tuple[str, str]
) -> None:
    """While one account reads a long history 60 times at once, every send and read of others succeeds. Its own reads succeed or get 429."""
    greedy = log_in_again(limited, history[0])
    async with (
        users(limited, 4) as others,
        open_client(
            limited.service.url,
            headers=greedy.http.headers,
            timeout=LIMIT_S * 5,
            limits=httpx.Limits(max_connections=60),
        ) as http,
    ):
        reads = [
            asyncio.create_task(http.get(f"/api/messages/{history[1]}", headers=FRESH))
            for _ in range(60)
        ]
        outcomes = Counter[int]()
        while not all(read.done() for read in reads):
            for one, other in zip(others, others[1:] + others[:1], strict=True):
                sent = await one.http.post(
                    "/api/messages/send", json={"receiverId": other.id, "text": "hello"}
                )
                read = await one.http.get(f"/api/messages/{other.id}?limit=50")
                outcomes.update((sent.status_code, read.status_code))
            await asyncio.sleep(0.2)
        assert set(outcomes) == {200}, outcomes
        answers = [read.result() for read in reads]
        assert {answer.status_code for answer in answers} == {200, 429}
        complete = [answer for answer in answers if answer.status_code == 200]
        assert len(complete) >= STREAMS_PER_USER
        for answer in complete:
            assert len(answer.json()) == LONG
        for answer in answers:
            assert answer.status_code == 200 or int(answer.headers["retry-after"]) >= 1
    await greedy.close()


@pytest.fixture(scope="module")
def large(limited: SharedService) -> tuple[str, str]:
    """Return the ids of two users with a history that no buffer can hold."""
    ann, bob = limited.create_user().id, limited.create_user().id
    store_messages(limited.database, ann, bob, (LARGE_TEXT for _ in range(LARGE)))
    return ann, bob


async def test_a_stream_reads_on_when_its_client_has_read(
    limited: SharedService, large: tuple[str, str]
) -> None:
    """MongoDB is asked for a few chunks of a history that the client does not read, and for the rest when it reads."""
    ann, bob = log_in_again(limited, large[0]), log_in_again(limited, large[1])
    count_chunks = chunk_counter(limited, conversation_of(*large))
    async with ann.http.stream("GET", f"/api/messages/{bob.id}", headers=FRESH) as answer:
        pieces = answer.aiter_raw(65_536)
        first = await anext(pieces)
        chunks = await chunks_until_it_waits(count_chunks, bob, ann)
        assert 0 < chunks < LARGE / STREAMED_MESSAGES / 2
        size = len(first) + sum([len(piece) async for piece in pieces])
        assert size > LARGE * len(LARGE_TEXT)
    await asyncio.gather(ann.close(), bob.close())


async def chunks_until_it_waits(count_chunks: Any, reader: User, other: User) -> int:
    """Wait until a stream reads no chunk while 20 other requests are answered. Return its chunks."""
    seen = [-1, count_chunks()]
    while seen[-1] != seen[-2]:
        for _ in range(20):
            assert (await reader.read(other, limit=1)).status_code == 200
        seen.append(count_chunks())
    return int(seen[-1])


def chunk_counter(service: SharedService, conversation: str) -> Any:
    """Let MongoDB record its queries. Return a function that counts the chunks of a conversation."""
    database = service.database
    database.command("profile", 2)
    wanted = {
        "command.filter.conversation": conversation,
        "command.limit": STREAMED_MESSAGES,
        "op": "query",
    }
    return lambda: database["system.profile"].count_documents(wanted)


async def test_a_client_that_is_gone_frees_its_slot(
    limited: SharedService, large: tuple[str, str]
) -> None:
    """Streams that wait for a client which is gone do not use up the slots of their user."""
    ann, bob = log_in_again(limited, large[0]), log_in_again(limited, large[1])
    count_chunks = chunk_counter(limited, conversation_of(*large))
    for _ in range(STREAMS_PER_USER + 1):
        async with (
            open_client(limited.service.url, headers=ann.http.headers) as http,
            http.stream("GET", f"/api/messages/{bob.id}", headers=FRESH) as answer,
        ):
            assert answer.status_code == 200
            await chunks_until_it_waits(count_chunks, bob, ann)
    await asyncio.gather(ann.close(), bob.close())


async def test_messages_of_mongodb_are_charged_to_their_reader(
    engines: Engines, limited: SharedService, history: tuple[str, str], patient_driver: None
) -> None:
    """After large pages for all tokens of a user, the next one is refused. Small pages and other users are not."""
    ann, bob = map(UserId, history)
    now_s = 0.0
    limits = ReadLimits(2, clock=lambda: now_s)  # 4 tokens, and 1.8 for each of these pages
    mongo = MongoDatabase(engines.mongo.url, limited.database.name, migrate)
    reader = HistoryReader(MessageStore(mongo, lambda: 0, ignore), cast(Cache, None), limits)

    async def read(user: UserId, **page: int) -> bytes | None:
        """Read without the cache, and return nothing if that is refused."""
        try:
            history = await reader.read(user, conversation_of(ann, bob), Page(**page), None)
        except RateLimited:
            return None
        return history.pieces if isinstance(history.pieces, bytes) else b"stream"

    pages = [await read(ann, limit=1000, before=2000) for _ in range(4)]
    assert [page is None for page in pages] == [False, False, False, True]
    assert await read(ann) is None
    assert await read(ann, limit=FREE_MESSAGES)
    assert await read(bob, limit=1000, before=2000)
    now_s = 1.0
    assert await read(ann, limit=1000, before=2000)
    await mongo.close()


async def ignore(_message: Message, _began: int, _is_new: bool) -> None:
    """Ignore an uncertain write that was found."""


async def test_many_large_pages_at_once_wait_or_are_refused(
    limited: SharedService, history: tuple[str, str]
) -> None:
    """An account that reads a hundred large pages at once gets 429 with Retry-After for some, and can still send."""
    reader = log_in_again(limited, history[0])
    path = f"/api/messages/{history[1]}?limit=1000&before="
    async with open_client(limited.service.url, headers=reader.http.headers) as http:
        answers = [await http.get(path + str(2000 + number)) for number in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        burst = await asyncio.gather(*(http.get(path + str(2000 + n)) for n in range(100)))
    refused = [answer for answer in burst if answer.status_code == 429]
    assert {answer.status_code for answer in burst} <= {200, 429}
    assert refused
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert "seq" in await reader.send(history[1], "still possible")
    await reader.close()


def test_a_charge_is_a_share_of_a_request() -> None:
    """A history of 100,000 messages costs as much as the burst of requests that a user has by default."""
    assert 100_000 / MESSAGES_PER_TOKEN == 200


# --- sockets --------------------------------------------------------------------------------------


async def test_a_user_may_have_a_limited_number_of_sockets(limited: SharedService) -> None:
    """One socket more is refused with a reason, and accepted when another one is closed."""
    async with users(limited, 2) as (ann, bob):
        sockets = [await ann.connect() for _ in range(SOCKETS)]
        reasons: list[Any] = []
        extra = socketio.AsyncClient(reconnection=False)
        extra.on("connect_error", reasons.append)
        with pytest.raises(socketio.exceptions.ConnectionError):
            await connect(extra, ann)
        await extra.shutdown()
        (reason,) = reasons
        assert reason["data"]["code"] == "rate_limited"
        assert f"{SOCKETS} open connections" in reason["data"]["detail"]
        await bob.connect()
        await sockets[0].disconnect()
        await wait_until(lambda: can_connect(ann), "a place to be free")


async def connect(client: socketio.AsyncClient, user: User) -> None:
    """Connect this client as the user."""
    await client.connect(
        user.service.url,
        auth={"token": user.token},
        transports=["websocket"],
        wait_timeout=int(LIMIT_S),
    )


async def can_connect(user: User) -> bool:
    """Return whether this user can open one more socket, and close it again."""
    async with raw_socket(user) as socket:
        return socket.frames[-1].startswith("40")


async def test_a_flapping_account_is_online_all_the_time(start: Any, database: Any) -> None:
    """Two accounts that come and go cost their partners nothing, and strangers never hear of them."""
    service: Service = start()
    witness, stranger, *flapping = (create_user(database, service) for _ in range(4))
    for user in flapping:
        await user.send(witness, "hello")
    for user in (witness, stranger):
        await user.connect()
        await wait_until(functools.partial(user.received, "onlineUsers"), "the first list")
    began = time.monotonic()
    await asyncio.gather(*(flap(user, 30) for user in flapping))
    await wait_until(
        lambda: any(sees(witness, user) for user in flapping),
        "both to be offline",
        is_reached=lambda one_is_online: not one_is_online,
    )
    seconds = time.monotonic() - began
    changes = witness.received("presence")
    assert 2 * len(flapping) <= len(changes) <= 2 * len(flapping) * (seconds / LEAVE_DELAY_S + 1)
    assert [stranger.received(event) for event in ("onlineUsers", "presence")] == [
        [[stranger.id]],
        [],
    ]
    await asyncio.gather(*(user.close() for user in (witness, stranger, *flapping)))


async def flap(user: User, times: int) -> None:
    """Come online and go offline."""
    for _ in range(times):
        async with raw_socket(user):
            pass


# --- reactions ------------------------------------------------------------------------------------


EMOJI = [chr(0x1F600 + number) for number in range(64)]


async def test_parallel_reactions_do_not_exceed_the_limit(shared: SharedService) -> None:
    """Of many kinds of reactions at once, a message accepts its 50 kinds. The others are a conflict."""
    async with users(shared, 2) as (ann, bob):
        message = await ann.send(bob, "react to this")
        path = f"/api/messages/{message['_id']}/reactions/"
        answers = await asyncio.gather(
            *(user.http.put(path + emoji) for emoji in EMOJI for user in (ann, bob))
        )
        stored = kinds(shared, message)
        assert len(stored) == MAX_REACTION_KINDS
        assert Counter(answer.status_code for answer in answers) == {
            200: 2 * MAX_REACTION_KINDS,
            409: 2 * (len(EMOJI) - MAX_REACTION_KINDS),
        }
        await ann.http.delete(path + next(iter(stored)))
        await bob.http.delete(path + next(iter(stored)))
        assert len(kinds(shared, message)) == MAX_REACTION_KINDS - 1
        free = next(emoji for emoji in EMOJI if emoji not in stored)
        assert (await ann.http.put(path + free)).status_code == 200


async def test_an_emptied_kind_is_removed(shared: SharedService) -> None:
    """A kind without users is not stored, and those that older versions left do not count."""
    async with users(shared, 2) as (ann, bob):
        message = await ann.send(bob, "react to this")
        path = f"/api/messages/{message['_id']}/reactions/"
        await ann.http.put(path + EMOJI[0])
        emptied: dict[str, list[str]] = {f"reactions.{emoji}": [] for emoji in EMOJI[1:]}
        shared.database["messages"].update_one({"_id": ObjectId(message["_id"])}, {"$set": emptied})
        assert (await bob.http.put(path + EMOJI[1])).status_code == 200
        answer = (await ann.http.delete(path + EMOJI[0])).json()
        assert answer["reactions"] == {EMOJI[1]: [bob.id]}
        assert kinds(shared, message) == {EMOJI[1]: [bob.id]}


def kinds(service: SharedService, message: Any) -> dict[str, list[str]]:
    """Return the stored reactions of a message."""
    stored = service.database["messages"].find_one({"_id": ObjectId(message["_id"])})
    assert stored
    return dict(stored["reactions"])
