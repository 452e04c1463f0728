"""The HTTP door: parse, call the service, answer. The twin of `socket_api`; touches neither store nor cache.

The hot routes take the request as it is and give bytes back; what they ask and answer is declared for OpenAPI beside them.
"""

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import lru_cache
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette import types
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from chatlab import metrics
from chatlab.accounts import Accounts
from chatlab.domain.ids import UserId
from chatlab.domain.message import Message
from chatlab.domain.requests import LogIn, NewText, Page, Partner, React, ReadUpTo, Send, SignUp, Target
from chatlab.domain.requests import Request as Asked
from chatlab.domain.trace import EventBus, Trace
from chatlab.errors import ChatlabError, RateLimited, StoreUnavailable, TooLarge, Unauthenticated
from chatlab.service import History, Service

log = logging.getLogger(__name__)

STATUS = {
    "invalid": 422,
    "unauthenticated": 401,
    "not_found": 404,
    "forbidden": 403,
    "conflict": 409,
    "too_large": 413,
    "rate_limited": 429,
    "store_unavailable": 503,
}
PROBLEM = "application/problem+json"
PATIENCE = 16  # times the largest body: so much of a larger one is read, since a client that is cut off while it writes hears no answer
HOT = "/api/messages/"  # where the two hot routes are
NO_STORE = {"cache-control": "no-store"}
JSON_HEADERS = [(b"cache-control", b"no-store"), (b"content-type", b"application/json")]
FROM = {outcome: (b"x-cache", outcome.encode()) for outcome in metrics.READS}
FEW = 3  # pieces of a history from which on it is streamed
SHORT = 100  # bytes of a query string that is worth remembering

Endpoint = Callable[[Request], Awaitable[Response]]
Wanted = TypeVar("Wanted", bound=Asked)


