"""Reading: the header X-Cache, paging, long histories, and that a hit asks MongoDB nothing."""

import asyncio
import itertools
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import psutil
import pytest
from live import Service, User
from patient import TTL_S
from shared_service import SharedService, UserMaker, store_messages
from waiting import LIMIT_S

from chatlab.domain.ids import conversation_of

LONG = 40_000  # messages, 18 MB

pytest_plugins = ["patient_plugin"]


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """A service whose answers do not depend on the speed of the machine."""
    return patient_shared


async def seqs(reader: User, other: User, **page: Any) -> list[int]:
    """Read a page and return its seqs."""
    answer = await reader.read(other, **page)
    assert answer.status_code == 200, answer.text
    return [message["seq"] for message in answer.json()]


@pytest.fixture(scope="module", params=["drawn", "off"])
def in_mode(
    request: pytest.FixtureRequest, shared: SharedService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SharedService]:
    """Start another process of the shared service in another cache mode."""
    with shared.another_process(
        tmp_path_factory.mktemp(request.param) / "log", CACHE_MODE=request.param
    ) as other:
        yield other


# --- X-Cache -------------------------------------------------------------------------------------------------------------------


async def test_x_cache_names_the_source_of_a_response(
    shared: SharedService, new_user: UserMaker
) -> None:
    """Redis alone is a hit, both a partial, MongoDB alone a miss, Redis not asked a bypass. All return the same messages."""
    ann, bob = new_user(), new_user()
    for number in range(3):
        await ann.send(bob, f"old {number}")
    shared.keys.delete(f"{shared.prefix}messages:{conversation_of(ann.id, bob.id)}")
    outcomes, bodies = [], set()
    await ann.send(
        bob, "new"
    )  # a new window starts here: it holds one message, and MongoDB three older ones
    for fresh in (False, False, True):
        answer = await bob.read(ann, fresh=fresh)
        outcomes.append(answer.headers["x-cache"])
        bodies.add(answer.content)
    shared.keys.delete(f"{shared.prefix}messages:{conversation_of(ann.id, bob.id)}")
    for _ in range(2):
        answer = await bob.read(ann)
        outcomes.append(answer.headers["x-cache"])
        bodies.add(answer.content)
    assert outcomes == ["partial", "hit", "bypass", "miss", "hit"]
    assert len(bodies) == 1
    assert [message["text"] for message in json.loads(bodies.pop())] == [
        "old 0",
        "old 1",
        "old 2",
        "new",
    ]


@pytest.mark.parametrize("header", ["no-cache", "No-Cache", "max-age=0, no-cache"])
async def test_no_cache_bypasses_redis(new_user: UserMaker, header: str) -> None:
    """`Cache-Control: no-cache`, in upper or lower case, alone or among other values, reads MongoDB and does not fill the window."""
    ann, bob = new_user(), new_user()
    await ann.send(bob, "hello")
    answer = await ann.http.get(f"/api/messages/{bob.id}", headers={"cache-control": header})
    assert answer.headers["x-cache"] == "bypass"
    assert [message["text"] for message in answer.json()] == ["hello"]


async def test_an_empty_conversation_is_an_empty_list(new_user: UserMaker) -> None:
    """The history of two users who never wrote to each other is empty."""
    ann, bob = new_user(), new_user()
    pages: list[dict[str, Any]] = [{}, {"limit": 5}, {"after": 0}, {"before": 9}]
    for page in pages:
        answer = await ann.read(bob, **page)
        assert (answer.status_code, answer.content, answer.headers["x-cache"]) == (
            200,
            b"[]",
            "miss",
        )


async def test_the_other_modes_ask_mongodb_every_time(
    in_mode: SharedService, new_user: UserMaker
) -> None:
    """In the modes `drawn` and `off` every read asks MongoDB. `drawn` still writes both keys, `off` writes none."""
    ann, bob = new_user(at=in_mode.service), new_user(at=in_mode.service)
    sent = await ann.send(bob, "one")
    assert [(await bob.read(ann)).headers["x-cache"] for _ in range(2)] == ["bypass", "bypass"]
    both = [f"message:{sent['_id']}", f"messages:{conversation_of(ann.id, bob.id)}"]
    assert in_mode.keys_of("message*") == (
        both if in_mode.service.settings["CACHE_MODE"] == "drawn" else []
    )
    edited = await ann.http.patch(f"/api/messages/{sent['_id']}", json={"text": "two"})
    assert (await bob.read(ann)).json() == [edited.json()]


