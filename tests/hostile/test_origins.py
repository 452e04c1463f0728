"""Requests that pages of other sites make a browser send: none of them changes anything."""

import asyncio
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_clients import open_client
from live import JSON, PASSWORD
from shared_service import SharedService, UserMaker
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from chatlab.settings import Settings
from chatlab.web.origin_check import OriginCheck

FOREIGN = "http://evil.test"
FRIEND = "https://chat.example.org"
NO_PREFLIGHT = [  # content types that a page may send to another origin without its permission
    None,
    "text/plain",
    "text/plain;application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
]


@pytest.fixture(scope="module")
def strict(shared: SharedService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A process that serves a name and an origin of its own, but neither docs nor metrics."""
    log: Path = tmp_path_factory.mktemp("strict") / "service.log"
    with shared.another_process(
        log,
        DOCS="0",
        METRICS="0",
        ALLOWED_HOSTS="chat.example.org, *.lan",
        ALLOWED_ORIGINS=FRIEND,
    ) as strict:
        yield strict


def sign_up() -> tuple[str, str]:
    """Return a new name, and a body that would sign it up."""
    name = f"drive-by-{secrets.token_hex(6)}"
    return name, json.dumps({"username": name, "password": PASSWORD})


def has_user(shared: SharedService, name: str) -> bool:
    """Return whether the sign-up has succeeded."""
    return shared.database["users"].find_one({"_id": name}) is not None


async def post(shared: SharedService, headers: dict[str, Any]) -> tuple[httpx.Response, bool]:
    """Sign a user up with these headers. Return the response, and whether the user exists."""
    name, body = sign_up()
    async with open_client(shared.service.url) as http:
        answer = await http.post("/api/auth/signup", content=body, headers=headers)
    return answer, has_user(shared, name)


@pytest.mark.parametrize("content_type", NO_PREFLIGHT)
async def test_a_body_must_be_declared_as_json(
    shared: SharedService, content_type: str | None
) -> None:
    """A page of another origin can send other bodies without asking, so they are rejected."""
    answer, exists = await post(shared, {"content-type": content_type} if content_type else {})
    assert (answer.status_code, exists) == (415, False)
    assert "application/json" in answer.json()["detail"]


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
async def test_json_may_have_parameters(shared: SharedService, content_type: str) -> None:
    """The case and the parameters of the content type do not matter."""
    answer, exists = await post(shared, {"content-type": content_type})
    assert (answer.status_code, exists) == (201, True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),  # a program
        ({"origin": "http://<host>"}, 201),
        ({"origin": "https://<host>"}, 201),  # a proxy has terminated TLS
        ({"origin": "https://<host>", "sec-fetch-site": "same-origin"}, 201),
        ({"origin": FOREIGN, "sec-fetch-site": "same-origin"}, 201),  # a proxy has changed Host
        ({"sec-fetch-site": "none"}, 201),
        ({"origin": FOREIGN}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://<host>.evil.test"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),  # another service of this machine
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": FOREIGN, "sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://<host>", "sec-fetch-site": "same-site"}, 403),
    ],
)
async def test_a_change_must_come_from_the_same_origin(
    shared: SharedService, headers: dict[str, str], status: int
) -> None:
    """What a browser says about the page decides; a program says nothing."""
    here = shared.service.url.removeprefix("http://")
    filled = {name: value.replace("<host>", here) for name, value in headers.items()}
    answer, exists = await post(shared, filled | JSON)
    assert (answer.status_code, exists) == (status, status == 201), answer.text
    if status == 403:
        assert answer.json()["code"] == "forbidden"
        assert "CHATLAB_ALLOWED_ORIGINS" in answer.json()["detail"]


async def test_every_method_that_changes_something_is_checked(
    shared: SharedService, new_user: UserMaker
) -> None:
    """The check does not depend on the route: it comes first, before the token and the path."""
    ann, bob = new_user(), new_user()
    message = await ann.send(bob, "hello")
    before = shared.everything()
    for method, path in (
        ("POST", "/api/messages/send"),
        ("PATCH", f"/api/messages/{message['_id']}"),
        ("DELETE", f"/api/messages/{message['_id']}"),
        ("PUT", f"/api/messages/{message['_id']}/reactions/\N{THUMBS UP SIGN}"),
        ("PUT", "/api/lab/settings"),
        ("POST", "/api/auth/logout"),
        ("POST", "/nowhere"),
    ):
        body = {"receiverId": bob.id, "text": "forged", "cacheTtl": 1}
        answer = await ann.http.request(method, path, json=body, headers={"origin": FOREIGN})
        assert answer.status_code == 403, (method, path)
        assert answer.headers["cache-control"] == "no-store"
    assert shared.everything() == before
    for method in ("GET", "HEAD"):  # reading is safe: the page cannot see the response
        answer = await ann.http.request(method, "/", headers={"origin": FOREIGN})
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_an_allowed_origin_may_change_something(strict: SharedService) -> None:
    """CHATLAB_ALLOWED_ORIGINS is for a proxy that changes Host; the comparison is exact."""
    for origin, status in (
        (FRIEND, 201),
        ("http://chat.example.org", 403),
        (f"{FRIEND}:8443", 403),
    ):
        site = {} if origin == FRIEND else {"sec-fetch-site": "cross-site"}
        answer, exists = await post(strict, JSON | {"origin": origin} | site)
        assert (answer.status_code, exists) == (status, status == 201), origin


HOSTS = [
    ("localhost", 200),
    ("LOCALHOST:1234", 200),
    ("app.localhost:8000", 200),
    ("localhost.", 200),
    ("192.0.2.7:8000", 200),
    ("[2001:db8::7]:8000", 200),
    ("evil.test", 421),
    ("127.0.0.1.evil.test", 421),
    ("localhost.evil.test:8000", 421),
    ("evil-localhost", 421),
    ("user@localhost", 421),
    ("x" * 5000, 421),
    ("chat.example.org", 421),
    ("pc.lan", 421),
]


@pytest.mark.parametrize("path", ["/", "/api/messages/bob", "/api/lab/settings", "/healthz"])
async def test_a_name_of_another_site_is_not_served(shared: SharedService, path: str) -> None:
    """With DNS rebinding, a page of another site is of the same origin; its name gives it away."""
    async with open_client(shared.service.url) as http:
        for host, status in HOSTS:
            answer = await http.get(path, headers={"host": host})
            assert (answer.status_code == 421) == (status == 421), (host, answer.text)
            if status == 421:
                assert answer.json()["code"] == "misdirected_request"
                assert "CHATLAB_ALLOWED_HOSTS" in answer.json()["detail"]
                assert host not in answer.text


async def test_the_settings_of_the_lab_are_safe_from_dns_rebinding(
    shared: SharedService, new_user: UserMaker
) -> None:
    """The page of the other site has an account and runs on the machine of the service."""
    ann = new_user()
    host = f"evil.test:{shared.service.port}"
    headers = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
    before = (await ann.http.get("/api/lab/settings")).json()
    answer = await ann.http.put("/api/lab/settings", json={"cacheTtl": 9}, headers=headers)
    assert answer.status_code == 421
    assert (await ann.http.get("/api/lab/settings")).json() == before


async def test_the_names_of_the_setting_are_served(strict: SharedService) -> None:
    """A star stands for names below a domain, not for the domain itself."""
    async with open_client(strict.service.url) as http:
        for host, status in [
            ("chat.example.org", 200),
            ("Chat.Example.ORG:443", 200),
            ("pc.lan", 200),
            ("a.b.lan", 200),
            ("lan", 421),
            ("notlan", 421),
            ("www.chat.example.org", 421),
            ("127.0.0.1", 200),
        ]:
            assert (await http.get("/", headers={"host": host})).status_code == status, host


@pytest.mark.parametrize(
    ("settings", "environment"),
    [
        (Settings(allowed_hosts="a.test, *"), {}),
        (Settings(), {"JUPYTERHUB_SERVICE_PREFIX": "/user/ann/"}),
    ],
)
def test_a_star_and_jupyterhub_allow_all_names(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, environment: dict[str, str]
) -> None:
    """On JupyterHub only the hub reaches the service, and it passes its own name on."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    scope = {"method": "GET", "chatlab.headers": {b"host": b"hub.example.org"}}
    assert OriginCheck(settings).refuse(scope) is None


def test_the_name_of_the_setting_host_is_served() -> None:
    """A service that listens on a name answers to it."""
    scope = {"method": "GET", "chatlab.headers": {b"host": b"chat.test:8000"}}
    assert OriginCheck(Settings(host="Chat.test")).refuse(scope) is None
    refusal = OriginCheck(Settings()).refuse(scope)
    assert refusal
    assert refusal.status_code == 421


def test_a_flood_of_names_is_forgotten() -> None:
    """The check remembers names that it has seen, but only a few of them."""
    check = OriginCheck(Settings(allowed_hosts="*.test"))
    for number in range(1000):
        scope = {"method": "GET", "chatlab.headers": {b"host": b"h%d.test" % number}}
        assert check.refuse(scope) is None
    assert check._is_ours.cache_info().currsize <= 256


@pytest.mark.parametrize(
    ("name", "origin", "status"),
    [("127.0.0.1", FOREIGN, 403), ("127.0.0.1", "null", 403), ("evil.test", FOREIGN, 421)],
)
async def test_a_page_of_another_site_opens_no_websocket(
    shared: SharedService, name: str, origin: str, status: int
) -> None:
    """The handshake is answered with a problem, and no socket is opened."""
    with pytest.raises(InvalidStatus) as refused:
        async with connect(
            f"ws://{name}:{shared.service.port}/socket.io/?EIO=4&transport=websocket",
            host="127.0.0.1",  # whatever the name is
            additional_headers={"origin": origin},
        ):
            pass
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"")["status"] == status