class HttpApi:
    """The routes under `/api`. `end_sockets` closes the sockets of a token that has been logged out; `max_body` is in bytes."""

    def __init__(
        self, service: Service, accounts: Accounts, flow: EventBus, *, max_body: int, end_sockets: Callable[[str], Awaitable[None]]
    ) -> None:
        self._service, self._accounts, self._flow = service, accounts, flow
        self._max_body, self._end_sockets = max_body, end_sockets

    def router(self) -> APIRouter:
        """All routes, with what OpenAPI says of them."""
        routes = APIRouter(prefix="/api")

        def route(method: str, path: str, endpoint: Callable[..., Any], *, asks: type[Asked] | None = None, **answers: Any) -> None:
            routes.add_api_route(path, endpoint, methods=[method], response_model=None, **_described(path, asks, **answers))

        route("POST", "/auth/signup", self.sign_up, asks=SignUp, status=201, answer=SESSION, public=True)
        route("POST", "/auth/login", self.log_in, asks=LogIn, answer=SESSION, public=True)
        route("POST", "/auth/logout", self.log_out, status=204)
        route("GET", "/auth/me", self.me, answer=USER)
        route("GET", "/users", self.users, answer={"type": "array", "items": PERSON})
        route("POST", "/messages/send", self.send, asks=Send, answer=MESSAGE)
        route("GET", "/messages/{userId}", self.read, query=Page, answer={"type": "array", "items": MESSAGE}, headers=X_CACHE)
        route("PATCH", "/messages/{messageId}", self.edit, asks=NewText, answer=MESSAGE)
        route("DELETE", "/messages/{messageId}", self.delete, answer=MESSAGE)
        route("PUT", "/messages/{messageId}/reactions/{emoji}", self.react, answer=MESSAGE)
        route("DELETE", "/messages/{messageId}/reactions/{emoji}", self.unreact, answer=MESSAGE)
        route("POST", "/messages/{userId}/read", self.mark_read, asks=ReadUpTo, status=204)
        return routes

    # --- accounts ------------------------------------------------------------------------------------------------------------

    async def sign_up(self, request: Request) -> Response:
        """Make a user and open a session."""
        return _json(await self._accounts.sign_up(await self.asked(SignUp, request)), 201)

    async def log_in(self, request: Request) -> Response:
        """Open a session."""
        address = request.client.host if request.client else ""
        return _json(await self._accounts.log_in(await self.asked(LogIn, request), address))

    async def log_out(self, request: Request) -> Response:
        """End the session of this token."""
        await self.user_of(request)
        await self._accounts.log_out(_token(request))
        await self._end_sockets(_token(request))
        return Response(status_code=204)

    async def me(self, request: Request) -> Response:
        """Who the token stands for."""
        return _json(await self._accounts.profile(await self.user_of(request)))

    async def users(self, request: Request) -> Response:
        """The other users, most recent conversation first."""
        return _json(await self._service.people(await self.user_of(request)))

    # --- messages ------------------------------------------------------------------------------------------------------------

    async def send(self, request: Request) -> Response:
        """Send a message: saved, cached, emitted, answered. A `clientId` makes a repeat harmless."""
        trace = self._flow.start_trace("http")
        user = await self.user_of(request)
        asked = await self.asked(Send, request)
        trace.record("request")
        message = await self._service.send(user, asked.receiverId, asked.text, asked.clientId, trace)
        metrics.SENDS["http"].inc()
        return _message(message, trace)

    async def read(self, request: Request) -> Response:
        """A conversation, oldest first; without `limit` the full history. `X-Cache` tells where it came from."""
        trace = self._flow.start_trace("http")
        user = await self.user_of(request)
        partner, page = Partner.from_fields(**request.path_params), _page(request.scope["query_string"])
        trace.record("request")
        fresh = "no-cache" in _header(request, b"cache-control").lower()
        history = await self._service.read(user, partner.userId, page, fresh=fresh, trace=trace)
        response = await _history(history)
        trace.record("respond", cache=history.cache)
        return response

    async def edit(self, request: Request) -> Response:
        """Give a message another text (sender only)."""
        trace, user, target = await self._begin(Target, request)
        text = (await self.asked(NewText, request)).text
        return _message(await self._service.edit(user, target.messageId, text, trace), trace)

    async def delete(self, request: Request) -> Response:
        """Empty a message; it keeps its place (sender only)."""
        trace, user, target = await self._begin(Target, request)
        return _message(await self._service.delete(user, target.messageId, trace), trace)

    async def react(self, request: Request) -> Response:
        """Add one's reaction (participants only)."""
        trace, user, target = await self._begin(React, request)
        return _message(await self._service.react(user, target.messageId, target.emoji, trace), trace)

    async def unreact(self, request: Request) -> Response:
        """Take one's reaction back (participants only)."""
        trace, user, target = await self._begin(React, request)
        return _message(await self._service.unreact(user, target.messageId, target.emoji, trace), trace)

    async def mark_read(self, request: Request) -> Response:
        """Everything up to `seq` has been seen."""
        _, user, partner = await self._begin(Partner, request)
        await self._service.mark_read(user, partner.userId, (await self.asked(ReadUpTo, request)).seq)
        return Response(status_code=204)

    # --- the hot routes ------------------------------------------------------------------------------------------------------

    def hot_endpoint(self, scope: types.Scope) -> Endpoint | None:
        """The endpoint of a send or a read: the two routes that carry the traffic. They stay ordinary routes too, for OpenAPI."""
        if scope["type"] != "http" or not (path := scope["path"]).startswith(HOT):
            return None
        rest = path[len(HOT) :]
        if scope["method"] == "POST":
            return self.send if rest == "send" else None
        if scope["method"] != "GET" or not rest or "/" in rest:
            return None
        scope["path_params"] = {"userId": rest}
        return self.read

    # --- parsing -------------------------------------------------------------------------------------------------------------

    async def user_of(self, request: Request) -> UserId:
        """Whose token it is, for one more use. Raises Unauthenticated, RateLimited."""
        return await self._accounts.admit(_token(request))

    async def _begin(self, wanted: type[Wanted], request: Request) -> tuple[Trace, UserId, Wanted]:
        """A trace, the user, and what the path names."""
        trace = self._flow.start_trace("http")
        user = await self.user_of(request)
        target = wanted.from_fields(**request.path_params)
        trace.record("request")
        return trace, user, target

    async def asked(self, wanted: type[Wanted], request: Request) -> Wanted:
        """What the body asks for. Raises Invalid, TooLarge."""
        return wanted.from_json(await self._body(request))

    async def _body(self, request: Request) -> bytes:
        """The body, counted as it streams: of one that is too large nothing is kept, and it is not read for long."""
        pieces, size = [], 0
        async for piece in request.stream():
            size += len(piece)
            if size > PATIENCE * self._max_body:
                break
            if size <= self._max_body:
                pieces.append(piece)
        if size > self._max_body:
            raise TooLarge(f"The body has more than {self._max_body} bytes.")
        return b"".join(pieces)


