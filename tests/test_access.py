"""Who may do what, at both doors: nobody, an outsider, a participant, the sender; whether Redis knows the message or not."""

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from live import User
from raw_socket import unauthenticated
from shared_service import SharedService, UserMaker
from waiting import wait_until

MISSING = "f" * 24
EMOJI = "\N{THUMBS UP SIGN}"
WHO = ("no token", "a wrong token", "outsider", "participant", "sender")

pytest_plugins = ["patient_plugin"]


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """A service whose answers do not depend on the speed of the machine."""
    return patient_shared


Answers = tuple[int, int, int, int, int]  # of these five, in this order

# Requests about one message from the sender to the participant.
ABOUT_A_MESSAGE: dict[str, tuple[tuple[str, str, Any], Answers]] = {
    "edit": (("PATCH", "/api/messages/{id}", {"text": "other"}), (401, 401, 404, 403, 200)),
    "delete": (("DELETE", "/api/messages/{id}", None), (401, 401, 404, 403, 200)),
    "react": (("PUT", f"/api/messages/{{id}}/reactions/{EMOJI}", None), (401, 401, 404, 200, 200)),
    "unreact": (("DELETE", f"/api/messages/{{id}}/reactions/{EMOJI}", None), (401, 401, 404, 200, 200)),
}

# Requests that are about the session's own user, so that everybody who has one may make them.
ABOUT_ONESELF: dict[str, tuple[str, str, Any]] = {
    "me": ("GET", "/api/auth/me", None),
    "users": ("GET", "/api/users", None),
    "send": ("POST", "/api/messages/send", {"receiverId": "{participant}", "text": "hello"}),
    "read": ("GET", "/api/messages/{participant}", None),
    "mark": ("POST", "/api/messages/{participant}/read", {"seq": 0}),
    "log out": ("POST", "/api/auth/logout", None),
}

EVENTS: dict[str, tuple[str, dict[str, Any], tuple[str, str, str]]] = {  # for outsider, participant, sender
    "edit": ("editMessage", {"text": "other"}, ("not_found", "forbidden", "ok")),
    "delete": ("deleteMessage", {}, ("not_found", "forbidden", "ok")),
    "react": ("addReaction", {"emoji": EMOJI}, ("not_found", "ok", "ok")),
    "unreact": ("removeReaction", {"emoji": EMOJI}, ("not_found", "ok", "ok")),
}


@dataclass
class Scene:
    """A message from one to another, with an outsider looking on."""

    shared: SharedService
    sender: User
    participant: User
    outsider: User
    message: dict[str, Any]

    def clients(self) -> list[httpx.AsyncClient]:
        """The five of WHO."""
        url = self.shared.service.url
        nobody = httpx.AsyncClient(base_url=url)
        wrong = httpx.AsyncClient(base_url=url, headers={"authorization": "Bearer " + "x" * 43})
        return [nobody, wrong, self.outsider.http, self.participant.http, self.sender.http]

    def keep_warm(self, warmth: str) -> None:
        """Leave the message in Redis, or take all that Redis knows of it away."""
        keys = self.shared.keys_of(f"message:{self.message['_id']}") + self.shared.keys_of(f"messages:*{self.sender.id}*")
        if warmth == "cold":
            self.shared.keys.delete("nothing", *(self.shared.prefix + key for key in keys))
        else:
            assert len(keys) == 2


@pytest.fixture
async def scene(shared: SharedService, new_user: UserMaker) -> Scene:
    """A fresh one."""
    sender, participant, outsider = new_user(), new_user(), new_user()
    message = await sender.send(participant, "secret", clientId="c")
    return Scene(shared, sender, participant, outsider, message)


@pytest.mark.parametrize("warmth", ["cold", "warm"])
@pytest.mark.parametrize("request_name", ABOUT_A_MESSAGE)
async def test_who_may_touch_a_message(scene: Scene, request_name: str, warmth: str) -> None:
    """Nobody is unauthenticated, an outsider finds nothing, a participant reacts, the sender rewrites; the refused leave no trace."""
    (method, path, body), expected = ABOUT_A_MESSAGE[request_name]
    clients = scene.clients()
    for who, client, status in zip(WHO, clients, expected, strict=True):
        scene.keep_warm(warmth)
        before = scene.shared.everything()["messages"]
        answer = await client.request(method, path.format(id=scene.message["_id"]), json=body)
        assert answer.status_code == status, who
        assert "secret" not in answer.text or status == 200, who
        assert (scene.shared.everything()["messages"] == before) == (status != 200 or request_name == "unreact"), who
        if warmth == "warm":
            await scene.sender.read(scene.participant)  # fills what a change may have let go
    await asyncio.gather(*(client.aclose() for client in clients[:2]))


