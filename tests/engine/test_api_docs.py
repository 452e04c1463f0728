"""The page /docs and OpenAPI: their examples are what the service really answers."""

import functools
import html
import json
import re
import secrets
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_clients import open_client
from live import User
from shared_service import SharedService
from waiting import wait_until

from chatlab.sessions import hash_token
from chatlab.web.api_examples import (
    EXAMPLES,
    MESSAGE_ID,
    NEW_PASSWORD,
    SESSION_ID,
    TIME,
    TOKEN,
    Example,
)
from chatlab.web.bundles import STATIC

pytest_plugins = ["patient_plugin"]

ENDS_A_SESSION = ("DELETE /api/auth/sessions/{sessionId}", "POST /api/auth/logout")


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """A service whose answers do not depend on the speed of the machine."""
    return patient_shared


class Names:
    """Ada and Ben of the examples, with ids that no other test uses."""

    def __init__(self) -> None:
        self.suffix, self.message_id = secrets.token_hex(4), MESSAGE_ID

    def real(self, example: Any) -> Any:
        """Return an example with the ids of this run."""
        text = re.sub(r"\b(ada|ben)\b", rf"\1-{self.suffix}", json.dumps(example))
        return json.loads(text.replace(MESSAGE_ID, self.message_id))

    def plain(self, real: Any) -> Any:
        """Return what the service has answered with the ids, times and tokens of the examples."""
        text = json.dumps(real).replace(f"-{self.suffix}", "").replace(self.message_id, MESSAGE_ID)
        text = re.sub(r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"', f'"{TIME}"', text)
        text = re.sub(r'"[0-9a-f]{64}"', f'"{SESSION_ID}"', text)
        return json.loads(re.sub(r'("token": ")[\w-]{43}"', rf'\g<1>{TOKEN}"', text))


async def test_the_examples_of_openapi_are_what_the_service_answers(shared: SharedService) -> None:
    """Each request has an example, and its response differs only in ids, times and tokens."""
    names = Names()
    ben = shared.create_user(f"ben-{names.suffix}")
    shared.database["users"].update_one({"_id": ben.id}, {"$set": {"displayName": "Ben"}})
    agent = {"user-agent": "curl/8.14.1"}
    async with open_client(shared.service.url, headers=agent) as http:
        for example in EXAMPLES:
            if example.request in ENDS_A_SESSION:
                token = await log_in_again(http, names)
                headers = (
                    {"authorization": f"Bearer {token}"} if "logout" in example.request else {}
                )
                sessions: dict[str, str | int] = {"sessionId": hash_token(token)}
                example = example._replace(parameters=sessions)  # noqa: PLW2901
                assert (await ask(http, example, names, headers)).status_code == 204
                continue
            is_read = example.request.startswith("GET ")  # its answer may come a moment later
            found = await wait_until(
                functools.partial(answer_of, http, example, names),
                f"the answer of {example.request}",
                is_reached=example.response.__eq__ if is_read else is_any,
            )
            assert found == example.response, example.request
        api = (await http.get("/openapi.json")).json()
    described = {
        f"{method.upper()} {path}" for path, ways in api["paths"].items() for method in ways
    }
    without = {request for request in described if " /api/lab/" in request} | {"GET /metrics"}
    assert {example.request for example in EXAMPLES} == described - without
    problem = api["paths"]["/api/auth/me"]["get"]["responses"]["default"]["content"]
    missing = await ben.http.get(f"/api/messages/nobody-{names.suffix}")
    assert problem["application/problem+json"]["example"] == missing.json()
    await ben.close()


def is_any(_answer: Any) -> bool:
    """Accept any answer: such a request is sent once."""
    return True


async def ask(
    http: httpx.AsyncClient, example: Example, names: Names, headers: dict[str, str] | None = None
) -> httpx.Response:
    """Send the request of an example."""
    method, path = example.request.split()
    given = names.real(example.parameters)
    query = {name: value for name, value in given.items() if f"{{{name}}}" not in path}
    body = {} if example.body is None else {"json": names.real(example.body)}
    return await http.request(method, path.format(**given), params=query, headers=headers, **body)


async def answer_of(http: httpx.AsyncClient, example: Example, names: Names) -> Any:
    """Send the request of an example, and return the response with the ids of the examples."""
    answer = await ask(http, example, names)
    assert answer.is_success, answer.text
    found = None if answer.status_code == 204 else answer.json()
    if isinstance(found, dict) and "token" in found:
        http.headers["authorization"] = f"Bearer {found['token']}"
    if isinstance(found, dict) and "_id" in found:
        names.message_id = found["_id"]
    return names.plain(found)


async def log_in_again(http: httpx.AsyncClient, names: Names) -> str:
    """Return the token of a second session of Ada."""
    body = {"username": f"ada-{names.suffix}", "password": NEW_PASSWORD}
    return str((await http.post("/api/auth/login", json=body)).json()["token"])


# --- Socket.IO ------------------------------------------------------------------------------------


def events_of(table: str) -> dict[str, Any]:
    """Return the events in a table of the page, with their payloads."""
    page = (STATIC / "docs" / "index.html").read_text(encoding="utf-8")
    rows = page.partition(f'id="{table}"')[2].partition("</table>")[0]
    cells = re.findall(r"<tr><td>(\w+)</td><td>(.*?)</td>", rows)
    return {event: json.loads(html.unescape(payload)) for event, payload in cells}


async def test_the_events_of_the_page_are_those_of_the_service(shared: SharedService) -> None:
    """What Ada emits is acknowledged, and what Ben receives is as the page says."""
    names = Names()
    ada, ben = (shared.create_user(f"{name}-{names.suffix}") for name in ("ada", "ben"))
    await ben.connect()
    for event, payload in events_of("emitted").items():
        ack = await ada.ask(event, names.real(payload))
        assert ack["ok"], (event, ack)
        if event == "sendMessage":
            names.message_id = ack["message"]["_id"]
    await ben.connect()  # and learns that Ada is online
    await ben.wait_for_events("onlineUsers", 2)
    await ada.close()  # and is offline some seconds later
    await ben.wait_for_events("presence")
    await received_by(ben, names)
    await ben.close()


def received(user: User, event: str, names: Names) -> list[Any]:
    """Return the payloads that the user has received, with the ids of the examples."""
    return list(names.plain(user.received(event)))


def has(payload: Any, seen: list[Any]) -> bool:
    """Return whether this payload was among those seen."""
    return payload in seen


async def received_by(ben: User, names: Names) -> None:
    """Wait until Ben has received each event of the page, with this payload."""
    expected = events_of("received")
    assert expected.pop("resync").keys() == {"since"}  # comes only when events were lost
    for event, payload in expected.items():
        await wait_until(
            functools.partial(received, ben, event, names),
            f"{event} as the page says: {payload}",
            is_reached=functools.partial(has, payload),
        )


def test_the_page_describes_every_event() -> None:
    """These are the events that the service answers, and those that the chat page listens to."""
    answers = Path(STATIC.parent / "sockets.py").read_text(encoding="utf-8")
    assert sorted(events_of("emitted")) == sorted(re.findall(r'_answer\("(\w+)"', answers))
    connection = (STATIC / "chat" / "connection.js").read_text(encoding="utf-8")
    listened = connection.partition("EVENTS = ")[2].partition("]")[0]
    assert sorted(events_of("received")) == sorted(re.findall(r'"(\w+)"', listened))
