"""Every command to MongoDB names the shard key, or is in the list of docs/scaling.md."""

import asyncio
import secrets

import pytest
import shard_keys
from live import PASSWORD, User
from shard_keys import BROADCAST, REFUSED, TARGETED, Seen
from shared_service import SharedService, UserMaker, store_messages
from waiting import wait_until

EMOJI = "\N{THUMBS UP SIGN}"
LONG = 1200  # messages: more than one query reads

pytest_plugins = ["patient_plugin"]


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """A service whose commands are watched."""
    return patient_shared


async def test_every_command_names_the_shard_key(
    shared: SharedService, new_user: UserMaker
) -> None:
    """All requests of both transports need only the listed commands without the shard key.

    Other tests of the contract watch their services in the same way, when these end.
    """
    ann, bob = new_user(), new_user()
    await change_by_http(ann, bob)
    await change_by_socket(ann, bob)
    await change_what_is_not_cached(shared, ann, bob)
    await use_sessions(shared)
    await read_everything(shared, ann, bob, [new_user() for _ in range(20)])

    seen = shard_keys.read_log(shared.service.log)
    assert {one.kind for one in seen if one.outcome == BROADCAST} == shard_keys.listed_broadcasts()
    assert {one.kind for one in seen if one.outcome == REFUSED} == set()
    assert {one.kind for one in seen if one.outcome == TARGETED} >= {
        "messages.insert()",
        "messages.findAndModify(_id,conversation,deletedAt)",
        "messages.find(_id,conversation)",
        "messages.find(clientId,conversation,senderId)",
        "messages.find(conversation,seq)",
        "messages.aggregate(conversation,seq)",
        "messages.lookup(conversation)",
        "users.find(_id)",
        "sessions.find($or,_id)",
        "reads.update(conversation,seq,userId)",
    }


async def change_by_http(ann: User, bob: User) -> None:
    """Send a message twice with one client id, and change it in every way."""
    sent = [await ann.send(bob, "hello", clientId="http") for _ in range(2)]
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
    assert shared.keys.delete(f"{shared.prefix}message:{sent['_id']}") == 1
    url = f"/api/messages/{sent['_id']}"
    assert (await ann.http.patch(url, json={"text": "better"})).status_code == 200


async def use_sessions(shared: SharedService) -> None:
    """Log in, list the sessions, and end all others."""
    eve = await User.sign_up(shared.service, f"eve-{secrets.token_hex(4)}")
    account = {"username": eve.id, "password": PASSWORD}
    answers = [
        await eve.http.post("/api/auth/login", json=account),
        await eve.http.get("/api/auth/sessions"),
        await eve.http.delete("/api/auth/sessions"),
    ]
    await eve.close()
    assert [answer.status_code for answer in answers] == [200, 200, 204]


async def read_everything(shared: SharedService, ann: User, bob: User, others: list[User]) -> None:
    """Read lists, pages of all kinds, a long history, and many conversations at once."""
    store_messages(shared.database, ann.id, others[0].id, map(str, range(LONG)))
    answers = [
        await ann.http.get("/api/users"),
        await ann.read(bob),
        await ann.read(bob, fresh=True, limit=2),
        await ann.read(bob, fresh=True, before=2),
        await ann.read(bob, fresh=True, after=1),
        await ann.read(others[0], fresh=True),
    ]
    assert {answer.status_code for answer in answers} == {200}
    assert len(answers[5].json()) == LONG

    async def read_at_once() -> set[Seen]:
        await asyncio.gather(*(ann.read(other, fresh=True, limit=5) for other in others))
        return shard_keys.read_log(shared.service.log)

    # Reads share a query if they wait for MongoDB at the same time.
    is_shared = {Seen("messages.lookup(conversation)", TARGETED)}.issubset
    await wait_until(read_at_once, "reads that share a query", is_reached=is_shared)
