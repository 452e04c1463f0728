"""Every command to MongoDB names the shard key, or is in the list of docs/scaling.md."""

import asyncio
import os
import secrets
from pathlib import Path
from typing import Any

import prefork
import pytest
import shard_keys
from live import PASSWORD, User
from patient import PROGRAM
from pymongo.database import Database
from shard_keys import BROADCAST, REFUSED, TARGETED, Seen
from shared_service import SharedService, UserMaker, store_messages
from waiting import LIMIT_S, wait_until

from chatlab.local.engines import Engines

EMOJI = "\N{THUMBS UP SIGN}"
LONG = 1200  # messages: more than one query reads

pytest_plugins = ["patient_plugin"]


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """A service whose commands are watched."""
    return patient_shared


async def test_every_command_names_the_shard_key(
    shared: SharedService, new_user: UserMaker, tmp_path: Path
) -> None:
    """All requests of both transports need only the listed commands without the shard key.

    So does the migration, which the service does at its start and `chatlab migrate` repeats.
    Other tests of the contract watch their services in the same way, when these end.
    """
    ann, bob = new_user(), new_user()
    await change_by_http(ann, bob)
    await change_by_socket(ann, bob)
    await change_what_is_not_cached(shared, ann, bob)
    await read_everything(shared, ann, bob, [new_user() for _ in range(20)])
    await change_the_account(shared, bob)
    log = await asyncio.to_thread(rebuild_the_summaries, shared, tmp_path)

    seen = shard_keys.read_log(shared.service.log) | shard_keys.read_log(log)
    assert {one.kind for one in seen if one.outcome == BROADCAST} == shard_keys.listed_broadcasts()
    assert {one.kind for one in seen if one.outcome == REFUSED} == set()
    assert {one.kind for one in seen if one.outcome == TARGETED} >= {
        "messages.insert()",
        "messages.findAndModify(_id,conversation,deletedAt)",
        "messages.find(_id,conversation)",
        "messages.find(clientId,conversation,senderId)",
        "messages.find(conversation,seq)",
        "messages.find(conversation,seq,text)",
        "messages.aggregate(conversation,seq)",
        "messages.lookup(conversation)",
        "users.find(_id)",
        "sessions.find($or,_id)",
        "reads.update(conversation,seq,userId)",
        "reads.update(conversation,userId)",
        "reads.find(lastAt,userId)",
        "reads.find($or,lastAt,userId)",
        "reads.find(conversation,userId)",
    }