# --- paging --------------------------------------------------------------------------------------------------------------------


def expected(
    seqs: list[int], limit: int | None, before: int | None, after: int | None
) -> list[int]:
    """Return the page of a list of seqs, as the contract defines it."""
    page = [
        seq for seq in seqs if (before is None or seq < before) and (after is None or seq > after)
    ]
    return page if limit is None else page[:limit] if after is not None else page[-limit:]


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(0, id="no window", marks=pytest.mark.slow),
        pytest.param(3, id="half a window"),
        pytest.param(12, id="a whole window"),
    ],
)
async def test_every_page_is_the_page_of_a_plain_list(
    shared: SharedService, new_user: UserMaker, kept: int
) -> None:
    """Every combination of limit, before and after returns the right page, whatever the window holds."""
    ann, bob = new_user(), new_user()
    key = f"{shared.prefix}messages:{conversation_of(ann.id, bob.id)}"
    for number in range(12 - kept):
        await ann.send(bob, str(number))
    shared.keys.delete(key)
    for number in range(kept):
        await bob.send(ann, str(number))
    window, ttl_ms = shared.keys.lrange(key, 0, -1), TTL_S * 1000
    edges, limits = (None, 0, 1, 5, 9, 10, 12, 13, 99), (None, 1, 4, 12, 99)
    for limit, before, after in itertools.product(limits, edges, edges):
        page = {
            name: value
            for name, value in (("limit", limit), ("before", before), ("after", after))
            if value is not None
        }
        assert await seqs(ann, bob, **page) == expected(list(range(1, 13)), limit, before, after), (
            page
        )
        shared.keys.delete(key)
        if window:
            shared.keys.rpush(key, *window)
            shared.keys.pexpire(key, ttl_ms)


async def test_pages_follow_each_other_without_gap_or_repeat(new_user: UserMaker) -> None:
    """Paging backwards by `before`, or forwards by `after`, returns every message once."""
    ann, bob = new_user(), new_user()
    for number in range(23):
        await ann.send(bob, str(number))
    backwards: list[int] = []
    while page := await seqs(bob, ann, limit=5, before=backwards[0] if backwards else 99):
        backwards = page + backwards
    forwards: list[int] = []
    while page := await seqs(bob, ann, limit=5, after=forwards[-1] if forwards else 0):
        forwards += page
    assert backwards == forwards == list(range(1, 24))


# --- long histories ------------------------------------------------------------------------------------------------------------


def memory_of(service: Service) -> int:
    """Return the resident memory of the service in bytes."""
    return int(psutil.Process(service.process.pid).memory_info().rss)


async def stream(reader: User, other: User, **headers: str) -> tuple[list[int], int, str]:
    """Read a whole history. Return its seqs, by how many bytes the service grew meanwhile, and X-Cache."""
    before = most = memory_of(reader.service)
    body = bytearray()
    async with reader.http.stream(
        "GET", f"/api/messages/{other.id}", headers=headers, timeout=LIMIT_S
    ) as answer:
        async for piece in answer.aiter_bytes(1 << 20):
            body += piece
            most = max(most, memory_of(reader.service))
    return (
        [row.seq for row in msgspec.json.decode(body, type=list[Place])],
        most - before,
        answer.headers["x-cache"],
    )


class Place(msgspec.Struct):
    """The part of a message that this file decodes."""

    seq: int


@pytest.fixture(scope="module")
def long(shared: SharedService) -> tuple[str, str]:
    """Return two users with a conversation of 40,000 messages."""
    ann, bob = "ann-the-long", "bob-the-long"
    store_messages(shared.database, ann, bob, itertools.repeat("x" * 200, LONG))
    return ann, bob


