"""HTTP and Socket.IO are two transports of one service: the same input gives the same answer, documents, keys and events over both."""

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from live import User
from patient import TTL_S
from patient_chatlab import GRACE_MS
from shared_service import SharedService, UserMaker
from waiting import wait_until

from chatlab.domain.ids import conversation_of

NOBODYS = "0" * 24  # a message id that no message has
EMOJI = "\N{THUMBS UP SIGN}"

pytest_plugins = ["patient_plugin"]


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """A service whose answers do not depend on the speed of the machine."""
    return patient_shared


@dataclass
class Trio:
    """Ann, who wrote the first message to Bob, and Eve, who has no part in it. What each socket hears is kept apart."""

    people: dict[str, User]
    message: str
    heard: dict[str, list[tuple[str, Any]]]

    def named(self, value: Any) -> Any:
        """The value with `<ann>` and so on for the names, `<message>` for the first message's id."""
        words = {f"<{name}>": person.id for name, person in self.people.items()} | {"<message>": self.message}
        text = json.dumps(value)
        for word, meant in words.items():
            text = text.replace(word, meant)
        return json.loads(text)

    def plain(self, value: object) -> str:
        """The value as text, with roles for names; ids and times, which differ from run to run, as words."""
        text = json.dumps(value, default=str, ensure_ascii=False)
        for name, person in self.people.items():
            text = text.replace(person.id, name)
        text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?", "TIME", text)
        return re.sub(r"\b[0-9a-f]{24}\b", "ID", text)


Step = tuple[str, str, Any]  # who, socket event, payload
SEND, EDIT, DELETE, ADD, REMOVE, READ = "sendMessage", "editMessage", "deleteMessage", "addReaction", "removeReaction", "markRead"

REQUESTS: dict[str, Callable[[Any], tuple[str, str, Any]]] = {
    SEND: lambda asked: ("POST", "/api/messages/send", asked),
    EDIT: lambda asked: ("PATCH", f"/api/messages/{quote(asked['messageId'], safe='')}", without(asked, "messageId")),
    DELETE: lambda asked: ("DELETE", f"/api/messages/{quote(asked['messageId'], safe='')}", None),
    ADD: lambda asked: ("PUT", f"/api/messages/{quote(asked['messageId'], safe='')}/reactions/{quote(asked['emoji'], safe='')}", None),
    REMOVE: lambda asked: (
        "DELETE",
        f"/api/messages/{quote(asked['messageId'], safe='')}/reactions/{quote(asked['emoji'], safe='')}",
        None,
    ),
    READ: lambda asked: ("POST", f"/api/messages/{quote(asked['userId'], safe='')}/read", without(asked, "userId")),
}


def without(payload: dict[str, Any], name: str) -> dict[str, Any]:
    """The payload without a field that HTTP has in its path."""
    return {key: value for key, value in payload.items() if key != name}


def send(**more: object) -> Step:
    """Ann writes to Bob; `more` replaces what she says, OUT takes it out."""
    payload = {"receiverId": "<bob>", "text": "hello", **more}
    return ("ann", SEND, {name: value for name, value in payload.items() if value is not OUT})


OUT = object()

