"""The pages for browsers: the chat at `/`, the live diagram at `/lab`, and OpenAPI at `/docs`.

All pages are static files without a build step, a CDN or inline scripts. All addresses in them are
relative, so the pages work under any path prefix. They use HTTP and Socket.IO like every client.
"""

import mimetypes
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"
SWAGGER = Path(str(files("fastapi_swagger") / "resources"))  # the official files of Swagger UI

CONTENT_SECURITY_POLICY = {
    "default-src": "'self'",  # scripts and styles come from this server, never from within a page
    "connect-src": "'self'",  # includes websockets to this server
    "img-src": "'self' data:",  # Swagger UI has its icons in its style sheet
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'self'",
}

HEADERS = {
    "content-security-policy": "; ".join(
        f"{directive} {sources}" for directive, sources in CONTENT_SECURITY_POLICY.items()
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # browsers store the file, and check by its ETag if it has changed
}


# Of the API, for OpenAPI: what is not a JSON request.
DESCRIPTION = """
A body is JSON, with `Content-Type: application/json`. Every error is a problem (RFC 9457): `code`
is fixed, `detail` is a sentence.

Besides the requests below, the service has

* the pages `/` (the chat), `/docs` (this one) and, with `CHATLAB_FLOW=1`, `/lab` (the live
  diagram), with their files under `/static`. They accept `GET` and `HEAD`;
* Socket.IO at `/socket.io/`, over websockets only, with `auth: {token}`. A client emits
  `sendMessage`, `editMessage`, `deleteMessage`, `addReaction`, `removeReaction`, `markRead`,
  `typing` and `alive` (its acknowledgement shows that the connection works). It receives
  `newMessage`, `messageUpdated`, `messagesRead`, `typing`, and
  - `onlineUsers [userId, ...]`: which of your partners are online, right after the connection,
  - `presence {userId, online}`: one of them has come or gone,
  - `resync {since}`: events may have been lost since then, so read by `seq`.
"""


class PageFiles(StaticFiles):
    """Static files with an ETag and the headers above."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def add_pages(app: FastAPI, *, docs: bool, lab: bool) -> None:
    """Add the chat, the pages `/docs` and `/lab` if wanted, and their files under `/static`."""
    # Some Windows registries map .js to text/plain, which browsers reject because of `nosniff`.
    mimetypes.add_type("text/javascript", ".js")
    add_page(app, "/", "chat/index.html")
    if docs:
        add_page(app, "/docs", "docs/index.html")
    if lab:
        add_page(app, "/lab", "projector/index.html")
    app.mount("/static/swagger", PageFiles(directory=SWAGGER))
    app.mount("/static", PageFiles(directory=STATIC))


def add_page(app: FastAPI, path: str, file: str) -> None:
    """Serve one file of the folder `static` at a path of its own."""
    pages = PageFiles(directory=STATIC)

    async def page(request: Request) -> Any:
        return await pages.get_response(file, request.scope)

    app.add_route(path, page, methods=["GET"], include_in_schema=False)
