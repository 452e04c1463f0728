"""Blocking and muting: what a blocked user still can do, and what it can find out."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from argon2 import PasswordHasher
from live import PASSWORD, User
from shared_service import SharedService, UserMaker
from test_access import without_date
from test_contract_http import EMOJI, assert_problem

from chatlab.connections.mongo import MongoDatabase
from chatlab.domain.ids import UserId
from chatlab.errors import NotFound, RateLimited
from chatlab.local.engines import Engines
from chatlab.protect.rate_limit import TokenBucket
from chatlab.receivers import BLOCKS_PER_S, MAX_BLOCKS_AT_ONCE, Receivers
from chatlab.store.users import MAX_LISTED, MAX_RECENT, UserStore

pytest_plugins = ["patient_plugin"]


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """A service whose answers do not depend on the speed of the machine."""
    return patient_shared


async def block(user: User, other: User) -> int:
    """Let a user block another one, and return the status."""
    return (await user.http.put(f"/api/users/{other.id}/block")).status_code


async def delete_account(shared: SharedService, user: User) -> None:
    """Delete the account of a user, who gets a password for it."""
    quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    shared.database["users"].update_one({"_id": user.id}, {"$set": {"passwordHash": quick}})
    answer = await user.http.request("DELETE", "/api/auth/me", json={"password": PASSWORD})
    assert answer.status_code == 204


# --- what a blocked sender finds out --------------------------------------------------------------


@pytest.mark.parametrize("cache", ["cold", "warm"])
@pytest.mark.parametrize("how", ["blocked", "deleted"])
async def test_a_refused_receiver_looks_like_a_missing_one(
    shared: SharedService, new_user: UserMaker, how: str, cache: str
) -> None:
    """The reply is the same byte for byte, and MongoDB does the same: one query without a result.

    "warm": the process knows the receiver, and Redis has messages of the two.
    """
    ann, bob = new_user(), new_user()
    if cache == "warm":
        assert (await ann.send(bob, "hello"))["seq"] == 1
    assert await block(bob, ann) == 204
    if how == "deleted":
        await delete_account(shared, bob)
    seen = [await all_that_is_seen(shared, ann, name) for name in (bob.id, "nobody-at-all")]
    assert seen[0] == seen[1]
    assert seen[0]["http"][0] == 404
    assert seen[0]["send"]["error"]["code"] == "not_found"
    assert seen[0]["queries"] == [("find", 0)] * 3


async def all_that_is_seen(shared: SharedService, sender: User, receiver: str) -> dict[str, Any]:
    """Return what a sender sees of a refusal, by each transport, and the queries for users."""
    await sender.ask("typing", {"receiverId": sender.id, "typing": False})  # connects
    send = {"receiverId": receiver, "text": "are you there?"}
    shared.database.command("profile", 2)
    try:
        http = await sender.http.post("/api/messages/send", json=send)
        acks = {
            "send": await sender.ask("sendMessage", send),
            "typing": await sender.ask("typing", {"receiverId": receiver, "typing": True}),
        }
    finally:
        shared.database.command("profile", 0)
        users = {"ns": f"{shared.database.name}.users"}
        queries = list(shared.database["system.profile"].find(users).sort("$natural", 1))
        shared.database.drop_collection("system.profile")
    return acks | {
        "http": (http.status_code, http.content, without_date(http)),
        "queries": [(next(iter(row["command"])), row["nreturned"]) for row in queries],
    }


@pytest.mark.parametrize("cache", ["cold", "warm"])
async def test_a_blocked_user_changes_nothing_that_the_other_sees(
    new_user: UserMaker, cache: str
) -> None:
    """Edits and new reactions are refused too. Own messages and reactions can still be removed."""
    ann, bob = new_user(), new_user()
    mine, theirs = await ann.send(bob, "hello"), await bob.send(ann, "hello yourself")
    await ann.http.put(f"/api/messages/{theirs['_id']}/reactions/{EMOJI}")
    if cache == "warm":
        await ann.http.patch(f"/api/messages/{mine['_id']}", json={"text": "hello!"})
    await bob.connect()
    assert await block(bob, ann) == 204
    edit = {"messageId": mine["_id"], "text": "insult"}
    add = {"messageId": theirs["_id"], "emoji": "\N{PILE OF POO}"}
    for event, payload in (("editMessage", edit), ("addReaction", add)):
        assert (await ann.ask(event, payload))["error"]["code"] == "not_found"
    path = f"/api/messages/{theirs['_id']}/reactions"
    assert_problem(await ann.http.put(f"{path}/\N{PILE OF POO}"), 404, "not_found")
    assert (await ann.http.delete(f"{path}/{EMOJI}")).json()["reactions"] == {}
    assert (await ann.http.delete(f"/api/messages/{mine['_id']}")).json()["text"] == ""
    texts = [message["text"] for message in (await ann.read(bob)).json()]
    assert texts == ["", "hello yourself"]
    changes = [message["text"] for message in await bob.wait_for_events("messageUpdated", 2)]
    assert changes == ["hello yourself", ""]
    assert bob.received("typing") == []


async def test_a_block_has_one_direction_and_an_end(new_user: UserMaker) -> None:
    """Who blocks may still write. Only the user who has blocked sees it in the list of users."""
    ann, bob = new_user(), new_user()
    assert [await block(bob, ann) for _ in range(2)] == [204, 204]
    assert (await bob.send(ann, "to you"))["seq"] == 1
    assert "seq" not in await ann.send(bob, "to you")
    assert [(await one.row_of(other))["blocked"] for one, other in ((bob, ann), (ann, bob))] == [
        True,
        False,
    ]
    for _ in range(2):
        assert (await bob.http.delete(f"/api/users/{ann.id}/block")).status_code == 204
    assert (await ann.send(bob, "again"))["seq"] == 2
    assert not (await bob.row_of(ann))["blocked"]


@pytest.mark.parametrize("what", ["block", "mute"])
async def test_a_list_of_users_has_limits(
    shared: SharedService, new_user: UserMaker, what: str
) -> None:
    """Nobody can be in their own list. Unknown users cannot be in it, and it has a maximum."""
    ann, bob, eve = new_user(), new_user(), new_user()
    assert_problem(await ann.http.put(f"/api/users/{ann.id}/{what}"), 422, "invalid")
    assert_problem(await ann.http.put(f"/api/users/Not-A-Handle/{what}"), 422, "invalid")
    for method in ("PUT", "DELETE"):
        path = f"/api/users/nobody-at-all/{what}"
        assert_problem(await ann.http.request(method, path), 404, "not_found")
    listed = [*(f"u{number}" for number in range(MAX_LISTED - 1)), bob.id]
    field = {"block": "blocked", "mute": "muted"}[what]
    shared.database["users"].update_one({"_id": ann.id}, {"$set": {field: listed}})
    assert (await ann.http.put(f"/api/users/{bob.id}/{what}")).status_code == 204  # is in it
    assert_problem(await ann.http.put(f"/api/users/{eve.id}/{what}"), 409, "conflict")
    assert (await ann.http.delete(f"/api/users/{bob.id}/{what}")).status_code == 204
    assert (await ann.http.put(f"/api/users/{eve.id}/{what}")).status_code == 204


async def test_a_muted_user_still_reaches_you(new_user: UserMaker) -> None:
    """Muting is stored for the pages. It does not hold anything back."""
    ann, bob = new_user(), new_user()
    await ann.connect()
    assert (await ann.http.put(f"/api/users/{bob.id}/mute")).status_code == 204
    await bob.send(ann, "hello")
    assert (await ann.wait_for_events("newMessage"))[0]["text"] == "hello"
    row = await ann.row_of(bob)
    assert (row["muted"], row["blocked"], row["unread"]) == (True, False, 1)
    assert (await ann.http.delete(f"/api/users/{bob.id}/mute")).status_code == 204
    assert not (await ann.row_of(bob))["muted"]


# --- what a process remembers: two `Receivers` are two processes -----------------------------------

ANN, BOB, EVE = UserId("ann"), UserId("bob"), UserId("eve")


class CountingStore(UserStore):
    """Counts the queries for a receiver. The reply of the next one waits for `may_reply`."""

    def __init__(self, mongo: MongoDatabase) -> None:
        super().__init__(mongo)
        self.queries = 0
        self.asked, self.may_reply = asyncio.Event(), asyncio.Event()
        self.may_reply.set()

    async def find_blocked(self, receiver: str, sender: str) -> list[str] | None:
        self.queries += 1
        found = await super().find_blocked(receiver, sender)
        self.asked.set()
        await self.may_reply.wait()
        return found


@pytest.fixture
async def store(engines: Engines, space: str, patient_driver: None) -> AsyncIterator[CountingStore]:
    """The users Ann, Bob and Eve in a database of their own."""
    mongo = MongoDatabase(engines.mongo.url, space, prepare_nothing)
    users = mongo.database["users"]
    await users.insert_many([{"_id": name, "displayName": name} for name in (ANN, BOB, EVE)])
    yield CountingStore(mongo)
    await mongo.database.client.drop_database(space)
    await mongo.close()


async def prepare_nothing(_: MongoDatabase) -> None:
    """Create no indexes."""


async def may_write(receivers: Receivers, sender: UserId, receiver: UserId) -> bool:
    """Return whether a send would be accepted."""
    try:
        await receivers.require(sender, receiver)
    except NotFound:
        return False
    return True


async def check_a_token(receivers: Receivers, store: UserStore) -> None:
    """Do what the check of any token does: it brings the changes of other processes."""
    receivers.learn((await store.find_sessions([])).changes)


async def test_a_known_receiver_costs_no_query(store: CountingStore) -> None:
    """Only the first send to a receiver asks MongoDB, and each refused one."""
    here = Receivers(store)
    await here.block(BOB, EVE)
    assert [await may_write(here, ANN, BOB) for _ in range(5)] == [True] * 5
    assert store.queries == 1
    assert [await may_write(here, EVE, BOB) for _ in range(5)] == [False] * 5
    assert store.queries == 6


async def test_a_block_reaches_other_processes_with_the_next_check_of_a_token(
    store: CountingStore,
) -> None:
    """Other receivers stay known. An unblocked sender is accepted everywhere at once."""
    here, there = Receivers(store), Receivers(store)
    assert [await may_write(there, ANN, one) for one in (BOB, EVE)] == [True, True]
    await here.block(BOB, ANN)
    assert not await may_write(here, ANN, BOB)
    await check_a_token(there, store)
    assert not await may_write(there, ANN, BOB)
    queries = store.queries
    assert await may_write(there, ANN, EVE)
    assert store.queries == queries
    await here.unblock(BOB, ANN)
    assert [await may_write(one, ANN, BOB) for one in (here, there)] == [True, True]


async def test_a_process_that_missed_many_changes_forgets_everything(store: CountingStore) -> None:
    """Only the latest changes are stored with their users."""
    here, there = Receivers(store), Receivers(store)
    assert await may_write(there, ANN, BOB)
    await here.block(BOB, ANN)
    for _ in range(MAX_RECENT):
        await store.note_change(EVE)
    await check_a_token(there, store)
    assert not await may_write(there, ANN, BOB)


async def test_a_reply_from_before_a_block_is_not_remembered(store: CountingStore) -> None:
    """The block comes while the reply is on its way. The next send asks again."""
    here = Receivers(store)
    store.may_reply.clear()
    sending = asyncio.create_task(may_write(here, ANN, BOB))
    await store.asked.wait()
    await here.block(BOB, ANN)
    store.may_reply.set()
    assert await sending
    assert not await may_write(here, ANN, BOB)


async def test_the_memory_of_a_process_is_limited(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receivers and those they have blocked count together. The oldest entry is forgotten."""
    monkeypatch.setattr("chatlab.receivers.MAX_REMEMBERED", 3)
    here = Receivers(store)
    await here.block(BOB, EVE)
    for receiver, queries in ((BOB, 1), (ANN, 2), (BOB, 2), (EVE, 3), (ANN, 3), (BOB, 4)):
        assert await may_write(here, ANN, receiver)
        assert store.queries == queries, receiver


async def test_blocks_of_one_user_are_limited(store: CountingStore) -> None:
    """Nobody can keep all processes busy by blocking and unblocking somebody all the time."""
    here = Receivers(store)
    here._blocks = TokenBucket(BLOCKS_PER_S, MAX_BLOCKS_AT_ONCE, clock=lambda: 0.0)
    for _ in range(MAX_BLOCKS_AT_ONCE):
        await here.block(BOB, ANN)
    with pytest.raises(RateLimited):
        await here.block(BOB, ANN)
    await here.block(EVE, ANN)
