"""The HTTP contract: the response to each request, and the error responses."""

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
import socketio
from bson import ObjectId
from http_clients import open_client
from live import JSON, PASSWORD, User
from shared_service import SharedService, UserMaker, store_messages
from waiting import wait_until

from chatlab.search import PART_MESSAGES

EMOJI = "\N{THUMBS UP SIGN}"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
MESSAGE = [
    "_id",
    "seq",
    "version",
    "senderId",
    "receiverId",
    "text",
    "clientId",
    "reactions",
    "createdAt",
    "editedAt",
    "deletedAt",
    "replyTo",
]

pytest_plugins = ["patient_plugin"]


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """A service whose answers do not depend on the speed of the machine."""
    return patient_shared


def assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    """Check that a response is an RFC 9457 problem with exactly the fields of the contract."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert list(problem) == ["type", "title", "status", "detail", "code"]
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["type"].endswith(code)
    assert len(problem["title"]) > 3
    assert len(problem["detail"]) > 10


async def test_a_message_has_exactly_its_fields(new_user: UserMaker) -> None:
    """A new message has exactly the fields of the contract.

    The id has 24 hex digits, seq and version are 1, and the sender is the user of the session.
    Times have milliseconds and end in Z. The text is trimmed.
    """
    ann, bob = new_user(), new_user()
    answer = await ann.http.post(
        "/api/messages/send", json={"receiverId": bob.id, "text": " hello ", "clientId": "c1"}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["cache-control"] == "no-store"
    message = answer.json()
    assert list(message) == MESSAGE
    assert re.fullmatch(r"[0-9a-f]{24}", message.pop("_id"))
    assert TIME.fullmatch(message.pop("createdAt"))
    assert message == {
        "seq": 1,
        "version": 1,
        "senderId": ann.id,
        "receiverId": bob.id,
        "text": "hello",
        "clientId": "c1",
        "reactions": {},
        "editedAt": None,
        "deletedAt": None,
        "replyTo": None,
    }


async def test_seq_counts_for_both_participants_together(new_user: UserMaker) -> None:
    """In a conversation seq counts the messages of both senders. Each conversation starts at 1."""
    ann, bob, eve = new_user(), new_user(), new_user()
    steps = [(ann, bob), (bob, ann), (ann, eve), (ann, bob), (ann, ann), (bob, ann)]
    assert [(await one.send(other, "x"))["seq"] for one, other in steps] == [1, 2, 1, 3, 1, 4]
    both = [(await one.read(other)).json() for one, other in ((ann, bob), (bob, ann))]
    assert both[0] == both[1]


async def test_a_message_changes_as_the_contract_says(new_user: UserMaker) -> None:
    """Edits, reactions and deletions return the whole message.

    Each change adds one to the version. A request that changes nothing returns the message as it
    is. Both participants read the last version.
    """
    ann, bob = new_user(), new_user()
    sent = await ann.send(bob, "hello")
    url = f"/api/messages/{sent['_id']}"
    edited = (await ann.http.patch(url, json={"text": " better "})).json()
    assert edited == sent | {"text": "better", "version": 2, "editedAt": edited["editedAt"]}
    assert TIME.fullmatch(edited["editedAt"])
    reacted = (await bob.http.put(f"{url}/reactions/{EMOJI}")).json()
    assert reacted == edited | {"reactions": {EMOJI: [bob.id]}, "version": 3}
    assert (await bob.http.put(f"{url}/reactions/{EMOJI}")).json() == reacted
    both = (await ann.http.put(f"{url}/reactions/{EMOJI}")).json()
    assert both == reacted | {"reactions": {EMOJI: [bob.id, ann.id]}, "version": 4}
    one = (await bob.http.delete(f"{url}/reactions/{EMOJI}")).json()
    assert one == both | {"reactions": {EMOJI: [ann.id]}, "version": 5}
    none = (await ann.http.delete(f"{url}/reactions/{EMOJI}")).json()
    assert none == both | {"reactions": {}, "version": 6}
    assert (await ann.http.delete(f"{url}/reactions/{EMOJI}")).json() == none
    deleted = (await ann.http.delete(url)).json()
    assert deleted == none | {"text": "", "version": 7, "deletedAt": deleted["deletedAt"]}
    assert TIME.fullmatch(deleted["deletedAt"])
    assert (await ann.http.delete(url)).json() == deleted
    assert [(await reader.read(other)).json() for reader, other in ((ann, bob), (bob, ann))] == [
        [deleted],
        [deleted],
    ]


async def test_a_reply_names_its_original(shared: SharedService, new_user: UserMaker) -> None:
    """Both participants can read the original alone, from Redis and from MongoDB."""
    ann, bob, eve = new_user(), new_user(), new_user()
    original = await ann.send(bob, "which day?")
    reply = await bob.send(ann, "Monday", replyTo=original["_id"])
    assert reply["replyTo"] == original["_id"]
    assert (await ann.read(bob)).json() == (await ann.read(bob, fresh=True)).json()
    assert (await ann.read(bob, fresh=True)).json() == [original, reply]
    for reader, other in ((ann, bob), (bob, ann)):
        answer = await reader.http.get(f"/api/messages/{other.id}/{original['_id']}")
        assert (answer.status_code, answer.json()) == (200, original)
        shared.keys.delete(f"{shared.prefix}message:{original['_id']}")
    for reader, other in ((eve, ann), (ann, eve), (ann, ann)):
        path = f"/api/messages/{other.id}/{original['_id']}"
        assert_problem(await reader.http.get(path), 404, "not_found")


async def test_a_search_finds_the_newest_messages_with_a_text(
    shared: SharedService, new_user: UserMaker
) -> None:
    """Any part of a text is found, in capitals or not, and a page begins where the last one ended."""
    ann, bob, eve = new_user(), new_user(), new_user()
    texts = ["Zoë (1+1=2)?", *map(str, range(PART_MESSAGES)), "zoë, a.b", "ZOË again"]
    store_messages(shared.database, bob.id, ann.id, texts)
    await eve.send(ann, "zoë in another conversation")
    gone = await ann.send(bob, "zoë will be deleted")
    await ann.http.delete(f"/api/messages/{gone['_id']}")

    async def search(**asked: str | int) -> list[str]:
        answer = await ann.http.get(f"/api/messages/{bob.id}/search", params=asked)
        assert answer.status_code == 200, answer.text
        return [message["text"] for message in answer.json()]

    assert await search(query=" zoë") == ["ZOË again", "zoë, a.b", "Zoë (1+1=2)?"]
    assert await search(query="zoë", limit=2) == ["ZOË again", "zoë, a.b"]
    last = len(texts)
    assert await search(query="zoë", limit=1, before=last) == ["zoë, a.b"]
    assert await search(query="(1+1=2)?") == ["Zoë (1+1=2)?"]
    assert await search(query="a.b") == ["zoë, a.b"]
    assert await search(query="nothing like it") == []


@pytest.mark.parametrize(
    "asked",
    [{}, {"query": " "}, {"query": "x" * 101}, {"query": "\0"}, {"query": "x", "limit": 101}],
)
async def test_a_search_says_what_is_wrong(
    new_user: UserMaker, asked: dict[str, str | int]
) -> None:
    """A wrong query is invalid, and an unknown user is not found."""
    ann = new_user()
    assert_problem(
        await ann.http.get(f"/api/messages/{ann.id}/search", params=asked), 422, "invalid"
    )
    assert_problem(
        await ann.http.get("/api/messages/nobody-of-this-name/search?query=x"), 404, "not_found"
    )


async def test_changes_after_a_deletion_are_a_conflict(new_user: UserMaker) -> None:
    """A deleted message rejects edits and reactions, and does not change."""
    ann, bob = new_user(), new_user()
    sent = await ann.send(bob, "hello")
    url = f"/api/messages/{sent['_id']}"
    deleted = (await ann.http.delete(url)).json()
    assert_problem(await ann.http.patch(url, json={"text": "back"}), 409, "conflict")
    assert_problem(await bob.http.put(f"{url}/reactions/{EMOJI}"), 409, "conflict")
    assert (await bob.read(ann)).json() == [deleted]


async def test_concurrent_edits_each_get_a_version(new_user: UserMaker) -> None:
    """Ten concurrent edits create ten versions, and both participants read the last one."""
    ann, bob = new_user(), new_user()
    sent = await ann.send(bob, "0")
    url = f"/api/messages/{sent['_id']}"
    edits = [
        answer.json()
        for answer in await asyncio.gather(
            *(ann.http.patch(url, json={"text": str(n)}) for n in range(10))
        )
    ]
    assert sorted(edit["version"] for edit in edits) == list(range(2, 12))
    assert (await bob.read(ann)).json() == [max(edits, key=lambda edit: int(edit["version"]))]


async def test_users_are_sorted_by_their_last_message(new_user: UserMaker) -> None:
    """The list has the other users, the most recent conversation first, with the contract's fields.

    `unread` counts the messages of the other user above the reader's mark. `readUpTo` is the mark
    of the other user.
    """
    ann, bob, eve = new_user(), new_user(), new_user()
    await ann.send(eve, "to eve")
    await bob.send(ann, "one")
    await asyncio.sleep(0.002)  # createdAt has a resolution of one millisecond
    last = await bob.send(ann, "two")
    rows = (await ann.http.get("/api/users")).json()
    assert all(
        list(row)
        == [
            *("id", "displayName", "createdAt", "online", "unread", "lastMessage", "readUpTo"),
            *("muted", "blocked", "deleted"),
        ]
        for row in rows
    )
    assert rows[0] | {"createdAt": ""} == {
        "id": bob.id,
        "displayName": bob.id.title(),
        "createdAt": "",
        "online": False,
        "unread": 2,
        "lastMessage": last,
        "readUpTo": 0,
        "muted": False,
        "blocked": False,
        "deleted": False,
    }
    assert (rows[1]["id"], rows[1]["unread"], rows[1]["lastMessage"]["text"]) == (
        eve.id,
        0,
        "to eve",
    )
    assert ann.id not in [row["id"] for row in rows]
    assert {row["lastMessage"] for row in rows[2:]} == {None}
    marked = await ann.http.post(f"/api/messages/{bob.id}/read", json={"seq": 1})
    assert (marked.status_code, marked.content) == (204, b"")
    assert await unread(ann, bob) == 1
    await ann.http.post(f"/api/messages/{bob.id}/read", json={"seq": 2})
    await ann.http.post(f"/api/messages/{bob.id}/read", json={"seq": 1})  # a mark never moves back
    assert await unread(ann, bob) == 0
    assert await unread(bob, ann) == 0  # own messages do not count as unread
    assert (await bob.row_of(ann))["readUpTo"] == 2


async def unread(reader: User, other: User) -> int:
    """Return the number of unread messages that the list of users shows for `other`."""
    return int((await reader.row_of(other))["unread"])


ERRORS: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("GET", "/api/users", {"headers": {"authorization": ""}}, 401, "unauthenticated"),
    ("GET", "/api/users", {"headers": {"authorization": "Basic YTpi"}}, 401, "unauthenticated"),
    (
        "POST",
        "/api/auth/login",
        {"json": {"username": "unknown-user", "password": PASSWORD}},
        401,
        "unauthenticated",
    ),
    (
        "POST",
        "/api/messages/send",
        {"json": {"receiverId": "unknown-user", "text": "x"}},
        404,
        "not_found",
    ),
    ("GET", "/api/messages/unknown-user", {}, 404, "not_found"),
    ("PATCH", f"/api/messages/{'0' * 24}", {"json": {"text": "x"}}, 404, "not_found"),
    ("GET", "/api/unknown-route", {}, 404, "not_found"),
    ("GET", "/api/users/", {}, 404, "not_found"),
    ("PUT", "/api/users", {}, 405, "method_not_allowed"),
    ("POST", "/api/messages/send", {"content": "{"}, 422, "invalid"),
    ("POST", "/api/messages/send", {"content": ""}, 422, "invalid"),
    ("POST", "/api/messages/send", {"json": {}}, 422, "invalid"),
    ("GET", "/api/messages/UPPER", {}, 422, "invalid"),
    ("GET", "/api/messages/somebody?limit=0", {}, 422, "invalid"),
    ("GET", "/api/messages/somebody?before=-1", {}, 422, "invalid"),
    ("GET", "/api/messages/somebody?after=x", {}, 422, "invalid"),
    ("DELETE", "/api/messages/short", {}, 422, "invalid"),
    ("POST", "/api/messages/somebody/read", {"json": {"seq": None}}, 422, "invalid"),
    ("POST", "/api/messages/send", {"content": b"x" * 65_537}, 413, "too_large"),
    (
        "POST",
        "/api/messages/send",
        {"content": "{}", "headers": {"content-type": "text/plain"}},
        415,
        "unsupported_media_type",
    ),
]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/messages/somebody", "DELETE, GET, PATCH"),
        ("POST", "/api/messages/somebody/reactions/x", "DELETE, PUT"),
        ("TRACE", "/api/auth/login", "POST"),
        ("DELETE", "/healthz", "GET, HEAD"),
        ("PUT", "/static/chat/chat.js", "GET, HEAD"),
        ("PUT", "/", "GET, HEAD"),
    ],
)
async def test_a_405_lists_all_methods_of_the_path(
    new_user: UserMaker, method: str, path: str, allowed: str
) -> None:
    """`Allow` has the methods of every route with this path, not only those of the first one."""
    answer = await new_user().http.request(method, path)
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(("method", "path", "more", "status", "code"), ERRORS)
async def test_an_error_is_a_problem(
    new_user: UserMaker, method: str, path: str, more: dict[str, Any], status: int, code: str
) -> None:
    """Every error is a problem with the fields of the contract.

    A 401 names the authentication scheme; a 405 lists the allowed methods.
    """
    headers = more.get("headers", JSON if method == "POST" else {})
    answer = await new_user().http.request(method, path, **{**more, "headers": headers})
    assert_problem(answer, status, code)
    assert answer.headers["cache-control"] == "no-store"
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert ("allow" in answer.headers) == (status == 405)


async def test_the_largest_body_is_64_kb(new_user: UserMaker) -> None:
    """A body of 65,536 bytes is accepted; a larger one is rejected, with or without a length."""
    ann, bob = new_user(), new_user()
    body = f'{{"receiverId": "{bob.id}", "text": "hello"'.encode()
    fits = body + b" " * (65_535 - len(body)) + b"}"

    async def send(content: Any) -> httpx.Response:
        return await ann.http.post("/api/messages/send", content=content, headers=JSON)

    assert (await send(fits)).status_code == 200

    async def pieces() -> Any:
        for start in range(0, 2**20, 4096):
            yield b" " * 4096 if start else fits[:4096]

    assert_problem(await send(fits[:-1] + b" }"), 413, "too_large")
    assert_problem(await send(pieces()), 413, "too_large")


async def test_health_metrics_and_docs_need_no_token(shared: SharedService) -> None:
    """Health, metrics and OpenAPI need no token. OpenAPI has every request of the contract."""
    async with open_client(shared.service.url) as http:
        alive, ready = {"status": "ok"}, {"status": "ok", "mongodb": "up", "redis": "up"}
        for path, expected in (("/healthz", alive), ("/readyz", ready)):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()) == (200, expected)
            head = await http.head(path)
            assert (head.status_code, head.content) == (200, b"")
        metrics = await http.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain")
        assert "chatlab_reads_total" in metrics.text
        assert (await http.get("/docs")).status_code == 200
        paths = (await http.get("/openapi.json")).json()["paths"]
    requests = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert requests >= {
        "POST /api/auth/signup",
        "POST /api/auth/login",
        "POST /api/auth/logout",
        "GET /api/auth/me",
        "GET /api/users",
        "GET /api/conversations",
        "POST /api/messages/send",
        "GET /api/messages/{userId}",
        "PATCH /api/messages/{messageId}",
        "DELETE /api/messages/{messageId}",
        "PUT /api/messages/{messageId}/reactions/{emoji}",
        "DELETE /api/messages/{messageId}/reactions/{emoji}",
        "POST /api/messages/{userId}/read",
        "PATCH /api/auth/me",
        "DELETE /api/auth/me",
        "POST /api/auth/password",
        "GET /api/auth/sessions",
        "DELETE /api/auth/sessions",
        "DELETE /api/auth/sessions/{sessionId}",
        "PUT /api/users/{userId}/block",
        "DELETE /api/users/{userId}/block",
        "PUT /api/users/{userId}/mute",
        "DELETE /api/users/{userId}/mute",
        "GET /healthz",
        "GET /readyz",
    }


async def test_openapi_describes_the_responses(shared: SharedService) -> None:
    """Every request declares its statuses.

    429 and 503 declare `Retry-After`, a history declares `X-Cache`, and a message declares the
    format of its times.
    """
    async with open_client(shared.service.url) as http:
        api = (await http.get("/openapi.json")).json()
    declared = {
        f"{method.upper()} {path}": found["responses"]
        for path, methods in api["paths"].items()
        for method, found in methods.items()
    }
    done = {
        "POST /api/auth/signup": "201",
        "POST /api/auth/logout": "204",
        "DELETE /api/auth/me": "204",
        "POST /api/auth/password": "204",
        "DELETE /api/auth/sessions": "204",
        "DELETE /api/auth/sessions/{sessionId}": "204",
        "PUT /api/users/{userId}/block": "204",
        "DELETE /api/users/{userId}/block": "204",
        "PUT /api/users/{userId}/mute": "204",
        "DELETE /api/users/{userId}/mute": "204",
        "POST /api/messages/{userId}/read": "204",
    }
    for request, answers in declared.items():
        if " /api/" in request:
            assert set(answers) == {done.get(request, "200"), "429", "503", "default"}, request
            assert [list(answers[status].get("headers", ())) for status in ("429", "503")] == [
                ["Retry-After"]
            ] * 2
    readiness = {"$ref": "#/components/schemas/Readiness"}
    assert "status" in api["components"]["schemas"]["Readiness"]["required"]
    assert set(declared["GET /healthz"]) == {"200"}
    assert [
        declared["GET /readyz"][status]["content"]["application/json"]["schema"]
        for status in ("200", "503")
    ] == [readiness] * 2
    history = declared["GET /api/messages/{userId}"]["200"]
    assert list(history["headers"]) == ["X-Cache"]
    times = history["content"]["application/json"]["schema"]["items"]["properties"]
    assert [
        json.dumps(times[name]).count("date-time")
        for name in ("createdAt", "editedAt", "deletedAt")
    ] == [1, 1, 1]


async def test_metrics_count_requests(new_user: UserMaker) -> None:
    """The metrics count each send by transport, each read by outcome, and each error by code."""
    ann, bob = new_user(), new_user()
    before = await wait_until(
        lambda: metrics_of(ann),
        "the sockets of earlier tests to close",
        is_reached=lambda found: found["chatlab_sockets"] == 0,
    )
    await ann.send(bob, "one")
    await ann.send(bob, "two", transport="socket")
    await ann.read(bob)
    await ann.read(bob, fresh=True)
    await ann.send(bob, "")
    after = await metrics_of(ann)
    grown = {
        name: after[name] - before.get(name, 0)
        for name in after
        if after[name] != before.get(name, 0)
    }
    expected = {
        'chatlab_sends_total{door="http"}': 1,
        'chatlab_sends_total{door="socket"}': 1,
        'chatlab_reads_total{cache="hit"}': 1,
        'chatlab_reads_total{cache="bypass"}': 1,
        'chatlab_errors_total{code="invalid",door="http"}': 1,
        "chatlab_sockets": 1,
        request_count("GET", "/api/messages/{userId}", 200): 2,
        request_count("POST", "/api/messages/send", 200): 1,
        request_count("POST", "/api/messages/send", 422): 1,
        'chatlab_socket_event_seconds_count{event="sendMessage",result="ok"}': 1,
    }
    assert {name: grown.get(name) for name in expected} == expected


def request_count(method: str, route: str, status: int) -> str:
    """Return the name of the metric that counts these requests."""
    labels = f'method="{method}",route="{route}",status="{status}"'
    return f"chatlab_http_request_seconds_count{{{labels}}}"


async def test_metrics_have_routes_and_no_paths(new_user: UserMaker) -> None:
    """Names of users, unknown paths and unknown methods are no labels."""
    ann = new_user()
    before = await metrics_of(ann)
    for method, path in (
        ("PATCH", "/api/messages/0123456789abcdef01234567"),
        ("PROPFIND", f"/api/messages/{ann.id}"),
        ("GET", f"/nowhere/{ann.id}"),
        ("GET", "/static/chat/chat.js"),
    ):
        await ann.http.request(method, path)
    wanted = {
        name: before.get(name, 0) + 1
        for name in (
            request_count("PATCH", "/api/messages/{messageId}", 415),
            request_count("other", "/api/messages/{userId}", 405),
            request_count("GET", "unmatched", 404),
            request_count("GET", "page", 200),
        )
    }
    # A request is counted when it ends, which may be after its response has arrived.
    after = await wait_until(
        lambda: metrics_of(ann),
        "the counts",
        is_reached=lambda seen: all(seen.get(name, 0) >= count for name, count in wanted.items()),
    )
    assert not [name for name in after if ann.id in name or "PROPFIND" in name]


async def test_metrics_show_the_size_of_the_presence(
    shared: SharedService, new_user: UserMaker
) -> None:
    """One user with two sockets is one user online. A refused socket is counted by its code."""
    ann, stranger = new_user(), new_user()
    await ann.connect()
    await ann.connect()
    stranger.token = "no such token"
    before = await metrics_of(ann)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await stranger.connect()
    refused = 'chatlab_sockets_refused_total{code="unauthenticated"}'
    assert (await metrics_of(ann))[refused] == before.get(refused, 0) + 1
    await wait_until(
        lambda: metrics_of(ann),
        "one user online",
        is_reached=lambda found: (
            [found[f"chatlab_{name}"] for name in ("users_here", "users_online", "sockets")]
            == [1, 1, 2]
        ),
    )


async def metrics_of(user: User) -> dict[str, float]:
    """Return the values of all metrics by name and labels."""
    lines = (await user.http.get("/metrics")).text.splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


async def test_an_emoji_with_and_without_a_selector_is_one_reaction(new_user: UserMaker) -> None:
    """The reply has the spelling that Unicode recommends."""
    ann, bob = new_user(), new_user()
    path = f"/api/messages/{(await ann.send(bob, 'react!'))['_id']}/reactions"
    await ann.http.put(f"{path}/\u2764")
    both = (await bob.http.put(f"{path}/\u2764\ufe0f")).json()
    assert both["reactions"] == {"\u2764\ufe0f": [ann.id, bob.id]}
    one = (await ann.http.delete(f"{path}/\u2764\ufe0e")).json()
    assert one["reactions"] == {"\u2764\ufe0f": [bob.id]}
    thumb = (await ann.http.put(f"{path}/{EMOJI}\ufe0f")).json()
    assert thumb["reactions"] == one["reactions"] | {EMOJI: [ann.id]}


async def test_spellings_of_an_older_version_are_one_reaction(
    shared: SharedService, new_user: UserMaker
) -> None:
    """Older versions stored an emoji with and without a variation selector as two."""
    ann, bob = new_user(), new_user()
    message = await ann.send(bob, "react!")
    stored = {"\u2764": [bob.id], "\u2764\ufe0f": [ann.id, bob.id], EMOJI: []}
    shared.database["messages"].update_one(
        {"_id": ObjectId(message["_id"])}, {"$set": {"reactions": stored}}
    )
    (read,) = (await ann.read(bob, fresh=True)).json()
    assert read["reactions"] == {"\u2764\ufe0f": [bob.id, ann.id]}
    path = f"/api/messages/{message['_id']}/reactions"
    again = (await bob.http.put(f"{path}/\u2764")).json()
    assert (again["reactions"], again["version"]) == (read["reactions"], message["version"])
    assert (await bob.http.delete(f"{path}/\u2764")).json()["reactions"] == {
        "\u2764\ufe0f": [ann.id]
    }


async def test_a_message_has_at_most_fifty_emojis(
    shared: SharedService, new_user: UserMaker
) -> None:
    """A message accepts reactions with 50 different emojis. Users can still add to these 50."""
    ann, bob = new_user(), new_user()
    message = await ann.send(bob, "react!")
    kinds = [chr(0x1F400 + number) for number in range(51)]
    answers = [
        await ann.http.put(f"/api/messages/{message['_id']}/reactions/{kind}") for kind in kinds
    ]
    assert [answer.status_code for answer in answers] == [200] * 50 + [409]
    assert (
        await bob.http.put(f"/api/messages/{message['_id']}/reactions/{kinds[0]}")
    ).status_code == 200