# What is done, in steps.
CASES: dict[str, list[Step]] = {
    "a message": [send()],
    "a trimmed message": [send(text="  two words \n")],
    "an answer": [("bob", SEND, {"receiverId": "<ann>", "text": "hello yourself"})],
    "every letter there is": [send(text="žluťoučký кот 猫 \U0001f408 \u202e \u2028 \x00 <b>&amp;</b> \\ \" '")],
    "the longest text": [send(text="x" * 4000)],
    "the longest text of wide letters": [send(text="\U0001f408" * 4000)],
    "another sender in the payload": [send(senderId="<eve>", _id=NOBODYS, seq=99, version=7, createdAt="2000-01-01T00:00:00Z")],
    "a client id": [send(clientId="one")],
    "a client id again": [send(clientId="one"), send(clientId="one")],
    "a client id for another text": [send(clientId="one"), send(clientId="one", text="other")],
    "a client id of both": [send(clientId="one"), ("bob", SEND, {"receiverId": "<ann>", "text": "mine", "clientId": "one"})],
    "a client id after an edit": [("ann", EDIT, {"messageId": "<message>", "text": "edited"}), send(text="first", clientId="first")],
    "the longest client id": [send(clientId="x" * 64)],
    "no client id": [send(clientId=None)],
    "a note to self": [send(receiverId="<ann>")],
    "an edit": [("ann", EDIT, {"messageId": "<message>", "text": "better"})],
    "two edits": [("ann", EDIT, {"messageId": "<message>", "text": "better"}), ("ann", EDIT, {"messageId": "<message>", "text": "best"})],
    "a deletion": [("ann", DELETE, {"messageId": "<message>"})],
    "a deletion twice": [("ann", DELETE, {"messageId": "<message>"})] * 2,
    "an edit of what is deleted": [("ann", DELETE, {"messageId": "<message>"}), ("ann", EDIT, {"messageId": "<message>", "text": "back"})],
    "a reaction": [("bob", ADD, {"messageId": "<message>", "emoji": EMOJI})],
    "a reaction twice": [("bob", ADD, {"messageId": "<message>", "emoji": EMOJI})] * 2,
    "a reaction of both": [(who, ADD, {"messageId": "<message>", "emoji": EMOJI}) for who in ("ann", "bob")],
    "a reaction and back": [("bob", event, {"messageId": "<message>", "emoji": EMOJI}) for event in (ADD, REMOVE)],
    "a reaction back that was not there": [("bob", REMOVE, {"messageId": "<message>", "emoji": EMOJI})],
    "a reaction to what is deleted": [(w, e, {"messageId": "<message>", "emoji": EMOJI}) for w, e in (("ann", DELETE), ("bob", ADD))],
    "a read mark": [("bob", READ, {"userId": "<ann>", "seq": 1})],
    "a read mark twice": [("bob", READ, {"userId": "<ann>", "seq": 1})] * 2,
    "a read mark backwards": [("bob", READ, {"userId": "<ann>", "seq": seq}) for seq in (1, 0)],
}

# What is refused.
REFUSED: dict[str, Step] = {
    "a longer text": send(text="x" * 4001),
    "no text": send(text=""),
    "only blanks": send(text=" \t\n\u3000 "),
    "text missing": send(text=OUT),
    "text is a number": send(text=5),
    "text is null": send(text=None),
    "text is a list": send(text=["hello"]),
    "receiver missing": send(receiverId=OUT),
    "receiver is a number": send(receiverId=7),
    "receiver in capitals": send(receiverId="Bob"),
    "receiver is a pair": send(receiverId="<ann>:<bob>"),
    "receiver ends with a newline": send(receiverId="<bob>\n"),
    "receiver nobody has heard of": send(receiverId="nobody-of-this-name"),
    "an operator for a receiver": send(receiverId={"$gt": ""}),
    "a longer client id": send(clientId="x" * 65),
    "a client id that is a number": send(clientId=5),
    "a list for a payload": ("ann", SEND, [1]),
    "a string for a payload": ("ann", SEND, "hello"),
    "a number for a payload": ("ann", SEND, 1),
    "null for a payload": ("ann", SEND, None),
    "an edit by the receiver": ("bob", EDIT, {"messageId": "<message>", "text": "worse"}),
    "an edit by an outsider": ("eve", EDIT, {"messageId": "<message>", "text": "worse"}),
    "an edit of nothing": ("ann", EDIT, {"messageId": NOBODYS, "text": "better"}),
    "an edit of no id": ("ann", EDIT, {"messageId": "send*", "text": "better"}),
    "an edit to nothing": ("ann", EDIT, {"messageId": "<message>", "text": " "}),
    "an edit without text": ("ann", EDIT, {"messageId": "<message>"}),
    "a deletion by the receiver": ("bob", DELETE, {"messageId": "<message>"}),
    "a deletion by an outsider": ("eve", DELETE, {"messageId": "<message>"}),
    "a reaction by an outsider": ("eve", ADD, {"messageId": "<message>", "emoji": EMOJI}),
    "a reaction that is no emoji": ("bob", ADD, {"messageId": "<message>", "emoji": "$set.text"}),
    "a read mark ahead": ("bob", READ, {"userId": "<ann>", "seq": 2}),
    "a read mark below zero": ("bob", READ, {"userId": "<ann>", "seq": -1}),
    "a read mark of 2^63": ("bob", READ, {"userId": "<ann>", "seq": 2**63}),
    "a read mark of a half": ("bob", READ, {"userId": "<ann>", "seq": 0.5}),
    "a read mark of true": ("bob", READ, {"userId": "<ann>", "seq": True}),
    "a read mark of a string": ("bob", READ, {"userId": "<ann>", "seq": "1"}),
    "a read mark for nobody": ("bob", READ, {"userId": "nobody-of-this-name", "seq": 0}),
}