async def whole_history(
    shared: SharedService, new_user: UserMaker, long: tuple[str, str], **headers: str
) -> str:
    """Read and check the whole history. Return X-Cache."""
    shared.database["users"].delete_many({"_id": {"$in": long}})
    ann, bob = (new_user(name, shared.service) for name in long)
    seqs, grown, outcome = await stream(ann, bob, **headers)
    assert (len(seqs), seqs[0], seqs[-1]) == (LONG, 1, LONG)
    assert seqs == list(range(1, LONG + 1))
    assert grown < 12 << 20, f"{grown >> 20} MiB"
    return outcome


@pytest.mark.slow
async def test_a_full_history_of_40000_messages_needs_little_memory(
    shared: SharedService, new_user: UserMaker, long: tuple[str, str]
) -> None:
    """With and without a window, 40,000 messages (18 MB) arrive in order, and the service grows by less than 12 MiB."""
    assert await whole_history(shared, new_user, long) == "miss"
    assert await whole_history(shared, new_user, long) == "partial"


@pytest.mark.slow
async def test_other_modes_need_little_memory_too(
    in_mode: SharedService, new_user: UserMaker, long: tuple[str, str]
) -> None:
    """The same holds for modes in which MongoDB alone answers."""
    assert await whole_history(in_mode, new_user, long) == "bypass"


# --- queries to MongoDB -----------------------------------------------------------------------------------------------------------


async def test_the_user_list_is_cheap_for_long_conversations(
    shared: SharedService, new_user: UserMaker, long: tuple[str, str]
) -> None:
    """A list of users with their last messages examines a few index keys per conversation, however long it is."""
    shared.database["users"].delete_many({"_id": {"$in": long}})
    ann, bob = (new_user(name, shared.service) for name in long)
    assert (
        await ann.http.post(f"/api/messages/{bob.id}/read", json={"seq": LONG})
    ).status_code == 204
    try:
        shared.database.command("profile", 2)
        people = (await ann.http.get("/api/users", params={"query": bob.id})).json()
    finally:
        shared.database.command("profile", 0)
    examined = [
        row.get("keysExamined", 0)
        for row in shared.database["system.profile"].find(
            {"ns": f"{shared.database.name}.messages"}
        )
    ]
    shared.database.drop_collection("system.profile")
    assert next(one["lastMessage"]["seq"] for one in people if one["id"] == bob.id) == LONG
    assert examined
    assert max(examined) < 10 * len(people)


async def test_a_hit_asks_mongodb_nothing(shared: SharedService, new_user: UserMaker) -> None:
    """The profiler of MongoDB records the first read and none of the hits."""
    ann, bob = new_user(), new_user()
    for number in range(5):
        await ann.send(bob, str(number))
    shared.keys.delete(f"{shared.prefix}messages:{conversation_of(ann.id, bob.id)}")
    try:
        shared.database.command("profile", 2)
        assert (await bob.read(ann)).headers["x-cache"] == "miss"
        cold = queried_collections(shared)
        pages: list[dict[str, Any]] = [{}, {"limit": 2}, {"after": 4}]
        outcomes = {(await bob.read(ann, **page)).headers["x-cache"] for page in pages * 7}
        assert outcomes == {"hit"}
        assert queried_collections(shared) == cold
    finally:
        shared.database.command("profile", 0)
        shared.database.drop_collection("system.profile")
    assert f"{shared.database.name}.messages" in cold


def queried_collections(shared: SharedService) -> list[str]:
    """Return the collection of each query since profiling began."""
    # Summaries are written in the background, and so are updates.
    mine = {"ns": {"$ne": f"{shared.database.name}.system.profile"}, "op": {"$ne": "update"}}
    return [row["ns"] for row in shared.database["system.profile"].find(mine)]


async def test_a_read_shows_what_was_acknowledged_before_it_began(new_user: UserMaker) -> None:
    """Two reads run at the same time as two sends over both transports. No read lacks a message acknowledged before it."""
    ann, bob = new_user(), new_user()
    for number in range(40):
        answers = await asyncio.gather(
            ann.send(bob, str(number)),
            bob.send(ann, str(number), transport="socket"),
            seqs(ann, bob),
            seqs(bob, ann, limit=10),
        )
        assert {message["seq"] for message in answers[:2]} == {2 * number + 1, 2 * number + 2}
        for found in answers[2:]:
            assert (found or [0])[-1] >= 2 * number
