"""The Socket.IO part of the contract: who connects, receives events and is disconnected."""

import asyncio
import contextlib
import json
import socket
import time
from typing import Any

import psutil
import pytest
import socketio
from live import ServiceMaker, User
from raw_socket import RawSocket, raw_socket, unauthenticated
from shared_service import SharedService, UserMaker, create_user, is_online
from waiting import LIMIT_S, wait_until

EMOJI = "\N{THUMBS UP SIGN}"

pytest_plugins = ["patient_plugin"]


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """The shared service with limits that a slow machine does not exceed."""
    return patient_shared


# --- connecting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "auth",
    [None, {}, {"token": None}, {"token": ""}, {"token": "wrong"}, {"token": ["x"]}, "token", [1]],
)
async def test_a_connection_needs_a_valid_token(shared: SharedService, auth: Any) -> None:
    """A connection without a valid token is refused.

    The error has the code and does not repeat the token.
    """
    async with unauthenticated(shared.service) as stranger:
        await stranger.send("40" + ("" if auth is None else json.dumps(auth)))
        refusal = json.loads((await stranger.receive_until("44") or "")[2:])
        assert refusal["data"]["code"] == "unauthenticated"
        assert "wrong" not in json.dumps(refusal)
        await stranger.send(
            '42["sendMessage",{"receiverId":"x","text":"x"}]',
            '421["typing",{"receiverId":"x","typing":true}]',
        )
        await stranger.send("40/nowhere,{}")
        assert (await stranger.receive() or "").startswith("44/nowhere,")