@pytest.mark.parametrize("warmth", ["cold", "warm"])
@pytest.mark.parametrize("event", EVENTS)
async def test_who_may_touch_a_message_by_socket(scene: Scene, event: str, warmth: str) -> None:
    """The same by events, for those who got in."""
    name, more, expected = EVENTS[event]
    for person, code in zip((scene.outsider, scene.participant, scene.sender), expected, strict=True):
        scene.keep_warm(warmth)
        ack = await person.ask(name, {"messageId": scene.message["_id"], **more})
        assert ("ok" if ack["ok"] else ack["error"]["code"]) == code
        assert ack["ok"] or "secret" not in str(ack)
        if warmth == "warm":
            await scene.sender.read(scene.participant)


@pytest.mark.parametrize("request_name", ABOUT_ONESELF)
async def test_nobody_does_anything(scene: Scene, request_name: str) -> None:
    """Without a living token every request is refused alike, before the input is looked at, and with one it is answered."""
    method, path, body = ABOUT_ONESELF[request_name]
    clients = scene.clients()
    url = path.format(participant=scene.participant.id)
    body = body and {
        name: value.format(participant=scene.participant.id) if isinstance(value, str) else value for name, value in body.items()
    }
    before = scene.shared.everything()["messages"]
    for client in clients[:2]:
        refused = [await client.request(method, url, json=body), await client.request(method, url, content=b"\xff{")]
        assert [answer.status_code for answer in refused] == [401, 401]
        assert refused[0].content == refused[1].content
    assert scene.shared.everything()["messages"] == before
    for client in clients[2:]:
        assert (await client.request(method, url, json=body)).is_success
    await asyncio.gather(*(client.aclose() for client in clients[:2]))


@pytest.mark.parametrize("warmth", ["cold", "warm"])
@pytest.mark.parametrize("request_name", ABOUT_A_MESSAGE)
async def test_what_is_not_yours_looks_like_what_is_not_there(scene: Scene, request_name: str, warmth: str) -> None:
    """An outsider gets for another's message, byte for byte, what anybody gets for one that does not exist."""
    (method, path, body), _ = ABOUT_A_MESSAGE[request_name]
    scene.keep_warm(warmth)
    others, missing = [
        await scene.outsider.http.request(method, path.format(id=message_id), json=body) for message_id in (scene.message["_id"], MISSING)
    ]
    assert others.status_code == 404
    assert others.content == missing.content
    assert without_date(others) == without_date(missing)
    event, more, _ = EVENTS[request_name]
    acks = [await scene.outsider.ask(event, {"messageId": message_id, **more}) for message_id in (scene.message["_id"], MISSING)]
    assert acks[0] == acks[1]


def without_date(answer: httpx.Response) -> dict[str, str]:
    """Its headers."""
    return {name: value for name, value in answer.headers.items() if name != "date"}


@pytest.mark.parametrize("warmth", ["cold", "warm"])
async def test_a_conversation_is_the_readers_own(scene: Scene, warmth: str) -> None:
    """Whoever asks for a conversation gets their own with that user: an outsider sees none of what two others wrote."""
    scene.keep_warm(warmth)
    for other in (scene.sender, scene.participant):
        for fresh in (False, True):
            assert (await scene.outsider.read(other, fresh=fresh)).content == b"[]"
    row = {row["id"]: row for row in (await scene.outsider.http.get("/api/users")).json()}[scene.sender.id]
    assert (row["lastMessage"], row["unread"]) == (None, 0)
    for reader, other in ((scene.sender, scene.participant), (scene.participant, scene.sender)):
        assert (await reader.read(other)).json() == [scene.message]


async def test_a_client_id_opens_no_other_conversation(scene: Scene) -> None:
    """Somebody else's client id is just a name: the outsider gets a message of their own."""
    mine = await scene.outsider.send(scene.participant, "secret", clientId="c")
    answered = await scene.participant.send(scene.sender, "mine", clientId="c")
    assert (mine["senderId"], mine["seq"]) == (scene.outsider.id, 1)
    assert (answered["senderId"], answered["seq"]) == (scene.participant.id, 2)


async def test_a_socket_without_a_session_is_nobody(scene: Scene) -> None:
    """Events of a websocket that was not let in do nothing and are not answered; the next connection works."""
    before = scene.shared.everything()
    async with unauthenticated(scene.shared.service) as stranger:
        for namespace in ("", "/flow,"):
            await stranger.send(f'42{namespace}1["sendMessage",{{"receiverId":"{scene.sender.id}","text":"x"}}]')
            await stranger.send(f'42{namespace}2["deleteMessage",{{"messageId":"{scene.message["_id"]}"}}]')
        await stranger.send("40" + '{"token":"x"}')
        assert (await stranger.receive() or "").startswith("44")
    assert scene.shared.everything() == before
    await scene.participant.connect()
    await scene.sender.send(scene.participant, "hello")
    await wait_until(lambda: scene.participant.heard("newMessage"), "the message to reach the participant's socket")
