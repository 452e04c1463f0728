"""The chat page in a real browser: users chat, lose the connection and send hostile texts."""

import asyncio
import contextlib
import functools
import json
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import pytest
import pytest_asyncio
from browsing import (
    PHONE,
    BrowserSession,
    Tab,
    assert_accessible,
    browser,
    reverse_proxy,
    shared,
)
from http_clients import open_client
from live import PASSWORD, Service, User
from playwright.async_api import Browser, Page, Route, WebSocketRoute, expect
from shared_service import SharedService, meet, store_messages
from waiting import LIMIT_S, wait_until

from chatlab.web import pages

__all__ = ["browser", "shared"]  # fixtures
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),  # one event loop, so one browser, for all tests
    pytest.mark.timeout(400),  # a slow machine may use several of the generous limits in one test
]

BrowserOpener = Callable[..., Awaitable[BrowserSession]]
UserMaker = Callable[..., list[User]]
History = tuple[User, User, Tab]
REFUSED = "Failed to load resource: the server responded with a status of 4"  # what Chromium logs for a 4xx response
WATCH_PRESENCE = """() => {
    const presence = document.querySelector(".presence");
    window.presences = [];
    new MutationObserver(() => presences.push(presence.textContent)).observe(presence, { childList: true });
}"""
# The bytes of each file of this version that came over the network; 0 if the browser had it.
RECEIVED = """(version) => performance.getEntriesByType("resource")
    .filter(({ name }) => name.includes(version)).map(({ transferSize }) => transferSize)"""
# What Chromium logs while the service is down.
LOST = (
    "ERR_CONNECTION",
    "ERR_CONTENT_LENGTH_MISMATCH",
    "ERR_EMPTY_RESPONSE",
    "ERR_SOCKET",
    "WebSocket connection",
)
SLOW = ("status of 503", "ERR_INTERNET_DISCONNECTED")  # on a slow machine


@pytest_asyncio.fixture(loop_scope="module")
async def create_users(shared: SharedService) -> AsyncIterator[UserMaker]:
    """Create users whose ids start with these names and are unique."""
    users: list[User] = []

    def maker(*names: str) -> list[User]:
        suffix = secrets.token_hex(4)
        made = [shared.create_user(f"{name}-{suffix}") for name in names]
        users.extend(made)
        return made

    yield maker
    await asyncio.gather(*(user.close() for user in users), return_exceptions=True)


@pytest_asyncio.fixture(loop_scope="module")
async def open_browser(browser: Browser, shared: SharedService) -> AsyncIterator[BrowserOpener]:
    """Open browsers. At the end, their pages must have logged no errors except `ignore`."""
    sessions: list[tuple[BrowserSession, tuple[str, ...]]] = []

    async def maker(
        user: User | None = None, url: str = "", *, ignore: tuple[str, ...] = (), **options: Any
    ) -> BrowserSession:
        sessions.append(
            (
                await BrowserSession.start(browser, url or shared.service.url, user, **options),
                ignore,
            )
        )
        return sessions[-1][0]

    yield maker
    for session, ignore in sessions:
        await session.assert_clean(ignore=ignore)
        await session.context.close()


# --- accounts -------------------------------------------------------------------------------------


async def test_sign_up_and_log_out(open_browser: BrowserOpener, shared: SharedService) -> None:
    """A new user signs up and sees the list.

    Logging out ends the session on the service. No URL contains the token. Only the id of the
    device stays in the browser.
    """
    here = await open_browser(ignore=(REFUSED,))
    page = (await here.open()).page
    await page.get_by_role("button", name="Create an account").click()
    await page.get_by_label("User name").fill("nora")
    await page.get_by_label("Your name").fill("Nora Ø")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Create account").click()
    await expect(page.locator(".me")).to_contain_text("Nora Ø")
    token = json.loads(await page.evaluate("localStorage['chatlab / ']"))["token"]

    async with page.expect_response("**/api/auth/logout", timeout=LIMIT_S * 1000) as answered:
        await page.get_by_role("button", name="Log out").click()
    assert (await answered.value).status == 204
    await page.get_by_label("User name").fill("nora")
    assert await page.evaluate("Object.keys(localStorage)") == ["chatlab-device /"]
    async with open_client(headers={"authorization": f"Bearer {token}"}) as http:
        assert (await http.get(f"{shared.service.url}/api/auth/me")).status_code == 401
    assert not [url for url in here.requests if token in url]


async def test_log_in_and_stay_logged_in(
    open_browser: BrowserOpener, shared: SharedService
) -> None:
    """A wrong password shows an error. The right one opens the chat, also after a reload."""
    ann = await User.sign_up(shared.service, "ann-with-a-password")
    page = (await (await open_browser(ignore=(REFUSED,))).open()).page
    await page.get_by_label("User name").fill(ann.id)
    await page.get_by_label("Password").fill("not the one")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.keyboard.press("Enter")
    await expect(page.locator(".me")).to_contain_text(ann.id)
    await page.reload()
    await expect(page.locator(".me")).to_contain_text(ann.id)
    await ann.close()


async def test_a_password_that_is_easy_to_guess_is_explained(
    open_browser: BrowserOpener, shared: SharedService
) -> None:
    """The rule is shown below the field, and the error names what would be right."""
    page = (await (await open_browser(ignore=(REFUSED,))).open()).page
    await page.get_by_role("button", name="Create an account").click()
    await expect(page.get_by_label("Password")).to_have_accessible_description(
        re.compile("8 to 256 characters besides your name")
    )
    await page.get_by_label("User name").fill("olga")
    await page.get_by_label("Password").fill("Password123")
    await page.get_by_role("button", name="Create account").click()
    await expect(page.get_by_role("alert")).to_have_text(
        "The password should not be one of the most common passwords; "
        "take a few words that do not belong together."
    )


@pytest.mark.slow
async def test_too_many_failed_log_ins_show_the_seconds_until_the_next_try(
    open_browser: BrowserOpener, shared: SharedService
) -> None:
    """After ten failed log-ins with a name, the page says how long to wait."""
    guess = {"username": "nobody-at-all", "password": "a wrong guess"}
    async with open_client(shared.service.url) as http:
        statuses = {(await http.post("/api/auth/login", json=guess)).status_code for _ in range(10)}
    assert statuses == {401}
    page = (await (await open_browser(ignore=(REFUSED,))).open()).page
    await page.get_by_label("User name").fill(guess["username"])
    await page.get_by_label("Password").fill(guess["password"])
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_have_text(
        re.compile(r"^Too many failed log-ins with this name\. Try again in \d+ s\.$")
    )


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("taken", "This name is taken."),
        ("Not-A Handle", "The user name should be 1 to 32 of a-z, 0-9, _ and -"),
    ],
)
async def test_a_rejected_sign_up_shows_a_readable_error(
    open_browser: BrowserOpener,
    create_users: UserMaker,
    shared: SharedService,
    name: str,
    error: str,
) -> None:
    """The form shows why the service rejected the sign-up, without codes, JSON or the input."""
    if name == "taken":
        shared.create_user(name)
    page = (await (await open_browser(ignore=(REFUSED,))).open()).page
    await page.get_by_role("button", name="Create an account").click()
    # The service, not the browser, must reject the input.
    await page.locator("form").evaluate("(form) => (form.noValidate = true)")
    await page.get_by_label("User name").fill(name)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Create account").click()
    await expect(page.get_by_role("alert")).to_contain_text(error)


