"""The fast path answers its two routes exactly as FastAPI does, and counts each request once."""

from typing import Any

import httpx
import msgspec
import pytest
from live import JSON

from chatlab import create_app
from chatlab.domain.ids import UserId
from chatlab.domain.message import Message
from chatlab.domain.requests import Page
from chatlab.domain.trace import EventBus, Trace
from chatlab.errors import NotFound, RateLimited, StoreUnavailable, Unauthenticated
from chatlab.history import History
from chatlab.web.app import Chatlab
from chatlab.web.fast_path import FastPath

TOKEN = {"authorization": "Bearer valid"}
SEND = {"method": "POST", "url": "/api/messages/send", "headers": TOKEN}
READ = {"method": "GET", "url": "/api/messages/bob", "headers": TOKEN}
ERRORS = {"absent": NotFound("There is no such user."), "away": StoreUnavailable()}


class FakeSessions:
    """Knows two tokens, and counts the requests."""

    def __init__(self) -> None:
        self.admitted = 0

    async def admit(self, token: str) -> UserId:
        self.admitted += 1
        if token == "fast":
            raise RateLimited("You send too many requests.", 7)
        if token != "valid":
            raise Unauthenticated("The token is not valid.")
        return UserId("ann")


class FakeService:
    """Answers with what it was called with."""

    async def send(
        self,
        sender: str,
        receiver: str,
        text: str,
        client_id: str | None,
        trace: Trace,
        *,
        reply_to: str | None,
    ) -> Message:
        if receiver in ERRORS:
            raise ERRORS[receiver]
        return Message(
            id="0" * 24,
            seq=1,
            version=1,
            sender_id=sender,
            receiver_id=receiver,
            text=text,
            client_id=client_id,
            reactions={"\N{THUMBS UP SIGN}": ["bob"]},
            created_at="2026-01-31T12:00:00.123Z",
            edited_at=None,
            deleted_at=None,
            reply_to=reply_to,
        )

    async def read(
        self, reader: str, other: str, page: Page, *, fresh: bool, trace: Trace
    ) -> History:
        if other in ERRORS:
            raise ERRORS[other]
        shown = msgspec.json.encode([reader, other, page.limit, page.before, page.after])
        return History("bypass" if fresh else "hit", shown)


REQUESTS: dict[str, dict[str, Any]] = {
    "a send": SEND | {"json": {"receiverId": "bob", "text": " hello "}},
    "all characters": SEND
    | {"json": {"receiverId": "bob", "text": "".join(map(chr, range(0xD800)))[:4000]}},
    "a client id": SEND | {"json": {"receiverId": "bob", "text": "x", "clientId": "\U0001f408"}},
    "a reply": SEND | {"json": {"receiverId": "bob", "text": "x", "replyTo": "1" * 24}},
    "another content type": SEND
    | {"content": '{"receiverId": "bob", "text": "x"}', "headers": TOKEN | {"content-type": "x"}},
    "no content type": SEND | {"content": "{}"},
    "no content type and no token": SEND | {"content": "{}", "headers": {}},
    "a content type with parameters": SEND
    | {
        "content": '{"receiverId": "bob", "text": "x"}',
        "headers": TOKEN | {"content-type": "Application/JSON ; charset=utf-8"},
    },
    "a foreign origin": SEND
    | {
        "json": {"receiverId": "bob", "text": "x"},
        "headers": TOKEN | {"origin": "http://evil.test"},
    },
    "a foreign name": READ | {"headers": TOKEN | {"host": "evil.test"}},
    "no body": SEND | {"headers": TOKEN | JSON},
    "no JSON": SEND | {"content": "{", "headers": TOKEN | JSON},
    "NaN": SEND | {"content": '{"receiverId": "bob", "text": NaN}', "headers": TOKEN | JSON},
    "a lone surrogate": SEND
    | {"content": r'{"receiverId": "bob", "text": "\ud800"}', "headers": TOKEN | JSON},
    "wrong fields": SEND | {"json": {"receiverId": 1, "text": ""}},
    "a large body": SEND | {"content": b" " * 70_000, "headers": TOKEN | JSON},
    "a large body without a token": SEND | {"content": b" " * 70_000, "headers": JSON},
    "no such receiver": SEND | {"json": {"receiverId": "absent", "text": "x"}},
    "no MongoDB": SEND | {"json": {"receiverId": "away", "text": "x"}},
    "a read": READ,
    "a page": READ | {"params": {"limit": "5", "before": "9", "after": "0"}},
    "a parameter twice": READ | {"url": "/api/messages/bob?limit=1&limit=2&unknown=1"},
    "no-cache": READ | {"headers": TOKEN | {"cache-control": "max-age=0, No-Cache"}},
    "a wrong page": READ | {"params": {"limit": "0", "before": "x", "after": ""}},
    "a wrong partner": READ | {"url": "/api/messages/BOB"},
    "an absent partner": READ | {"url": "/api/messages/absent"},
    "no token": READ | {"headers": {}},
    "no token, wrong page": READ | {"headers": {}, "params": {"limit": "0"}},
    "another scheme": READ | {"headers": {"authorization": "Basic valid"}},
    "a scheme in capitals": READ | {"headers": {"authorization": "BEARER  valid "}},
    "an unknown token": READ | {"headers": {"authorization": "Bearer unknown"}},
    "too many requests": READ | {"headers": {"authorization": "Bearer fast"}},
    "another method": READ | {"method": "PUT"},
}


@pytest.mark.parametrize("case", REQUESTS)
async def test_the_fast_path_answers_as_fastapi_does(case: str) -> None:
    """Status, headers and body are the same with and without the fast path.

    Each request counts at most once towards the rate limit.
    """
    app = create_app()
    assert isinstance(app, Chatlab)
    websockets: Any = None
    sessions: Any = FakeSessions()
    service: Any = FakeService()
    app.state.sessions, app.state.service, app.state.events = sessions, service, EventBus()
    slow = await answer_of(app, case)
    admitted = sessions.admitted
    max_body_bytes = app.state.settings.max_body
    fast_path = FastPath(service, sessions, EventBus(), max_body_bytes=max_body_bytes)
    app.add_shortcuts(fast_path, websockets)
    assert await answer_of(app, case) == slow
    assert (admitted, sessions.admitted) in ((0, 0), (1, 2))


async def answer_of(app: Chatlab, case: str) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return the status, the headers and the body of the response to this request."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost"
    ) as http:
        answer = await http.request(**REQUESTS[case])
    return answer.status_code, sorted(answer.headers.multi_items()), answer.content
