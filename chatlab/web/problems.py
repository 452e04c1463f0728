"""Turn errors into HTTP responses of type `application/problem+json` (RFC 9457).

`error_response` holds the one table from an error of the service to a status and headers.
"""

import logging
import math
from http import HTTPStatus

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from chatlab import metrics
from chatlab.errors import ChatlabError, RateLimited, StoreUnavailable, TooLarge, Unauthenticated

log = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
STATUS_OF_CODE = {
    "invalid": 422,
    "unauthenticated": 401,
    "not_found": 404,
    "forbidden": 403,
    "conflict": 409,
    "too_large": 413,
    "rate_limited": 429,
    "store_unavailable": 503,
}


def problem_body(status: int, code: str, detail: str) -> bytes:
    """Return the JSON of a problem, and count the error in the metrics."""
    metrics.count_error("http", code)
    return msgspec.json.encode(
        {
            "type": f"urn:chatlab:{code}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "code": code,
        }
    )


def problem_response(
    status: int, code: str, detail: str, headers: dict[str, str] | None = None
) -> Response:
    body = problem_body(status, code, detail)
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


async def _service_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ChatlabError)
    return error_response(error)


async def _routing_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid")
    detail = "This server has no route with this path and method."
    return problem_response(error.status_code, code, detail, dict(error.headers or {}))


async def _validation_error(_: Request, __: Exception) -> Response:
    return problem_response(422, "invalid", "The request does not have the expected format.")


async def _client_disconnected(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # the client has closed the connection and cannot receive it


async def _unexpected_error(_: Request, error: Exception) -> Response:
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    return internal_error_response()
