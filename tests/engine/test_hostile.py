"""Invalid and hostile input at both transports.

Whatever a client sends, there is no 5xx, no document changes, no response repeats the input, and
the next request works.
"""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx
import pytest
from http_clients import fetch
from live import JSON, User
from raw_socket import raw_socket
from shared_service import SharedService, UserMaker
from waiting import LIMIT_S, wait_until

MARKER = "zebra7marker"  # part of every input, and never of a response
NESTING = 100_000

pytest_plugins = ["patient_plugin"]


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """A service whose answers do not depend on the speed of the machine."""
    return patient_shared


VALUES: dict[str, str] = {  # JSON texts, used instead of a name, an id or a text
    "lone surrogate": f'"{MARKER}\\ud800"',
    "surrogates the wrong way round": f'"\\udc00\\ud800{MARKER}"',
    "NaN": "NaN",
    "Infinity": "Infinity",
    "minus Infinity": "-Infinity",
    "2^63": str(2**63),
    "2^64": str(2**64),
    "minus 2^63 - 1": str(-(2**63) - 1),
    "a number of 5000 digits": "9" * 5000,
    "1e999": "1e999",
    "a float": "1.5",
    "minus one": "-1",
    "true": "true",
    "an operator": f'{{"$gt": "{MARKER}"}}',
    "a where clause": f'{{"$where": "sleep(9) || \'{MARKER}\'"}}',
    "a regex": f'{{"$regex": ".*{MARKER}"}}',
    "a list": f'["{MARKER}"]',
    "__proto__": f'{{"__proto__": {{"admin": "{MARKER}"}}}}',
    "unfinished string": f'"{MARKER}',
    "a bad escape": f'"\\x{MARKER}"',
    "a raw newline": f'"{MARKER}\n"',
    "a raw NUL": f'"{MARKER}\x00"',
}

NAMES: dict[str, str] = {  # strings that are not a valid user id
    "a pair": f"{MARKER}:b",
    "a star": f"*{MARKER}*",
    "a brace": f"{{{MARKER}}}",
    "a bracket": f"[{MARKER}]",
    "a newline": f"{MARKER}\n",
    "CRLF": f"{MARKER}\r\nX-Forged: 1",
    "NUL": f"{MARKER}\x00",
    "a dollar": f"${MARKER}",
    "dots": f"a.{MARKER}.b",
    "a path": f"../../{MARKER}",
    "a key": f"message:{MARKER}",
    "a quote": f"{MARKER}'\"`",
    "a script": f"<script>{MARKER}</script>",
    "a template": f"${{jndi:{MARKER}}}{{{{7*7}}}}",
    "a format": f"{MARKER}%s%n{{0}}",
    "capitals": MARKER.upper(),
    "a Cyrillic letter": f"{MARKER}\u0430",
    "wide digits": f"{MARKER}\uff11",
    "right to left": f"{MARKER}\u202e",
    "33 letters": f"{MARKER}{'x' * 33}",
    "10,000 letters": f"{MARKER}{'x' * 10_000}",
    "nothing": "",
}

WHOLE: dict[str, bytes] = {  # complete bodies
    "nothing": b"",
    "blanks": b"   ",
    "not JSON": MARKER.encode(),
    "half of it": b'{"receiverId": "' + MARKER.encode(),
    "two of them": b'{"text": "x"} {"text": "' + MARKER.encode() + b'"}',
    "a list": b'["' + MARKER.encode() + b'"]',
    "null": b"null",
    "a number": b"1",
    "invalid UTF-8": b'{"receiverId": "\xff\xfe' + MARKER.encode() + b'"}',
    "UTF-16": json.dumps({"text": MARKER}).encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"text": "' + MARKER.encode() + b'"}',
    "gzip": b"\x1f\x8b\x08\x00" + MARKER.encode(),
    "deep lists": b"[" * 60_000,
    "deep lists that end": b"[" * 30_000 + b"]" * 30_000,
    "deep objects": b'{"a":' * 12_000 + b"1" + b"}" * 12_000,
    "a deep receiver": b'{"text": "x", "receiverId": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "100,000 levels": b"[" * NESTING + b"]" * NESTING,
    "1 MB": b'{"text": "' + MARKER.encode() + b"x" * 2**20 + b'"}',
    "a form": b"receiverId=" + MARKER.encode() + b"&text=x",
    "many fields": json.dumps({f"{MARKER}{n}": n for n in range(3000)}).encode(),
    "dotted keys": json.dumps(
        {"receiverId.$gt": MARKER, "$set": {"text": MARKER}, "a.b": 1}
    ).encode(),
}