async def by_http(person: User, event: str, payload: Any) -> dict[str, Any]:
    """The answer in the shape of an ack."""
    method, path, body = REQUESTS[event](payload)
    content = None if event in (DELETE, ADD, REMOVE) else json.dumps(body)
    answer = await person.http.request(method, path, content=content)
    if answer.status_code == 204:
        return {"ok": True}
    if answer.status_code == 200:
        return {"ok": True, "message": answer.json()}
    return {"ok": False, "error": {"code": answer.json()["code"], "detail": answer.json()["detail"]}}


async def by_socket(person: User, event: str, payload: Any) -> dict[str, Any]:
    """The ack."""
    ack: dict[str, Any] = await person.ask(event, payload)
    return ack


Door = Callable[[User, str, Any], Awaitable[dict[str, Any]]]


async def gather_trio(new_user: UserMaker) -> Trio:
    """Three people with sockets, and one message."""
    people = {name: new_user(f"{name}-{secrets.token_hex(6)}") for name in ("ann", "bob", "eve")}
    message = await people["ann"].send(people["bob"], "first", clientId="first")
    trio = Trio(people, message["_id"], {})
    for name in ("ann", "ann again", "bob", "eve"):
        heard = trio.heard[name] = []
        await people[name.split()[0]].connect(heard)
    return trio


async def everything_heard(trio: Trio) -> dict[str, list[tuple[str, Any]]]:
    """What each socket has heard, once a last word to everybody has come to all: events of a socket keep their order."""
    for name, other in (("ann", "bob"), ("bob", "ann"), ("eve", "eve")):
        await trio.people[name].ask("typing", {"receiverId": trio.people[other].id, "typing": False})
    await wait_until(
        lambda: [any(event == "typing" for event, _ in heard) for heard in trio.heard.values()],
        "the last event at every socket",
        is_reached=all,
    )
    return {name: [event for event in heard if event[0] not in ("typing", "onlineUsers")] for name, heard in trio.heard.items()}


def documents(shared: SharedService, trio: Trio) -> list[Any]:
    """What MongoDB holds of these three."""
    names = {"$in": [person.id for person in trio.people.values()]}
    return [
        *shared.database["messages"].find({"senderId": names}).sort("seq", 1),
        *shared.database["reads"].find({"userId": names}, {"_id": 0}),
    ]


