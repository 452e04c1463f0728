"""The lists of conversations and of users: their order, their pages, and the summaries behind them."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from live import User
from shared_service import SharedService, UserMaker, store_messages
from test_contract_http import assert_problem
from waiting import wait_until

from chatlab.connections.mongo import MongoDatabase
from chatlab.domain.ids import conversation_of
from chatlab.store.conversations import MAX_UNREAD
from chatlab.store.migrations import migrate
from chatlab.store.summaries import rebuild

Json = dict[str, Any]

pytest_plugins = ["patient_plugin"]


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """A service whose answers do not depend on the speed of the machine."""
    return patient_shared


async def conversations(user: User, **page: int | str) -> Json:
    """Return a page of the conversations of a user."""
    answer = await user.http.get("/api/conversations", params=page)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def all_conversations(user: User, limit: int) -> list[Json]:
    """Return the rows of all pages."""
    items, page = list[Json](), await conversations(user, limit=limit)
    while True:
        items += page["items"]
        if page["next"] is None:
            return items
        page = await conversations(user, limit=limit, before=page["next"])


async def users(user: User, **page: int | str) -> list[Json]:
    """Return a page of the list of users."""
    answer = await user.http.get("/api/users", params=page)
    assert answer.status_code == 200, answer.text
    found: list[Json] = answer.json()
    return found


async def all_users(user: User, limit: int, **query: str) -> list[str]:
    """Return the ids on all pages. A page with fewer users than the limit is the last one."""
    found: list[str] = []
    for _ in itertools.count():
        after = {"after": found[-1]} if found else {}
        page = [row["id"] for row in await users(user, limit=limit, **query, **after)]
        found += page
        if len(page) < limit:
            return found
    raise AssertionError


def partners(rows: list[Json]) -> list[str]:
    """Return the ids of the other users."""
    return [row["user"]["id"] for row in rows]


# --- conversations --------------------------------------------------------------------------------


async def test_conversations_are_listed_newest_first(new_user: UserMaker) -> None:
    """A row has the fields of the contract, and is exact right after a send, an edit and a mark."""
    ann, bob, eve = new_user(), new_user(), new_user()
    await ann.send(eve, "to eve")
    await bob.send(ann, "one")
    last = await bob.send(ann, "two")
    note = await ann.send(ann, "a note to myself")
    page = await conversations(ann)
    assert page["next"] is None
    assert partners(page["items"]) == [ann.id, bob.id, eve.id]
    assert [row["lastMessage"] for row in page["items"][:2]] == [note, last]
    assert [row["unread"] for row in page["items"]] == [0, 2, 0]
    assert page["items"][1] | {"user": {**page["items"][1]["user"], "createdAt": ""}} == {
        "user": {"id": bob.id, "displayName": bob.id.title(), "createdAt": ""},
        "conversation": conversation_of(ann.id, bob.id),
        "lastMessage": last,
        "unread": 2,
        "readUpTo": 0,
        "online": False,
        "muted": False,
        "blocked": False,
        "deleted": False,
    }
    await ann.http.post(f"/api/messages/{bob.id}/read", json={"seq": 2})
    edited = await bob.http.patch(f"/api/messages/{last['_id']}", json={"text": "2"})
    assert (await conversations(ann))["items"][1]["lastMessage"] == edited.json()
    assert (await conversations(ann))["items"][1]["unread"] == 0
    assert (await conversations(bob))["items"][0]["readUpTo"] == 2
    await ann.send(eve, "again")
    assert partners((await conversations(ann))["items"]) == [eve.id, ann.id, bob.id]
    assert (await conversations(new_user()))["items"] == []


async def test_pages_of_conversations_do_not_overlap(new_user: UserMaker) -> None:
    """With any limit, the pages together have every conversation once, in the same order."""
    ann, others = new_user(), [new_user() for _ in range(7)]
    await asyncio.gather(*(ann.send(other, "hello") for other in others))  # some at the same time
    await ann.send(others[3], "hello again")
    whole = (await conversations(ann))["items"]
    assert sorted(partners(whole)) == sorted(other.id for other in others)
    assert whole[0]["user"]["id"] == others[3].id
    for limit in (1, 3, 7):
        assert await all_conversations(ann, limit) == whole


async def test_a_read_repairs_summaries(shared: SharedService, new_user: UserMaker) -> None:
    """After a crash, a summary may be too old or missing. The first list that shows it is right."""
    ann, bob, eve = new_user(), new_user(), new_user()
    await ann.send(bob, "one")
    await ann.send(eve, "two")
    assert partners((await conversations(ann))["items"]) == [eve.id, bob.id]
    store_messages(shared.database, bob.id, ann.id, ["three"], first_seq=2)
    page = await conversations(ann)
    assert [row["lastMessage"]["text"] for row in page["items"]] == ["three", "two"]
    assert partners((await conversations(ann, before=page["next"] or "0.a:b"))["items"]) == []
    assert partners((await conversations(bob))["items"]) == [ann.id]

    dan = new_user()
    store_messages(shared.database, dan.id, ann.id, ["four"])
    assert (await users(ann, query=dan.id))[0]["lastMessage"]["text"] == "four"
    assert partners((await conversations(ann))["items"]) == [dan.id, bob.id, eve.id]
    assert partners((await conversations(dan))["items"]) == [ann.id]


async def test_the_first_summary_is_written_with_its_message(
    shared: SharedService, new_user: UserMaker
) -> None:
    """When a first send is answered, both summaries are stored: a crash cannot hide the message."""
    ann, bob = new_user(), new_user()
    await ann.send(bob, "one")
    wanted = {"conversation": conversation_of(ann.id, bob.id), "lastSeq": 1}
    found = shared.database["reads"].find(wanted)
    assert {row["userId"] for row in found} == {ann.id, bob.id}


async def test_later_summaries_are_written_in_the_background(
    shared: SharedService, new_user: UserMaker
) -> None:
    """Many sends need few writes. No list must be read for it, and no older summary replaces a newer one."""
    ann, bob = new_user(), new_user()
    await asyncio.gather(*(ann.send(bob, "hello") for _ in range(30)))
    wanted = {"conversation": conversation_of(ann.id, bob.id), "lastSeq": 30}
    await wait_until(
        lambda: shared.database["reads"].count_documents(wanted),
        "both summaries",
        is_reached=lambda count: count == 2,
    )


async def test_summaries_can_be_rebuilt(shared: SharedService, new_user: UserMaker) -> None:
    """From the messages, without touching read marks. Repeating it changes nothing."""
    ann, bob, eve = new_user(), new_user(), new_user()
    for sender in (bob, eve):
        await sender.send(ann, "one")
        await sender.send(ann, "two")
    await ann.http.post(f"/api/messages/{bob.id}/read", json={"seq": 1})
    before = await conversations(ann)
    of_ann = {"conversation": {"$regex": ann.id}}
    reads = shared.database["reads"]
    reads.update_many(of_ann, {"$unset": {"lastSeq": "", "lastAt": ""}})
    reads.delete_many(of_ann | {"seq": 0})
    assert (await conversations(ann))["items"] == []
    async with opened(shared) as mongo:
        await rebuild(mongo)
        stored = list(reads.find(of_ann).sort("_id"))
        await rebuild(mongo)
    assert list(reads.find(of_ann).sort("_id")) == stored
    assert await conversations(ann) == before


class opened:  # noqa: N801 - a context manager
    """Open the database of a service as the service does."""

    def __init__(self, shared: SharedService) -> None:
        url = shared.service.settings["MONGO_URL"]
        self._mongo = MongoDatabase(url, shared.database.name, migrate)

    async def __aenter__(self) -> MongoDatabase:
        await self._mongo.open()
        return self._mongo

    async def __aexit__(self, *_: object) -> None:
        await self._mongo.close()


async def test_unread_messages_are_counted_up_to_a_limit(
    shared: SharedService, new_user: UserMaker
) -> None:
    """So a conversation that no one reads does not make the list slow."""
    ann, bob = new_user(), new_user()
    store_messages(shared.database, bob.id, ann.id, map(str, range(MAX_UNREAD + 20)))
    assert (await users(ann, query=bob.id))[0]["unread"] == MAX_UNREAD
    await ann.http.post(f"/api/messages/{bob.id}/read", json={"seq": MAX_UNREAD + 10})
    assert (await users(ann, query=bob.id))[0]["unread"] == 10


# --- users ----------------------------------------------------------------------------------------


@pytest.fixture
async def crowd(shared: SharedService, new_user: UserMaker) -> AsyncIterator[list[User]]:
    """Return users with names for a search. Their ids begin with `k-`, their names with `Ko`."""
    names = ["Koé Nuñez", "KOE", "Koe\u0301 b", "Łukasz", "Bjørn", "E\u200bvqx", "Kofi"]
    crowd = [new_user(f"k-{number}-{new_user().id}") for number in range(len(names))]
    for user, name in zip(crowd, names, strict=True):
        change = {"$set": {"displayName": name}}
        shared.database["users"].update_one({"_id": user.id}, change)
    yield crowd
    ids = [user.id for user in crowd]
    shared.database["users"].delete_many({"_id": {"$in": ids}})


async def test_users_are_found_by_the_beginning_of_id_and_name(
    crowd: list[User], new_user: UserMaker
) -> None:
    """Accents and capitals make no difference. Ids come first, and no one is found twice."""
    ann = new_user()

    async def found(query: str) -> list[int]:
        rows = [row["id"] for row in await users(ann, query=query)]
        ids = [user.id for user in crowd]
        return [ids.index(row) for row in rows if row in ids]

    assert await found("koe") == await found("KOÉ") == await found(" koe\u0301 ") == [1, 2, 0]
    assert await found("koe n") == [0]
    assert [await found(query) for query in ("luk", "BJORN", "evqx")] == [[3], [4], [5]]
    assert await found("K-") == await found("@k-") == list(range(7))
    assert await found(crowd[6].id.upper()) == [6]
    assert sorted(await found("k")) == list(range(7))
    assert await found("\u202e.*") == await found("no such user") == []
    assert [row["id"] for row in await users(ann, query=ann.id)] == [], "never oneself"


async def test_pages_of_a_search_do_not_overlap(crowd: list[User], new_user: UserMaker) -> None:
    """Users found by id and those found by name are on the pages once, in the same order."""
    ann, same = new_user(), new_user("ko-first")
    for query in ("k", "ko", "koe"):
        whole = [row["id"] for row in await users(ann, query=query)]
        assert len(set(whole)) == len(whole) >= 3
        for limit in (1, 2, 3):
            assert await all_users(ann, limit, query=query) == whole
    assert (await users(ann, query="ko"))[0]["id"] == same.id


async def test_pages_of_all_users_begin_with_the_partners(
    shared: SharedService, new_user: UserMaker
) -> None:
    """Then all others follow by id. Together, the pages have each user once."""
    ann, bob, *others = (new_user() for _ in range(6))
    deleted = new_user()
    for other in (bob, ann, deleted, others[2]):
        await ann.send(other, "hello")
    shared.database["users"].update_one(
        {"_id": deleted.id}, {"$set": {"deletedAt": deleted_at(shared)}}
    )
    begun = [others[2].id, deleted.id, bob.id]
    everybody = shared.database["users"].find({"deletedAt": None, "_id": {"$type": "string"}})
    strangers = sorted({row["_id"] for row in everybody} - {ann.id, *begun})
    whole = await all_users(ann, 200)
    assert whole == begun + strangers
    for limit in (2, 3, 50):
        assert await all_users(ann, limit) == whole
    first = [row["id"] for row in await users(ann)]
    assert first == whole[:50]


def deleted_at(shared: SharedService) -> Any:
    """Return a time."""
    return shared.database["users"].find_one()["createdAt"]  # type: ignore[index]  # there is one


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("users", {"limit": 0}),
        ("users", {"limit": 201}),
        ("users", {"after": "Not An Id"}),
        ("users", {"query": "x" * 65}),
        ("conversations", {"limit": "many"}),
        ("conversations", {"before": "yesterday"}),
        ("conversations", {"before": "999999999999999.a:b"}),
    ],
)
async def test_wrong_pages_are_rejected(
    new_user: UserMaker, path: str, page: dict[str, str]
) -> None:
    """A limit has a maximum, so no answer is larger than 200 rows."""
    assert_problem(await new_user().http.get(f"/api/{path}", params=page), 422, "invalid")


async def test_a_page_reads_as_much_as_it_shows(shared: SharedService, new_user: UserMaker) -> None:
    """MongoDB examines a few keys for each row, however many users and conversations there are."""
    ann, others = new_user(), [new_user() for _ in range(60)]
    await asyncio.gather(*(ann.send(other, "hello") for other in others))
    await conversations(ann)  # writes the summaries
    for path in (
        "users?limit=5",
        "users?limit=5&query=u",
        "users?limit=5&query=U",
        "conversations?limit=5",
    ):
        assert await examined(shared, ann, path) <= 100, path


async def examined(shared: SharedService, user: User, path: str) -> int:
    """Return the number of index keys and documents that MongoDB examines for a request."""
    shared.database.command("profile", 2)
    try:
        assert (await user.http.get(f"/api/{path}")).status_code == 200
    finally:
        shared.database.command("profile", 0)
        rows = list(shared.database["system.profile"].find())
        shared.database.drop_collection("system.profile")
    return sum(row.get("keysExamined", 0) + row.get("docsExamined", 0) for row in rows)
