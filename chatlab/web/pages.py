"""The pages a browser gets: the chat at `/`, the diagram alive at `/lab`, the OpenAPI page at `/docs`, and their files under `/static`.

Plain files: no build step, no CDN, no inline script. Every address in them is relative, so they work under any path prefix.
Knows nothing of messages: the pages use the two doors like any other client.
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
SWAGGER = Path(str(files("fastapi_swagger") / "resources"))  # the official Swagger UI files, in a package of their own

POLICY = {
    "default-src": "'self'",  # scripts and styles from here only, and none written into a page
    "connect-src": "'self' ws: wss:",  # some browsers do not take a websocket to here for 'self'
    "img-src": "'self' data:",  # Swagger UI's style sheet carries its icons
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'self'",  # the lab page shows two chats side by side
}

HEADERS = {
    "content-security-policy": "; ".join(f"{what} {where}" for what, where in POLICY.items()),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # keep it, but ask whether it has changed: a 304 by ETag
}


class PageFiles(StaticFiles):
    """Files with an ETag and the headers above."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def add_pages(app: FastAPI, *, lab: bool) -> None:
    """`/`, `/docs` and `/static`; `/lab` where there is a flow to show."""
    mimetypes.add_type("text/javascript", ".js")  # some Windows registries call it text/plain, which `nosniff` would refuse
    add_page(app, "/", "chat/index.html")
    add_page(app, "/docs", "docs/index.html")
    if lab:
        add_page(app, "/lab", "projector/index.html")
    app.mount("/static/swagger", PageFiles(directory=SWAGGER))
    app.mount("/static", PageFiles(directory=STATIC))


def add_page(app: FastAPI, address: str, path: str) -> None:
    """A page at an address of its own, from a file under `static`."""
    pages = PageFiles(directory=STATIC)

    async def page(request: Request) -> Any:
        return await pages.get_response(path, request.scope)

    app.add_route(address, page, methods=["GET"], include_in_schema=False)
