"""Serve the two routes that carry most of the traffic without the layers of FastAPI.

`POST /api/messages/send` and `GET /api/messages/{userId}` skip FastAPI's middleware, router and
dependency injection, and use the cheaper replacements for Starlette's classes in this module.
Headers built as bytes, cached query strings and unstreamed short responses save 18 us of processor
time for each cached read of 50 messages. Such a read now takes 23 us inside the application (see
"Where the time goes" in `benchmarks/README.md`).

FastAPI has both routes too, so they appear in OpenAPI, and both ways call the same endpoints.
"""

import logging
from collections.abc import Awaitable, Callable
from functools import lru_cache

from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chatlab.domain.requests import Page
from chatlab.errors import ChatlabError
from chatlab.web.problems import error_response, internal_error_response

log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]

PREFIX = "/api/messages/"
MAX_CACHED_QUERY_BYTES = 100  # longer query strings are rare and would fill the cache with garbage
JSON_HEADERS = [(b"cache-control", b"no-store"), (b"content-type", b"application/json")]


class FastPath:
    """`send` and `read` are the endpoints of the two routes."""

    def __init__(self, *, send: Endpoint, read: Endpoint) -> None:
        self._send, self._read = send, read

    def endpoint_of(self, scope: Scope) -> Endpoint | None:
        """Return the endpoint for a request to one of the two routes, or None for any other.

        For a read, add the path parameter `userId` to the scope.
        """
        if scope["type"] != "http" or not (path := scope["path"]).startswith(PREFIX):
            return None
        name = path[len(PREFIX) :]
        if scope["method"] == "POST":
            return self._send if name == "send" else None
        if scope["method"] != "GET" or not name or "/" in name:
            return None
        scope["path_params"] = {"userId": name}
        return self._read


async def serve_directly(endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
    """Call the endpoint and send its response, or the problem that describes its error."""
    try:
        response = await endpoint(Request(scope, receive))
    except ChatlabError as error:
        response = error_response(error)
    except ClientDisconnect:
        return
    except Exception:
        log.exception("unexpected error")
        response = internal_error_response()
    await response(scope, receive, send)


class FastJsonResponse(Response):
    """A response with status 200 and a JSON body.

    Its headers are bytes from the start. Starlette's own response encodes them, which costs 5 us.
    """

    def __init__(self, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        self.status_code, self.background, self.body = 200, None, body
        self.raw_headers = [*headers, *JSON_HEADERS, (b"content-length", b"%d" % len(body))]


def parse_page(query: bytes) -> Page:
    """Return the page that a query string describes. Raises Invalid.

    Clients use few different query strings, so the short ones are parsed only once.
    """
    return _parse_cached(query) if len(query) <= MAX_CACHED_QUERY_BYTES else _parse(query)


def _parse(query: bytes) -> Page:
    return Page.from_fields(**QueryParams(query))


_parse_cached = lru_cache(maxsize=1000)(_parse)