async def test_a_page_of_the_service_opens_a_websocket(
    shared: SharedService, strict: SharedService
) -> None:
    """Also one of an allowed origin, and a program, which has no origin."""
    allowed = [(shared, None), (shared, shared.service.url), (strict, FRIEND)]
    for at, origin in allowed:
        address = f"ws://127.0.0.1:{at.service.port}/socket.io/?EIO=4&transport=websocket"
        headers = {"origin": origin} if origin else {}
        async with connect(address, additional_headers=headers) as socket:
            assert str(await socket.recv()).startswith("0")


async def test_docs_and_metrics_can_be_switched_off(strict: SharedService) -> None:
    """With CHATLAB_DOCS=0 and CHATLAB_METRICS=0 they are not found."""
    async with open_client(strict.service.url) as http:
        paths = ("/docs", "/openapi.json", "/metrics", "/", "/healthz")
        answers = await asyncio.gather(*(http.get(path) for path in paths))
    assert [answer.status_code for answer in answers] == [404, 404, 404, 200, 200]
    assert answers[-1].headers["cache-control"] == "no-store"


async def test_what_was_rejected_is_logged_once(shared: SharedService) -> None:
    """The log says which setting would allow it, without the input of the client."""
    for headers in ({"origin": FOREIGN}, {"host": "evil.test"}):
        for _ in range(2):
            await post(shared, JSON | headers)
    log = shared.service.log.read_text()
    assert log.count("rejected a request") == 2
    assert "evil.test" not in log
