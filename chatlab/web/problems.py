"""Turn errors into HTTP responses of type `application/problem+json` (RFC 9457).

`error_response` holds the one table from an error of the service to a status and headers.
"""

import logging
import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Mount

from chatlab import metrics
from chatlab.domain.requests import invalid
from chatlab.errors import ChatlabError, RateLimited, StoreUnavailable, TooLarge, Unauthenticated
from chatlab.web.pages import error_page

log = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
STATUS_OF_CODE = {
    "invalid": 422,
    "unauthenticated": 401,
    "not_found": 404,
    "forbidden": 403,
    "conflict": 409,
    "too_large": 413,
    "unsupported_media_type": 415,
    "misdirected_request": 421,
    "rate_limited": 429,
    "store_unavailable": 503,
}


class Problem(BaseModel):
    type: str
    title: str
    status: int
    detail: str
    code: str


def _problem(status: int, code: str, detail: str) -> Problem:
    title = HTTPStatus(status).phrase
    return Problem(type=f"urn:chatlab:{code}", title=title, status=status, detail=detail, code=code)


def _content(status: int, code: str, detail: str) -> dict[str, Any]:
    """Return the description of a problem in OpenAPI, with this example."""
    example = _problem(status, code, detail).model_dump()
    return {"content": {PROBLEM_JSON: {"schema": Problem.model_json_schema(), "example": example}}}


_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds until a retry can succeed",
        "schema": {"type": "integer"},
    }
}
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {  # for OpenAPI
    429: {
        "description": "Too many requests",
        "headers": _RETRY_AFTER,
        **_content(429, "rate_limited", "Too many requests. Wait a moment and try again."),
    },
    503: {
        "description": "MongoDB cannot answer",
        "headers": _RETRY_AFTER,
        **_content(503, "store_unavailable", StoreUnavailable().detail),
    },
    "default": {
        "description": "An error",
        **_content(404, "not_found", "There is no such user."),
    },
}


def problem_body(status: int, code: str, detail: str) -> bytes:
    """Return the JSON of a problem, and count the error in the metrics."""
    metrics.count_error("http", code)
    return _problem(status, code, detail).model_dump_json().encode()


def problem_response(
    status: int, code: str, detail: str, headers: dict[str, str] | None = None
) -> Response:
    body = problem_body(status, code, detail)
    headers = {"cache-control": "no-store", **(headers or {})}
    return Response(body, status, headers=headers, media_type=PROBLEM_JSON)


def error_response(error: ChatlabError) -> Response:
    """Return the response for an error of the service."""
    headers = {}
    if isinstance(error, RateLimited | StoreUnavailable):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, TooLarge):
        headers["connection"] = "close"  # the rest of the body may still be on its way
    return problem_response(STATUS_OF_CODE[error.code], error.code, error.detail, headers)


def internal_error_response() -> Response:
    detail = "Something went wrong here; it has been logged."
    return problem_response(500, "internal", detail)


def add_error_handlers(app: FastAPI) -> None:
    """Make FastAPI answer every error, including those of its own router, with a problem."""
    app.add_exception_handler(ChatlabError, _service_error)
    app.add_exception_handler(HTTPException, _routing_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ClientDisconnect, _client_disconnected)
    app.add_exception_handler(Exception, _unexpected_error)


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ChatlabError)
    return _for_people(request, error_response(error), error.detail)


def _for_people(request: Request, response: Response, detail: str) -> Response:
    """Return a page instead of a problem if a browser opens the address."""
    if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
        return response
    return error_page(request.url.path, response.status_code, detail)


async def _routing_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers = {"Allow": ", ".join(_allowed_methods(request))}
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid")
    detail = "This server has no route with this path and method."
    response = problem_response(error.status_code, code, detail, headers)
    return _for_people(request, response, "There is no page with this address.")


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes with this path.

    The router itself names only those of the first one, and Starlette's static files name none.
    """
    routes = [route for route in request.app.routes if not isinstance(route, Mount)]
    scopes = {method: {**request.scope, "method": method} for method in METHODS}
    return [
        method
        for method, scope in scopes.items()
        if any(route.matches(scope)[0] == Match.FULL for route in routes)
    ] or ["GET", "HEAD"]


async def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Each location begins with `path`, `query` or `header`.
    return error_response(invalid([one | {"loc": one["loc"][1:]} for one in error.errors()]))


async def _client_disconnected(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # the client has closed the connection and cannot receive it


async def _unexpected_error(_: Request, error: Exception) -> Response:
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    return internal_error_response()