def bodies(receiver: str) -> dict[str, bytes]:
    """Return bodies that are not a valid send request."""
    found = {f"{name} as a body": body for name, body in WHOLE.items()}
    fields = {"receiverId": f'"{receiver}"', "text": f'"{MARKER}"', "clientId": "null"}
    for name, place in itertools.product(VALUES, fields):
        parts = fields | {place: VALUES[name]}
        found[f"{name} as {place}"] = (
            "{" + ", ".join(f'"{key}": {value}' for key, value in parts.items()) + "}"
        ).encode("utf-8", "surrogatepass")
    for name, value in NAMES.items():
        found[f"{name} as receiverId"] = json.dumps({"receiverId": value, "text": MARKER}).encode()
    found["twice the receiver"] = (
        f'{{"receiverId": "{receiver}", "receiverId": ["{MARKER}"], "text": "x"}}'.encode()
    )
    return found


def paths() -> list[tuple[str, str]]:
    """Return the methods and paths of requests with an invalid path or query."""
    odd = [
        *NAMES.values(),
        "%",
        "%zz",
        "%ff%fe",
        "%00",
        "%2e%2e%2f",
        "%F0%28%8C%28",
        "%0d%0aX-Forged:%201",
        "a" * 30_000,
        "unknown;x=1",
        "send",
    ]
    quoted = [name if name.startswith("%") else quote(name, safe=";=") for name in odd]
    wrong = [("GET", f"/api/messages/{name}") for name in quoted] + [
        ("PATCH", f"/api/messages/{name}") for name in quoted
    ]
    emoji = [
        "$set",
        "a.b",
        "x",
        "%00",
        "%ff",
        "%F0%9F%91%8D%F0%9F%91%8D",
        "__proto__",
        "%F0%9F%91%8D." + MARKER,
    ]
    wrong += [
        (method, f"/api/messages/{'0' * 24}/reactions/{name}")
        for name in emoji
        for method in ("PUT", "DELETE")
    ]
    queries = [
        "limit=0",
        "limit=-1",
        f"limit={2**63}",
        f"limit={'9' * 5000}",
        "limit=1.5",
        "limit=NaN",
        f"limit={MARKER}",
        "limit=",
        "limit[$gt]=1",
    ]
    queries += [
        f"before={2**64}",
        "before=-1",
        f"after[{MARKER}]=1&after=x",
        "after=%ff",
        "after=1&after=x",
        "after=1e9",
        "before=0x10",
    ]
    return wrong + [
        ("GET", f"/api/messages/{{bob}}?{query}") for query in queries if query != "limit[$gt]=1"
    ]


HEADERS: list[dict[bytes, bytes]] = [
    {b"authorization": b"Bearer " + MARKER.encode()},
    {b"authorization": b"Bearer \xff\xfe\x80" + MARKER.encode()},
    {b"authorization": b"Bearer " + b"x" * 20_000},
    {b"authorization": b'Bearer {"$gt": ""}'},
    {b"authorization": b"Basic " + MARKER.encode()},
    {b"authorization": b"Bearer"},
]


@pytest.fixture
async def two(shared: SharedService, new_user: UserMaker) -> AsyncIterator[tuple[User, User]]:
    """Two users with a message. At the end, MongoDB must still hold the same documents."""
    ann, bob = new_user(), new_user()
    await ann.send(bob, "hello")
    before = shared.everything()
    yield ann, bob
    assert shared.everything() == before


def assert_rejected(answer: httpx.Response, case: object) -> None:
    """Check that the response is a 4xx, and that neither body nor headers repeat the input."""
    assert 400 <= answer.status_code < 500, (case, answer.status_code, answer.text[:300])
    assert MARKER not in answer.text.lower(), (case, answer.text[:300])
    assert MARKER not in str(answer.headers).lower(), (case, answer.headers)
    assert "x-forged" not in answer.headers, case
    if answer.headers.get("content-type") == "application/problem+json":
        assert answer.json()["status"] == answer.status_code


async def assert_still_served(user: User) -> None:
    """Check that an ordinary request works."""
    assert (await user.http.get("/api/auth/me")).json()["id"] == user.id