def kept(shared: SharedService, trio: Trio) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the cache entries of these three, and the PEXPIRETIME of each key that is there."""
    ids = [str(row["_id"]) for row in documents(shared, trio) if "seq" in row and "text" in row]
    names = [f"{shared.prefix}message:{message_id}" for message_id in ids]
    values: dict[str, Any] = {f"message {place}": shared.keys.get(name) for place, name in enumerate(names)}
    for one, other in (("ann", "bob"), ("ann", "ann"), ("ann", "eve"), ("bob", "eve")):
        name = f"{shared.prefix}messages:{conversation_of(trio.people[one].id, trio.people[other].id)}"
        names.append(name)
        values[f"{one}:{other}"] = shared.keys.lrange(name, 1, -1)
    expiries = {name: shared.keys.pexpiretime(name) for name in names}
    return values, {name: expiry for name, expiry in expiries.items() if expiry != -2}


@pytest.mark.parametrize("case", CASES)
async def test_both_doors_do_the_same(shared: SharedService, new_user: UserMaker, case: str) -> None:
    """The same steps through HTTP and through a socket give equal answers, documents, cache entries with their TTL, and events."""
    http = await seen(shared, new_user, by_http, CASES[case])
    socket = await seen(shared, new_user, by_socket, CASES[case])
    assert http == socket


async def seen(shared: SharedService, new_user: UserMaker, door: Door, steps: list[Step]) -> list[str]:
    """Return what these steps leave: answers, documents, cache entries, and the events at each socket."""
    began = redis_time_ms(shared)
    trio = await gather_trio(new_user)
    answers = [await door(trio.people[who], event, trio.named(payload)) for who, event, payload in steps]
    values, expiries = kept(shared, trio)
    for name, expiry in expiries.items():
        slack = 1 if name.startswith(f"{shared.prefix}message:") else GRACE_MS  # a window is as old as the save it knows
        assert began - slack <= expiry - TTL_S * 1000 <= redis_time_ms(shared), name
    return [trio.plain(part) for part in (answers, documents(shared, trio), values, await everything_heard(trio))]


def redis_time_ms(shared: SharedService) -> int:
    """Return the clock of Redis."""
    seconds, microseconds = shared.keys.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


async def test_both_doors_refuse_the_same(shared: SharedService, new_user: UserMaker) -> None:
    """What is wrong or not allowed gets the same code and the same words at both doors, leaves nothing behind, and nobody hears of it."""
    left, right = await gather_trio(new_user), await gather_trio(new_user)
    before = [documents(shared, trio) for trio in (left, right)]
    for case, (who, event, payload) in REFUSED.items():
        http = await by_http(left.people[who], event, left.named(payload))
        socket = await by_socket(right.people[who], event, right.named(payload))
        assert http == socket, case
        assert (http["ok"], set(http["error"])) == (False, {"code", "detail"}), case
    assert [documents(shared, trio) for trio in (left, right)] == before
    for trio in (left, right):
        assert set(map(len, (await everything_heard(trio)).values())) == {0}


async def test_the_same_bytes_go_everywhere(shared: SharedService, new_user: UserMaker) -> None:
    """The answer, the ack, the event and the value in Redis spell a message alike, field by field, in the same order."""
    ann, bob = new_user(), new_user()
    await bob.connect()
    for door in ("http", "socket"):
        message = await ann.send(bob, "žluť \U0001f408 \\u0000", transport=door)
        spelt = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
        heard = (await bob.wait_for_events("newMessage", 1 if door == "http" else 2))[-1]
        assert json.dumps(heard, separators=(",", ":"), ensure_ascii=False).encode() == spelt
        assert shared.keys.get(f"{shared.prefix}message:{message['_id']}") == spelt
        assert shared.keys.lindex(f"{shared.prefix}messages:{conversation_of(ann.id, bob.id)}", -1) == spelt


async def test_a_repeat_with_a_client_id_crosses_the_doors(new_user: UserMaker) -> None:
    """What was sent by one door and is repeated by the other, at once or later, is one message, heard once."""
    ann, bob = new_user(), new_user()
    await bob.connect()
    doors = ["http", "socket"] * 10
    sent = await asyncio.gather(*(ann.send(bob, "once", transport=door, clientId="c") for door in doors))
    assert {message["_id"] for message in sent} == {sent[0]["_id"]}
    await ann.send(bob, "last")
    heard = await wait_until(
        lambda: [message["text"] for message in bob.received("newMessage")],
        "the last message at the socket",
        is_reached=lambda texts: "last" in texts,
    )
    assert heard == ["once", "last"]
