"""A real browser for tests: users at their pages, and a watch on everything a page must never do."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest_asyncio
from aiohttp import web
from find_browser import chromium_path
from live import Service, User
from playwright.async_api import Browser, BrowserContext, Locator, Page, async_playwright, expect
from waiting import LIMIT_S

LIMIT_MS = LIMIT_S * 1000  # for everything a test waits for in a browser
expect.set_options(timeout=LIMIT_MS)

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
WATCH = """
    window.violations = [];
    addEventListener("securitypolicyviolation", (event) => violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for a module's tests, which all run in the module's event loop: `pytest.mark.asyncio(loop_scope="module")`."""
    async with async_playwright() as playwright, contextlib.AsyncExitStack() as stack:
        chromium = await playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        stack.push_async_callback(chromium.close)
        yield chromium


@dataclass
class Desk:
    """One browser (its own storage) at a service, with any number of tabs, all of them watched."""

    context: BrowserContext
    url: str  # of the page, with its path prefix and a final slash
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)  # of the console: errors and warnings

    @classmethod
    async def at(cls, browser: Browser, url: str, person: User | None = None, **options: Any) -> "Desk":
        """Where a person, if one is named, is logged in already."""
        url = url if url.endswith("/") else f"{url}/"
        context = await browser.new_context(storage_state=_logged_in(url, person) if person else None, **options)
        context.set_default_timeout(LIMIT_MS)
        desk = cls(context, url)
        await context.add_init_script(WATCH)
        context.on("request", lambda request: desk.requests.append(request.url))
        context.on("page", desk._watch)
        return desk

    def _watch(self, page: Page) -> None:
        async def dialog_came(dialog: Any) -> None:
            self.dialogs.append(dialog.message)
            await dialog.dismiss()

        page.on("dialog", dialog_came)
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        page.on("console", lambda line: self.complaints.append(line.text) if line.type in ("error", "warning") else None)
        page.on("websocket", lambda socket: self.requests.append(socket.url))

    async def open(self, path: str = "") -> "Tab":
        page = await self.context.new_page()
        await page.goto(self.url + path)
        return Tab(page)

    async def talk(self, other: User) -> "Tab":
        """A new tab with a conversation open."""
        tab = await self.open(f"#/{other.id}")
        await tab.has_loaded()
        return tab

    async def is_clean(self, *, but: tuple[str, ...] = ()) -> None:
        """Nothing was executed that was written by a person, nothing asked of anybody else, and nobody complained (`but` of these)."""
        origin = urlsplit(self.url)
        here = [f"{scheme}://{origin.netloc}{origin.path}" for scheme in ("http", "https", "ws", "wss")] + ["blob:", "data:"]
        foreign = [url for url in self.requests if not url.startswith(tuple(here))]
        assert not foreign, foreign
        complaints = [line for line in self.complaints if not any(known in line for known in but)]
        assert not self.dialogs + complaints, self.dialogs + complaints
        for page in self.context.pages:
            violations = await page.evaluate("window.violations ?? []")
            assert not violations, violations
            assert await page.evaluate("window.executed ?? null") is None


@dataclass
class Tab:
    """One page of the chat, as a person sees it."""

    page: Page

    def row(self, person: User | str) -> Locator:
        """Somebody in the list."""
        return self.page.locator(f'[data-user="{person if isinstance(person, str) else person.id}"]')

    async def talk_to(self, person: User | str) -> None:
        """Open a conversation from the list. The row is marked as current once the page has left the former conversation."""
        await self.row(person).click()
        await expect(self.row(person)).to_have_attribute("aria-current", "page")
        await self.has_loaded()

    async def has_loaded(self) -> None:
        """Wait until the open conversation shows its newest page, or why it cannot."""
        await expect(self.page.locator(".conversation .top")).not_to_have_text("Loading…")

    async def scroll_to(self, top: int) -> None:
        """Scroll the open conversation to so many pixels from its top."""
        await self.page.locator(".scroller").evaluate("(node, top) => { node.scrollTop = top; }", top)

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
        """Point at a message and press one of its buttons."""
        await self.message(text).locator(".bubble").hover()
        await self.message(text).get_by_role("button", name=button, exact=True).click()


def _logged_in(url: str, person: User) -> Any:
    """What a browser keeps of a session: see session.js."""
    parts = urlsplit(url)
    session = {"token": person.token, "user": {"id": person.id, "displayName": person.id.title()}}
    stored = {"name": f"chatlab {parts.path} ", "value": json.dumps(session)}
    return {"cookies": [], "origins": [{"origin": f"{parts.scheme}://{parts.netloc}", "localStorage": [stored]}]}


# --- in front of the service -------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def behind(service: Service, prefix: str) -> AsyncIterator[str]:
    """A reverse proxy as JupyterHub's: it takes the prefix off, and knows nothing else. Its address, prefix included."""
    async with aiohttp.ClientSession(auto_decompress=False) as client:

        async def pass_on(request: web.Request) -> web.StreamResponse:
            return await _pass_on(request, client, service)

        app = web.Application()
        app.router.add_route("*", prefix + "{path:.*}", pass_on)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}{prefix}"
        finally:
            await runner.cleanup()


async def _pass_on(request: web.Request, client: aiohttp.ClientSession, service: Service) -> web.StreamResponse:
    target = f"{service.url}/{request.match_info['path']}"
    target += f"?{request.query_string}" if request.query_string else ""
    if request.headers.get("upgrade", "").lower() == "websocket":
        return await _pass_socket_on(request, client, target)
    headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "connection", "if-none-match")}
    async with client.request(request.method, target, headers=headers, data=await request.read(), allow_redirects=False) as answer:
        kept = {
            name: value
            for name, value in answer.headers.items()
            if name.lower() not in ("content-length", "transfer-encoding", "connection")
        }
        return web.Response(status=answer.status, headers=kept, body=await answer.read())


async def _pass_socket_on(request: web.Request, client: aiohttp.ClientSession, target: str) -> web.StreamResponse:
    here = web.WebSocketResponse()
    await here.prepare(request)
    async with client.ws_connect(target) as there:

        async def copy(source: Any, sink: Any) -> None:
            async for message in source:
                await sink.send_str(message.data)
            await sink.close()

        await asyncio.gather(copy(here, there), copy(there, here), return_exceptions=True)
    return here
