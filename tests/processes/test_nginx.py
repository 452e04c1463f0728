"""The configuration of nginx in `deploy/nginx`, run by a real nginx in front of a real service."""

import json
import re
from collections.abc import Iterator
from urllib.parse import urljoin

import httpx
import pytest
import socketio
from http_clients import TLS, fetch, open_client
from live import PASSWORD
from nginx import running_nginx
from shared_service import SharedService, start_shared_service
from waiting import LIMIT_S, wait_until

from chatlab.local.engines import Engines

ANOTHER_ADDRESS = "127.0.0.2"  # of this machine too, but not a trusted proxy


@pytest.fixture(scope="module")
def behind(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    """Return a service that trusts nginx, and logs its requests."""
    log = tmp_path_factory.mktemp("behind") / "service.log"
    with start_shared_service(
        engines, log, TRUSTED_PROXIES="127.0.0.1", LOG_FORMAT="json", ACCESS_LOG="1"
    ) as shared:
        yield shared


@pytest.fixture(scope="module")
def root(behind: SharedService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of chatlab at the root of a site."""
    with running_nginx(
        tmp_path_factory.mktemp("root") / "nginx", "root.conf", behind.service
    ) as url:
        yield url


@pytest.fixture(scope="module")
def subpath(behind: SharedService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of chatlab under a path of a site."""
    folder = tmp_path_factory.mktemp("subpath") / "nginx"
    with running_nginx(folder, "subpath.conf", behind.service) as url:
        yield f"{url}/chat"


@pytest.fixture(params=["root", "subpath"])
def site(request: pytest.FixtureRequest) -> str:
    """Return both URLs, one after the other."""
    return str(request.getfixturevalue(request.param))


def test_every_file_of_a_page_is_found(site: str) -> None:
    """The addresses in the pages are relative, so they work under a path too."""
    for page in ("/", "/docs"):
        answer = fetch(site + page)
        assert answer.status_code == 200
        files = re.findall(r'(?:src|href)="([^"#]+)"', answer.text)
        assert files
        for file in files:
            assert fetch(urljoin(site + page, file)).status_code == 200, file


def test_the_path_without_a_slash_leads_to_the_page(subpath: str) -> None:
    """Relative addresses need the slash."""
    answer = fetch(subpath)
    assert answer.status_code == 301
    assert answer.headers["location"].endswith("/chat/")


async def test_both_transports_pass(site: str, behind: SharedService) -> None:
    """A browser on this site signs up, sends over both transports, and receives events."""
    origin = httpx.URL(site).copy_with(path="/")
    headers = {"origin": str(origin).rstrip("/"), "sec-fetch-site": "same-origin"}
    bob = behind.create_user()
    received: list[dict[str, str]] = []
    async with open_client(site, headers=headers) as http:
        account = {"username": f"via-{'subpath' if origin.path != '/' else 'root'}-{bob.id[:6]}"}
        signed_up = await http.post("/api/auth/signup", json=account | {"password": PASSWORD})
        assert signed_up.status_code == 201
        http.headers["authorization"] = f"Bearer {signed_up.json()['token']}"
        socket = socketio.AsyncClient(reconnection=False)
        socket.on("newMessage", received.append)
        await socket.connect(
            site,
            headers=headers,
            auth={"token": signed_up.json()["token"]},
            transports=["websocket"],
            socketio_path=f"{httpx.URL(site).path.rstrip('/')}/socket.io",
            wait_timeout=int(LIMIT_S),
        )
        sent = await http.post("/api/messages/send", json={"receiverId": bob.id, "text": "one"})
        ack = await socket.call(
            "sendMessage", {"receiverId": bob.id, "text": "two"}, timeout=LIMIT_S
        )
        await wait_until(lambda: received, "both events", is_reached=lambda seen: len(seen) == 2)
        read = await http.get(f"/api/messages/{bob.id}")
        await socket.disconnect()
    await bob.close()
    assert received == [sent.json(), ack["message"]] == read.json()
    assert read.headers["x-cache"] == "hit"


async def test_the_service_sees_the_address_of_the_client(root: str, behind: SharedService) -> None:
    """What a client claims in X-Forwarded-For and X-Request-ID does not count."""
    transport = httpx.AsyncHTTPTransport(local_address=ANOTHER_ADDRESS, verify=TLS)
    claims = {"x-forwarded-for": "203.0.113.9", "x-request-id": "mine"}
    async with open_client(root, transport=transport, headers=claims) as http:
        await http.get("/nowhere/else")

    def line() -> dict[str, str]:
        log = behind.service.log.read_text().splitlines()
        return next((json.loads(one) for one in log if "/nowhere/else" in one), {})

    found = await wait_until(line, "the line of the access log")
    assert found["client"] == ANOTHER_ADDRESS
    assert re.fullmatch("[0-9a-f]{32}", found["requestId"])


def test_metrics_are_not_public(site: str, behind: SharedService) -> None:
    """Prometheus asks the process itself."""
    assert fetch(f"{site}/metrics").status_code == 404
    assert fetch(f"{behind.service.url}/metrics").status_code == 200


def test_a_name_that_is_not_ours_is_refused(root: str) -> None:
    """Nginx passes the name on, so the service can protect browsers from DNS rebinding."""
    assert fetch(root, headers={"host": "evil.example.org"}).status_code == 421
