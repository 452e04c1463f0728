"""The two transports: the same input gives the same response, documents, keys and events over HTTP and Socket.IO."""

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from live import JSON, User
from patient import TTL_S
from shared_service import SharedService, UserMaker
from waiting import wait_until

from chatlab.cache.keys import grace_period_ms
from chatlab.domain.ids import conversation_of

UNKNOWN_MESSAGE_ID = "0" * 24  # a message id that no message has
EMOJI = "\N{THUMBS UP SIGN}"

pytest_plugins = ["patient_plugin"]


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """A service whose answers do not depend on the speed of the machine."""
    return patient_shared


@dataclass
class ThreeUsers:
    """Ann, who sent the first message to Bob, and Eve, an outsider; the events at each socket."""

    users: dict[str, User]
    message: str
    heard: dict[str, list[tuple[str, Any]]]

    def named(self, value: Any) -> Any:
        """Replace `<ann>`, `<bob>`, `<eve>` and `<message>` in the value by the real ids."""
        words = {f"<{name}>": user.id for name, user in self.users.items()} | {
            "<message>": self.message
        }
        text = json.dumps(value)
        for word, meant in words.items():
            text = text.replace(word, meant)
        return json.loads(text)

    def plain(self, value: object) -> str:
        """Return the value as text, with names, ids and times replaced by words, so that two runs can be compared."""
        text = json.dumps(value, default=str, ensure_ascii=False)
        for name, user in self.users.items():
            text = text.replace(user.id, name)
        text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?", "TIME", text)
        return re.sub(r"\b[0-9a-f]{24}\b", "ID", text)


Step = tuple[str, str, Any]  # who, socket event, payload
SEND, EDIT, DELETE, ADD, REMOVE, READ = (
    "sendMessage",
    "editMessage",
    "deleteMessage",
    "addReaction",
    "removeReaction",
    "markRead",
)

REQUESTS: dict[str, Callable[[Any], tuple[str, str, Any]]] = {
    SEND: lambda asked: ("POST", "/api/messages/send", asked),
    EDIT: lambda asked: (
        "PATCH",
        f"/api/messages/{quote(asked['messageId'], safe='')}",
        without(asked, "messageId"),
    ),
    DELETE: lambda asked: ("DELETE", f"/api/messages/{quote(asked['messageId'], safe='')}", None),
    ADD: lambda asked: (
        "PUT",
        f"/api/messages/{quote(asked['messageId'], safe='')}/reactions/{quote(asked['emoji'], safe='')}",
        None,
    ),
    REMOVE: lambda asked: (
        "DELETE",
        f"/api/messages/{quote(asked['messageId'], safe='')}/reactions/{quote(asked['emoji'], safe='')}",
        None,
    ),
    READ: lambda asked: (
        "POST",
        f"/api/messages/{quote(asked['userId'], safe='')}/read",
        without(asked, "userId"),
    ),
}


