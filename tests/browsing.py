"""A real browser for tests, and a check that no page does what it must not do."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from find_browser import chromium_path
from live import Service, User
from playwright.async_api import Browser, BrowserContext, Locator, Page, async_playwright, expect
from shared_service import SharedService, start_shared_service
from waiting import LIMIT_S

from chatlab.local.engines import Engines

LIMIT_MS = LIMIT_S * 1000  # for each wait in a browser
expect.set_options(timeout=LIMIT_MS)

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-gpu-compositing",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A foreign site whose name points to this machine.
    "--host-resolver-rules=MAP evil.test 127.0.0.1",
    # Without these popups of the address bar, a window needs a quarter less CPU.
    "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup,WebUIOmniboxFullPopup",
]
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
}
# A display of ten frames a second: drawing each frame of a moving picture takes much CPU.
SLOW_DISPLAY = """
    window.requestAnimationFrame = (draw) => setTimeout(() => draw(performance.now()), 100);
    window.cancelAnimationFrame = clearTimeout;
"""
WATCH = """
    window.violations = [];
    addEventListener("securitypolicyviolation", (event) => violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


@pytest.fixture(scope="module")
def shared(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    """The service that serves the pages. Its only users are those of the module."""
    log = tmp_path_factory.mktemp("shared") / "service.log"
    with start_shared_service(engines, log, RATE_LIMIT="0", ALLOWED_HOSTS="chat.example") as shared:
        yield shared


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for all tests of a module.

    The tests must share the event loop of the module: `pytest.mark.asyncio(loop_scope="module")`.
    """
    async with async_playwright() as playwright, contextlib.AsyncExitStack() as stack:
        chromium = await playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        stack.push_async_callback(chromium.close)
        yield chromium


@dataclass
class BrowserSession:
    """One browser with its own storage and any number of tabs.

    It records what the pages request and log.
    """

    context: BrowserContext
    url: str  # of the page, with its path prefix and a final slash
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    console_errors: list[str] = field(default_factory=list)  # and warnings

    @classmethod
    async def start(
        cls,
        browser: Browser,
        url: str,
        user: User | None = None,
        *,
        slow_display: bool = False,
        **options: Any,
    ) -> "BrowserSession":
        """Start a browser for the page at this URL.

        If a user is given, the user is logged in already.
        """
        url = url if url.endswith("/") else f"{url}/"
        context = await browser.new_context(
            storage_state=_logged_in(url, user) if user else None, **options
        )
        context.set_default_timeout(LIMIT_MS)
        session = cls(context, url)
        await context.add_init_script(WATCH + SLOW_DISPLAY if slow_display else WATCH)
        context.on("request", lambda request: session.requests.append(request.url))
        context.on("page", session._watch)
        return session

    def _watch(self, page: Page) -> None:
        async def dialog_came(dialog: Any) -> None:
            self.dialogs.append(dialog.message)
            await dialog.dismiss()

        page.on("dialog", dialog_came)
        page.on("pageerror", lambda error: self.console_errors.append(f"uncaught: {error}"))
        page.on(
            "console",
            lambda line: (
                self.console_errors.append(line.text) if line.type in ("error", "warning") else None
            ),
        )
        page.on("websocket", lambda socket: self.requests.append(socket.url))

    async def open(self, path: str = "") -> "Tab":
        page = await self.context.new_page()
        await page.goto(self.url + path)
        return Tab(page)

    async def open_conversation(self, other: User) -> "Tab":
        """Open a new tab with this conversation."""
        tab = await self.open(f"#/{other.id}")
        await tab.has_loaded()
        return tab

    async def assert_clean(self, *, ignore: tuple[str, ...] = ()) -> None:
        """Assert that no page ran text as code, called another server or logged an error.

        Errors that contain one of the texts in `ignore` are allowed.
        """
        origin = urlsplit(self.url)
        here = [
            f"{scheme}://{origin.netloc}{origin.path}" for scheme in ("http", "https", "ws", "wss")
        ] + ["blob:", "data:"]
        foreign = [url for url in self.requests if not url.startswith(tuple(here))]
        assert not foreign, foreign
        errors = [
            line for line in self.console_errors if not any(known in line for known in ignore)
        ]
        assert not self.dialogs + errors, self.dialogs + errors
        for page in self.context.pages:
            violations = await page.evaluate("window.violations ?? []")
            assert not violations, violations
            assert await page.evaluate("window.executed ?? null") is None


@dataclass
class Tab:
    """One page of the chat."""

    page: Page

    def row(self, user: User | str) -> Locator:
        """Return the entry of this user in the list of users."""
        return self.page.locator(f'[data-user="{user if isinstance(user, str) else user.id}"]')

    async def find(self, user: User) -> None:
        """Search for this user, who may be far down in the list of users."""
        await self.page.get_by_label("Find a user").fill(user.id)

    async def open_conversation(self, user: User | str) -> None:
        """Open a conversation from the list, and wait until the page has left the one before."""
        await self.row(user).click()
        await expect(self.row(user)).to_have_attribute("aria-current", "page")
        await self.has_loaded()

    async def has_loaded(self) -> None:
        """Wait until the open conversation shows its newest messages, or an error."""
        await expect(self.page.locator(".conversation .top")).not_to_have_text("Loading…")

    async def scroll_to(self, top: int) -> None:
        """Scroll the open conversation to this distance from its top, in pixels."""
        await self.page.locator(".scroller").evaluate(
            "(node, top) => { node.scrollTop = top; }", top
        )

    async def write(self, text: str) -> None:
        await self.page.locator("textarea").fill(text)
        await self.page.keyboard.press("Enter")

    @property
    def messages(self) -> Locator:
        return self.page.locator("li.message")

    def message(self, text: str) -> Locator:
        return self.messages.filter(has=self.page.get_by_text(text, exact=True))

    async def texts(self) -> list[str]:
        return await self.page.locator("li.message .text").all_text_contents()

    async def act(self, text: str, button: str) -> None:
        """Hover over a message and click one of its buttons."""
        await self.message(text).locator(".bubble").hover()
        await self.message(text).get_by_role("button", name=button, exact=True).click()


def _logged_in(url: str, user: User) -> Any:
    """Return what session.js stores for a user who is logged in."""
    parts = urlsplit(url)
    session = {"token": user.token, "user": {"id": user.id, "displayName": user.id.title()}}
    stored = {"name": f"chatlab {parts.path} ", "value": json.dumps(session)}
    return {
        "cookies": [],
        "origins": [{"origin": f"{parts.scheme}://{parts.netloc}", "localStorage": [stored]}],
    }


# --- accessibility --------------------------------------------------------------------------------

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()
# Without the list of requests on /docs, which is Swagger UI as it is.
RUN_AXE = """async () => (await axe.run({ exclude: [["iframe"], ["#docs"]] }, { preload: false, resultTypes: ["violations"] }))
    .violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id} ${target}: ${failureSummary}`))"""


async def assert_accessible(page: Page) -> None:
    """Assert that axe-core finds no violation on this page."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE)
    violations = await page.evaluate(RUN_AXE)
    assert not violations, "\n".join(violations)


# --- a reverse proxy ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def reverse_proxy(service: Service, prefix: str) -> AsyncIterator[str]:
    """Run a reverse proxy that removes a path prefix and passes `Host` on, as JupyterHub does.

    Yield its URL, with the prefix.
    """
    async with aiohttp.ClientSession(auto_decompress=False) as client:

        async def forward(request: web.Request) -> web.StreamResponse:
            return await _forward(request, client, service)

        app = web.Application()
        app.router.add_route("*", prefix + "{path:.*}", forward)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}{prefix}"
        finally:
            await runner.cleanup()


async def _forward(
    request: web.Request, client: aiohttp.ClientSession, service: Service
) -> web.StreamResponse:
    target = f"{service.url}/{request.match_info['path']}"
    target += f"?{request.query_string}" if request.query_string else ""
    if request.headers.get("upgrade", "").lower() == "websocket":
        return await _forward_websocket(request, client, target)
    headers = {
        name: value
        for name, value in request.headers.items()
        if name.lower() not in ("connection", "if-none-match")
    }
    async with client.request(
        request.method, target, headers=headers, data=await request.read(), allow_redirects=False
    ) as response:
        kept = {
            name: value
            for name, value in response.headers.items()
            if name.lower() not in ("content-length", "transfer-encoding", "connection")
        }
        return web.Response(status=response.status, headers=kept, body=await response.read())


async def _forward_websocket(
    request: web.Request, client: aiohttp.ClientSession, target: str
) -> web.StreamResponse:
    here = web.WebSocketResponse()
    await here.prepare(request)
    headers = {name: request.headers[name] for name in ("host", "origin")}
    async with client.ws_connect(target, headers=headers) as there:

        async def copy(source: Any, sink: Any) -> None:
            async for message in source:
                await sink.send_str(message.data)
            await sink.close()

        await asyncio.gather(copy(here, there), copy(there, here), return_exceptions=True)
    return here
