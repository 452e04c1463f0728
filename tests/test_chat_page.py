"""The chat page, in a real browser: two people talk, lose the service and find it again, and nobody's text is ever more than text."""

import asyncio
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
import httpx
import pytest
import pytest_asyncio
from browsing import PHONE, Desk, Tab, behind, browser
from live import PASSWORD, Service, User
from playwright.async_api import Browser, Route, WebSocketRoute, expect
from shared_service import SharedService, start_shared_service
from waiting import wait_until

from chatlab.local.engines import Engines

__all__ = ["browser"]  # a fixture
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),  # one event loop, so one browser, for all tests
    pytest.mark.timeout(400),  # a slow machine may use several of the generous limits in one test
]

DeskMaker = Callable[..., Awaitable[Desk]]
Folk = Callable[..., list[User]]
History = tuple[User, User, Tab]
REFUSED = "Failed to load resource: the server responded with a status of 4"  # Chromium's own note of an answer that is an error
CATCH_VIEW = """async () => {
    const { ConversationView } = await import("./static/chat/conversation_view.js");
    const { draw } = ConversationView.prototype;
    ConversationView.prototype.draw = function () { draw.call(window.view = this); };
}"""
WATCH_PRESENCE = """() => {
    const presence = document.querySelector(".presence");
    window.presences = [];
    new MutationObserver(() => presences.push(presence.textContent)).observe(presence, { childList: true });
}"""
LOST = ("ERR_CONNECTION", "WebSocket connection", "ERR_EMPTY_RESPONSE", "ERR_SOCKET")  # its notes of a service that is away