async def test_invalid_bodies_of_a_send(two: tuple[User, User]) -> None:
    """Every body that is not a valid send request is rejected with a problem."""
    ann, bob = two
    count = 0
    for case, body in bodies(bob.id).items():
        if case == "null as clientId":  # the only valid one
            continue
        answer = await ann.http.post("/api/messages/send", content=body, headers=JSON)
        assert_rejected(answer, case)
        assert answer.json()["code"] in ("invalid", "too_large", "not_found"), case
        await assert_still_served(ann)
        count += 1
    assert count >= 100


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/auth/signup"),
        ("POST", "/api/auth/login"),
        ("PATCH", "/api/messages/{message}"),
        ("POST", "/api/messages/{bob}/read"),
    ],
)
async def test_invalid_bodies_of_other_requests(
    shared: SharedService, two: tuple[User, User], method: str, path: str
) -> None:
    """The other requests with a body reject invalid bodies too."""
    ann, bob = two
    message = (await ann.read(bob)).json()[0]["_id"]
    field = {"signup": "username", "login": "password", "read": "seq"}.get(
        path.rpartition("/")[2], "text"
    )
    more = (
        '"password": "long enough", '
        if field == "username"
        else '"username": "x", '
        if field == "password"
        else ""
    )
    wrong = dict(WHOLE) | {
        name: f'{{{more}"{field}": {value}}}'.encode("utf-8", "surrogatepass")
        for name, value in VALUES.items()
    }
    for case, body in wrong.items():
        assert_rejected(
            await ann.http.request(
                method, path.format(bob=bob.id, message=message), content=body, headers=JSON
            ),
            case,
        )
    await assert_still_served(ann)


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "",
        MARKER,
        "\xff",
    ],
)
async def test_another_content_type_is_rejected(two: tuple[User, User], kind: str) -> None:
    """A body with another content type than JSON is rejected, even if it is JSON."""
    ann, bob = two
    answer = await ann.http.post(
        "/api/messages/send",
        content=json.dumps({"receiverId": bob.id, "text": MARKER}),
        headers={b"content-type": kind.encode("latin-1")},
    )
    assert_rejected(answer, kind)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


async def test_invalid_paths(two: tuple[User, User]) -> None:
    """Every invalid path is rejected, in every encoding."""
    ann, bob = two
    for method, path in paths():
        url = httpx.URL(ann.service.url).copy_with(raw_path=path.replace("{bob}", bob.id).encode())
        answer = await ann.http.request(
            method, url, json={"text": MARKER} if method == "PATCH" else None
        )
        if len(path) < 20_000:
            assert_rejected(answer, (method, path[:80]))
        else:
            assert answer.status_code < 500
    await assert_still_served(ann)


async def test_unknown_query_parameters_are_ignored(two: tuple[User, User]) -> None:
    """Query parameters named like Python attributes or MongoDB operators have no effect."""
    ann, bob = two
    for query in (
        "cls=1",
        "self=1",
        "limit[$gt]=1",
        "__class__=x",
        "model_config=1",
        f"{MARKER}=1",
        "=",
        "&&",
        "%00=%00",
    ):
        answer = await ann.http.get(f"/api/messages/{bob.id}?{query}")
        assert answer.status_code == 200, query
        assert MARKER not in answer.text


async def test_invalid_tokens(two: tuple[User, User]) -> None:
    """An invalid Authorization header is rejected, whatever bytes it has."""
    ann, _ = two
    for headers in HEADERS:
        assert_rejected(await ann.http.get("/api/auth/me", headers=headers), headers)
    await assert_still_served(ann)


UPGRADE = (
    b"Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
)

RAW_MARKER = MARKER.encode()
USERS = b"GET /api/users HTTP/1.1\r\n"
LOGIN = b"POST /api/auth/login HTTP/1.1\r\nHost: localhost\r\n"

RAW_HTTP: dict[str, bytes] = {
    "no HTTP": RAW_MARKER + b"\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    "a bare byte": b"\x00",
    "raw bytes in the path": b"GET /api/messages/\xff\xfe"
    + RAW_MARKER
    + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a space in the path": b"GET /api/messages/a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no path": b"GET HTTP/1.1\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\n" + RAW_MARKER + b"\r\n\r\n",
    "a negative length": LOGIN + b"Content-Length: -1\r\n\r\n",
    "two lengths": LOGIN + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "a length and chunks": LOGIN
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a wrong chunk": LOGIN + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + RAW_MARKER + b"\r\n",
    "a huge chunk": LOGIN + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "a half request": LOGIN + b"Content-Length: 100\r\n\r\n{",
    "an upgrade to nothing": USERS
    + b"Host: localhost\r\nConnection: Upgrade\r\nUpgrade: "
    + RAW_MARKER
    + b"\r\n\r\n",
    "a websocket elsewhere": USERS
    + UPGRADE
    + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "a websocket without a key": b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n"
    + UPGRADE
    + b"\r\n",
    "an old Engine.IO": b"GET /socket.io/?EIO=3&transport="
    + RAW_MARKER
    + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an unknown session": b"GET /socket.io/?EIO=4&transport=polling&sid="
    + RAW_MARKER
    + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a raw websocket frame": b"\x81\xfe\xff\xff",
}