async def test_long_polling_is_refused_with_a_sentence(new_user: UserMaker) -> None:
    """It would need sticky sessions. A client of python-socketio tries it first by default."""
    ann = new_user()
    answer = await ann.http.get("/socket.io/?EIO=4&transport=polling")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
    assert "transports=['websocket']" in answer.json()["detail"]
    client, refusals = socketio.AsyncClient(reconnection=False), list[Any]()
    client.on("connect_error", refusals.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect(ann.service.url, auth={"token": ann.token})
    assert refusals == [answer.json()]


async def test_an_unknown_event_is_invalid(new_user: UserMaker) -> None:
    """An event that is not in the contract is acknowledged with the code `invalid`."""
    ann = new_user()
    assert (await ann.ask("dropTables", {}))["error"]["code"] == "invalid"
    assert (await ann.ask("connect", {}))["error"]["code"] == "invalid"
    assert (await ann.ask("disconnect", {}))["error"]["code"] == "invalid"
    assert (await ann.send(ann, "still here", transport="socket"))["seq"] == 1


async def test_a_wrong_number_of_payloads_is_invalid(new_user: UserMaker) -> None:
    """An event needs exactly one payload: none and two are rejected."""
    ann = new_user()
    right = {"receiverId": ann.id, "text": "x"}
    async with raw_socket(ann) as raw:
        acks = [
            await raw.ask("sendMessage"),
            await raw.ask("sendMessage", right, right),
            await raw.ask("sendMessage", right),
        ]
    assert [ack["ok"] for ack in acks] == [False, False, True]
    assert {ack["error"]["code"] for ack in acks[:2]} == {"invalid"}


async def test_alive_is_acknowledged_and_does_nothing(new_user: UserMaker) -> None:
    """A client can ask whether its connection works."""
    assert await new_user().ask("alive", {}) == {"ok": True}


# --- events ---------------------------------------------------------------------------------------


async def with_sockets(*users: User, each: int = 2) -> list[list[tuple[str, Any]]]:
    """Open `each` sockets for each user, and return a list for each socket.

    Events are added as they arrive.
    """
    lists: list[list[tuple[str, Any]]] = [[] for _ in range(each * len(users))]
    for place, heard in enumerate(lists):
        await users[place // each].connect(heard)
    return lists


def heard_by(lists: list[list[tuple[str, Any]]]) -> list[list[tuple[str, Any]]]:
    """Return the events that each socket has received, without those of the presence."""
    names = ("onlineUsers", "presence")
    return [[event for event in heard if event[0] not in names] for heard in lists]


@pytest.mark.parametrize("transport", ["http", "socket"])
async def test_every_socket_of_both_users_receives_each_event_once(
    new_user: UserMaker, transport: str
) -> None:
    """Messages, changes and read marks reach every socket of both users once and in order."""
    ann, bob, eve = new_user(), new_user(), new_user()
    lists = await with_sockets(ann, bob, eve)
    sent = await ann.send(bob, "hello", transport=transport)
    url = f"/api/messages/{sent['_id']}"
    edited = (await ann.http.patch(url, json={"text": "better"})).json()
    reacted = (await bob.ask("addReaction", {"messageId": sent["_id"], "emoji": EMOJI}))["message"]
    # A repeated reaction changes nothing, so no event follows.
    await bob.ask("addReaction", {"messageId": sent["_id"], "emoji": EMOJI})
    assert await bob.ask("markRead", {"userId": ann.id, "seq": 1}) == {"ok": True}
    await bob.http.post(f"/api/messages/{ann.id}/read", json={"seq": 1})  # no change, no event
    deleted = (await ann.http.delete(url)).json()
    await ann.http.delete(url)  # no change, no event
    last = await bob.send(ann, "last", transport=transport)
    await wait_until(
        lambda: [("newMessage", last) in heard for heard in lists[:4]],
        "the last message at each socket",
        is_reached=all,
    )
    for heard in heard_by(lists)[:4]:
        marks = [payload for event, payload in heard if event == "messagesRead"]
        assert [(mark["userId"], mark["seq"]) for mark in marks] == [(bob.id, 1)]
        assert [event for event in heard if event[0] != "messagesRead"] == [
            ("newMessage", sent),
            ("messageUpdated", edited),
            ("messageUpdated", reacted),
            ("messageUpdated", deleted),
            ("newMessage", last),
        ]
    assert heard_by(lists)[4:] == [[], []]


async def test_a_note_to_self_is_received_once(new_user: UserMaker) -> None:
    """If the sender is the receiver, each socket receives the message once."""
    ann = new_user()
    lists = await with_sockets(ann)
    notes = [await ann.send(ann, text) for text in ("one", "two")]
    await wait_until(
        lambda: [("newMessage", notes[1]) in heard for heard in lists],
        "the last note at each socket",
        is_reached=all,
    )
    assert heard_by(lists) == [[("newMessage", note) for note in notes]] * 2


async def test_typing_is_for_the_receiver_alone(new_user: UserMaker) -> None:
    """`typing` reaches the sockets of the receiver only.

    It names the user of the session, not one from the payload.
    """
    ann, bob = new_user(), new_user()
    lists = await with_sockets(ann, bob)
    for typing in (True, False):
        assert await ann.ask(
            "typing", {"receiverId": bob.id, "typing": typing, "userId": "somebody"}
        ) == {"ok": True}
    await wait_until(
        lambda: [len(heard) == 2 for heard in heard_by(lists)[2:]],
        "two events at each socket of the receiver",
        is_reached=all,
    )
    assert (
        heard_by(lists)
        == [[], []]
        + [[("typing", {"userId": ann.id, "typing": typing}) for typing in (True, False)]] * 2
    )
    for wrong in (
        {"receiverId": bob.id},
        {"receiverId": bob.id, "typing": "yes"},
        {"receiverId": bob.id, "typing": 1},
        {"typing": True},
    ):
        assert (await ann.ask("typing", wrong))["error"]["code"] == "invalid"
    assert (await ann.ask("typing", {"receiverId": "nobody-at-all", "typing": True}))["error"][
        "code"
    ] == "not_found"


async def test_a_client_catches_up_by_seq(new_user: UserMaker) -> None:
    """After a lost connection, `?after=<last seq>` returns exactly the missed messages."""
    ann, bob = new_user(), new_user()
    await bob.connect()
    await ann.send(bob, "heard")
    last = (await bob.wait_for_events("newMessage"))[-1]["seq"]
    await bob.sockets[0].disconnect()
    missed = [await ann.send(bob, text) for text in ("one", "two")]
    assert (await bob.read(ann, after=last)).json() == missed


async def test_messages_of_a_socket_keep_their_order(new_user: UserMaker) -> None:
    """200 messages sent without waiting get seq 1 to 200 in the order of sending.

    The first ones take longer: the service must look up the receiver.
    """
    ann, bob = new_user(), new_user()  # Bob is not in the caches of the service
    async with raw_socket(ann) as raw:
        await raw.send(
            *(
                f'42["sendMessage",{{"receiverId":"{bob.id}","text":"{number}"}}]'
                for number in range(199)
            )
        )
        assert (await raw.ask("sendMessage", {"receiverId": bob.id, "text": "199"}))["ok"]
        while len([frame for frame in raw.frames if frame.startswith('42["newMessage"')]) < 200:
            assert await raw.receive()
    heard = [
        json.loads(frame[2:])[1] for frame in raw.frames if frame.startswith('42["newMessage"')
    ]
    assert [(message["seq"], message["text"]) for message in heard] == [
        (number + 1, str(number)) for number in range(200)
    ]
    assert [int(message["text"]) for message in (await ann.read(bob)).json()] == list(range(200))


# --- disconnections -------------------------------------------------------------------------------


async def test_a_socket_that_does_not_authenticate_is_dropped(
    start: ServiceMaker, database: Any
) -> None:
    """A websocket without a valid token is closed after CONNECT_TIMEOUT, and not before.

    One with a token stays.
    """
    service = start(CONNECT_TIMEOUT="0.5")
    ann = create_user(database, service)
    async with contextlib.AsyncExitStack() as stack:
        hers = await wait_until(
            lambda: authenticated_in_time(ann, stack),
            "a socket that authenticates within CONNECT_TIMEOUT",
            is_reached=lambda one: not one.is_closed,
        )
        began = time.monotonic()
        silent, noisy = [
            await stack.enter_async_context(unauthenticated(service)) for _ in range(2)
        ]
        await noisy.send('40{"token":"wrong"}')
        assert [await stranger.receive_until("never") for stranger in (silent, noisy)] == [
            None,
            None,
        ]
        assert time.monotonic() - began >= 0.5
        assert silent.is_closed
        assert noisy.is_closed
        assert await hers.is_alive()
    await ann.close()


async def authenticated_in_time(user: User, stack: contextlib.AsyncExitStack) -> RawSocket:
    """Return a socket that has sent its token. It is gone if that took too long."""
    socket = await stack.enter_async_context(raw_socket(user))
    await socket.is_alive()
    return socket


@pytest.mark.timeout(600)  # the socket buffers hold megabytes and must fill first
async def test_a_client_that_does_not_read_is_dropped(start: ServiceMaker, database: Any) -> None:
    """A client that does not read is dropped after STALLED_TIMEOUT and costs little memory."""
    service = start(STALLED_TIMEOUT="1")
    bob, observer, *senders = (create_user(database, service) for _ in range(22))
    await observer.connect()
    with await asyncio.to_thread(a_socket_that_never_reads, bob):
        await until_dropped(senders, bob, observer)
    assert (await senders[0].send(bob, "hello"))["text"] == "hello"
    await asyncio.gather(*(someone.close() for someone in (bob, observer, *senders)))


@pytest.mark.timeout(600)
@pytest.mark.slow
async def test_a_client_that_reads_too_slowly_is_dropped(
    start: ServiceMaker, database: Any
) -> None:
    """A client that reads more slowly than events arrive is dropped too."""
    service = start(STALLED_TIMEOUT="300")  # long, so that only the slowness can be the reason
    bob, observer, *senders = (create_user(database, service) for _ in range(22))
    await observer.connect()
    with await asyncio.to_thread(a_socket_that_never_reads, bob) as plain:
        plain.setblocking(False)
        reading = asyncio.create_task(read_slowly(plain))
        await until_dropped(senders, bob, observer)
        reading.cancel()
    await asyncio.gather(*(someone.close() for someone in (bob, observer, *senders)))


async def read_slowly(plain: socket.socket) -> None:
    """Read about 20 KB a second, and answer pings, which keeps the connection open."""
    received = b"something"
    while received:
        received = await asyncio.get_running_loop().sock_recv(plain, 2048)
        await asyncio.get_running_loop().sock_sendall(plain, bytes([0x81, 0x81, 0, 0, 0, 0]) + b"3")
        await asyncio.sleep(0.1)  # the client is slow on purpose


async def until_dropped(senders: list[User], bob: User, observer: User) -> None:
    """Let all senders send long messages until the observer sees Bob offline."""
    await wait_until(lambda: is_online(observer, bob), "Bob to be online")
    service = psutil.Process(bob.service.process.pid)
    memory = service.memory_info().rss
    while await is_online(observer, bob):
        # Each text has 16 KB.
        await asyncio.gather(*(sender.send(bob, "\N{GRINNING FACE}" * 4000) for sender in senders))
    assert service.memory_info().rss - memory < 40 << 20


def a_socket_that_never_reads(user: User) -> socket.socket:
    """Return an authenticated websocket, by hand, with a small receive buffer."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.settimeout(LIMIT_S)
    plain.connect(("127.0.0.1", user.service.port))
    plain.sendall(
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    answer = b""
    while b"pingInterval" not in answer:  # the handshake, and the first packet of Engine.IO
        answer += plain.recv(4096)
    connect = f"40{json.dumps({'token': user.token})}".encode()
    # A masked text frame, with a mask of zeros.
    plain.sendall(bytes([0x81, 0x80 | len(connect), 0, 0, 0, 0]) + connect)
    return plain


async def test_both_transports_use_one_rate_limit(start: ServiceMaker, database: Any) -> None:
    """Requests and events of a user count together. The burst is twice the rate."""
    rate = 1.0
    service = start(RATE_LIMIT=str(rate))
    ann, bob = create_user(database, service), create_user(database, service)
    began = time.monotonic()
    await ann.connect()  # counts as one
    passed = 1
    for _ in range(6):
        passed += (await ann.http.get("/api/auth/me")).status_code == 200
        passed += bool((await ann.ask("typing", {"receiverId": bob.id, "typing": True}))["ok"])
    assert 2 * rate <= passed <= 2 * rate + rate * (time.monotonic() - began)
    assert (await bob.http.get("/api/auth/me")).status_code == 200
    await asyncio.gather(ann.close(), bob.close())


async def test_both_transports_report_the_rate_limit(start: ServiceMaker, database: Any) -> None:
    """Requests, events and connections are rejected, and accepted again after Retry-After."""
    service = start(RATE_LIMIT="1")
    ann = create_user(database, service)
    await ann.connect()

    async def code_of_event(event: str) -> object:
        return (
            (await ann.ask(event, {"receiverId": ann.id, "typing": True}))
            .get("error", {})
            .get("code")
        )

    async def code_of_connection() -> object:
        async with unauthenticated(service) as another:
            await another.send(f"40{json.dumps({'token': ann.token})}")
            answer = await another.receive_until("4") or ""
            return json.loads(answer[2:])["data"]["code"] if answer.startswith("44") else None

    for use, code in (
        ("an event", lambda: code_of_event("typing")),
        ("an unknown event", lambda: code_of_event("dropTables")),
        ("a connection", code_of_connection),
    ):
        await wait_until(
            code, f"{use} to be rejected", is_reached=lambda found: found == "rate_limited"
        )
    refused = await wait_until(
        lambda: ann.http.get("/api/auth/me"),
        "a request to be rejected",
        is_reached=lambda answer: answer.status_code != 200,
    )
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (
        429,
        "rate_limited",
        "1",
    )
    await asyncio.sleep(float(refused.headers["retry-after"]))  # the time the service asks for
    assert (await ann.http.get("/api/auth/me")).status_code == 200
    await ann.close()
