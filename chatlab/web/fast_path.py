"""Serve the two routes that carry most of the traffic without the layers of FastAPI.

`POST /api/messages/send` and `GET /api/messages/{userId}` skip FastAPI's middleware, router and
dependency injection, and use the cheaper replacements for Starlette's classes in this module.
Headers built as bytes, cached query strings and unstreamed short responses save 18 us of processor
time for each cached read of 50 messages. Such a read now takes 23 us inside the application (see
"Where the time goes" in `benchmarks/README.md`).

They are ordinary routes of FastAPI as well: `http` has their endpoints, which this module calls
with the same arguments. FastAPI serves them where the service is mounted under a path.
"""

import logging
from collections.abc import Awaitable, Callable
from functools import lru_cache

from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope
from starlette.types import Send as SendFunction

from chatlab.domain.requests import Page, Partner, Send
from chatlab.domain.trace import EventBus
from chatlab.errors import ChatlabError
from chatlab.service import Service
from chatlab.sessions import Sessions
from chatlab.web import http
from chatlab.web.connection_limits import note_authenticated
from chatlab.web.dependencies import bearer_token, header, read_body
from chatlab.web.problems import error_response, internal_error_response
from chatlab.web.request_log import CLOSED_BY_CLIENT
from chatlab.web.responses import FastJsonResponse

log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]

PREFIX = "/api/messages/"
SEND_ROUTE, READ_ROUTE = f"{PREFIX}send", f"{PREFIX}{{userId}}"  # as FastAPI names them
MAX_CACHED_QUERY_BYTES = 100  # longer query strings are rare and would fill the cache with garbage


class FastPath:
    """Parse the requests of the two routes and call their endpoints."""

    def __init__(
        self, service: Service, sessions: Sessions, events: EventBus, *, max_body_bytes: int
    ) -> None:
        self._service, self._sessions, self._events = service, sessions, events
        self._max_body_bytes = max_body_bytes

    def endpoint_of(self, scope: Scope) -> Endpoint | None:
        """Return the endpoint for a request to one of the two routes, or None for any other.

        For a read, add the path parameter `userId` to the scope.
        """
        if scope["type"] != "http" or not (path := scope["path"]).startswith(PREFIX):
            return None
        name = path[len(PREFIX) :]
        if scope["method"] == "POST":
            return self.send if name == "send" else None
        if scope["method"] != "GET" or not name or "/" in name:
            return None
        scope["path_params"] = {"userId": name}
        return self.read

    async def send(self, request: Request) -> Response:
        """Authenticate the request, parse its body, and send the message."""
        trace = self._events.start_trace("http")
        user = await self._sessions.admit(bearer_token(request))
        note_authenticated(request.scope)
        asked = Send.from_json(await read_body(request, self._max_body_bytes))
        message = await http.send(trace, user, asked, self._service)
        return FastJsonResponse(message.json)

    async def read(self, request: Request) -> Response:
        """Authenticate the request, parse its path and query, and read the conversation."""
        trace = self._events.start_trace("http")
        user = await self._sessions.admit(bearer_token(request))
        note_authenticated(request.scope)
        partner = Partner.from_fields(**request.path_params)
        page = parse_page(request.scope["query_string"])
        cache_control = header(request, b"cache-control")
        return await http.read(trace, user, partner.userId, page, self._service, cache_control)


async def serve_directly(
    endpoint: Endpoint, scope: Scope, receive: Receive, send: SendFunction
) -> int:
    """Call the endpoint and send its response, or the problem that describes its error.

    Return the status of the response.
    """
    try:
        response = await endpoint(Request(scope, receive))
    except ChatlabError as error:
        response = error_response(error)
    except ClientDisconnect:
        return CLOSED_BY_CLIENT
    except Exception:
        log.exception("unexpected error")
        response = internal_error_response()
    await response(scope, receive, send)
    return response.status_code


def parse_page(query: bytes) -> Page:
    """Return the page that a query string describes. Raises Invalid.

    Clients use few different query strings, so the short ones are parsed only once.
    """
    return _parse_cached(query) if len(query) <= MAX_CACHED_QUERY_BYTES else _parse(query)


def _parse(query: bytes) -> Page:
    return Page.from_fields(**QueryParams(query))


_parse_cached = lru_cache(maxsize=1000)(_parse)
