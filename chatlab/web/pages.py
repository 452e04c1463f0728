"""The pages for browsers: the chat at `/`, the live diagram at `/lab`, and OpenAPI at `/docs`.

All pages are static files without a build step, a CDN or inline scripts. All addresses in them are
relative, so the pages work under any path prefix. They use HTTP and Socket.IO like every client.
"""

import html
import mimetypes
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from string import Template

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

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

COMPRESSION = 5  # of 9, which makes the files only 1 % smaller

HEADERS = {
    "content-security-policy": "; ".join(
        f"{directive} {sources}" for directive, sources in CONTENT_SECURITY_POLICY.items()
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # browsers store the file, and check by its ETag if it has changed
}


# Of the API, for OpenAPI: requests that are not JSON.
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


class Page:
    """One file of the folder `static`, at a path of its own."""

    def __init__(self, file: str) -> None:
        self._file, self._files = file, PageFiles(directory=STATIC)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._files.get_response(self._file, scope)
        await response(scope, receive, send)


def add_pages(app: FastAPI, *, docs: bool, lab: bool) -> None:
    """Add the chat, the pages `/docs` and `/lab` if wanted, and their files under `/static`."""
    # Some Windows registries map .js to text/plain, which browsers reject because of `nosniff`.
    mimetypes.add_type("text/javascript", ".js")
    mimetypes.add_type("application/manifest+json", ".webmanifest")
    add_page(app, "/", "chat/index.html")
    if docs:
        add_page(app, "/docs", "docs/index.html")
    if lab:
        add_page(app, "/lab", "projector/index.html")
    app.mount("/static/swagger", _compressed(PageFiles(directory=SWAGGER)))
    app.mount("/static", _compressed(PageFiles(directory=STATIC)))


def add_page(app: FastAPI, path: str, file: str) -> None:
    """Serve a page at this path, and lead from the path with a slash to it."""
    app.router.routes.append(Route(path, _compressed(Page(file)), methods=["GET"]))
    if path != "/":
        app.router.routes.append(Route(f"{path}/", RedirectResponse(f"..{path}"), methods=["GET"]))


def _compressed(files: ASGIApp) -> ASGIApp:
    return GZipMiddleware(files, minimum_size=500, compresslevel=COMPRESSION)


def error_page(path: str, status: int, detail: str) -> Response:
    """Return the page that a browser shows when it cannot open this path.

    Its addresses are relative to the path, so they lead to this server under any path prefix.
    """
    base = "../" * (path.count("/") - 1) or "./"
    page = Template((STATIC / "error" / "index.html").read_text())
    title = HTTPStatus(status).phrase
    text = page.substitute(base=base, title=title, detail=html.escape(detail))
    return HTMLResponse(text, status, HEADERS | {"cache-control": "no-store"})