@pytest.mark.parametrize("case", RAW_HTTP)
async def test_raw_bytes(two: tuple[User, User], case: str) -> None:
    """Bytes that are not a request at most close their own connection.

    There is no 5xx, the response does not repeat the input, and other clients are served.
    """
    ann, _ = two
    reader, writer = await asyncio.open_connection("127.0.0.1", ann.service.port)
    writer.write(RAW_HTTP[case])
    if case in ("a bare byte", "a half request", "a huge chunk", "a raw websocket frame"):
        writer.write_eof()  # without the end of the stream, the service would wait for more
    try:
        async with asyncio.timeout(LIMIT_S):
            answer = await reader.read(4096)
    except ConnectionError:
        answer = b""
    writer.close()
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer
    assert MARKER.encode() not in answer
    if case == "no HTTP":
        assert_raw_problem(answer)
    await assert_still_served(ann)


@pytest.mark.parametrize(
    "head",
    [b"GET /", b"GET / HTTP/1.1\r\nX-Long: ", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10],
    ids=["address", "header", "headers"],
)
async def test_an_endless_head_is_rejected(two: tuple[User, User], head: bytes) -> None:
    """Request lines and headers of more than 64 KB are rejected: they cannot fill the memory."""
    ann, _ = two
    reader, writer = await asyncio.open_connection("127.0.0.1", ann.service.port)
    writer.write(head)
    more = b"X: y\r\n" * 1000 if head.endswith(b"\r\n") else b"x" * 6000
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            writer.write(more)
            await writer.drain()
    answer = b""
    async with asyncio.timeout(LIMIT_S):  # a service without a limit would wait for the rest
        with contextlib.suppress(
            ConnectionError
        ):  # the connection was reset before the answer arrived
            answer = await reader.read(4096)
    writer.close()
    if answer:
        assert_raw_problem(answer)
    await assert_still_served(ann)