async def change_by_http(ann: User, bob: User) -> None:
    """Send a message twice with one client id, answer it, and change it in every way."""
    sent = [await ann.send(bob, "hello", clientId="http") for _ in range(2)]
    reply = await bob.send(ann, "hello to you", replyTo=sent[0]["_id"])
    assert reply["replyTo"] == sent[0]["_id"]
    url = f"/api/messages/{sent[0]['_id']}"
    answers = [
        await ann.http.patch(url, json={"text": "better"}),
        await bob.http.put(f"{url}/reactions/{EMOJI}"),
        await bob.http.put(f"{url}/reactions/{EMOJI}"),
        await bob.http.delete(f"{url}/reactions/{EMOJI}"),
        await ann.http.delete(url),
        await bob.http.post(f"/api/messages/{ann.id}/read", json={"seq": 1}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 200, 204]


async def change_by_socket(ann: User, bob: User) -> None:
    """Do the same with the events of a socket."""
    payload = {"receiverId": bob.id, "text": "hello", "clientId": "socket"}
    sent = [(await ann.ask("sendMessage", payload))["message"] for _ in range(2)]
    target = {"messageId": sent[0]["_id"]}
    answer = {"receiverId": ann.id, "text": "hello to you", "replyTo": sent[0]["_id"]}
    assert (await bob.ask("sendMessage", answer))["ok"]
    acks = [
        await ann.ask("editMessage", target | {"text": "better"}),
        await bob.ask("addReaction", target | {"emoji": EMOJI}),
        await bob.ask("addReaction", target | {"emoji": EMOJI}),
        await bob.ask("removeReaction", target | {"emoji": EMOJI}),
        await ann.ask("deleteMessage", target),
        await bob.ask("markRead", {"userId": ann.id, "seq": 2}),
    ]
    assert [ack["ok"] for ack in acks] == [True] * 6


async def change_what_is_not_cached(shared: SharedService, ann: User, bob: User) -> None:
    """Only the id of the message is known, so its conversation must be looked up."""
    sent = await ann.send(bob, "hello")
    key, url = f"{shared.prefix}message:{sent['_id']}", f"/api/messages/{sent['_id']}"
    assert shared.keys.delete(key) == 1
    assert (await ann.http.patch(url, json={"text": "better"})).status_code == 200
    assert shared.keys.delete(key) == 1
    assert (await bob.send(ann, "hello", replyTo=sent["_id"]))["replyTo"] == sent["_id"]


async def read_everything(shared: SharedService, ann: User, bob: User, others: list[User]) -> None:
    """Read lists, pages of all kinds, a long history, and many conversations at once."""
    store_messages(shared.database, ann.id, others[0].id, map(str, range(LONG)))
    answers = [
        await ann.http.get("/api/users"),
        await ann.http.get("/api/users", params={"after": bob.id}),
        await ann.http.get("/api/users", params={"query": bob.id}),
        await ann.http.get("/api/users", params={"query": "Zoe", "after": bob.id}),
        await ann.http.get("/api/conversations"),
        await ann.http.get("/api/conversations", params={"before": f"1.{ann.id}:{bob.id}"}),
        await ann.http.get(f"/api/messages/{bob.id}/search?query=o"),
        await ann.read(bob),
        await ann.read(bob, fresh=True, limit=2),
        await ann.read(bob, fresh=True, before=2),
        await ann.read(bob, fresh=True, after=1),
        await ann.read(others[0], fresh=True),
    ]
    assert {answer.status_code for answer in answers} == {200}
    assert len(answers[-1].json()) == LONG

    async def read_at_once() -> set[Seen]:
        await asyncio.gather(*(ann.read(other, fresh=True, limit=5) for other in others))
        return shard_keys.read_log(shared.service.log)

    # Reads share a query if they wait for MongoDB at the same time.
    is_shared = {Seen("messages.lookup(conversation)", TARGETED)}.issubset
    await wait_until(read_at_once, "reads that share a query", is_reached=is_shared)


async def change_the_account(shared: SharedService, bob: User) -> None:
    """Sign up, block and mute somebody, list and end sessions, and change what others see."""
    ann = await User.sign_up(shared.service, f"ann{secrets.token_hex(4)}")
    account = {"username": ann.id, "password": PASSWORD}
    answers = [
        await ann.http.post("/api/auth/login", json=account),
        await ann.http.put(f"/api/users/{bob.id}/block"),
        await ann.http.put(f"/api/users/{bob.id}/mute"),
        await ann.http.delete(f"/api/users/{bob.id}/block"),
        await ann.http.patch("/api/auth/me", json={"displayName": "Ann"}),
        await ann.http.get("/api/auth/sessions"),
        await ann.http.delete("/api/auth/sessions"),
        await ann.http.post("/api/auth/logout"),
    ]
    assert [answer.status_code for answer in answers] == [*(200, 204, 204, 204, 200, 200, 204, 204)]
    await ann.close()


def rebuild_the_summaries(shared: SharedService, folder: Path) -> Path:
    """Run `chatlab migrate --rebuild`, whose commands are watched. Return its log."""
    given, log = shared.service.settings, folder / "migrate.log"
    names = ("MONGO_URL", "REDIS_URL", "DATABASE")
    environment = os.environ | {f"CHATLAB_{name}": given[name] for name in names}
    command = prefork.start([str(PROGRAM), "migrate", "--rebuild"], environment, log)
    assert command.wait(LIMIT_S) == 0, log.read_text()
    assert Seen("reads.update(conversation,userId)", TARGETED) in shard_keys.read_log(log)
    return log


def test_shard_keys_need_a_router(
    engines: Engines, database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    """On a replica set, `chatlab migrate --shard` builds the indexes and says what to do."""
    settings = {"MONGO_URL": engines.mongo.url, "DATABASE": database.name}
    environment = os.environ | {f"CHATLAB_{name}": value for name, value in settings.items()}
    log = tmp_path / "log"
    command = prefork.start(["-m", "chatlab", "migrate", "--shard"], environment, log)
    assert command.wait(LIMIT_S) == 1
    assert "CHATLAB_MONGO_URL does not name a mongos" in log.read_text()
    assert "leave out --shard" in log.read_text()
    assert "place" in database["messages"].index_information()