async def answer(endpoint: Endpoint, scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
    """One request at its endpoint, with none of the framework's layers between."""
    try:
        response = await endpoint(Request(scope, receive))
    except ChatlabError as error:
        response = refusal(error)
    except ClientDisconnect:
        return
    except Exception:
        log.exception("unexpected error")
        response = failure()
    await response(scope, receive, send)


def _token(request: Request) -> str:
    scheme, _, token = _header(request, b"authorization").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("A header `Authorization: Bearer <token>` is needed; log in to get a token.")
    return token.strip()


def _header(request: Request, name: bytes) -> str:
    """The header of this name in small letters, from the list as it came: Starlette's mapping costs a hot route 4 us."""
    return next((value.decode("latin-1") for key, value in request.scope["headers"] if key == name), "")


def _page(query: bytes) -> Page:
    """What a query string asks for; the short ones are always the same few. Raises Invalid."""
    return _same_page(query) if len(query) <= SHORT else Page.from_fields(**QueryParams(query))


@lru_cache(maxsize=1000)
def _same_page(query: bytes) -> Page:
    return Page.from_fields(**QueryParams(query))


# --- answering ---------------------------------------------------------------------------------------------------------------


class Json(Response):
    """200, and JSON. Its headers are bytes from the start: turning them into these costs Starlette's own response 5 us."""

    def __init__(self, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        self.status_code, self.background, self.body = 200, None, body
        self.raw_headers = [*headers, *JSON_HEADERS, (b"content-length", b"%d" % len(body))]


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, headers=NO_STORE, media_type="application/json")


def _message(message: Message, trace: Trace) -> Response:
    trace.record("respond", messageId=message.id)
    return Json(message.json)


async def _history(history: History) -> Response:
    """One answer, or a stream when there are more than a few pieces. The first ones are here before the status is sent."""
    if isinstance(history.pieces, bytes):
        return Json(b"[%b]" % history.pieces, FROM[history.cache])
    pieces = [piece async for piece in _first(history.pieces, FEW)]
    if len(pieces) < FEW:
        return Json(b"[%b]" % b",".join(filter(None, pieces)), FROM[history.cache])
    headers = {"x-cache": history.cache, **NO_STORE}
    return StreamingResponse(_list(pieces, history.pieces), headers=headers, media_type="application/json")


async def _first(pieces: AsyncIterator[bytes], count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        try:
            yield await anext(pieces)
        except StopAsyncIteration:
            return


async def _list(known: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    separator = b"["
    for piece in filter(None, known):
        yield separator + piece
        separator = b","
    async for piece in rest:
        if piece:
            yield separator + piece
            separator = b","
    yield b"[]" if separator == b"[" else b"]"


def problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    """An error as `application/problem+json`."""
    return Response(problem_body(status, code, detail), status, headers=headers, media_type=PROBLEM)


def problem_body(status: int, code: str, detail: str) -> bytes:
    """What every error says."""
    metrics.count_error("http", code)
    body = {"type": f"urn:chatlab:{code}", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, "code": code}
    return msgspec.json.encode(body)


def refusal(error: ChatlabError) -> Response:
    """The one table from an error to an HTTP answer."""
    headers = {}
    if isinstance(error, RateLimited | StoreUnavailable):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, TooLarge):
        headers["connection"] = "close"
    return problem(STATUS[error.code], error.code, error.detail, headers)


def failure() -> Response:
    return problem(500, "internal", "Something went wrong here; it has been logged.")


def answer_errors(app: FastAPI) -> None:
    """Whatever goes wrong in a route or on the way to it has the form of a problem."""

    async def known(_: Request, error: Exception) -> Response:
        assert isinstance(error, ChatlabError)
        return refusal(error)

    async def routing(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid")
        return problem(error.status_code, code, "There is nothing at this address and method.", dict(error.headers or {}))

    async def malformed(_: Request, __: Exception) -> Response:
        return problem(422, "invalid", "The request does not have the form that was asked for.")

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=400)  # nobody is there to read it

    async def unexpected(_: Request, error: Exception) -> Response:
        log.error("unexpected %s", type(error).__name__, exc_info=error)
        return failure()

    app.add_exception_handler(ChatlabError, known)
    app.add_exception_handler(HTTPException, routing)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, unexpected)


# --- OpenAPI -----------------------------------------------------------------------------------------------------------------


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "properties": required | optional, "required": list(required)}


