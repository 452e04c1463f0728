"""The log as JSON, the access log, and the ids that connect the lines of a request."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from http_clients import open_client
from live import Service
from shared_service import SharedService, meet, start_shared_service
from waiting import wait_until

from chatlab.local.engines import Engines

Line = dict[str, Any]


@pytest.fixture(scope="module")
def logging_service(
    engines: Engines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SharedService]:
    """Return a service that writes its log as JSON, with each request."""
    log = tmp_path_factory.mktemp("logs") / "service.log"
    with start_shared_service(engines, log, LOG_FORMAT="json", ACCESS_LOG="1") as shared:
        yield shared


def lines_of(service: Service) -> list[Line]:
    """Return the log. Each line, from the first one on, is a JSON object."""
    return [json.loads(line) for line in service.log.read_text().splitlines()]


async def access_line(service: Service, **fields: object) -> Line:
    """Wait for a line of the access log with these fields, and return it."""

    def found() -> list[Line]:
        return [
            line
            for line in lines_of(service)
            if line["logger"] == "chatlab.access" and fields.items() <= line.items()
        ]

    lines: list[Line] = await wait_until(found, f"a line with {fields}")
    return lines[0]


async def test_every_line_has_date_level_logger_process_and_message(
    logging_service: SharedService,
) -> None:
    """The greeting is JSON too. `pid` is the process that logs."""
    service = logging_service.service
    lines = lines_of(service)
    assert "chatlab" in lines[0]["message"]
    assert service.url in lines[0]["message"]
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["date"])
        assert line["level"] in ("INFO", "WARNING")
        assert line["logger"].startswith("chatlab.")
        assert line["pid"] == service.process.pid


async def test_a_request_has_one_line_with_the_id_of_the_proxy(
    logging_service: SharedService,
) -> None:
    """The line has the template of the route and the path, but neither the query nor the token."""
    user = logging_service.create_user()
    headers = {"x-request-id": "from-the-proxy"}
    answer = await user.http.get("/api/messages/bob%0A?limit=3&before=7", headers=headers)
    line = await access_line(logging_service.service, requestId="from-the-proxy")
    await user.close()
    assert answer.status_code == 422
    assert {name: line[name] for name in ("method", "path", "route", "status", "client")} == {
        "method": "GET",
        "path": "/api/messages/bob%0A",
        "route": "/api/messages/{userId}",
        "status": 422,
        "client": "127.0.0.1",
    }
    assert line["tookMs"] > 0
    assert line["message"] == f"GET /api/messages/bob%0A 422 in {line['tookMs']:g} ms"


@pytest.mark.parametrize("proposed", ["", "two words", '"}', "x" * 65])
async def test_a_strange_id_is_replaced(logging_service: SharedService, proposed: str) -> None:
    """A client cannot write what it wants into the log."""
    path = f"/nowhere/{len(proposed)}"
    async with open_client(logging_service.service.url) as http:
        await http.get(path, headers={"x-request-id": proposed})
    line = await access_line(logging_service.service, path=path)
    assert re.fullmatch("[0-9a-f]{32}", line["requestId"])
    assert (line["route"], line["status"]) == ("unmatched", 404)


async def test_an_event_of_a_socket_has_a_line(logging_service: SharedService) -> None:
    """The result is `ok`, or the code of the error. Each event has an id of its own."""
    alice, bob = logging_service.create_user(), logging_service.create_user()
    await meet(alice, bob)
    await alice.send(bob, "hello", transport="socket")
    await alice.send("nobody-of-this-name", "hello", transport="socket")
    lines = [
        await access_line(logging_service.service, event="sendMessage", result=result)
        for result in ("ok", "not_found")
    ]
    await alice.close()
    await bob.close()
    assert lines[0]["requestId"] != lines[1]["requestId"]