def without(payload: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the payload without a field that is part of the path in HTTP."""
    return {key: value for key, value in payload.items() if key != name}


def send(**more: object) -> Step:
    """Return the step in which Ann sends to Bob. `more` replaces fields of the payload; OUT removes a field."""
    payload = {"receiverId": "<bob>", "text": "hello", **more}
    return ("ann", SEND, {name: value for name, value in payload.items() if value is not OUT})


OUT = object()

# What is done, in steps.
CASES: dict[str, list[Step]] = {
    "a message": [send()],
    "a trimmed message": [send(text="  two words \n")],
    "an answer": [("bob", SEND, {"receiverId": "<ann>", "text": "hello yourself"})],
    "every letter there is": [
        send(text="žluťoučký кот 猫 \U0001f408 \u202e \u2028 \x00 <b>&amp;</b> \\ \" '")
    ],
    "the longest text": [send(text="x" * 4000)],
    "the longest text of wide letters": [send(text="\U0001f408" * 4000)],
    "another sender in the payload": [
        send(
            senderId="<eve>",
            _id=UNKNOWN_MESSAGE_ID,
            seq=99,
            version=7,
            createdAt="2000-01-01T00:00:00Z",
        )
    ],
    "a client id": [send(clientId="one")],
    "a client id again": [send(clientId="one"), send(clientId="one")],
    "a client id for another text": [send(clientId="one"), send(clientId="one", text="other")],
    "a client id of both": [
        send(clientId="one"),
        ("bob", SEND, {"receiverId": "<ann>", "text": "mine", "clientId": "one"}),
    ],
    "a client id after an edit": [
        ("ann", EDIT, {"messageId": "<message>", "text": "edited"}),
        send(text="first", clientId="first"),
    ],
    "the longest client id": [send(clientId="x" * 64)],
    "no client id": [send(clientId=None)],
    "a note to self": [send(receiverId="<ann>")],
    "a reply": [("bob", SEND, {"receiverId": "<ann>", "text": "yes", "replyTo": "<message>"})],
    "no reply": [send(replyTo=None)],
    "a reply to what is deleted": [
        ("ann", DELETE, {"messageId": "<message>"}),
        send(replyTo="<message>"),
    ],
    "an edit": [("ann", EDIT, {"messageId": "<message>", "text": "better"})],
    "two edits": [
        ("ann", EDIT, {"messageId": "<message>", "text": "better"}),
        ("ann", EDIT, {"messageId": "<message>", "text": "best"}),
    ],
    "a deletion": [("ann", DELETE, {"messageId": "<message>"})],
    "a deletion twice": [("ann", DELETE, {"messageId": "<message>"})] * 2,
    "an edit of what is deleted": [
        ("ann", DELETE, {"messageId": "<message>"}),
        ("ann", EDIT, {"messageId": "<message>", "text": "back"}),
    ],
    "a reaction": [("bob", ADD, {"messageId": "<message>", "emoji": EMOJI})],
    "a reaction twice": [("bob", ADD, {"messageId": "<message>", "emoji": EMOJI})] * 2,
    "a reaction of both": [
        (who, ADD, {"messageId": "<message>", "emoji": EMOJI}) for who in ("ann", "bob")
    ],
    "a reaction and back": [
        ("bob", event, {"messageId": "<message>", "emoji": EMOJI}) for event in (ADD, REMOVE)
    ],
    "a reaction back that was not there": [
        ("bob", REMOVE, {"messageId": "<message>", "emoji": EMOJI})
    ],
    "a reaction in two spellings": [
        ("ann", ADD, {"messageId": "<message>", "emoji": "\u2764"}),
        ("bob", ADD, {"messageId": "<message>", "emoji": "\u2764\ufe0f"}),
        ("bob", ADD, {"messageId": "<message>", "emoji": "\u2764\ufe0e"}),
        ("ann", REMOVE, {"messageId": "<message>", "emoji": "\u2764\ufe0f"}),
    ],
    "a reaction to what is deleted": [
        (w, e, {"messageId": "<message>", "emoji": EMOJI})
        for w, e in (("ann", DELETE), ("bob", ADD))
    ],
    "a read mark": [("bob", READ, {"userId": "<ann>", "seq": 1})],
    "a read mark twice": [("bob", READ, {"userId": "<ann>", "seq": 1})] * 2,
    "a read mark backwards": [("bob", READ, {"userId": "<ann>", "seq": seq}) for seq in (1, 0)],
}

# What is refused.
REFUSED: dict[str, Step] = {
    "a longer text": send(text="x" * 4001),
    "no text": send(text=""),
    "only blanks": send(text=" \t\n\u3000 "),
    "only invisible characters": send(text="\u200b\u2060 \u3164\ufe0f"),
    "an edit to invisible characters": (
        "ann",
        EDIT,
        {"messageId": "<message>", "text": "\u202e\u200d"},
    ),
    "text missing": send(text=OUT),
    "text is a number": send(text=5),
    "text is null": send(text=None),
    "text is a list": send(text=["hello"]),
    "receiver missing": send(receiverId=OUT),
    "receiver is a number": send(receiverId=7),
    "receiver in capitals": send(receiverId="Bob"),
    "receiver is a pair": send(receiverId="<ann>:<bob>"),
    "receiver ends with a newline": send(receiverId="<bob>\n"),
    "an unknown receiver": send(receiverId="unknown-user"),
    "an operator for a receiver": send(receiverId={"$gt": ""}),
    "a longer client id": send(clientId="x" * 65),
    "a client id that is a number": send(clientId=5),
    "a reply to nothing": send(replyTo=UNKNOWN_MESSAGE_ID),
    "a reply to no id": send(replyTo="first"),
    "a reply to a message of another conversation": send(receiverId="<eve>", replyTo="<message>"),
    "a list for a payload": ("ann", SEND, [1]),
    "a string for a payload": ("ann", SEND, "hello"),
    "a number for a payload": ("ann", SEND, 1),
    "null for a payload": ("ann", SEND, None),
    "an edit by the receiver": ("bob", EDIT, {"messageId": "<message>", "text": "worse"}),
    "an edit by an outsider": ("eve", EDIT, {"messageId": "<message>", "text": "worse"}),
    "an edit of nothing": ("ann", EDIT, {"messageId": UNKNOWN_MESSAGE_ID, "text": "better"}),
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
    "a read mark for an unknown user": ("bob", READ, {"userId": "unknown-user", "seq": 0}),
}


async def by_http(user: User, event: str, payload: Any) -> dict[str, Any]:
    """Send the request over HTTP. Return the response in the shape of an acknowledgement."""
    method, path, body = REQUESTS[event](payload)
    content = None if event in (DELETE, ADD, REMOVE) else json.dumps(body)
    answer = await user.http.request(method, path, content=content, headers=JSON)
    if answer.status_code == 204:
        return {"ok": True}
    if answer.status_code == 200:
        return {"ok": True, "message": answer.json()}
    return {
        "ok": False,
        "error": {"code": answer.json()["code"], "detail": answer.json()["detail"]},
    }


async def by_socket(user: User, event: str, payload: Any) -> dict[str, Any]:
    """Send the event over Socket.IO. Return the acknowledgement."""
    ack: dict[str, Any] = await user.ask(event, payload)
    return ack


Transport = Callable[[User, str, Any], Awaitable[dict[str, Any]]]


async def create_three_users(new_user: UserMaker) -> ThreeUsers:
    """Create three users with sockets, and one message."""
    users = {name: new_user(f"{name}-{secrets.token_hex(6)}") for name in ("ann", "bob", "eve")}
    message = await users["ann"].send(users["bob"], "first", clientId="first")
    three = ThreeUsers(users, message["_id"], {})
    for name in ("ann", "ann again", "bob", "eve"):
        heard = three.heard[name] = []
        await users[name.split()[0]].connect(heard)
    return three


NOT_COMPARED = ("typing", "onlineUsers", "presence")
NO_SUMMARY = {"_id": 0, "lastSeq": 0, "lastAt": 0}  # it is written later


async def all_events(three: ThreeUsers) -> dict[str, list[tuple[str, Any]]]:
    """Return the events at each socket. A last event to every user shows that all earlier ones have arrived."""
    for name, other in (("ann", "bob"), ("bob", "ann"), ("eve", "eve")):
        await three.users[name].ask(
            "typing", {"receiverId": three.users[other].id, "typing": False}
        )
    await wait_until(
        lambda: [any(event == "typing" for event, _ in heard) for heard in three.heard.values()],
        "the last event at every socket",
        is_reached=all,
    )
    return {
        name: [event for event in heard if event[0] not in NOT_COMPARED]
        for name, heard in three.heard.items()
    }


def documents(shared: SharedService, three: ThreeUsers) -> list[Any]:
    """Return the messages and read marks of these three users."""
    names = {"$in": [user.id for user in three.users.values()]}
    return [
        *shared.database["messages"].find({"senderId": names}).sort("seq", 1),
        *shared.database["reads"].find({"userId": names, "seq": {"$gt": 0}}, NO_SUMMARY),
    ]


def cached(shared: SharedService, three: ThreeUsers) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the cache entries of these three, and the PEXPIRETIME of each key that is there."""
    ids = [str(row["_id"]) for row in documents(shared, three) if "seq" in row and "text" in row]
    names = [f"{shared.prefix}message:{message_id}" for message_id in ids]
    values: dict[str, Any] = {
        f"message {place}": shared.keys.get(name) for place, name in enumerate(names)
    }
    for one, other in (("ann", "bob"), ("ann", "ann"), ("ann", "eve"), ("bob", "eve")):
        name = (
            f"{shared.prefix}messages:{conversation_of(three.users[one].id, three.users[other].id)}"
        )
        names.append(name)
        values[f"{one}:{other}"] = shared.keys.lrange(name, 1, -1)
    expiries = {name: shared.keys.pexpiretime(name) for name in names}
    return values, {name: expiry for name, expiry in expiries.items() if expiry != -2}


@pytest.mark.parametrize("case", CASES)
async def test_both_transports_do_the_same(
    shared: SharedService, new_user: UserMaker, case: str
) -> None:
    """The same steps over both transports give equal responses, documents, cache entries with their TTL, and events."""
    http = await outcome_of(shared, new_user, by_http, CASES[case])
    socket = await outcome_of(shared, new_user, by_socket, CASES[case])
    assert http == socket


async def outcome_of(
    shared: SharedService, new_user: UserMaker, transport: Transport, steps: list[Step]
) -> list[str]:
    """Run the steps. Return the responses, documents, cache entries, and the events at each socket."""
    began = redis_time_ms(shared)
    three = await create_three_users(new_user)
    answers = [
        await transport(three.users[who], event, three.named(payload))
        for who, event, payload in steps
    ]
    values, expiries = cached(shared, three)
    for name, expiry in expiries.items():
        slack = (
            1 if name.startswith(f"{shared.prefix}message:") else grace_period_ms(TTL_S * 1000)
        )  # a window is as old as the save it knows
        assert began - slack <= expiry - TTL_S * 1000 <= redis_time_ms(shared), name
    return [
        three.plain(part)
        for part in (answers, documents(shared, three), values, await all_events(three))
    ]


def redis_time_ms(shared: SharedService) -> int:
    """Return Redis time in milliseconds."""
    seconds, microseconds = shared.keys.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


async def test_both_transports_refuse_the_same(shared: SharedService, new_user: UserMaker) -> None:
    """Invalid and forbidden requests get the same error over both transports, change nothing, and emit nothing."""
    left, right = await create_three_users(new_user), await create_three_users(new_user)
    before = [documents(shared, three) for three in (left, right)]
    for case, (who, event, payload) in REFUSED.items():
        http = await by_http(left.users[who], event, left.named(payload))
        socket = await by_socket(right.users[who], event, right.named(payload))
        assert http == socket, case
        assert (http["ok"], set(http["error"])) == (False, {"code", "detail"}), case
    assert [documents(shared, three) for three in (left, right)] == before
    for three in (left, right):
        assert set(map(len, (await all_events(three)).values())) == {0}


async def test_the_same_bytes_go_everywhere(shared: SharedService, new_user: UserMaker) -> None:
    """Response, acknowledgement, event and Redis value are the same bytes, with the fields in the same order."""
    ann, bob = new_user(), new_user()
    await bob.connect()
    for transport in ("http", "socket"):
        message = await ann.send(bob, "žluť \U0001f408 \\u0000", transport=transport)
        spelt = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
        heard = (await bob.wait_for_events("newMessage", 1 if transport == "http" else 2))[-1]
        assert json.dumps(heard, separators=(",", ":"), ensure_ascii=False).encode() == spelt
        assert shared.keys.get(f"{shared.prefix}message:{message['_id']}") == spelt
        assert (
            shared.keys.lindex(f"{shared.prefix}messages:{conversation_of(ann.id, bob.id)}", -1)
            == spelt
        )


async def test_a_repeat_over_the_other_transport_is_one_message(new_user: UserMaker) -> None:
    """A send that is repeated over the other transport, at once or later, is one message and one event."""
    ann, bob = new_user(), new_user()
    await bob.connect()
    transports = ["http", "socket"] * 10
    sent = await asyncio.gather(
        *(ann.send(bob, "once", transport=transport, clientId="c") for transport in transports)
    )
    assert {message["_id"] for message in sent} == {sent[0]["_id"]}
    await ann.send(bob, "last")
    heard = await wait_until(
        lambda: [message["text"] for message in bob.received("newMessage")],
        "the last message at the socket",
        is_reached=lambda texts: "last" in texts,
    )
    assert heard == ["once", "last"]
