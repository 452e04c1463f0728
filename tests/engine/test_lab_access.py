"""The API of the page /lab: what each of its two keys permits, and what it shows."""

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import socketio
from http_clients import fetch, open_client
from live import User
from shared_service import LAB_KEY, SharedService, UserMaker
from waiting import LIMIT_S, wait_until

from chatlab.web.lab_access import is_loopback, viewer_key_of

LONG_TTL_S = 600
USUAL = {"cacheTtl": 5, "cacheMode": "window", "usualTtl": 5, "usualMode": "window"}


@pytest.fixture
async def presenter(shared: SharedService) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the key of the presenter."""
    async with open_client(shared.service.url, headers=bearer(LAB_KEY)) as client:
        yield client


@pytest.fixture
async def viewer(shared: SharedService) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the key of a viewer."""
    async with open_client(shared.service.url, headers=bearer(viewer_key_of(LAB_KEY))) as client:
        yield client


@pytest.fixture(scope="module")
def slow_cache(
    shared: SharedService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SharedService]:
    """A process whose keys do not expire while a slow test looks at them."""
    log = tmp_path_factory.mktemp("lab") / "service.log"
    with shared.another_process(log, CACHE_TTL=str(LONG_TTL_S)) as process:
        yield process


def users_of(events: list[dict[str, object]]) -> list[object]:
    """Return whose requests these are."""
    return [event["user"] for event in events if event["stage"] == "request"]


def window_of(shared: SharedService, one: User, other: User) -> str:
    """Return the key of the conversation of two users."""
    return f"{shared.prefix}messages:{':'.join(sorted((one.id, other.id)))}"


def bearer(token: str) -> dict[str, str]:
    """Return the header of a key or a token."""
    return {"authorization": f"Bearer {token}"}


async def open_stage(presenter: httpx.AsyncClient, shared: SharedService) -> list[User]:
    """Return the users of the page, logged in."""
    sessions = (await presenter.post("/api/lab/users")).json()
    return [
        User(
            shared.service,
            session["user"]["id"],
            session["token"],
            open_client(shared.service.url, headers=bearer(session["token"])),
        )
        for session in sessions
    ]


async def test_the_presenter_may_change_something_and_a_viewer_may_not(
    shared: SharedService, presenter: httpx.AsyncClient, viewer: httpx.AsyncClient
) -> None:
    """A viewer sees the settings, but not the key of the presenter."""
    mine = (await presenter.get("/api/lab/settings")).json()
    theirs = (await viewer.get("/api/lab/settings")).json()
    assert mine.items() >= (USUAL | {"canTurn": True, "role": "presenter"}).items()
    assert theirs == mine | {"canTurn": False, "role": "viewer", "viewerKey": None}
    assert mine["viewerKey"] == viewer_key_of(LAB_KEY)
    for method, path in (
        ("POST", "/api/lab/users"),
        ("PUT", "/api/lab/settings"),
        ("GET", "/api/lab/values?key=messages:ada:ben"),
    ):
        answer = await viewer.request(method, path, json={"cacheMode": "off"})
        assert answer.status_code == 403, path
    async with open_client(shared.service.url, headers=bearer("wrong")) as stranger:
        for method, path in (("GET", "/api/lab/settings"), ("POST", "/api/lab/users")):
            assert (await stranger.request(method, path)).status_code == 401
    for wrong in ({"cacheTtl": 0}, {"cacheTtl": "9"}, {"cacheTtl": 1e9}, {"cacheMode": "fast"}):
        assert (await presenter.put("/api/lab/settings", json=wrong)).status_code == 422


async def test_a_user_on_another_machine_may_only_watch() -> None:
    """Programs on the machine of the service change settings with the token of a user."""
    for address in ("127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"):
        assert is_loopback(address), address
    for address in ("10.0.0.7", "172.17.0.1", "::ffff:10.0.0.7", "2001:db8::1", "localhost", ""):
        assert not is_loopback(address), address


async def test_the_users_of_the_page_are_in_no_list(
    shared: SharedService, presenter: httpx.AsyncClient, new_user: UserMaker
) -> None:
    """They are the same at each opening, and no one can log in to them or sign up as them."""
    ann = new_user()
    first, again = await open_stage(presenter, shared), await open_stage(presenter, shared)
    assert [user.id for user in first] == [user.id for user in again]
    assert first[0].id.startswith("ada")
    listed = {row["id"] for row in (await ann.http.get("/api/users")).json()}
    assert listed.isdisjoint(user.id for user in first)
    body = {"username": first[0].id, "password": "correct horse battery"}
    assert (await ann.http.post("/api/auth/login", json=body)).status_code == 401
    assert (await ann.http.post("/api/auth/signup", json=body)).status_code == 409
    for user in (*first, *again):
        await user.close()


async def test_a_name_that_somebody_has_gets_a_number(
    shared: SharedService, tmp_path: Path
) -> None:
    """The page does not take over the account of a real user."""
    name = f"{shared.database.name}-named"
    with shared.another_process(tmp_path / "named.log", DATABASE=name) as other:
        async with open_client(other.service.url) as http:
            body = {"username": "ada", "password": "correct horse battery"}
            assert (await http.post("/api/auth/signup", json=body)).status_code == 201
            sessions = await http.post("/api/lab/users", headers=bearer(LAB_KEY))
        ids = [session["user"]["id"] for session in sessions.json()]
        assert ids == ["ada-2", "ben", "crowd-1", "crowd-2", "reader-1", "reader-2"]
    shared.database.client.drop_database(name)