@pytest.fixture(scope="module")
def home(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    """The service that the pages come from, with nobody in it but the people of this module."""
    with start_shared_service(engines, tmp_path_factory.mktemp("home") / "service.log", RATE_LIMIT="0") as shared:
        yield shared


@pytest_asyncio.fixture(loop_scope="module")
async def folk(home: SharedService) -> AsyncIterator[Folk]:
    """New people by name, each with an id that nobody else has."""
    people: list[User] = []

    def maker(*names: str) -> list[User]:
        suffix = secrets.token_hex(2)
        made = [home.create_user(f"{name}-{suffix}") for name in names]
        people.extend(made)
        return made

    yield maker
    await asyncio.gather(*(someone.close() for someone in people), return_exceptions=True)


@pytest_asyncio.fixture(loop_scope="module")
async def desk(browser: Browser, home: SharedService) -> AsyncIterator[DeskMaker]:
    """A browser of somebody at the service. What its pages did is looked at in the end: `but` names complaints that belong to the test."""
    desks: list[tuple[Desk, tuple[str, ...]]] = []

    async def maker(person: User | None = None, url: str = "", *, but: tuple[str, ...] = (), **options: Any) -> Desk:
        desks.append((await Desk.at(browser, url or home.service.url, person, **options), but))
        return desks[-1][0]

    yield maker
    for made, but in desks:
        await made.is_clean(but=but)
        await made.context.close()


# --- accounts ----------------------------------------------------------------------------------------------------------------


async def test_sign_up_and_log_out(desk: DeskMaker, home: SharedService) -> None:
    """A newcomer signs up and sees the list; a log-out ends the session for good; no address ever holds the token."""
    here = await desk(but=(REFUSED,))
    page = (await here.open()).page
    await page.get_by_role("button", name="Create an account").click()
    await page.get_by_label("User name").fill("nora")
    await page.get_by_label("Your name").fill("Nora Ø")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Create account").click()
    await expect(page.locator(".me")).to_contain_text("Nora Ø")
    token = json.loads(await page.evaluate("Object.values(localStorage)[0]"))["token"]

    await page.get_by_role("button", name="Log out").click()
    await page.get_by_label("User name").fill("nora")
    assert await page.evaluate("localStorage.length") == 0
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {token}"}) as http:
        assert (await http.get(f"{home.service.url}/api/auth/me")).status_code == 401
    assert not [url for url in here.requests if token in url]


async def test_log_in_and_stay_logged_in(desk: DeskMaker, home: SharedService) -> None:
    """A wrong password is told as such, the right one opens the chat, and a reload does not close it."""
    ann = await User.sign_up(home.service, "ann-with-a-password")
    page = (await (await desk(but=(REFUSED,))).open()).page
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


@pytest.mark.parametrize(
    ("name", "told"),
    [("taken", "This name is taken."), ("Not-A Handle", "The user name should be 1 to 32 of a-z, 0-9, _ and -")],
)
async def test_a_refused_sign_up_is_told_in_plain_words(desk: DeskMaker, folk: Folk, home: SharedService, name: str, told: str) -> None:
    """What the service refuses is said beside the form, without codes, JSON or what was typed."""
    if name == "taken":
        home.create_user(name)
    page = (await (await desk(but=(REFUSED,))).open()).page
    await page.get_by_role("button", name="Create an account").click()
    await page.locator("form").evaluate("(form) => (form.noValidate = true)")  # past the browser's own check
    await page.get_by_label("User name").fill(name)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Create account").click()
    await expect(page.get_by_role("alert")).to_contain_text(told)


async def test_a_session_that_ended_leads_back_to_the_log_in(desk: DeskMaker, folk: Folk) -> None:
    """When the service ends the session, an open page says so instead of failing silently."""
    [ann] = folk("ann")
    tab = await (await desk(ann, but=(REFUSED,))).open()
    await expect(tab.row(ann)).to_be_visible()
    assert (await ann.http.post("/api/auth/logout")).status_code == 204
    await expect(tab.page.get_by_role("alert")).to_have_text("Your session has ended. Log in again.")


# --- two people --------------------------------------------------------------------------------------------------------------


async def test_what_is_written_shows_in_the_list(desk: DeskMaker, folk: Folk) -> None:
    """Whoever comes online has a dot; what they write shows as the last message, counted as unread until it is looked at."""
    a, b, _ = folk("ann", "bob", "cat")
    ann = await (await desk(a)).open()
    await expect(ann.row(b)).to_be_visible()
    await expect(ann.row(b).locator(".dot")).to_be_hidden()
    bob = await (await desk(b)).talk(a)
    await expect(ann.row(b).locator(".dot")).to_be_visible()

    await bob.write("hello")
    await bob.write("are you there?")
    await expect(ann.row(b).locator(".badge")).to_contain_text("2")
    await expect(ann.row(b).locator(".preview")).to_have_text("are you there?")
    await expect(ann.page).to_have_title("(2) chatlab")
    await expect(ann.page.locator(".people li").first).to_contain_text("Bob-")
    await expect(bob.message("hello").locator(".status.sent")).to_be_visible()

    await ann.talk_to(b)
    await expect(ann.row(b).locator(".badge")).to_be_hidden()
    await expect(ann.page).to_have_title("chatlab")
    await expect(ann.page.locator(".line.new")).to_be_visible()


async def test_two_people_talk(desk: DeskMaker, folk: Folk) -> None:
    """Messages, read marks, typing and going away arrive while both look on; what comes is read out."""
    a, b = folk("ann", "bob")
    ann, bob = await (await desk(a)).talk(b), await (await desk(b)).talk(a)
    await bob.write("hello")
    await expect(bob.message("hello").locator(".status.read")).to_be_visible()
    await bob.page.reload()
    await expect(bob.message("hello").locator(".status.read")).to_be_visible()
    await expect(ann.message("hello")).to_be_visible()
    await bob.page.evaluate(WATCH_PRESENCE)  # what lasts a moment is recorded
    await ann.page.locator("textarea").press_sequentially("yes", delay=10)
    await bob.page.wait_for_function("() => presences.includes('typing…')")
    await ann.page.keyboard.press("Enter")
    await expect(bob.message("yes")).to_be_visible()
    await expect(bob.page.locator(".presence")).to_have_text("online")
    await expect(bob.page.locator("#announcer")).to_contain_text(": yes")
    assert await ann.texts() == await bob.texts() == ["hello", "yes"]
    await ann.page.close()
    await expect(bob.page.locator(".presence")).to_have_text("offline")


async def test_reactions(desk: DeskMaker, folk: Folk) -> None:
    """A reaction shows on both sides, counts who holds it, and can be taken back."""
    a, b = folk("ann", "bob")
    ann = await (await desk(a)).talk(b)
    bob = await (await desk(b)).talk(a)
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


async def test_edits_and_deletions(desk: DeskMaker, folk: Folk) -> None:
    """What its sender changes, both see: the mark of an edit, the place of a deleted message. Nobody else is offered to change it."""
    a, b = folk("ann", "bob")
    ann, bob = await (await desk(a)).talk(b), await (await desk(b)).talk(a)
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
    await expect(bob.message("first").get_by_role("button", name="React", exact=True)).to_be_visible()
    await expect(bob.message("first").get_by_role("button", name="Edit")).to_have_count(0)


@pytest_asyncio.fixture(loop_scope="module")
async def history(desk: DeskMaker, folk: Folk) -> History:
    """Ann's open conversation with Bob, who has sent her 130 messages. The page has loaded the newest 50 and shows the end."""
    ann, bob = folk("ann", "bob")
    for number in range(1, 131):
        await bob.send(ann, f"number {number}")
    tab = await (await desk(ann, but=("ERR_FAILED",))).talk(bob)
    await expect(tab.messages).to_have_count(50)
    await expect(tab.message("number 130")).to_be_in_viewport()
    return ann, bob, tab


async def test_scrolling_up_loads_the_history(history: History) -> None:
    """Scrolling up loads older pages, each message once, and the message that is being read does not move."""
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
    await expect(tab.page.get_by_text(re.compile("This is where your conversation with Bob-.* begins."))).to_be_in_viewport()

    await bob.send(ann, "while you read")
    await expect(tab.page.get_by_role("button", name="1 new messages, go to the end")).to_be_visible()
    await expect(tab.row(bob).locator(".badge")).to_contain_text("1")
    await tab.page.locator(".jump").click()
    await expect(tab.message("while you read")).to_be_in_viewport()
    await expect(tab.row(bob).locator(".badge")).to_be_hidden()


async def test_a_redraw_does_not_undo_a_scroll(history: History) -> None:
    """The page may redraw after a scroll and before its scroll event. The scroll still counts, and so does the wish to be at the end."""
    ann, bob, tab = history
    await tab.page.evaluate(CATCH_VIEW)
    await bob.send(ann, "this redraws the page")
    await tab.page.wait_for_function("() => window.view")
    await expect(tab.message("this redraws the page")).to_be_in_viewport()
    scroller = tab.page.locator(".scroller")
    await scroller.evaluate("(node) => { node.scrollTop = 300; view.draw(); }")  # no event can come in between
    await expect(tab.messages).to_have_count(101)
    await expect(tab.page.locator(".jump")).to_be_visible()

    await tab.write("writing leads to the end")
    await expect(tab.message("writing leads to the end")).to_be_in_viewport()
    await scroller.evaluate("(node) => { node.style.height = '60%'; }")  # as when a phone shows its keyboard
    await expect(tab.message("writing leads to the end")).to_be_in_viewport()
    await scroller.evaluate("(node) => { node.style.height = ''; }")
    await bob.send(ann, "the page follows again")
    await expect(tab.message("the page follows again")).to_be_in_viewport()


async def test_scrolling_during_a_load_asks_once(history: History) -> None:
    """Scrolls while an older page is on its way ask for nothing more, and the page is shown when it comes."""
    _, _, tab = history
    held: asyncio.Queue[Route] = asyncio.Queue()
    await tab.page.route("**/api/messages/*before=*", held.put)
    await tab.scroll_to(300)
    answer = await held.get()
    for place in (200, 100, 0):
        await tab.scroll_to(place)
    await expect(tab.page.locator(".top")).to_have_text("Loading…")
    await answer.continue_()
    await expect(tab.messages).to_have_count(100)
    assert held.empty()


async def test_a_lost_page_of_history_can_be_asked_for_again(history: History) -> None:
    """When a request for older messages is lost, the page says so and loads them on a click."""
    _, _, tab = history
    await tab.page.route("**/api/messages/*before=*", lambda route: route.abort(), times=1)
    await tab.scroll_to(0)
    await expect(tab.page.locator(".top")).to_have_text("No connection to the chat. Try again")
    await expect(tab.messages).to_have_count(50)
    await tab.page.locator(".top").get_by_role("button", name="Try again").click()
    await expect(tab.messages).to_have_count(100)


async def test_a_lost_page_of_history_comes_after_a_reconnection(history: History) -> None:
    """When the connection comes back, the page loads the older messages that it could not load before."""
    _, _, tab = history
    sockets: list[WebSocketRoute] = []

    def pass_on(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    await tab.page.route_web_socket("**/socket.io/**", pass_on)
    await tab.page.reload()
    await expect(tab.messages).to_have_count(50)
    await tab.page.route("**/api/messages/*before=*", lambda route: route.abort(), times=1)
    await tab.scroll_to(0)
    await expect(tab.page.locator(".top")).to_have_text("No connection to the chat. Try again")
    await wait_until(lambda: sockets, "the page's socket")
    await sockets[-1].close()
    await expect(tab.messages).to_have_count(100)


async def test_tabs_and_devices_of_one_person_agree(desk: DeskMaker, folk: Folk, home: SharedService) -> None:
    """What one does in a tab, every other tab and device shows; a log-out in one tab is one in all tabs of that browser, not elsewhere."""
    [bob], ann = folk("bob"), await User.sign_up(home.service, "ann-of-many-tabs")
    on_phone = (await ann.http.post("/api/auth/login", json={"username": ann.id, "password": PASSWORD})).json()["token"]
    laptop, phone = await desk(ann, but=(REFUSED,)), await desk(replace(ann, token=on_phone), **PHONE)
    first, second, pocket = await laptop.talk(bob), await laptop.talk(bob), await phone.open()
    await first.write("from the first tab")
    for tab in (first, second):
        await expect(tab.message("from the first tab").locator(".status.sent")).to_be_visible()
        await expect(tab.messages).to_have_count(1)
    await expect(pocket.row(bob).locator(".preview")).to_have_text("You: from the first tab")

    for tab in (first, second):  # nobody looks at the conversation with bob now
        await tab.talk_to(ann)
    await bob.send(ann, "for all of you")
    for tab in (first, second, pocket):
        await expect(tab.row(bob).locator(".badge")).to_contain_text("1")
    await pocket.talk_to(bob)
    for tab in (first, second, pocket):
        await expect(tab.row(bob).locator(".badge")).to_be_hidden()

    await first.page.get_by_role("button", name="Log out").click()
    await expect(second.page.get_by_role("button", name="Log in")).to_be_visible()
    await pocket.page.locator("textarea").fill("still here")
    await pocket.page.get_by_role("button", name="Send").click()
    await expect(pocket.message("still here").locator(".status.sent")).to_be_visible()
    await ann.close()


# --- without the service -----------------------------------------------------------------------------------------------------


@pytest.fixture
def away(home: SharedService, tmp_path: Path) -> Iterator[Service]:
    """Another process of the service, to be killed."""
    with home.another_process(tmp_path / "away.log") as other:
        yield other.service


async def test_catches_up_after_a_restart(desk: DeskMaker, folk: Folk, away: Service) -> None:
    """The service is killed and starts again while others send: each message is there once and in order, and so is what was changed."""
    ann, bob = [await someone.at(away) for someone in folk("ann", "bob")]
    sent = [await bob.send(ann, f"number {number}") for number in range(1, 6)]
    tab = await (await desk(ann, away.url, but=LOST)).talk(bob)
    await expect(tab.messages).to_have_count(5)

    away.kill()
    await expect(tab.page.get_by_text("No connection. Trying again…")).to_be_visible()
    await asyncio.to_thread(away.restart)
    await bob.http.patch(f"/api/messages/{sent[2]['_id']}", json={"text": "number three"})
    for number in range(6, 256):
        await bob.send(ann, f"number {number}")
    await expect(tab.page.get_by_text("No connection. Trying again…")).to_be_hidden()
    await expect(tab.messages).to_have_count(255)
    await expect(tab.message("number three")).to_have_count(1)
    assert await tab.texts() == [f"number {'three' if number == 3 else number}" for number in range(1, 256)]
    await ann.close()
    await bob.close()


async def test_what_could_not_be_sent_is_shown_and_goes_out_once(desk: DeskMaker, folk: Folk, away: Service) -> None:
    """A message written without a service is marked as not sent, can be tried again, and goes out by itself when the service is back."""
    ann, bob = folk("ann", "bob")
    tab = await (await desk(ann, away.url, but=LOST)).talk(bob)
    await tab.write("before")
    await expect(tab.message("before").locator(".status.sent")).to_be_visible()
    away.kill()
    await expect(tab.page.get_by_text("No connection. Trying again…")).to_be_visible()
    for text in ("one", "two", "never mind"):
        await tab.write(text)
    await expect(tab.page.locator(".failure")).to_have_count(3)
    await expect(tab.message("one")).to_contain_text("Not sent. No connection to the chat.")
    await tab.message("one").get_by_role("button", name="Try again").click()
    await expect(tab.message("one")).to_contain_text("Not sent.")
    await tab.message("never mind").get_by_role("button", name="Discard").click()

    await asyncio.to_thread(away.restart)
    await expect(tab.page.locator(".status.sent")).to_have_count(3)
    await expect(tab.page.locator(".failure")).to_have_count(0)
    assert await tab.texts() == ["before", "one", "two"]
    assert [message["text"] for message in (await bob.read(ann, fresh=True)).json()] == ["before", "one", "two"]


async def test_a_refused_message_stays_until_it_is_discarded(desk: DeskMaker, folk: Folk) -> None:
    """What the service will never take is marked with the reason in plain words, and one can let go of it."""
    [ann] = folk("ann")
    tab = await (await desk(ann, but=(REFUSED,))).open("#/nobody-of-that-name")
    await expect(tab.page.locator(".top")).to_have_text("There is no such user. Try again")
    await tab.write("anybody there?")
    await expect(tab.page.locator(".failure")).to_contain_text("Not sent. There is no such user.")
    await tab.page.locator(".failure").get_by_role("button", name="Try again").click()
    await expect(tab.page.locator(".failure")).to_contain_text("Not sent. There is no such user.")
    await tab.page.get_by_role("button", name="Discard").click()
    await expect(tab.messages).to_have_count(0)


# --- hostile texts -----------------------------------------------------------------------------------------------------------

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
PAYLOADS = [wrapping.format(template.format(run=RUN, foreign=FOREIGN)) for template in TEMPLATES for wrapping in WRAPPINGS]


async def test_text_is_only_ever_text(desk: DeskMaker, folk: Folk, home: SharedService) -> None:
    """A hundred scripts as names, texts and emoji are shown letter by letter; nothing runs, nothing is asked of anybody else."""
    ann, bob = folk("ann", "bob")
    assert len(PAYLOADS) == 100
    names = [payload[:64] for payload in PAYLOADS]
    now, database = datetime.now(UTC), home.database
    database["users"].insert_many(
        {"_id": f"p{number}", "displayName": name, "passwordHash": "", "createdAt": now} for number, name in enumerate(names)
    )
    for payload in PAYLOADS:
        assert (await bob.send(ann, payload))["text"] == payload
        refused = await bob.http.put(f"/api/messages/{'0' * 24}/reactions/{quote(payload, safe='')}")
        assert refused.status_code in (404, 422)  # no emoji comes through the door; below they stand in the database all the same
    for message in database["messages"].find({"senderId": bob.id}):
        database["messages"].replace_one({"_id": message["_id"]}, message | {"reactions": {message["text"]: [bob.id, "p1"]}})
    for key in home.keys.scan_iter(f"{home.prefix}messages:*"):  # the cache knows nothing of that
        home.keys.delete(key)

    tab = await (await desk(ann)).talk(bob)
    await expect(tab.messages).to_have_count(50)
    await tab.scroll_to(0)
    await expect(tab.messages).to_have_count(100)
    assert await tab.texts() == PAYLOADS
    assert await tab.page.locator(".reaction .glyph").all_text_contents() == PAYLOADS
    shown = await tab.page.locator('.people a[data-user^="p"] .name').all_text_contents()
    assert sorted(shown) == sorted(names)
    await tab.write(PAYLOADS[0])
    await tab.page.locator("textarea").fill(PAYLOADS[1])
    for number in (0, 1, 7, 99):
        await tab.talk_to(f"p{number}")
        await expect(tab.page.locator(".bar h2")).to_have_text(names[number])
    await tab.page.evaluate("(text) => (document.location.hash = text)", PAYLOADS[1])
    await expect(tab.page.get_by_text("Choose somebody to talk to")).to_be_visible()


# --- where it stands ---------------------------------------------------------------------------------------------------------


async def test_works_under_a_path_prefix(desk: DeskMaker, folk: Folk, home: SharedService) -> None:
    """Behind a proxy that gives it a path, page, API, socket and docs all stay under that path."""
    ann, bob = folk("ann", "bob")
    async with behind(home.service, "/user/ann/proxy/8000/") as url:
        here = await desk(ann, url)  # whose watch takes every address outside of the prefix for foreign
        tab = await here.talk(bob)
        await tab.write("through the proxy")
        await expect(tab.message("through the proxy").locator(".status.sent")).to_be_visible()
        await bob.send(ann, "and back")
        await expect(tab.message("and back")).to_be_visible()
        docs = await here.open("docs")
        await expect(docs.page.locator(".opblock").first).to_be_visible()
        assert any(request.startswith(url.replace("http", "ws")) for request in here.requests)
        for page in here.context.pages:
            await page.goto("about:blank")  # so that no socket is left when the proxy goes


async def test_works_behind_tls(desk: DeskMaker, folk: Folk, home: SharedService) -> None:
    """With TLS ended in front of the service the page speaks https and wss, as its own address says."""
    ann, bob = folk("ann", "bob")
    front = "https://chat.example/lab/"
    here = await desk(ann, front)

    async def pass_on(route: Route) -> None:
        await route.fulfill(response=await route.fetch(url=route.request.url.replace(front, f"{home.service.url}/")))

    await here.context.route(f"{front}**", pass_on)
    await here.context.route_web_socket("wss://chat.example/**", lambda socket: _bridge(socket, home.service))
    tab = await here.talk(bob)
    await tab.write("in private")
    await expect(tab.message("in private").locator(".status.sent")).to_be_visible()
    await bob.send(ann, "quite so")
    await expect(tab.message("quite so")).to_be_visible()


async def _bridge(page_side: WebSocketRoute, service: Service) -> None:
    """One websocket of the page, carried to the service."""
    address = urlsplit(page_side.url)
    async with aiohttp.ClientSession() as client:
        there = await client.ws_connect(f"{service.url}{address.path.removeprefix('/lab')}?{address.query}")
        page_side.on_message(lambda text: asyncio.ensure_future(there.send_str(str(text))))
        async for message in there:
            page_side.send(message.data)


async def test_the_docs_need_no_network(desk: DeskMaker) -> None:
    """The OpenAPI page comes from the service alone, lists every route and can call one."""
    page = (await (await desk(but=(REFUSED,))).open("docs")).page
    await expect(page.locator(".opblock")).to_have_count(15)
    await page.locator("#operations-default-me_api_auth_me_get .opblock-summary-control").click()
    await page.get_by_role("button", name="Try it out").click()
    await page.get_by_role("button", name="Execute").click()
    await expect(page.locator(".live-responses-table .response .response-col_status")).to_contain_text("401")


async def test_pages_are_guarded_and_revalidated(home: SharedService) -> None:
    """Every page and file carries its policy; a browser asks again and hears 304 while nothing has changed."""
    async with httpx.AsyncClient(base_url=home.service.url) as http:
        for path in ("/", "/docs", "/static/chat/chat.js", "/static/vendor/socket.io.esm.min.js", "/static/swagger/swagger-ui-bundle.js"):
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
        for path in ("/static/chat/../../app.py", "/static/..%2fapp.py", "/static/chat", "/docs/oauth2-redirect", "/redoc"):
            assert (await http.get(path)).status_code == 404, path


async def test_pages_hold_no_inline_script_and_no_foreign_address(home: SharedService) -> None:
    """What the policy would refuse is not there to begin with, and every address in a page is relative."""
    async with httpx.AsyncClient(base_url=home.service.url) as http:
        for path in ("/", "/docs"):
            page = (await http.get(path)).text
            assert re.findall(r"<script(?![^>]*\ssrc=)", page) == []
            assert re.findall(r"\s(?:on\w+|style)=", page) == []
            assert [url for url in re.findall(r'(?:src|href)="([^"]*)"', page) if url.startswith(("/", "http"))] == []


# --- for everybody -----------------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_stands_out_and_everything_has_a_name(desk: DeskMaker, folk: Folk, scheme: str) -> None:
    """In both schemes every text holds the 4.5:1 of WCAG AA, and every control says what it is."""
    ann, bob, dan = folk("ann", "bob", "dan")
    sent = [await bob.send(ann, text) for text in ("hello", "gone", "edited")]
    await bob.http.delete(f"/api/messages/{sent[1]['_id']}")
    await bob.http.patch(f"/api/messages/{sent[2]['_id']}", json={"text": "edited!"})
    await ann.http.put(f"/api/messages/{sent[0]['_id']}/reactions/🎉")
    await dan.send(ann, "unread")
    start = (await (await desk(color_scheme=scheme)).open()).page
    await expect(start.get_by_label("Password")).to_be_visible()
    assert await start.evaluate(CONTRAST) == []
    assert await start.evaluate(NAMELESS) == []
    tab = await (await desk(ann, color_scheme=scheme)).talk(bob)
    await tab.write("mine")
    await expect(tab.message("mine").locator(".status")).to_be_visible()
    await tab.message("mine").locator(".bubble").hover()
    assert await tab.page.evaluate(CONTRAST) == []
    assert await tab.page.evaluate(NAMELESS) == []


async def test_the_keyboard_is_enough_to_write(desk: DeskMaker, folk: Folk) -> None:
    """From the list to a conversation, to a message and its correction, without a pointer."""
    ann, bob = folk("ann", "bob")
    tab = await (await desk(ann)).open()
    press = tab.page.keyboard.press
    await tab.page.get_by_label("Find somebody").fill(bob.id)
    await expect(tab.page.locator(".people li")).to_have_count(1)
    await press("Tab")
    await press("Enter")
    await expect(tab.page.locator("textarea")).to_be_focused()
    await tab.write("mien")
    await expect(tab.message("mien").locator(".status.sent, .status.read")).to_be_visible()
    await press("ArrowUp")
    await expect(tab.page.locator("textarea")).to_have_value("mien")
    await tab.write("mine")
    await expect(tab.message("mine").locator(".edited")).to_be_visible()


async def test_the_keyboard_is_enough_to_react(desk: DeskMaker, folk: Folk) -> None:
    """From message to message with the arrows, to a reaction, and back to writing."""
    ann, bob = folk("ann", "bob")
    for text in ("one", "two", "three"):
        await bob.send(ann, text)
    tab = await (await desk(ann)).talk(bob)
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


async def test_fits_a_phone(desk: DeskMaker, folk: Folk) -> None:
    """On a phone one sees the list or the conversation, goes back by the browser's own button, and nothing sticks out."""
    ann, bob = folk("ann", "bob")
    await bob.send(ann, "W" * 4000)
    await bob.send(ann, "word " * 799)
    tab = await (await desk(ann, **PHONE)).open()
    await tab.row(bob).tap()
    await expect(tab.message("W" * 4000)).to_have_count(1)
    await expect(tab.row(bob)).to_be_hidden()
    assert await tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert await tab.page.locator(".scroller").evaluate("(node) => node.scrollWidth <= node.clientWidth")
    await tab.page.locator("textarea").fill("x" * 4001)
    await expect(tab.page.locator(".count")).to_have_text("1 too many")
    await expect(tab.page.get_by_role("button", name="Send")).to_be_disabled()
    await tab.page.go_back()
    await expect(tab.row(bob)).to_be_visible()


async def test_panes_of_one_window_may_be_two_people(desk: DeskMaker, home: SharedService) -> None:
    """`?pane=` keeps the sessions of two panes of one browser apart."""
    ann, bob = [await User.sign_up(home.service, name) for name in ("left-ann", "right-bob")]
    here = await desk()
    left, right = await here.open("?pane=left"), await here.open("?pane=right")
    for tab, person in ((left, ann), (right, bob)):
        await tab.page.get_by_label("User name").fill(person.id)
        await tab.page.get_by_label("Password").fill(PASSWORD)
        await tab.page.keyboard.press("Enter")
    await left.talk_to(bob)
    await left.write("across the table")
    await right.talk_to(ann)
    await expect(right.message("across the table")).to_be_visible()
    await ann.close()
    await bob.close()
