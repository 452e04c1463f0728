"""Who may do what, by HTTP and by Socket.IO, with the message in the cache and without.

The tests ask as a client without a token, as one with a wrong token, as an outsider (a user who is
not part of the conversation), as the other participant, and as the sender.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from http_clients import open_client
from live import JSON, PASSWORD, User
from raw_socket import unauthenticated
from shared_service import SharedService, UserMaker
from waiting import wait_until

from chatlab.sessions import hash_token

MISSING = "f" * 24
EMOJI = "\N{THUMBS UP SIGN}"
HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)  # quick to verify
ROLES = ("no token", "a wrong token", "outsider", "participant", "sender")

pytest_plugins = ["patient_plugin"]


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """A service whose answers do not depend on the speed of the machine."""
    return patient_shared


Statuses = tuple[int, int, int, int, int]  # one for each role

# Requests about one message that the sender sent to the participant.
MESSAGE_REQUESTS: dict[str, tuple[tuple[str, str, Any], Statuses]] = {
    "edit": (("PATCH", "/api/messages/{id}", {"text": "other"}), (401, 401, 404, 403, 200)),
    "delete": (("DELETE", "/api/messages/{id}", None), (401, 401, 404, 403, 200)),
    "react": (("PUT", f"/api/messages/{{id}}/reactions/{EMOJI}", None), (401, 401, 404, 200, 200)),
    "unreact": (
        ("DELETE", f"/api/messages/{{id}}/reactions/{EMOJI}", None),
        (401, 401, 404, 200, 200),
    ),
}

# Requests that every user with a session may make.
OWN_REQUESTS: dict[str, tuple[str, str, Any]] = {
    "me": ("GET", "/api/auth/me", None),
    "users": ("GET", "/api/users", None),
    "send": ("POST", "/api/messages/send", {"receiverId": "(the participant)", "text": "hello"}),
    "read": ("GET", "/api/messages/{participant}", None),
    "mark": ("POST", "/api/messages/{participant}/read", {"seq": 0}),
    "rename": ("PATCH", "/api/auth/me", {"displayName": "Ann"}),
    "sessions": ("GET", "/api/auth/sessions", None),
    "end others": ("DELETE", "/api/auth/sessions", None),
    "end one": ("DELETE", "/api/auth/sessions/{session}", None),
    "block": ("PUT", "/api/users/{somebody}/block", None),
    "unblock": ("DELETE", "/api/users/{somebody}/block", None),
    "mute": ("PUT", "/api/users/{somebody}/mute", None),
    "unmute": ("DELETE", "/api/users/{somebody}/mute", None),
    "change": ("POST", "/api/auth/password", {"current": PASSWORD, "new": f"new {PASSWORD}"}),
    "delete account": ("DELETE", "/api/auth/me", {"password": PASSWORD}),
    "log out": ("POST", "/api/auth/logout", None),
}

# Socket events about the same message, with the results for outsider, participant and sender.
EVENTS: dict[str, tuple[str, dict[str, Any], tuple[str, str, str]]] = {
    "edit": ("editMessage", {"text": "other"}, ("not_found", "forbidden", "ok")),
    "delete": ("deleteMessage", {}, ("not_found", "forbidden", "ok")),
    "react": ("addReaction", {"emoji": EMOJI}, ("not_found", "ok", "ok")),
    "unreact": ("removeReaction", {"emoji": EMOJI}, ("not_found", "ok", "ok")),
}


@dataclass
class Chat:
    """A conversation with one message, and an outsider."""

    shared: SharedService
    sender: User
    participant: User
    outsider: User
    message: dict[str, Any]

    def clients(self) -> list[httpx.AsyncClient]:
        """Return an HTTP client for each of ROLES."""
        url = self.shared.service.url
        no_token = open_client(url)
        wrong_token = open_client(
            url,
            headers={"authorization": "Bearer " + "x" * 43},
        )
        return [no_token, wrong_token, self.outsider.http, self.participant.http, self.sender.http]

    def prepare_cache(self, cache: str) -> None:
        """Check that the message is in Redis ("warm"), or delete its keys ("cold")."""
        keys = self.shared.keys_of(f"message:{self.message['_id']}")
        keys += self.shared.keys_of(f"messages:*{self.sender.id}*")
        if cache == "cold":
            self.shared.keys.delete("nothing", *(self.shared.prefix + key for key in keys))
        else:
            assert len(keys) == 2


@pytest.fixture
async def chat(shared: SharedService, new_user: UserMaker) -> Chat:
    """Create three users, and a message from the sender to the participant."""
    sender, participant, outsider = new_user(), new_user(), new_user()
    message = await sender.send(participant, "secret", clientId="c")
    return Chat(shared, sender, participant, outsider, message)


@pytest.mark.parametrize("cache", ["cold", "warm"])
@pytest.mark.parametrize("request_name", MESSAGE_REQUESTS)
async def test_a_request_is_allowed_by_role(chat: Chat, request_name: str, cache: str) -> None:
    """Both participants may react, only the sender may edit. A rejected request changes nothing."""
    (method, path, body), expected = MESSAGE_REQUESTS[request_name]
    clients = chat.clients()
    for role, client, status in zip(ROLES, clients, expected, strict=True):
        chat.prepare_cache(cache)
        before = chat.shared.everything()["messages"]
        answer = await client.request(method, path.format(id=chat.message["_id"]), json=body)
        assert answer.status_code == status, role
        assert "secret" not in answer.text or status == 200, role
        is_unchanged = chat.shared.everything()["messages"] == before
        assert is_unchanged == (status != 200 or request_name == "unreact"), role
        if cache == "warm":  # refill the window: the change may have dropped it
            await chat.sender.read(chat.participant)
    await asyncio.gather(*(client.aclose() for client in clients[:2]))


@pytest.mark.parametrize("cache", ["cold", "warm"])
@pytest.mark.parametrize("event", EVENTS)
async def test_an_event_is_allowed_by_role(chat: Chat, event: str, cache: str) -> None:
    """Socket events follow the same rules as HTTP requests."""
    name, more, expected = EVENTS[event]
    users = (chat.outsider, chat.participant, chat.sender)
    for user, code in zip(users, expected, strict=True):
        chat.prepare_cache(cache)
        ack = await user.ask(name, {"messageId": chat.message["_id"], **more})
        assert ("ok" if ack["ok"] else ack["error"]["code"]) == code
        assert ack["ok"] or "secret" not in str(ack)
        if cache == "warm":
            await chat.sender.read(chat.participant)


@pytest.mark.parametrize("request_name", OWN_REQUESTS)
async def test_every_request_requires_a_valid_token(
    chat: Chat, new_user: UserMaker, request_name: str
) -> None:
    """Without a valid token the reply is the same 401 for valid and for malformed input."""
    method, path, body = OWN_REQUESTS[request_name]
    clients, users = chat.clients()[:2], (chat.outsider, chat.participant, chat.sender)
    ids = {"participant": chat.participant.id, "somebody": new_user().id}
    urls = [path.format(**ids, session=hash_token(user.token)) for user in users]
    chat.shared.database["users"].update_many(
        {"_id": {"$in": [user.id for user in users]}}, {"$set": {"passwordHash": HASH}}
    )
    if body and "receiverId" in body:
        body = body | {"receiverId": chat.participant.id}
    before = chat.shared.everything()
    for client in clients:
        valid = await client.request(method, urls[0], json=body)
        malformed = await client.request(method, urls[0], content=b"\xff{", headers=JSON)
        assert [valid.status_code, malformed.status_code] == [401, 401]
        assert valid.content == malformed.content
    assert chat.shared.everything() == before
    for user, url in zip(users, urls, strict=True):
        assert (await user.http.request(method, url, json=body)).is_success
    await asyncio.gather(*(client.aclose() for client in clients))


@pytest.mark.parametrize("cache", ["cold", "warm"])
@pytest.mark.parametrize("request_name", MESSAGE_REQUESTS)
async def test_an_outsider_cannot_tell_whether_a_message_exists(
    chat: Chat,
    request_name: str,
    cache: str,
) -> None:
    """The reply for a message of others equals the reply for a missing one, byte for byte."""
    (method, path, body), _ = MESSAGE_REQUESTS[request_name]
    message_ids = (chat.message["_id"], MISSING)
    chat.prepare_cache(cache)
    paths = [path.format(id=one) for one in message_ids]
    others, missing = [await chat.outsider.http.request(method, one, json=body) for one in paths]
    assert others.status_code == 404
    assert others.content == missing.content
    assert without_date(others) == without_date(missing)
    event, more, _ = EVENTS[request_name]
    acks = [await chat.outsider.ask(event, {"messageId": one, **more}) for one in message_ids]
    assert acks[0] == acks[1]


def without_date(answer: httpx.Response) -> dict[str, str]:
    """Return the headers except the date."""
    return {name: value for name, value in answer.headers.items() if name != "date"}


@pytest.mark.parametrize("cache", ["cold", "warm"])
async def test_an_outsider_reads_nothing_of_a_conversation(chat: Chat, cache: str) -> None:
    """A user id in the path selects the reader's own conversation with that user."""
    chat.prepare_cache(cache)
    for other in (chat.sender, chat.participant):
        for fresh in (False, True):
            assert (await chat.outsider.read(other, fresh=fresh)).content == b"[]"
    assert (await chat.outsider.http.get("/api/conversations")).json()["items"] == []
    row = await chat.outsider.row_of(chat.sender)
    assert (row["lastMessage"], row["unread"]) == (None, 0)
    assert (await chat.sender.read(chat.participant)).json() == [chat.message]
    assert (await chat.participant.read(chat.sender)).json() == [chat.message]