def assert_raw_problem(answer: bytes) -> None:
    """Check that bytes which are not a request were answered with a problem, like other errors."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400"), answer
    assert b"content-type: application/problem+json" in head
    assert f"content-length: {len(body)}".encode() in head
    assert (json.loads(body)["status"], json.loads(body)["code"]) == (400, "invalid")


async def test_an_endless_body_is_rejected(two: tuple[User, User]) -> None:
    """An endless chunked body is rejected early, and not kept in memory."""
    ann, _ = two
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 200 << 20:
            sent += 65_536
            yield b"x" * 65_536

    try:
        answer = await ann.http.post("/api/messages/send", content=endless(), headers=JSON)
        assert answer.status_code == 413
    except httpx.TransportError:
        pass  # the service closed the connection while the client was writing
    assert sent < 50 << 20
    await assert_still_served(ann)


# --- sockets ---


def events(receiver: str, message: str) -> dict[str, str]:
    """Return frames of invalid events, each of which requests an acknowledgement."""
    found = {}
    for case, body in bodies(receiver).items():
        if (
            len(body) < 60_000
            and "UTF" not in case
            and "byte order" not in case
            and case not in ("null as clientId", "gzip as a body")
        ):
            found[case] = f'["sendMessage",{body.decode("utf-8", "replace")}]'
    for event, place, others in (
        ("editMessage", "text", {"messageId": message}),
        ("editMessage", "messageId", {"text": MARKER}),
        ("deleteMessage", "messageId", {}),
        ("addReaction", "emoji", {"messageId": message}),
        ("removeReaction", "messageId", {"emoji": MARKER}),
        ("markRead", "seq", {"userId": receiver}),
        ("markRead", "userId", {"seq": 0}),
        ("typing", "receiverId", {"typing": True}),
        ("typing", "typing", {"receiverId": receiver}),
    ):
        for name, value in VALUES.items():
            payload = json.dumps(others)[:-1] + (", " if others else "") + f'"{place}": {value}}}'
            if (name, place) != ("true", "typing"):
                found[f"{name} as {place} of {event}"] = f'["{event}",{payload}]'
    return found


INVALID_FRAMES: dict[
    str, tuple[str | bytes, ...]
] = {  # meaningless frames of Engine.IO and Socket.IO
    "an empty frame": ("",),
    "a word": (MARKER,),
    "a letter": ("x",),
    "an unknown packet": ("9",),
    "a wide digit": ("\uff14\uff12[]",),
    "base64": ("bAAAA" + MARKER,),
    "broken base64": ("b%",),
    "a message without a type": ("4",),
    "a message of an unknown type": ("49" + MARKER,),
    "a message that is JSON": ('4{"a":1}',),
    "a deep message": ("4" + "[" * 60_000,),
    "a ping": ("2", "2probe"),
    "a pong without a request": ("3", "3", "3probe"),
    "an upgrade": ("5",),
    "a noop": ("6",),
    "an open": ("0{}",),
    "an event without a list": ('42{"a":1}',),
    "an event without a name": ("42[]",),
    "an event named by a list": ('42[["sendMessage"],{}]',),
    "an event named by a number": ("42[5]",),
    "an event named null": ("42[null]",),
    "an event that is no JSON": ("42[" + MARKER,),
    "a deep event": ('42["sendMessage",' + "[" * 30_000 + "]" * 30_000 + "]",),
    "an event with a surrogate": ('42["sendMessage","\\ud800"]',),
    "an event with NaN": ('42["sendMessage",NaN]',),
    "an event for /flow": ('42/flow,["flow",{}]', '42/flow,1["connect"]'),
    "an event for elsewhere": ('42/nowhere,["sendMessage",{}]',),
    "an event named connect": ('42["connect",{"asgi.scope":{}},{"token":"' + MARKER + '"}]',),
    "an event named disconnect": ('42["disconnect","x"]',),
    "another connect": ('40{"token":"' + MARKER + '"}', "40", "40[]"),
    "a connect elsewhere": (
        "40/nowhere,",
        "40/flow,{}",
        "40/flow,[1]",
        '40/flow,{"token":{"$gt":""}}',
    ),
    "a connect with a long namespace": ("40/" + "x" * 60_000,),
    "a connect error": ('44{"message":"x"}',),
    "an ack without a request": ('430["x"]', "431[]", "43999999999999[]", "43[]"),
    "a huge ack id": ("42" + "9" * 150 + '["typing"]',),
    "an ack that is no list": ('431{"a":1}',),
    "a binary event": ('451-["sendMessage",{"_placeholder":true,"num":0}]',),
    "many attachments": ('45999999999-["x"]',),
    "a binary ack": ('461-["x"]',),
    "bytes": (b"\x00\x01\x02",),
    "bytes that are an event": (b'42["sendMessage",{}]',),
    "a disconnect from elsewhere": ("41/nowhere,", "41/flow,"),
    "65,537 bytes": ("42" + "x" * 65_535,),
    "1 MB": ("42" + "x" * 2**20,),
    "many at once": ("42[",) * 500,
}


async def test_invalid_events(two: tuple[User, User]) -> None:
    """An event with an invalid payload is rejected or ignored, and the socket stays connected."""
    ann, bob = two
    message = (await ann.read(bob)).json()[0]["_id"]
    await bob.connect()
    wrong = events(bob.id, message)
    async with raw_socket(ann) as raw:
        for number, (case, event) in enumerate(wrong.items(), 1000):
            await raw.send(f"42{number}{event}")
            assert await raw.is_alive(), case
            answers = [frame for frame in raw.frames if frame.startswith(f"43{number}[")]
            assert all(
                json.loads(answer[2 + len(str(number)) :])[0]["ok"] is False for answer in answers
            ), (case, answers)
        assert not any(MARKER in frame for frame in raw.frames)
    assert len(wrong) >= 100
    assert {name for name, _ in bob.events} <= {"onlineUsers", "presence"}


@pytest.mark.parametrize("case", INVALID_FRAMES)
async def test_invalid_frames(two: tuple[User, User], case: str) -> None:
    """A meaningless frame is ignored, or closes its socket.

    The input is not repeated, and other users are served.
    """
    ann, bob = two
    await bob.connect()
    async with raw_socket(ann) as raw:
        await raw.send(*INVALID_FRAMES[case])
        is_alive = await raw.is_alive()
        assert is_alive or raw.is_closed
        assert not any(MARKER in frame for frame in raw.frames)
    assert (await bob.ask("typing", {"receiverId": ann.id, "typing": True})) == {"ok": True}


async def test_after_invalid_frames_nobody_is_online(shared: SharedService) -> None:
    """Each of the sockets above is closed, and its user is offline."""

    def open_now() -> dict[str, str]:
        lines = fetch(f"{shared.service.url}/metrics").text.splitlines()
        counts = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: counts[name] for name in ("chatlab_sockets", "chatlab_users_here")}

    await wait_until(open_now, "no socket", is_reached=lambda now: set(now.values()) == {"0.0"})


async def test_there_was_no_internal_error(shared: SharedService) -> None:
    """In all tests above, the service had no internal error and did not log any input."""
    log = shared.service.log.read_text()
    assert "unexpected" not in log.lower()
    assert "Traceback" not in log
    assert MARKER not in log
