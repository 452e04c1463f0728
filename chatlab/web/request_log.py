"""What is noted about each request: its id, its duration, and a line in the access log."""

import logging
import re
import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from time import perf_counter

from starlette.types import Scope

from chatlab.metrics import HTTP_SECONDS, SOCKET_SECONDS
from chatlab.settings import Settings

# Set only with CHATLAB_LOG_FORMAT=json. Work that several requests share has the id of the first.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
ID_HEADER = b"x-request-id"
NO_HEADERS: Mapping[bytes, bytes] = {}  # an event of a socket has none
GOOD_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")
METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))
CLOSED_BY_CLIENT = 499  # the status that nginx logs too
UNMATCHED, PAGE = "unmatched", "page"  # requests without a route of the API

log = logging.getLogger("chatlab.access")


class RequestLog:
    """Notes each request over HTTP and each event of a socket.

    Labels of the metrics have few values: a request has the template of its route, not its path.
    """

    def __init__(self, settings: Settings) -> None:
        self._writes_ids = settings.log_format == "json"
        self._writes_lines = settings.access_log

    def begin(self, headers: Mapping[bytes, bytes] = NO_HEADERS) -> float:
        """Give the request an id, and return the time, for the end.

        The id is that of a reverse proxy, if it sends one, so that both logs have the same.
        """
        if self._writes_ids:
            proposed = headers.get(ID_HEADER, b"")
            is_good = GOOD_ID.fullmatch(proposed)
            REQUEST_ID.set(proposed.decode() if is_good else secrets.token_hex(16))
        return perf_counter()

    def end_request(self, scope: Scope, route: str, status: int, began_s: float) -> None:
        """Note a request over HTTP that has its response."""
        took_s, method = perf_counter() - began_s, scope["method"]
        if method not in METHODS:
            method = "other"
        HTTP_SECONDS.observe(took_s, method, route, status)
        if self._writes_lines:
            client = scope["client"]
            path = scope["raw_path"].decode("ascii", "backslashreplace")  # it has no query
            self._write(
                f"{method} {path} {status}",
                took_s,
                method=method,
                path=path,
                route=route,
                status=status,
                client=client[0] if client else "",
            )

    def end_event(self, event: str, result: str, began_s: float) -> None:
        """Note an event of a socket that has its acknowledgement: `ok`, or the code of an error."""
        took_s = perf_counter() - began_s
        SOCKET_SECONDS.observe(took_s, event, result)
        if self._writes_lines:
            self._write(f"{event} {result}", took_s, event=event, result=result)
        if self._writes_ids:
            REQUEST_ID.set("")  # the task of the socket continues

    def _write(self, line: str, took_s: float, **fields: object) -> None:
        took_ms = round(took_s * 1000, 3)
        log.info("%s in %g ms", line, took_ms, extra={"fields": fields | {"tookMs": took_ms}})


def route_of(scope: Scope) -> str:
    """Return the template of the route that FastAPI has found: `/api/messages/{userId}`."""
    route = scope.get("route")
    return route.path if route else PAGE if "endpoint" in scope else UNMATCHED