_TEXT, _NUMBER, _TIME = {"type": "string"}, {"type": "integer"}, {"type": "string", "format": "date-time"}
_NULL = {"type": "null"}
MESSAGE = msgspec.json.schema_components([Message])[1]["Message"]
MESSAGE["properties"] |= {"createdAt": _TIME, "editedAt": {"anyOf": [_TIME, _NULL]}, "deletedAt": {"anyOf": [_TIME, _NULL]}}
USER = _object({"id": _TEXT, "displayName": _TEXT, "createdAt": _TIME})
SESSION = _object({"user": USER, "token": _TEXT})
PERSON = _object(
    USER["properties"] | {"online": {"type": "boolean"}, "unread": _NUMBER, "lastMessage": {"anyOf": [MESSAGE, _NULL]}, "readUpTo": _NUMBER}
)
PROBLEM_SCHEMA = _object({"type": _TEXT, "title": _TEXT, "status": _NUMBER, "detail": _TEXT, "code": _TEXT})
X_CACHE = {"X-Cache": {"description": "Where it came from", "schema": {"enum": ["hit", "partial", "miss", "bypass"]}}}
RETRY_AFTER = {"Retry-After": {"description": "Seconds until the next try can succeed", "schema": _NUMBER}}
_ERROR = {"content": {PROBLEM: {"schema": PROBLEM_SCHEMA}}}
ERRORS: dict[int | str, dict[str, Any]] = {
    429: {"description": "Too much at once", "headers": RETRY_AFTER, **_ERROR},
    503: {"description": "MongoDB does not answer", "headers": RETRY_AFTER, **_ERROR},
    "default": {"description": "An error", **_ERROR},
}
_HEALTH = {"content": {"application/json": {"schema": _object({"status": _TEXT, "mongodb": _TEXT, "redis": _TEXT})}}}
HEALTH: dict[int | str, dict[str, Any]] = {
    200: {"description": "Messages can be saved", **_HEALTH},
    503: {"description": "They cannot: MongoDB does not answer", **_HEALTH},
}
BEARER = {"bearer": {"type": "http", "scheme": "bearer"}}


def _described(
    path: str,
    asks: type[Asked] | None,
    *,
    answer: dict[str, Any] | None = None,
    status: int = 200,
    headers: dict[str, Any] | None = None,
    query: type[Asked] | None = None,
    public: bool = False,
) -> dict[str, Any]:
    """What OpenAPI says of a route, in FastAPI's words."""
    done = {"description": "Done", **_content(answer), **({"headers": headers} if headers else {})}
    parameters = [_parameter(name, "path", _TEXT) for name in path.split("{") if "}" in name for name in (name.split("}")[0],)]
    if query:
        parameters += [_parameter(name, "query", schema) for name, schema in query.model_json_schema()["properties"].items()]
    extra: dict[str, Any] = {"parameters": parameters, "security": [] if public else [{"bearer": []}]}
    if asks:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": asks.model_json_schema()}}}
    return {"status_code": status, "responses": {status: done, **ERRORS}, "openapi_extra": extra}


def _content(answer: dict[str, Any] | None) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": answer}}} if answer else {}


def _parameter(name: str, place: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}
