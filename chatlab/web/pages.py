"""The pages for browsers: the chat at `/`, the live diagram at `/lab`, and OpenAPI at `/docs`.

All pages are static files without a build step, a CDN or inline scripts. All addresses in them are
relative, so the pages work under any path prefix. They use HTTP and Socket.IO like every client.

A page names its scripts and styles with a version, which changes with any file. So a browser that
has them asks only for the page, which saves a round trip on each later visit.
"""

import functools
import hashlib
import html
import mimetypes
import re
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from string import Template

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from chatlab.web import bundles
from chatlab.web.bundles import BUNDLES, STATIC, bundle

SWAGGER = Path(str(files("fastapi_swagger") / "resources"))  # the official files of Swagger UI
PAGES = {"": "chat/index.html", "docs": "docs/index.html", "lab": "projector/index.html"}

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
VERSIONED = {"cache-control": "max-age=31536000, immutable"}  # seconds: a year
_ADDRESS = re.compile(r'"static/(?=[^"]+\.(?:css|js)")')  # of a script or style, in a page


@functools.cache
def version() -> str:
    """Return the version of all scripts and styles, also of those that are made from files."""
    files = [Path(bundles.__file__), *STATIC.rglob("*.*"), *SWAGGER.glob("*.*")]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _headers(scope: Scope) -> dict[str, str]:
    """Return the headers for this request: a page of another release may ask for its version."""
    is_ours = scope.get("path_params", {}).get("version") == version()
    return HEADERS | VERSIONED if is_ours else HEADERS


class PageFiles(StaticFiles):
    """Static files with an ETag and the headers above."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_headers(scope))
        return response


class Text:
    """A text that is made from static files, with an ETag and the headers above."""

    def __init__(self, make: Callable[[], str], media_type: str) -> None:
        self._make, self._media_type = make, media_type

    @functools.cached_property
    def _content(self) -> tuple[bytes, str]:
        """The body and its ETag. It is made for the first request."""
        body = self._make().encode()
        return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, etag = self._content
        headers = _headers(scope) | {"etag": etag}
        if Headers(scope=scope).get("if-none-match") == etag:
            response = Response(status_code=304, headers=headers)
        else:
            response = Response(body, headers=headers, media_type=self._media_type)
        await response(scope, receive, send)


def add_pages(app: FastAPI, *, docs: bool, lab: bool) -> None:
    """Add the chat, the pages `/docs` and `/lab` if wanted, and their files under `/static`."""
    # Some Windows registries map .js to text/plain, which browsers reject because of `nosniff`.
    mimetypes.add_type("text/javascript", ".js")
    mimetypes.add_type("application/manifest+json", ".webmanifest")
    missing = [name for name, is_there in (("docs", docs), ("lab", lab)) if not is_there]
    for name, file in PAGES.items():
        if name in missing:
            continue
        _add(app, f"/{name}", Text(functools.partial(_page, file, missing), "text/html"))
        if name:  # with a slash at its end, an address leads to the page
            _add(app, f"/{name}/", RedirectResponse(f"../{name}"))
    for static in ("/static/v/{version}", "/static"):
        for first, loaded in BUNDLES.items():
            script = functools.partial(bundle, first, loaded)
            _add(app, f"{static}/{first}", Text(script, "text/javascript"))
        app.mount(f"{static}/swagger", _compressed(PageFiles(directory=SWAGGER)))
        app.mount(static, _compressed(PageFiles(directory=STATIC)))


def _add(app: FastAPI, path: str, endpoint: ASGIApp) -> None:
    app.router.routes.append(Route(path, _compressed(endpoint), methods=["GET"]))


def _page(file: str, missing: list[str]) -> str:
    """Return a page with versions, without the lines that link to a page that is missing here."""
    lines = (STATIC / file).read_text(encoding="utf-8").splitlines(keepends=True)
    links = [f'href="{name}"' for name in missing]
    page = "".join(line for line in lines if not any(link in line for link in links))
    return _ADDRESS.sub(f'"static/v/{version()}/', page)


def _compressed(files: ASGIApp) -> ASGIApp:
    return GZipMiddleware(files, minimum_size=500, compresslevel=COMPRESSION)


def error_page(path: str, status: int, detail: str) -> Response:
    """Return the page that a browser shows when it cannot open this path.

    Its addresses are relative to the path, so they lead to this server under any path prefix.
    """
    base = "../" * (path.count("/") - 1) or "./"
    page = Template((STATIC / "error" / "index.html").read_text())
    title = HTTPStatus(status).phrase
    text = page.substitute(base=base, title=title, detail=_marked_up(detail))
    return HTMLResponse(text, status, HEADERS | {"cache-control": "no-store"})


def _marked_up(detail: str) -> str:
    """Return the text of an error as HTML: what it has between backticks is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(detail))