async def test_a_key_opens_to_its_value_only_for_the_users_of_the_page(
    slow_cache: SharedService,
) -> None:
    """The value is what Redis has. Messages of other users are not shown."""
    async with open_client(slow_cache.service.url, headers=bearer(LAB_KEY)) as presenter:
        ada, ben, *crowd = await open_stage(presenter, slow_cache)
        sent = await ada.send(ben, "hello")
        message = f"{slow_cache.prefix}message:{sent['_id']}"
        window = window_of(slow_cache, ada, ben)
        ann, bob = slow_cache.create_user(), slow_cache.create_user()
        secret = await ann.send(bob, "secret")
        others = f"message:{secret['_id']}", "sweeping", "nothing"
        keys = [message, window, *(f"{slow_cache.prefix}{key}" for key in others), "nothing"]
        found = (await presenter.get("/api/lab/values", params={"key": keys})).json()
        assert set(found) == {message, window}
        assert (found[message]["type"], json.loads(found[message]["value"][0])) == ("string", sent)
        assert (found[window]["type"], json.loads(found[window]["value"][-1])) == ("list", sent)
        for user in (ada, ben, *crowd, ann, bob):
            await user.close()


async def test_a_viewer_sees_only_the_conversation_of_the_page(slow_cache: SharedService) -> None:
    """The class sees the number of keys, but not which users write to each other."""
    async with (
        open_client(slow_cache.service.url, headers=bearer(LAB_KEY)) as presenter,
        open_client(slow_cache.service.url, headers=bearer(viewer_key_of(LAB_KEY))) as viewer,
    ):
        ada, ben, *crowd = await open_stage(presenter, slow_cache)
        ann, bob = slow_cache.create_user(), slow_cache.create_user()
        await ada.send(ben, "hello")
        await ann.send(bob, "secret")
        every, shown = [(await one.get("/api/lab/keys")).json() for one in (presenter, viewer)]
        assert set(every["keys"]) >= {
            window_of(slow_cache, ada, ben),
            window_of(slow_cache, ann, bob),
        }
        assert list(shown["keys"]) == [window_of(slow_cache, ada, ben)]
        assert shown["live"] == every["live"] >= 4
        for user in (ada, ben, *crowd, ann, bob):
            await user.close()


async def test_a_key_opens_the_flow_without_an_account(
    shared: SharedService, presenter: httpx.AsyncClient
) -> None:
    """Both keys receive the stage events, which say whose request it is. Other keys do not."""
    ada, ben, *crowd = await open_stage(presenter, shared)
    async with contextlib.AsyncExitStack() as stack:
        received = []
        for key in (LAB_KEY, viewer_key_of(LAB_KEY)):
            events: list[dict[str, object]] = []
            client = socketio.AsyncClient(reconnection=False)
            client.on("flow", events.append, namespace="/flow")
            await client.connect(
                shared.service.url,
                auth={"token": key},
                namespaces=["/flow"],
                transports=["websocket"],
                wait_timeout=int(LIMIT_S),
            )
            stack.push_async_callback(client.disconnect)
            received.append(events)
        await ada.send(ben, "hello")
        for events in received:
            await wait_until(partial(users_of, events), "the request")
            assert users_of(events) == [ada.id]
    for user in (ada, ben, *crowd):
        await user.close()


async def test_processes_that_share_a_cache_keep_their_settings(
    shared: SharedService, presenter: httpx.AsyncClient, tmp_path: Path
) -> None:
    """A change would reach only one of them. The one that does not sweep shows a sentence about it."""
    with shared.another_process(tmp_path / "second.log", KEY_PREFIX=shared.prefix) as second:
        address, headers = f"{shared.service.url}/api/lab/settings", bearer(LAB_KEY)
        await wait_until(
            lambda: not fetch(address, headers=headers).json()["canTurn"],
            "the service to notice the second process",
        )
        answer = await presenter.put("/api/lab/settings", json={"cacheMode": "off"})
        assert answer.status_code == 409
        assert (await presenter.get("/api/lab/settings")).json()["sweeper"] == "here"
        await wait_until(
            lambda: fetch(f"{second.service.url}/api/lab/settings", headers=headers).json()[
                "sweeper"
            ],
            "the second process to notice that the first one sweeps",
            is_reached=lambda place: place == f"process {shared.service.process.pid}",
        )


async def test_the_page_exists_only_with_the_flow(shared: SharedService, tmp_path: Path) -> None:
    """Without CHATLAB_FLOW, neither the page nor its API exists."""
    with shared.another_process(tmp_path / "quiet.log", FLOW="0") as quiet:
        for path in ("/lab", "/api/lab/settings", "/api/lab/keys"):
            answer = fetch(f"{quiet.service.url}{path}", headers=bearer(LAB_KEY))
            assert answer.status_code == 404


async def test_serve_prints_both_addresses(shared: SharedService, tmp_path: Path) -> None:
    """Each address opens the page with its role."""
    with shared.another_process(tmp_path / "printed.log", LAB_KEY="") as other:
        lines = (tmp_path / "printed.log").read_text().splitlines()
        printed = [line.split()[-1] for line in lines if "live diagram" in line]
        assert all(address.startswith(f"{other.service.url}/lab#key=") for address in printed)
        roles = [
            fetch(
                f"{other.service.url}/api/lab/settings",
                headers=bearer(address.partition("key=")[2]),
            ).json()["role"]
            for address in printed
        ]
        assert roles == ["presenter", "viewer"]