async def test_the_client_id_of_another_user_gives_no_access(chat: Chat) -> None:
    """A send with the client id of another user's message creates a new message."""
    mine = await chat.outsider.send(chat.participant, "secret", clientId="c")
    answered = await chat.participant.send(chat.sender, "mine", clientId="c")
    assert (mine["senderId"], mine["seq"]) == (chat.outsider.id, 1)
    assert (answered["senderId"], answered["seq"]) == (chat.participant.id, 2)


async def test_events_of_an_unauthenticated_socket_are_ignored(chat: Chat) -> None:
    """They change nothing and get no acknowledgement. The next connection works."""
    before = chat.shared.everything()
    async with unauthenticated(chat.shared.service) as stranger:
        for namespace in ("", "/flow,"):
            request = f'{{"receiverId":"{chat.sender.id}","text":"x"}}'
            await stranger.send(f'42{namespace}1["sendMessage",{request}]')
            request = f'{{"messageId":"{chat.message["_id"]}"}}'
            await stranger.send(f'42{namespace}2["deleteMessage",{request}]')
        await stranger.send("40" + '{"token":"x"}')
        assert (await stranger.receive() or "").startswith("44")
    assert chat.shared.everything() == before
    await chat.participant.connect()
    await chat.sender.send(chat.participant, "hello")
    await wait_until(
        lambda: chat.participant.received("newMessage"),
        "the message to reach the participant's socket",
    )