async def test_an_ended_session_leads_back_to_the_log_in(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """After a session has ended, an open page shows the log-in form and the reason."""
    [ann] = create_users("ann")
    tab = await (await open_browser(ann, ignore=(REFUSED,))).open()
    await expect(tab.row(ann)).to_be_visible()
    assert (await ann.http.post("/api/auth/logout")).status_code == 204
    await expect(tab.page.get_by_role("alert")).to_have_text(
        "Your session has ended. Log in again."
    )


# --- two users ------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_list_shows_presence_and_new_messages(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """The list shows who is online, the last message and the number of unread messages."""
    a, b, _ = create_users("ann", "bob", "cat")
    ann = await (await open_browser(a)).open()
    await expect(ann.row(b)).to_be_visible()
    await expect(ann.row(b).locator(".dot")).to_be_hidden()
    bob = await (await open_browser(b)).open_conversation(a)
    await expect(ann.row(b).locator(".dot")).to_be_visible()

    await bob.write("hello")
    await bob.write("are you there?")
    await expect(ann.row(b).locator(".badge")).to_contain_text("2")
    await expect(ann.row(b).locator(".preview")).to_have_text("are you there?")
    await expect(ann.page).to_have_title("(2) chatlab")
    icon = ann.page.locator("link[rel=icon]")
    await expect(icon).to_have_attribute("href", re.compile("^data:image/svg.*%3E2%3C"))
    await expect(ann.page.locator(".contacts li").first).to_contain_text("Bob-")
    await expect(bob.message("hello").locator(".status.sent")).to_be_visible()

    await ann.open_conversation(b)
    await expect(ann.row(b).locator(".badge")).to_be_hidden()
    await expect(ann.page).to_have_title("chatlab")
    await expect(icon).to_have_attribute("href", re.compile(r"icon\.svg$"))
    await expect(ann.page.locator(".line.new")).to_be_visible()


async def test_two_users_chat(open_browser: BrowserOpener, create_users: UserMaker) -> None:
    """Messages, read marks, "typing" and "offline" appear on the other page."""
    a, b = create_users("ann", "bob")
    ann, bob = (
        await (await open_browser(a)).open_conversation(b),
        await (await open_browser(b)).open_conversation(a),
    )
    await bob.write("hello")
    await expect(bob.message("hello").locator(".status.read")).to_be_visible()
    await bob.page.reload()
    await expect(bob.message("hello").locator(".status.read")).to_be_visible()
    await expect(ann.message("hello")).to_be_visible()
    await bob.page.evaluate(WATCH_PRESENCE)  # recorded, because it is visible only for a moment
    await ann.page.locator("textarea").press_sequentially("yes", delay=10)
    await bob.page.wait_for_function("() => presences.includes('typing…')")
    await ann.page.keyboard.press("Enter")
    await expect(bob.message("yes")).to_be_visible()
    await expect(bob.page.locator(".presence")).to_have_text("online")
    await expect(bob.page.locator("#announcer")).to_contain_text(": yes")
    assert await ann.texts() == await bob.texts() == ["hello", "yes"]
    await ann.page.close()
    await expect(bob.page.locator(".presence")).to_have_text("offline")


@pytest.mark.slow
async def test_reactions(open_browser: BrowserOpener, create_users: UserMaker) -> None:
    """A reaction appears on both pages with the number of users, and can be removed."""
    a, b = create_users("ann", "bob")
    ann = await (await open_browser(a)).open_conversation(b)
    bob = await (await open_browser(b)).open_conversation(a)
    await ann.write("frist")
    await bob.act("frist", "React")
    await bob.page.get_by_role("button", name="React with party").click()
    chip = ann.message("frist").locator(".reaction")
    await expect(chip).to_have_text("🎉1")
    await expect(chip).to_have_attribute("aria-pressed", "false")
    await chip.click()
    await expect(bob.message("frist").locator(".reaction")).to_have_text("🎉2")
    await bob.message("frist").locator(".reaction").click()
    await expect(chip).to_have_text("🎉1")


async def test_edits_and_deletions(open_browser: BrowserOpener, create_users: UserMaker) -> None:
    """Both users see an edit and its mark, and the place of a deleted message.

    Only the sender can edit and delete.
    """
    a, b = create_users("ann", "bob")
    ann, bob = (
        await (await open_browser(a)).open_conversation(b),
        await (await open_browser(b)).open_conversation(a),
    )
    await ann.write("frist")
    await ann.write("second")
    await ann.act("frist", "Edit")
    await expect(ann.page.locator("textarea")).to_have_value("frist")
    await ann.write("first")
    await expect(bob.message("first").locator(".edited")).to_be_visible()
    await expect(bob.message("second").locator(".edited")).to_have_count(0)

    await ann.act("second", "Delete")
    await ann.page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    await ann.act("second", "Delete")
    await ann.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(bob.message("Message deleted")).to_be_visible()
    assert await ann.texts() == await bob.texts() == ["first", "Message deleted"]

    await bob.message("first").locator(".bubble").hover()
    await expect(
        bob.message("first").get_by_role("button", name="React", exact=True)
    ).to_be_visible()
    await expect(bob.message("first").get_by_role("button", name="Edit")).to_have_count(0)


@pytest_asyncio.fixture(loop_scope="module")
async def history(
    open_browser: BrowserOpener, create_users: UserMaker, shared: SharedService
) -> History:
    """Ann's open conversation with Bob, who has sent her 130 messages, which she has read.

    The page has loaded 50 of them and shows the end.
    """
    ann, bob = create_users("ann", "bob")
    texts = [f"number {number}" for number in range(1, 131)]
    store_messages(shared.database, bob.id, ann.id, texts)
    await ann.http.post(f"/api/messages/{bob.id}/read", json={"seq": 130})
    tab = await (await open_browser(ann, ignore=("ERR_FAILED",))).open_conversation(bob)
    await expect(tab.messages).to_have_count(50)
    await expect(tab.message("number 130")).to_be_in_viewport()
    return ann, bob, tab


async def test_scrolling_up_loads_the_history(history: History) -> None:
    """Scrolling up loads older messages once, and the message being read does not move."""
    ann, bob, tab = history
    up = "(node) => { node.closest('.scroller').scrollTop = 300; return node.getBoundingClientRect().top; }"
    before = await tab.message("number 85").evaluate(up)
    await expect(tab.messages).to_have_count(100)
    after = await tab.message("number 85").evaluate("(node) => node.getBoundingClientRect().top")
    assert abs(before - after) < 2
    await tab.scroll_to(0)
    await expect(tab.messages).to_have_count(130)
    assert await tab.texts() == [f"number {number}" for number in range(1, 131)]
    await tab.scroll_to(0)
    await expect(
        tab.page.get_by_text(re.compile("This is where your conversation with Bob-.* begins."))
    ).to_be_in_viewport()

    await bob.send(ann, "while you read")
    await expect(
        tab.page.get_by_role("button", name="1 new messages, go to the end")
    ).to_be_visible()
    await expect(tab.row(bob).locator(".badge")).to_contain_text("1")
    await tab.page.locator(".jump").click()
    await expect(tab.message("while you read")).to_be_in_viewport()
    await expect(tab.row(bob).locator(".badge")).to_be_hidden()


@pytest.mark.slow
async def test_a_redraw_does_not_undo_a_scroll(history: History) -> None:
    """A redraw before the scroll event neither undoes the scroll nor loses the end."""
    ann, bob, tab = history
    await bob.send(ann, "this redraws the page")
    await expect(tab.message("this redraws the page")).to_be_in_viewport()
    scroller = tab.page.locator(".scroller")
    # In one script, so that no event can be handled between the two statements.
    redraw = "dispatchEvent(new Event('focus'))"
    await scroller.evaluate(f"(node) => {{ node.scrollTop = 300; {redraw}; }}")
    await expect(tab.messages).to_have_count(101)
    await expect(tab.page.locator(".jump")).to_be_visible()

    await tab.write("writing leads to the end")
    await expect(tab.message("writing leads to the end")).to_be_in_viewport()
    # A phone that opens its keyboard makes the view lower.
    await scroller.evaluate("(node) => { node.style.height = '60%'; }")
    await expect(tab.message("writing leads to the end")).to_be_in_viewport()
    await scroller.evaluate("(node) => { node.style.height = ''; }")
    await bob.send(ann, "the page follows again")
    await expect(tab.message("the page follows again")).to_be_in_viewport()


@pytest.mark.slow
async def test_scrolling_during_a_load_sends_one_request(history: History) -> None:
    """While older messages are loading, further scrolls send no request.

    The messages are shown when they arrive.
    """
    _, _, tab = history
    held: asyncio.Queue[Route] = asyncio.Queue()
    await tab.page.route("**/api/messages/*before=*", held.put)
    await tab.scroll_to(300)
    request = await held.get()
    for place in (200, 100, 0):
        await tab.scroll_to(place)
    await expect(tab.page.locator(".top")).to_have_text("Loading…")
    await request.continue_()
    await expect(tab.messages).to_have_count(100)
    assert held.empty()


@pytest.mark.slow
async def test_a_failed_load_of_history_can_be_retried(history: History) -> None:
    """If older messages cannot be loaded, the page shows the error and a button to retry."""
    _, _, tab = history
    await tab.page.route("**/api/messages/*before=*", lambda route: route.abort(), times=1)
    await tab.scroll_to(0)
    await expect(tab.page.locator(".top")).to_have_text("No connection to the chat. Try again")
    await expect(tab.messages).to_have_count(50)
    await tab.page.locator(".top").get_by_role("button", name="Try again").click()
    await expect(tab.messages).to_have_count(100)


@pytest.mark.slow
async def test_a_failed_load_of_history_is_retried_after_a_reconnection(history: History) -> None:
    """When the connection is back, the page loads older messages that failed to load before."""
    _, _, tab = history
    sockets: list[WebSocketRoute] = []

    def forward(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    await tab.page.route_web_socket("**/socket.io/**", forward)
    await tab.page.reload()
    await expect(tab.messages).to_have_count(50)
    older = "**/api/messages/*before=*"
    await tab.page.route(older, lambda route: route.abort())  # also if the socket connects only now
    await tab.scroll_to(0)
    await expect(tab.page.locator(".top")).to_have_text("No connection to the chat. Try again")
    await wait_until(lambda: sockets, "the page's socket")
    await tab.page.unroute(older)
    await sockets[-1].close()
    await expect(tab.messages).to_have_count(100)


async def test_a_conversation_opens_at_the_first_unread_message(
    open_browser: BrowserOpener, create_users: UserMaker, shared: SharedService
) -> None:
    """What has been on the screen, while the user looked at it, is marked as read."""
    ann, bob = create_users("ann", "bob")
    store_messages(shared.database, bob.id, ann.id, map(str, range(1, 131)))
    await ann.http.post(f"/api/messages/{bob.id}/read", json={"seq": 50})
    tab = await (await open_browser(ann)).open_conversation(bob)
    line, badge = tab.page.locator(".line.new"), tab.row(bob).locator(".badge")
    await expect(line).to_be_in_viewport()
    await expect(tab.page.locator(".line.new + li .text")).to_have_text("51")
    last_visible = await tab.page.evaluate(LAST_VISIBLE)
    assert 51 < last_visible < 130
    await expect(badge).to_contain_text(str(130 - last_visible))
    marks = shared.database["reads"]
    await wait_until(
        lambda: (marks.find_one({"userId": ann.id}) or {})["seq"],
        "the mark in MongoDB",
        is_reached=last_visible.__eq__,
    )
    await tab.page.locator(".jump").click()
    await expect(badge).to_be_hidden()

    async with another_page_in_front(tab.page):
        await bob.send(ann, "while you are away")
        await expect(tab.message("while you are away")).to_be_in_viewport()
        await expect(tab.page.locator(".line.new + li .text")).to_have_text("while you are away")
        await expect(badge).to_contain_text("1")
    await expect(badge).to_be_hidden()


@contextlib.asynccontextmanager
async def another_page_in_front(page: Page) -> AsyncIterator[None]:
    """Take the focus from this page, until the block ends."""
    devtools = await page.context.new_cdp_session(page)
    await devtools.send("Emulation.setFocusEmulationEnabled", {"enabled": False})
    other = await page.context.new_page()
    await other.bring_to_front()
    await page.wait_for_function("() => !document.hasFocus()")
    yield
    await other.close()
    await page.bring_to_front()
    await devtools.send("Emulation.setFocusEmulationEnabled", {"enabled": True})


WATCH_NOTICES = """() => {
    window.notices = [];
    window.Notification = class extends Notification {
        constructor(title, options) {
            super(title, options);
            this.onshow = () => notices.push([title, options.body]);
        }
    };
}"""


@pytest.mark.slow
async def test_desktop_notices_of_a_page_in_the_background(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """They are off until the user turns them on, and shown while the user is elsewhere."""
    ann, bob = create_users("ann", "bob")
    here = await open_browser(ann, permissions=["notifications"])
    page = (await here.open_conversation(bob)).page
    await page.evaluate(WATCH_NOTICES)
    await page.get_by_role("button", name="Account settings").click()
    box = page.get_by_label("Show a notice on the desktop")
    await expect(box).not_to_be_checked()
    await box.check()
    await bob.send(ann, "you see this one")
    await expect(page.get_by_text("you see this one").first).to_be_visible()
    async with another_page_in_front(page):
        await bob.send(ann, "are you there?")
        await page.wait_for_function("() => notices.length")
    assert await page.evaluate("notices") == [[bob.id.title(), "are you there?"]]


LAST_VISIBLE = """() => {
    const { bottom } = document.querySelector(".scroller").getBoundingClientRect();
    const seen = [...document.querySelectorAll("li.message")].findLast((row) => row.getBoundingClientRect().bottom <= bottom + 8);
    return Number(seen.querySelector(".text").textContent);
}"""


@pytest.mark.slow
async def test_a_reply_quotes_its_original_and_leads_to_it(
    history: History, open_browser: BrowserOpener, shared: SharedService
) -> None:
    """The draft of a reply survives a reload. An original that is not loaded yet is read alone."""
    ann, bob, tab = history
    await tab.act("number 130", "Reply")
    await tab.page.locator("textarea").fill("all of them")
    await tab.page.reload()
    await expect(tab.page.locator(".banner")).to_contain_text("number 130")
    await tab.page.locator("textarea").press("Enter")
    quote = tab.message("all of them").locator(".quote")
    await expect(quote).to_have_text(f"In reply to {bob.id.title()}: number 130")
    await expect(tab.page.locator(".banner")).to_be_hidden()

    first = shared.database["messages"].find_one({"senderId": bob.id, "text": "number 1"}) or {}
    await bob.send(ann, "as I said", replyTo=str(first["_id"]))
    quote = tab.message("as I said").locator(".quote")
    await expect(quote).to_contain_text("number 1")
    await bob.http.patch(f"/api/messages/{first['_id']}", json={"text": "number one"})
    await expect(quote).to_contain_text("number one")
    await quote.click()
    original = tab.messages.filter(has=tab.page.locator(".text", has_text="number one"))
    await expect(original).to_be_in_viewport()
    await expect(original).to_be_focused()

    link = await quote.get_attribute("href")
    other = await (await open_browser(bob)).open(str(link).replace(bob.id, ann.id))
    await expect(other.page.locator(".message.found .text")).to_have_text("number one")


@pytest.mark.slow
async def test_a_click_on_a_quote_focuses_an_original_that_is_on_the_screen(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """The click itself must not focus the reply afterwards."""
    ann, bob = create_users("ann", "bob")
    sent = await bob.send(ann, "original")
    await ann.send(bob, "reply", replyTo=sent["_id"])
    tab = await (await open_browser(ann)).open_conversation(bob)
    await tab.message("reply").locator(".quote").click()
    await expect(tab.messages.first).to_be_focused()


@pytest.mark.slow
async def test_search_in_a_conversation(history: History) -> None:
    """Enter shows the newest match, also of messages that are not loaded yet."""
    _, _, tab = history
    press, found = tab.page.keyboard.press, tab.page.locator(".search .found li")
    await press("Control+Shift+F")
    await tab.page.keyboard.type("NUMBER 1")
    await expect(tab.page.get_by_text("20+ messages")).to_be_visible()
    for count in ("40+ messages", "42 messages"):
        await tab.page.get_by_role("button", name="Show older ones").click()
        await expect(tab.page.get_by_text(count)).to_be_visible()
    await tab.page.get_by_label("Search in this conversation").last.fill("number 12")
    await press("Enter")
    await expect(tab.message("number 129")).to_be_focused()
    await expect(found).to_have_count(11)
    await expect(found.first.locator("mark")).to_have_text("number 12")
    await found.first.locator("button").focus()
    await press("ArrowUp")
    for _ in range(11):
        await press("ArrowDown")
    await press("Enter")
    await expect(tab.message("number 12")).to_be_in_viewport()
    await found.last.locator("button").press("Escape")
    await expect(found).to_have_count(11)
    await expect(found.last).to_be_hidden()
    await expect(tab.page.locator("textarea")).to_be_focused()
    await tab.page.locator(".jump").click()
    await expect(tab.message("number 130")).to_be_in_viewport()


DROP_AND_PASTE = """(node) => {
    const clipboardData = new DataTransfer();
    clipboardData.items.add(new File(["x"], "picture.png", { type: "image/png" }));
    const options = { bubbles: true, cancelable: true };
    const drop = new DragEvent("drop", { ...options, dataTransfer: clipboardData });
    node.dispatchEvent(drop);
    node.dispatchEvent(new ClipboardEvent("paste", { ...options, clipboardData }));
    return drop.defaultPrevented;
}"""


@pytest.mark.slow
async def test_a_file_is_refused_with_a_sentence(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """The browser does not open a file that is dropped on the page."""
    ann, bob = create_users("ann", "bob")
    tab = await (await open_browser(ann)).open_conversation(bob)
    assert await tab.page.locator("textarea").evaluate(DROP_AND_PASTE)
    notices = tab.page.locator("#notices p")
    await expect(notices).to_have_text(
        ["Files cannot be sent here. Put the file somewhere else and send a link to it."] * 2
    )


@pytest.mark.slow
async def test_tabs_and_devices_of_one_user_agree(
    open_browser: BrowserOpener, create_users: UserMaker, shared: SharedService
) -> None:
    """All tabs and devices of a user show the same.

    A log-out applies to all tabs of one browser, and not to other devices.
    """
    [bob], ann = create_users("bob"), await User.sign_up(shared.service, "ann-of-many-tabs")
    on_phone = (
        await ann.http.post("/api/auth/login", json={"username": ann.id, "password": PASSWORD})
    ).json()["token"]
    laptop, phone = (
        await open_browser(ann, ignore=(REFUSED,)),
        await open_browser(replace(ann, token=on_phone), **PHONE),
    )
    first, second, pocket = (
        await laptop.open_conversation(bob),
        await laptop.open_conversation(bob),
        await phone.open(),
    )
    await first.write("from the first tab")
    for tab in (first, second):
        await expect(tab.message("from the first tab").locator(".status.sent")).to_be_visible()
        await expect(tab.messages).to_have_count(1)
    await expect(pocket.row(bob).locator(".preview")).to_have_text("You: from the first tab")

    for tab in (first, second):  # no tab shows the conversation with bob now
        await tab.open_conversation(ann)
    await bob.send(ann, "for all of you")
    for tab in (first, second, pocket):
        await expect(tab.row(bob).locator(".badge")).to_contain_text("1")
    await pocket.open_conversation(bob)
    for tab in (first, second, pocket):
        await expect(tab.row(bob).locator(".badge")).to_be_hidden()

    await first.page.get_by_role("button", name="Log out").click()
    await expect(second.page.get_by_role("button", name="Log in")).to_be_visible()
    await pocket.page.locator("textarea").fill("still here")
    await pocket.page.get_by_role("button", name="Send").click()
    await expect(pocket.message("still here").locator(".status.sent")).to_be_visible()
    await ann.close()


# --- lost connections -----------------------------------------------------------------------------


@pytest.fixture
def away(shared: SharedService, tmp_path: Path) -> Iterator[Service]:
    """Another process of the service. The tests kill and restart it."""
    with shared.another_process(tmp_path / "away.log") as other:
        yield other.service


async def test_catches_up_after_a_restart(
    open_browser: BrowserOpener, create_users: UserMaker, away: Service, shared: SharedService
) -> None:
    """The service is killed and restarted while messages are sent, through another process too.

    The page then has each message once, in order and as edited.
    """
    ann, bob = [await someone.at(away) for someone in create_users("ann", "bob")]
    sent = [await bob.send(ann, f"number {number}") for number in range(1, 6)]
    tab = await (await open_browser(ann, away.url, ignore=LOST)).open_conversation(bob)
    await expect(tab.messages).to_have_count(5)
    await expect(tab.page.locator("li.line.new")).to_be_visible()  # the unread ones are counted

    away.kill()
    await expect(tab.page.get_by_text("No connection. Trying again…")).to_be_visible()
    # More than the page requests at once.
    others = (f"number {number}" for number in range(6, 246))
    store_messages(shared.database, bob.id, ann.id, others, first_seq=6)
    await asyncio.to_thread(away.restart)
    await bob.http.patch(f"/api/messages/{sent[2]['_id']}", json={"text": "number three"})
    for number in range(246, 256):
        await bob.send(ann, f"number {number}")
    await expect(tab.page.get_by_text("No connection. Trying again…")).to_be_hidden()
    await expect(tab.messages).to_have_count(255)
    await expect(tab.message("number three")).to_have_count(1)
    assert await tab.texts() == [
        f"number {'three' if number == 3 else number}" for number in range(1, 256)
    ]
    await ann.close()
    await bob.close()


async def test_reads_again_when_events_were_lost(
    open_browser: BrowserOpener, create_users: UserMaker, shared: SharedService, tmp_path: Path
) -> None:
    """After a `resync`, the page shows a change of an old message whose event was lost."""
    ann, bob = create_users("ann", "bob")
    store_messages(shared.database, bob.id, ann.id, ["before", "last"])
    with shared.another_process(tmp_path / "peer.log", KEY_PREFIX=shared.prefix) as peer:
        there = await bob.at(peer.service)
        await meet(ann, there)
        tab = await (await open_browser(ann)).open_conversation(bob)
        await expect(tab.messages).to_have_count(2)
        changed = {"$set": {"text": "changed"}, "$inc": {"version": 1}}
        shared.database["messages"].update_one({"senderId": bob.id, "text": "before"}, changed)
        for key in shared.keys_of(f"messages:*{ann.id}*"):
            shared.keys.delete(shared.prefix + key)
        shared.keys.client_kill_filter(_type="pubsub")
        await expect(tab.message("changed")).to_have_count(1)
        await there.close()


async def test_a_message_without_a_connection_is_sent_once_later(
    open_browser: BrowserOpener, create_users: UserMaker, away: Service
) -> None:
    """A message written while the service is down has a clock, and is not shown as an error.

    The page sends it when the service is back.
    """
    ann, bob = create_users("ann", "bob")
    tab = await (await open_browser(ann, away.url, ignore=LOST)).open_conversation(bob)
    await tab.write("before")
    await expect(tab.message("before").locator(".status.sent")).to_be_visible()
    away.kill()
    await expect(tab.page.get_by_text("No connection. Trying again…")).to_be_visible()
    for text in ("one", "two", "never mind"):
        await tab.write(text)
    await expect(tab.page.locator(".will-be-sent")).to_have_count(3)
    await expect(tab.message("one")).to_contain_text("Will be sent.")
    await expect(tab.message("one").locator(".status")).to_have_attribute("title", "waiting")
    await expect(tab.page.locator(".refusal")).to_have_count(0)
    await tab.message("never mind").get_by_role("button", name="Discard").click()

    await asyncio.to_thread(away.restart)
    await expect(tab.page.locator(".status.sent")).to_have_count(3)
    await expect(tab.page.locator(".will-be-sent")).to_have_count(0)
    assert await tab.texts() == ["before", "one", "two"]
    assert [message["text"] for message in (await bob.read(ann, fresh=True)).json()] == [
        "before",
        "one",
        "two",
    ]


@pytest.mark.slow
async def test_what_was_written_survives_a_crash_and_a_new_log_in(
    open_browser: BrowserOpener, create_users: UserMaker, away: Service, shared: SharedService
) -> None:
    """Queued messages and a draft are stored at once. Other tabs show the queued messages too.

    They are there again when the user logs in, and the messages are then sent once.
    """
    [bob], ann = create_users("bob"), await User.sign_up(away, "ann-without-a-network")
    here = await open_browser(ann, away.url, ignore=(*LOST, REFUSED))
    tab, other = await here.open_conversation(bob), await here.open_conversation(bob)
    await expect(tab.row(bob)).to_be_visible()
    away.kill()
    await expect(tab.page.get_by_text("No connection. Trying again…")).to_be_visible()
    for text in ("one", "two"):
        await tab.write(text)
    await tab.page.locator("textarea").fill("half a sen")
    await expect(other.message("two")).to_contain_text("Will be sent.")
    for page in here.context.pages:
        await page.close()
    shared.database["sessions"].delete_many({"userId": ann.id})
    await asyncio.to_thread(away.restart)

    tab = await here.open(f"#/{bob.id}")
    await tab.page.get_by_label("User name").fill(ann.id)
    await tab.page.get_by_label("Password").fill(PASSWORD)
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.locator("textarea")).to_have_value("half a sen")
    await expect(tab.page.locator(".status.sent")).to_have_count(2)
    assert await tab.texts() == ["one", "two"]
    await tab.page.locator("textarea").fill("")
    assert (
        await tab.page.evaluate(
            "Object.keys(localStorage).filter((key) => /draft|queue/.test(key))"
        )
        == []
    )
    await ann.close()


@pytest.mark.slow
async def test_a_lost_network_is_noticed_at_once_and_a_frozen_one_within_ten_seconds(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """The clock of the page stands still, except for the ten seconds."""
    ann, bob = create_users("ann", "bob")
    here = await open_browser(ann, ignore=(*LOST, *SLOW))
    page, frozen = await here.context.new_page(), asyncio.Event()
    tab, banner = Tab(page), page.get_by_text("No connection. Trying again…")
    await page.clock.install()
    await page.route_web_socket("**/socket.io/**", functools.partial(forward_unless, frozen))
    await page.goto(f"{here.url}#/{bob.id}")
    await tab.write("before")
    await expect(tab.message("before").locator(".status.sent")).to_be_visible()
    await page.clock.pause_at(await page.evaluate("Date.now() + 1500"))
    await expect(banner).to_be_hidden()

    await here.context.set_offline(True)
    await expect(banner).to_be_visible()
    await tab.write("on the train")
    await expect(tab.message("on the train")).to_contain_text("Will be sent.")
    await here.context.set_offline(False)
    await expect(banner).to_be_hidden()
    await expect(tab.message("on the train").locator(".status.sent")).to_be_visible()

    frozen.set()
    await page.clock.run_for(10_000)
    await expect(banner).to_be_visible()
    frozen.clear()
    await page.clock.resume()
    await expect(banner).to_be_hidden()


def forward_unless(frozen: asyncio.Event, page_side: WebSocketRoute) -> None:
    """Forward the messages of a websocket in both directions, except while it is frozen."""
    service_side = page_side.connect_to_server()

    def forward(sink: WebSocketRoute, text: str | bytes) -> None:
        if not frozen.is_set():
            sink.send(text)

    page_side.on_message(functools.partial(forward, service_side))
    service_side.on_message(functools.partial(forward, page_side))


@pytest.mark.slow
async def test_a_rejected_message_stays_until_it_is_discarded(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """A message that the service rejects shows the reason, and the user can discard it.

    It is not sent again by itself.
    """
    [ann] = create_users("ann")
    tab = await (await open_browser(ann, ignore=(REFUSED,))).open("#/nobody-of-that-name")
    await expect(tab.page.locator(".top")).to_have_text("There is no such user. Try again")
    await tab.write("anybody there?")
    await expect(tab.page.locator(".refusal")).to_contain_text("Not sent. There is no such user.")
    await tab.page.locator(".refusal").get_by_role("button", name="Try again").click()
    await expect(tab.page.locator(".refusal")).to_contain_text("Not sent. There is no such user.")
    await tab.page.reload()
    await expect(tab.page.locator(".refusal")).to_contain_text("Not sent. There is no such user.")
    await tab.page.get_by_role("button", name="Discard").click()
    await expect(tab.messages).to_have_count(0)


# --- texts ----------------------------------------------------------------------------------------


async def test_links_and_code(
    open_browser: BrowserOpener, create_users: UserMaker, shared: SharedService
) -> None:
    """Links open in a new tab. Code has a fixed width, and a block of it can be copied."""
    ann, bob = create_users("ann", "bob")
    code = "if True:\n    print(1)"
    texts = [
        "see https://docs.example/a_(b), and (http://x.example/?q=1&r=2).",
        "https://bank.example@evil.example/ javascript:alert(1) https:// www.x.example //x.example",
        "run `pip install <chatlab>` now, or ``a ` b``; not ` this",
        f"so:\n```py\n{code}\n```\nis code",
    ]
    store_messages(shared.database, bob.id, ann.id, texts)
    permissions = ["clipboard-read", "clipboard-write"]
    tab = await (await open_browser(ann, permissions=permissions)).open_conversation(bob)
    await expect(tab.messages).to_have_count(len(texts))
    assert await tab.texts() == [
        *texts[:2],
        "run pip install <chatlab> now, or a ` b; not ` this",
        f"so:\n{code}is code",
    ]
    assert await tab.page.locator(".text a").evaluate_all(
        "(links) => links.map(({ href, target, rel }) => [href, target, rel])"
    ) == [
        [address, "_blank", "noopener noreferrer nofollow"]
        for address in ("https://docs.example/a_(b)", "http://x.example/?q=1&r=2")
    ]
    found = tab.page.locator(".text code")
    assert await found.all_text_contents() == ["pip install <chatlab>", "a ` b", code]
    await tab.page.get_by_role("button", name="Copy the code").click()
    await expect(tab.page.locator("#notices")).to_have_text("Copied.")
    assert await tab.page.evaluate("navigator.clipboard.readText()") == code


@pytest.mark.slow
async def test_emoji_and_directions(
    open_browser: BrowserOpener, create_users: UserMaker, shared: SharedService
) -> None:
    """A few emoji alone are large. A text from right to left begins at the right."""
    ann, bob = create_users("ann", "bob")
    family, hebrew = (
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f",
        "\u05e9\u05dc\u05d5\u05dd",
    )
    texts = [family, "42", "\U0001f44d yes", hebrew]
    store_messages(shared.database, bob.id, ann.id, texts)
    tab = await (await open_browser(ann)).open_conversation(bob)
    await expect(tab.messages).to_have_count(len(texts))
    assert await tab.page.locator(".text.large").all_text_contents() == [family]
    await expect(tab.page.locator(".bubble:dir(rtl)")).to_have_count(1)
    await expect(tab.messages.nth(3).locator(".bubble:dir(rtl)")).to_have_count(1)
    await expect(tab.row(bob).locator(".preview:dir(rtl)")).to_have_count(1)
    await tab.page.locator("textarea").fill(hebrew)
    await expect(tab.page.locator("textarea:dir(rtl)")).to_have_count(1)


# --- hostile texts --------------------------------------------------------------------------------

RUN = "window.executed=1"
FOREIGN = "//evil.invalid"
TEMPLATES = [
    "<script>{run}</script>",
    "<img src=x onerror={run}>",
    "<svg onload={run}>",
    "<svg><script>{run}</script></svg>",
    "<iframe srcdoc='<script>parent.{run}</script>'></iframe>",
    "<iframe src='javascript:parent.{run}'></iframe>",
    "<body onload={run}>",
    "<details open ontoggle={run}>",
    "<a href='javascript:{run}'>x</a>",
    "<style>@import '{foreign}/x.css';</style>",
    "<link rel=stylesheet href={foreign}/x.css>",
    "<img src={foreign}/x.png>",
    "<base href={foreign}/>",
    "<object data={foreign}/x.swf>",
    "<meta http-equiv=refresh content='0;url={foreign}'>",
    "<form action={foreign}><input autofocus onfocus={run}>",
    "<video><source onerror={run}></video>",
    "<math><mtext></mtext><script>{run}</script></math>",
    "{{{{constructor.constructor('{run}')()}}}}",
    "javascript:{run}",
]
WRAPPINGS = ["{0}", '">{0}', "'>{0}", "</p></li>{0}", "`}};{0}//"]
PAYLOADS = [
    wrapping.format(template.format(run=RUN, foreign=FOREIGN))
    for template in TEMPLATES
    for wrapping in WRAPPINGS
]


async def test_texts_of_users_are_never_executed(
    open_browser: BrowserOpener, create_users: UserMaker, shared: SharedService
) -> None:
    """100 scripts as names, texts and emoji are shown as text.

    None runs, and no request goes to another server.
    """
    ann, bob = create_users("ann", "bob")
    assert len(PAYLOADS) == 100
    names = [payload[:64] for payload in PAYLOADS]
    now, database = datetime.now(UTC), shared.database
    database["users"].insert_many(
        {"_id": f"p{number}", "displayName": name, "passwordHash": "", "createdAt": now}
        for number, name in enumerate(names)
    )
    for payload in PAYLOADS:
        assert (await bob.send(ann, payload))["text"] == payload
        refused = await bob.http.put(
            f"/api/messages/{'0' * 24}/reactions/{quote(payload, safe='')}"
        )
        assert refused.status_code in (404, 422)
    # The API rejects these texts as emoji, so they are written into the database.
    for message in database["messages"].find({"senderId": bob.id}):
        database["messages"].replace_one(
            {"_id": message["_id"]}, message | {"reactions": {message["text"]: [bob.id, "p1"]}}
        )
    for key in shared.keys.scan_iter(
        f"{shared.prefix}messages:*"
    ):  # the cache does not know about this change
        shared.keys.delete(key)

    tab = await (await open_browser(ann)).open_conversation(bob)
    await expect(tab.messages).to_have_count(100)
    assert await tab.texts() == PAYLOADS
    assert await tab.page.locator(".reaction .glyph").all_text_contents() == PAYLOADS
    await wait_until(
        lambda: scroll_list(tab, '[data-user^="p"]'),
        "all users",
        is_reached=lambda found: found == sorted(names),
    )
    await tab.write(PAYLOADS[0])
    await tab.page.locator("textarea").fill(PAYLOADS[1])
    for number in (0, 1, 7, 99):
        await tab.open_conversation(f"p{number}")
        await expect(tab.page.locator(".bar .name")).to_have_text(names[number])
    await tab.page.evaluate("(text) => (document.location.hash = text)", PAYLOADS[1])
    await expect(tab.page.get_by_text("Choose a user to chat with")).to_be_visible()


SCROLL_TO_END = "(node) => { node.scrollTop = node.scrollHeight; }"


async def scroll_list(tab: Tab, selector: str) -> list[str]:
    """Scroll to the end of the list of users, and return the names that it shows."""
    await tab.page.locator(".contacts").evaluate(SCROLL_TO_END)
    shown = tab.page.locator(f".contacts a{selector} .name")
    return sorted(await shown.all_text_contents())


EXTREME_TEXTS = {
    "1,000 joined emoji": "\u200d".join("\U0001f469" * 1000),
    "combining marks": "".join(f"{letter}{chr(0x30D) * 60}{chr(0x323) * 60}" for letter in "Zalgo"),
    "zero-width characters": "x" + "\u200b\u2060\ufeff" * 1000,
    "a wide word": "\ufdfd" * 200,
    "another direction": "\u202e\u2069" * 50 + "moc.elpmaxe",
    "many lines": "|\n" * 60,
}


HOLDS_ITS_TEXT = """() => Array.from(document.querySelectorAll(".bubble, .name, .preview"), (box) => {
    const { overflowX, overflowY } = getComputedStyle(box);
    const { left, right } = box.getBoundingClientRect();
    const around = box.closest(".scroller, .contacts, .who").getBoundingClientRect();
    const cuts = [overflowX, overflowY].every((value) => value === "clip" || value === "hidden");
    return cuts && around.left <= left && right <= around.right;
})"""


@pytest.mark.slow
async def test_extreme_texts_stay_inside_their_bubbles(
    open_browser: BrowserOpener, create_users: UserMaker, shared: SharedService
) -> None:
    """A bubble, a name and a preview cut off what does not fit, and are themselves within the page."""
    ann, bob, eve = create_users("ann", "bob", "eve")
    for name, user in (("combining marks", bob), ("1,000 joined emoji", eve)):
        shared.database["users"].update_one(
            {"_id": user.id}, {"$set": {"displayName": EXTREME_TEXTS[name][:64]}}
        )
    await eve.send(ann, EXTREME_TEXTS["combining marks"])
    for text in EXTREME_TEXTS.values():
        await (ann.send(bob, text) if text.startswith("|") else bob.send(ann, text))
    for size in ({"viewport": {"width": 1280, "height": 720}}, PHONE):
        tab = await (await open_browser(ann, **size)).open_conversation(bob)
        await expect(tab.messages).to_have_count(len(EXTREME_TEXTS))
        boxes = await tab.page.evaluate(HOLDS_ITS_TEXT)
        assert len(boxes) > len(EXTREME_TEXTS)
        assert all(boxes), (size, boxes)
        scroller = tab.page.locator(".scroller")
        assert await scroller.evaluate("(node) => node.scrollWidth - node.clientWidth") == 0


DECEPTIVE_NAMES = {
    "of another user": "{bob}",
    "with a letter of another script": "B\u043eb",
    "with invisible characters": "{bob}\u200b",
    "only of invisible characters": "\u2060\u200b",
    "that ends its line": "\u2069\u202e{bob}",
    "with a handle": "{bob} @{bob_id}",
    "of 64 wide letters": "\ufdfd" * 64,
}


@pytest.mark.slow
async def test_a_name_that_could_deceive_shows_its_handle(
    open_browser: BrowserOpener, create_users: UserMaker, shared: SharedService
) -> None:
    """The handle is visible next to every name that does not spell it."""
    ann, bob = create_users("ann", "bob")
    impostors = create_users(*[f"eve{number}" for number in range(len(DECEPTIVE_NAMES))])
    for eve, name in zip(impostors, DECEPTIVE_NAMES.values(), strict=True):
        shown = name.format(bob=bob.id.title(), bob_id=bob.id)
        shared.database["users"].update_one({"_id": eve.id}, {"$set": {"displayName": shown}})
    for other in (bob, *impostors):
        await other.send(ann, "hello")
    tab = await (await open_browser(ann)).open()
    await expect(tab.row(bob).locator(".name")).to_have_text(bob.id.title())
    await expect(tab.row(bob).locator(".handle")).to_have_count(0)
    for eve in impostors:
        await expect(tab.row(eve).locator(".handle")).to_have_text(f"@{eve.id}")
        row = await tab.row(eve).bounding_box()
        handle = await tab.row(eve).locator(".handle").bounding_box()
        assert row
        assert handle
        assert row["x"] <= handle["x"]
        assert handle["x"] + handle["width"] <= row["x"] + row["width"]
    await tab.open_conversation(impostors[0])
    for place in (".bar", ".top"):
        await expect(tab.page.locator(f"{place} .handle")).to_have_text(f"@{impostors[0].id}")
    field = tab.page.locator("textarea")
    await expect(field).to_have_attribute(
        "aria-label", f"Message to {bob.id.title()} @{impostors[0].id}"
    )


# --- other sites ----------------------------------------------------------------------------------

ATTACK = """async ({ service, body }) => {
    const post = (url, options) =>
        fetch(url, { method: "POST", body, ...options }).then((answer) => answer.status, () => "failed");
    const json = { headers: { "content-type": "application/json" } };
    const socketOpened = () => new Promise((done) => {
        const socket = new WebSocket(service.replace("http", "ws") + "/socket.io/?EIO=4&transport=websocket");
        socket.onopen = () => done("open");
        socket.onerror = () => done("failed");
    });
    return {
        "of its own name": await post("/api/auth/signup", json),
        "without asking": await post(`${service}/api/auth/signup`, { mode: "no-cors" }),
        "after asking": await post(`${service}/api/auth/signup`, json),
        "websocket": await socketOpened(),
    };
}"""


async def test_a_page_of_another_site_changes_nothing(
    browser: Browser, shared: SharedService
) -> None:
    """A foreign name points to this machine (DNS rebinding), and its page attacks the service."""
    users = shared.everything()["users"]
    page = await browser.new_page()
    answer = await page.goto(f"http://evil.test:{shared.service.port}/")
    assert answer
    assert answer.status == 421
    body = json.dumps({"username": f"evil-{secrets.token_hex(4)}", "password": PASSWORD})
    done = await page.evaluate(ATTACK, {"service": shared.service.url, "body": body})
    assert done == {
        "of its own name": 421,
        "without asking": 0,  # the page does not see the 403
        "after asking": "failed",
        "websocket": "failed",
    }
    assert shared.everything()["users"] == users
    await page.close()


# --- proxies and policies -------------------------------------------------------------------------


@pytest.mark.slow
async def test_works_under_a_path_prefix(
    open_browser: BrowserOpener, create_users: UserMaker, shared: SharedService
) -> None:
    """Behind a proxy with a path prefix, page, API, socket and docs stay under that path."""
    ann, bob = create_users("ann", "bob")
    async with reverse_proxy(shared.service, "/user/ann/proxy/8000/") as url:
        here = await open_browser(ann, url)  # assert_clean rejects every URL outside the prefix
        tab = await here.open_conversation(bob)
        await tab.write("through the proxy")
        await expect(tab.message("through the proxy").locator(".status.sent")).to_be_visible()
        await bob.send(ann, "and back")
        await expect(tab.message("and back")).to_be_visible()
        docs = await here.open("docs")
        await expect(docs.page.locator(".opblock").first).to_be_visible()
        assert any(request.startswith(url.replace("http", "ws")) for request in here.requests)
        for page in here.context.pages:
            await page.goto("about:blank")  # closes the sockets before the proxy stops


@pytest.mark.slow
async def test_works_behind_tls(
    open_browser: BrowserOpener, create_users: UserMaker, shared: SharedService
) -> None:
    """If a proxy terminates TLS, the page uses https and wss, like its own address."""
    ann, bob = create_users("ann", "bob")
    front = "https://chat.example/lab/"
    here = await open_browser(ann, front)

    async def forward(route: Route) -> None:
        await route.fulfill(
            response=await route.fetch(
                url=route.request.url.replace(front, f"{shared.service.url}/"),
                headers={**route.request.headers, "host": "chat.example"},
            )
        )

    await here.context.route(f"{front}**", forward)
    await here.context.route_web_socket(
        "wss://chat.example/**", lambda socket: forward_websocket(socket, shared.service)
    )
    tab = await here.open_conversation(bob)
    await tab.write("in private")
    await expect(tab.message("in private").locator(".status.sent")).to_be_visible()
    await bob.send(ann, "quite so")
    await expect(tab.message("quite so")).to_be_visible()


async def forward_websocket(page_side: WebSocketRoute, service: Service) -> None:
    """Forward one websocket of the page to the service."""
    address = urlsplit(page_side.url)
    async with aiohttp.ClientSession() as client:
        there = await client.ws_connect(
            f"{service.url}{address.path.removeprefix('/lab')}?{address.query}",
            headers={"host": "chat.example", "origin": "https://chat.example"},
        )
        page_side.on_message(lambda text: asyncio.ensure_future(there.send_str(str(text))))
        async for message in there:
            page_side.send(message.data)


@pytest.mark.slow
async def test_the_docs_need_no_network(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """The API page loads everything from the service, and lists every request in its group.

    It sends requests as the user of the chat, or as the one who signs up with the example.
    """
    [ann] = create_users("ann")
    page = (await (await open_browser(ann)).open("docs")).page
    await expect(page.locator(".opblock")).to_have_count(34)
    groups = page.locator(".opblock-tag-section")
    await expect(groups).to_have_count(5)
    await expect(groups.filter(has_text="Sign up, log in").locator(".opblock")).to_have_count(10)

    async def execute(operation: str) -> str:
        block = page.locator(
            f"#operations-Accounts-{operation}_post, #operations-Accounts-{operation}_get"
        )
        await block.locator(".opblock-summary-control").click()
        await block.get_by_role("button", name="Try it out").click()
        await block.get_by_role("button", name="Execute").click()
        return await block.locator(".live-responses-table .response").first.inner_text()

    await assert_accessible(page)
    await page.get_by_role("button", name="Use my session of the chat").click()
    await expect(page.locator("#token-state")).to_contain_text(ann.id.title())
    assert f'"id": "{ann.id}"' in await execute("me_api_auth_me")
    assert '"id": "ada"' in await execute("sign_up_api_auth_signup")
    await expect(page.locator("#token-state")).to_contain_text("Ada")
    for name, sign in (("The live diagram", "Key"), ("The chat", "Find a user")):
        await page.get_by_role("link", name=name).click()
        await expect(page.get_by_label(sign)).to_be_visible()
        await page.go_back()


async def test_pages_have_a_security_policy_and_are_revalidated(shared: SharedService) -> None:
    """Every page and file has a content security policy. An unchanged file is answered with 304.

    A browser keeps what a page names with its version, and asks again for any other version.
    """
    async with open_client(shared.service.url) as http:
        for path in (
            "/",
            "/docs",
            "/static/chat/chat.js",
            "/static/vendor/socket.io.esm.min.js",
            "/static/swagger/swagger-ui-bundle.js",
        ):
            answer = await http.get(path)
            assert answer.status_code == 200, path
            policy = answer.headers["content-security-policy"]
            assert "default-src 'self'" in policy
            assert "frame-ancestors 'self'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-cache"
            again = await http.get(path, headers={"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        scripts = re.findall(r'"(static/v/[^"]+\.js)"', (await http.get("/docs")).text)
        assert [path.split("/", 3)[-1] for path in scripts] == [
            "swagger/swagger-ui-bundle.js",
            "docs/docs.js",
        ]
        for path in scripts:
            kept = (await http.get(f"/{path}")).headers["cache-control"]
            assert kept == "max-age=31536000, immutable"
            other = re.sub("/v/[^/]+/", "/v/of-another-release/", path)
            assert (await http.get(f"/{other}")).headers["cache-control"] == "no-cache"
        for path in (
            "/static/chat/../../app.py",
            "/static/..%2fapp.py",
            "/static/chat",
            "/docs/oauth2-redirect",
            "/redoc",
        ):
            assert (await http.get(path)).status_code == 404, path


async def test_a_later_visit_asks_only_for_the_page(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """The browser has the scripts and the style of this version already."""
    [ann] = create_users("ann")
    here = await open_browser(ann)
    for visit in ("first", "later"):
        tab = await here.open()
        await expect(tab.row(ann)).to_be_visible()
        received = await tab.page.evaluate(RECEIVED, f"static/v/{pages.version()}/")
        assert len(received) >= 4
        assert any(received) == (visit == "first")


@pytest.mark.slow
async def test_the_chat_needs_few_requests(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """On a slow network each request takes long: all modules come in two scripts, compressed.

    The log-in form needs only the first one.
    """
    scripts = [
        "static/chat/chat.js",
        "static/chat/workspace.js",
        "static/vendor/socket.io.esm.min.js",
    ]
    [ann] = create_users("ann")
    here = await open_browser(ann)
    tab = await here.open()
    await expect(tab.row(ann)).to_be_visible()
    asked = {url.replace(f"/v/{pages.version()}/", "/") for url in here.requests}
    assert sorted(url.removeprefix(here.url) for url in asked if url.endswith(".js")) == scripts
    await tab.page.keyboard.press("?")
    links = tab.page.locator(".other-pages a")
    await expect(links).to_have_text(["The live diagram", "The API, for programs"])
    for user in (None, ann):
        slow = await open_browser(user, ignore=("ERR_FAILED",))
        await slow.context.route("**/workspace.js", lambda route: route.abort())
        page = (await slow.open()).page
        if user is None:
            await expect(page.get_by_label("User name")).to_be_visible()
            continue
        await expect(page.get_by_role("alert")).to_have_text(
            "The page could not be loaded completely."
        )
        await slow.context.unroute("**/workspace.js")
        await page.get_by_role("button", name="Reload").click()
        await expect(Tab(page).row(ann)).to_be_visible()
    async with open_client(here.url) as http:
        for path in ("", "lab", "docs", *scripts, "static/chat/conversation.js"):
            answer = await http.get(path)
            assert (answer.status_code, answer.headers["content-encoding"]) == (200, "gzip")
        for name in ("docs", "lab"):
            assert (await http.get(f"{name}/")).headers["location"] == f"../{name}"


async def test_a_browser_gets_a_page_for_an_error(
    open_browser: BrowserOpener, shared: SharedService
) -> None:
    """A wrong address leads back to the chat. A program gets a problem."""
    page = (await (await open_browser(ignore=(REFUSED,))).open("no/such/page")).page
    await expect(page.get_by_role("heading")).to_have_text("Not Found")
    await page.goto(f"{shared.service.url}/api/auth/me")
    await expect(page.get_by_role("heading")).to_have_text("Unauthorized")
    await expect(page.locator("code")).to_have_text("Authorization: Bearer <token>")
    await page.get_by_role("link", name="Go to the chat").click()
    await expect(page.get_by_label("Password")).to_be_visible()
    async with open_client(shared.service.url) as http:
        assert (await http.get("/no/such/page")).json()["code"] == "not_found"


async def test_pages_have_no_inline_scripts_and_only_relative_addresses(
    shared: SharedService,
) -> None:
    """The pages contain no inline script or style, and every address in them is relative."""
    async with open_client(shared.service.url) as http:
        for path in ("/", "/docs", "/lab"):
            page = (await http.get(path)).text
            assert re.findall(r"<script(?![^>]*\ssrc=)", page) == []
            assert re.findall(r"\s(?:on\w+|style)=", page) == []
            assert [
                url
                for url in re.findall(r'(?:src|href)="([^"]*)"', page)
                if url.startswith(("/", "http"))
            ] == []


# --- accessibility --------------------------------------------------------------------------------

CONTRAST = """() => {
    const channel = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const light = ([red, green, blue]) => 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue);
    const colour = (text) => text.match(/[\\d.]+/g).map(Number);
    const ground = (node) => {
        for (; node; node = node.parentElement) {
            const found = colour(getComputedStyle(node).backgroundColor);
            if (found.length < 4 || found[3] > 0.99) return found;
        }
        return matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255];
    };
    const faint = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const node = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !node.checkVisibility() || node.closest(".unseen, .glyph, noscript")) continue;
        const [high, low] = [light(colour(getComputedStyle(node).color)), light(ground(node))].sort((one, other) => other - one);
        const ratio = (high + 0.05) / (low + 0.05);
        if (ratio < 4.5) faint.push(`${node.className || node.tagName}: ${texts.currentNode.data.slice(0, 20)} ${ratio.toFixed(2)}`);
    }
    return faint;
}"""
NAMELESS = """() => [...document.querySelectorAll("button, a, input, textarea")].filter((node) =>
    node.checkVisibility() && !(node.ariaLabel || node.labels?.length || node.textContent.trim())).map((node) => node.outerHTML)"""


SCHEMES = ["light", pytest.param("dark", marks=pytest.mark.slow)]


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_the_forms_are_accessible(open_browser: BrowserOpener, scheme: str) -> None:
    """axe-core finds no violation in the forms to log in and to sign up."""
    page = (await (await open_browser(color_scheme=scheme)).open()).page
    await expect(page.get_by_label("Password")).to_be_visible()
    await assert_accessible(page)
    await page.get_by_role("button", name="Create an account").click()
    await assert_accessible(page)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_every_state_is_accessible(
    open_browser: BrowserOpener, create_users: UserMaker, scheme: str
) -> None:
    """axe-core finds no violation in the list, a conversation of all kinds of messages, and dialogs."""
    ann, bob, dan = create_users("ann", "bob", "dan")
    await fill_conversation(ann, bob)
    await dan.send(ann, "unread")
    here = await open_browser(ann, color_scheme=scheme, ignore=LOST)
    tab = await here.open()
    page = tab.page
    await expect(tab.row(dan).locator(".badge")).to_be_visible()
    await assert_accessible(page)
    await tab.open_conversation(bob)
    await tab.act("edited!", "Reply")
    await tab.act("edited!", "React")
    await page.get_by_role("button", name="Search in this conversation").click()
    await page.keyboard.type("e")
    await expect(page.locator(".search mark").first).to_be_visible()
    await here.context.set_offline(True)
    await tab.write("will be sent")
    await expect(page.locator(".will-be-sent")).to_be_visible()
    await assert_accessible(page)
    await here.context.set_offline(False)
    await expect(page.locator(".will-be-sent")).to_have_count(0)
    for name in ("Help", "Account settings", "Block"):
        await page.get_by_role("button", name=name, exact=True).click()
        await expect(page.get_by_role("dialog")).to_be_visible()
        await assert_accessible(page)
        await page.keyboard.press("Escape")


async def fill_conversation(ann: User, bob: User) -> None:
    """Send Ann messages of all kinds."""
    texts = ("hello", "gone", "edited", "https://x.example `code`\n```\nblock\n```", "\U0001f389")
    sent = [await bob.send(ann, text) for text in texts]
    await bob.http.delete(f"/api/messages/{sent[1]['_id']}")
    await bob.http.patch(f"/api/messages/{sent[2]['_id']}", json={"text": "edited!"})
    await ann.http.put(f"/api/messages/{sent[0]['_id']}/reactions/\U0001f389")
    await ann.send(bob, "https://y.example `mine`", replyTo=sent[0]["_id"])


async def test_the_keyboard_is_enough_to_write(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """The keyboard alone is enough to find a user, write a message and edit it."""
    ann, bob = create_users("ann", "bob")
    tab = await (await open_browser(ann)).open()
    press = tab.page.keyboard.press
    await tab.page.get_by_label("Find a user").fill(bob.id)
    await expect(tab.page.locator(".contacts li")).to_have_count(1)
    await press("Tab")
    await press("Enter")
    await expect(tab.page.locator("textarea")).to_be_focused()
    await tab.write("mien")
    await expect(tab.message("mien").locator(".status.sent, .status.read")).to_be_visible()
    await press("ArrowUp")
    await expect(tab.page.locator("textarea")).to_have_value("mien")
    await tab.write("mine")
    await expect(tab.message("mine").locator(".edited")).to_be_visible()


@pytest.mark.slow
async def test_the_keyboard_is_enough_to_react(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """The keyboard alone is enough to choose a message, react and return to the composer."""
    ann, bob = create_users("ann", "bob")
    for text in ("one", "two", "three"):
        await bob.send(ann, text)
    tab = await (await open_browser(ann)).open_conversation(bob)
    press = tab.page.keyboard.press
    await expect(tab.message("three")).to_be_visible()
    await press("Shift+Tab")
    await expect(tab.message("three")).to_be_focused()
    await press("ArrowUp")
    await press("ArrowUp")
    await expect(tab.message("one")).to_be_focused()
    await press("Tab")
    await press("Enter")
    await expect(tab.page.get_by_role("button", name="React with thumbs up")).to_be_focused()
    await press("Enter")
    await expect(tab.message("one").locator(".reaction")).to_have_text("👍1")
    await press("Escape")
    await expect(tab.page.locator("textarea")).to_be_focused()


@pytest.mark.slow
async def test_the_keyboard_is_enough_to_switch(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """Ctrl+K leads to the list, where Enter opens the first match, and the arrow keys move."""
    ann, bob, cat = create_users("ann", "bob", "cat")
    await cat.send(ann, "hello")
    tab = await (await open_browser(ann)).open_conversation(bob)
    press, find = tab.page.keyboard.press, tab.page.get_by_label("Find a user")
    await expect(tab.row(cat)).to_be_visible()
    await press("Control+k")
    await expect(find).to_be_focused()
    await find.fill(cat.id)
    await press("Enter")
    await expect(tab.row(cat)).to_have_attribute("aria-current", "page")
    await expect(tab.page.locator("textarea")).to_be_focused()
    await expect(find).to_have_value("")
    await find.fill(ann.id.removeprefix("ann"))
    await expect(tab.page.locator(".contacts li")).to_have_count(3)
    await press("ArrowDown")
    await press("End")
    await press("?")
    await expect(tab.page.get_by_role("dialog", name="Help")).to_be_visible()
    await press("Escape")
    await expect(tab.row(ann)).to_be_focused()
    for key in ("Home", "ArrowUp"):
        await press(key)
    await expect(find).to_be_focused()
    await expect(tab.page.get_by_role("heading", level=1)).to_have_text("chatlab")


@pytest.mark.slow
async def test_ctrl_k_leaves_a_conversation_that_hides_the_list(
    open_browser: BrowserOpener, create_users: UserMaker
) -> None:
    """In a narrow window, too, the next key is for the field that finds a user."""
    ann, bob = create_users("ann", "bob")
    tab = await (await open_browser(ann)).open_conversation(bob)
    await tab.page.set_viewport_size({"width": 390, "height": 844})
    await expect(tab.page.get_by_label("Find a user")).to_be_hidden()
    await tab.page.keyboard.press("Control+k")
    await expect(tab.page.get_by_label("Find a user")).to_be_focused()


async def test_fits_a_phone(open_browser: BrowserOpener, create_users: UserMaker) -> None:
    """A phone shows the list or a conversation. Nothing is wider than its screen.

    Both have a heading and a main landmark.
    """
    ann, bob = create_users("ann", "bob")
    await bob.send(ann, "W" * 4000)
    await bob.send(ann, "word " * 799)
    tab = await (await open_browser(ann, **PHONE)).open()
    await tab.row(bob).tap()
    await expect(tab.message("W" * 4000)).to_have_count(1)
    await expect(tab.row(bob)).to_be_hidden()
    assert await tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert await tab.page.locator(".scroller").evaluate(
        "(node) => node.scrollWidth <= node.clientWidth"
    )
    await tab.page.locator("textarea").fill("x" * 4001)
    await expect(tab.page.locator(".count")).to_have_text("1 too many")
    await expect(tab.page.get_by_role("button", name="Send")).to_be_disabled()
    await assert_accessible(tab.page)
    await tab.page.go_back()
    await expect(tab.row(bob)).to_be_visible()
    await assert_accessible(tab.page)


@pytest.mark.slow
async def test_panes_of_one_window_may_have_two_users(
    open_browser: BrowserOpener, shared: SharedService
) -> None:
    """`?pane=` separates the sessions of two panes in one browser."""
    ann, bob = [await User.sign_up(shared.service, name) for name in ("left-ann", "right-bob")]
    here = await open_browser()
    left, right = await here.open("?pane=left"), await here.open("?pane=right")
    for tab, user in ((left, ann), (right, bob)):
        await tab.page.get_by_label("User name").fill(user.id)
        await tab.page.get_by_label("Password").fill(PASSWORD)
        await tab.page.keyboard.press("Enter")
    await left.find(bob)
    await left.open_conversation(bob)
    await left.write("across the table")
    await right.open_conversation(ann)
    await expect(right.message("across the table")).to_be_visible()
    await ann.close()
    await bob.close()
