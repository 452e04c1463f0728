"""The page /lab in a real browser: it shows what the service really does, one thing at a time."""

import asyncio
import functools
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import pytest_asyncio
from browsing import BrowserSession, assert_accessible, browser, reverse_proxy, shared
from faults import Proxy, StrictService
from http_clients import open_client
from playwright.async_api import Browser, Locator, Page, WebSocketRoute, expect
from shared_service import LAB_KEY, SharedService

from chatlab.local.engines import Engines
from chatlab.web.lab_access import viewer_key_of

__all__ = ["browser", "shared"]  # fixtures
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),  # one event loop, so one browser, for all tests
    pytest.mark.timeout(400),  # a slow machine may use several of the generous limits in one test
]

SEND = ["request", "create", "save", "cache_message", "cache_conversation", "emit", "respond"]
PROJECTOR: dict[str, Any] = {
    "viewport": {"width": 1920, "height": 1080},
    "slow_display": True,
}
LONG_TTL_S = 600  # no key expires while a slow test looks at it
PRESENTER = {"authorization": f"Bearer {LAB_KEY}"}
BEGIN = re.compile("a message goes on its way")
# What the page shows, in order: boxes, keys, bubbles, sentences, and which flow is large.
WATCH = """
    window.seen = [];
    const note = (what) => { if (!seen.includes(what)) seen.push(what); };
    const look = () => {
        const view = document.querySelector("[data-view=send]");
        for (const box of view.querySelectorAll(".s-now")) note(`box ${box.dataset.stage}`);
        for (const key of view.querySelectorAll(".s-key[visibility=visible]"))
            note(`key ${key.querySelector("text").textContent.split(":")[0]}`);
        for (const phone of view.querySelectorAll(".s-phone"))
            for (const bubble of phone.querySelectorAll("[visibility=visible]"))
                note(`${bubble.matches(".s-unsent") ? "unsent" : "there"} ${phone.dataset.user}`);
        note(`large ${document.querySelector(".p-main").dataset.large}`);
        note(document.querySelector(".p-sentence").textContent);
    };
    new MutationObserver(look).observe(document.body, { attributes: true, childList: true, subtree: true });
"""


@pytest_asyncio.fixture(loop_scope="module")
async def stage(browser: Browser, shared: SharedService) -> AsyncIterator[Page]:
    """The open page of the presenter.

    It may not send a request to another server or log an error. The settings are restored
    afterwards, and the cache is emptied.
    """
    session = await BrowserSession.start(browser, shared.service.url, **PROJECTOR)
    page = await open_lab(session)
    yield page
    await session.assert_clean()
    await session.context.close()
    async with open_client(shared.service.url, headers=PRESENTER) as http:
        await http.put("/api/lab/settings", json={"cacheTtl": 5, "cacheMode": "window"})
    for key in [*shared.keys_of("message:*"), *shared.keys_of("messages:*")]:
        shared.keys.delete(f"{shared.prefix}{key}")


async def open_lab(session: BrowserSession, key: str = LAB_KEY) -> Page:
    """Open the page with this key, and wait until it shows the service."""
    page = (await session.open(f"lab#key={key}")).page
    await expect(page.locator(".p-sentence")).to_have_text(BEGIN)
    return page


async def seen_until(page: Page, last: str) -> list[str]:
    """Wait until the page has shown this, and return all that it has shown."""
    await page.wait_for_function("last => seen.includes(last)", arg=last)
    return list(await page.evaluate("seen"))


async def number(page: Page, name: str) -> str:
    return await page.locator(f"[data-number={name}]").inner_text()


async def test_a_message_travels_and_its_key_expires(stage: Page) -> None:
    """One send is one story: each box after its cause, then the life of the key, then the worker.

    The message is on Ben's screen only when it has been emitted, and Ada knows that it is saved
    only after the answer.
    """
    await stage.evaluate(WATCH)
    await stage.keyboard.press("s")
    seen = await seen_until(
        stage, "The TTL is over, so the copy is gone. The message itself stays in MongoDB."
    )
    assert [what.removeprefix("box ") for what in seen if what.startswith("box ")] == SEND
    story = [
        "box request",
        "unsent Ada",
        "box save",
        "key message",
        "box cache_conversation",
        "key messages",
        "box emit",
        "there Ben",
        "box respond",
        "there Ada",
        "large life",
        "After 2 s the copy is still in Redis. Reading it would not give it more time.",
        "Its time is over: Redis gives it to nobody any more. MongoDB still has the message.",
        "large worker",
    ]
    places = [seen.index(what) for what in story]
    assert places[2:] == sorted(places[2:]), seen
    assert set(places[:2]) < set(range(places[2]))
    assert (await number(stage, "sent"), await number(stage, "live")) == ("1", "0")


@pytest.mark.slow
async def test_send_then_read_is_a_hit_and_a_change_has_its_own_boxes(
    stage: Page, shared: SharedService
) -> None:
    """The requests are shown one after the other, and counted when they have been shown."""
    await stage.evaluate(WATCH)
    for key in "hre":
        await stage.keyboard.press(key)
    await expect(stage.locator(".p-hit")).to_have_text("1hit")
    await expect(stage.locator(".s-outcome")).to_have_text("HIT: from Redis alone")
    await expect(stage.locator("[data-number=changed]")).to_have_text("1")
    assert [
        box.removeprefix("box ")
        for box in await stage.evaluate("seen.filter((what) => what.startsWith('box '))")
    ] == [*SEND, "find"]
    await expect(stage.locator("[data-view=send] [data-user=Ben]")).to_contain_text("👍")
    assert shared.database["messages"].count_documents({"reactions": {"$ne": {}}}) == 1


# --- how it looks ---------------------------------------------------------------------------------

# The sizes, in pixels of the screen, of all texts that are meant to be read.
SIZES = """() => [...document.querySelectorAll(".p-sentence, .p-stage button, .p-speeds span, .p-tile dt, .p-tile dd, .p-behind, .p-large text")]
    .filter((node) => node.checkVisibility({ visibilityProperty: true }) && node.textContent.trim())
    .map((node) => [node.textContent, parseFloat(getComputedStyle(node).fontSize) * (node.ownerSVGElement ? node.getScreenCTM().a : 1)])
"""
# The elements that are not completely on the screen.
OUTSIDE = """() => [...document.querySelectorAll("button, .p-sentence, .p-status, .p-view, .p-tile, .s-scene text")]
    .filter((node) => node.checkVisibility({ visibilityProperty: true }))
    .filter((node) => { const { left, right, width } = node.getBoundingClientRect(); return width && (left < -1 || right > innerWidth + 1); })
    .map((node) => node.textContent)
"""
CLIPPED = """() => [...document.querySelectorAll("button, .p-sentence, .p-behind, .p-tile dt")]
    .filter((node) => node.scrollWidth > node.clientWidth + 1 && node.clientWidth).map((node) => node.textContent)
"""
# Whether a notice covers a part of the picture.
COVERED = """() => {
    const [notice, picture] = [".p-label", ".p-main"].map((name) => document.querySelector(name).getBoundingClientRect());
    return notice.bottom > picture.top;
}"""
# The texts of messages that are longer than their bubbles.
TOO_LONG = """() => [...document.querySelectorAll("[data-view=send] .s-bubble[visibility=visible]")]
    .filter((row) => row.querySelector("text").getBBox().width > row.querySelector("rect").getBBox().width)
    .map((row) => row.textContent)
"""


async def test_everything_can_be_read_at_the_back(stage: Page) -> None:
    """On a screen of 1920 x 1080 no text is smaller than 34 pixels, in none of the four flows.

    On other screens nothing is cut off. An enlarged page has large texts, and may be higher than
    its window.
    """
    for view in ("read", "worker", "life", "send"):
        await stage.locator(f"[data-view={view}] .p-title").click()
        await expect(stage.locator(".p-main")).to_have_attribute("data-large", view)
        small = [(text, size) for text, size in await stage.evaluate(SIZES) if size < 34 - 0.1]
        assert not small, (view, small)
    for width, height in ((1366, 768), (1280, 720), (1024, 768), (3840, 2160), (390, 844)):
        await stage.set_viewport_size({"width": width, "height": height})
        assert await stage.evaluate(OUTSIDE) == [], (width, height)
        assert await stage.evaluate(CLIPPED) == [], (width, height)
        if width > height:
            assert await stage.evaluate("document.documentElement.scrollHeight <= innerHeight")
    await stage.set_viewport_size({"width": 640, "height": 360})  # 1280 x 720 at 200 %
    assert await stage.evaluate(OUTSIDE) + await stage.evaluate(CLIPPED) == []
    small = [(text, size) for text, size in await stage.evaluate(SIZES) if size < 15]
    assert not small, small


@pytest.mark.slow
async def test_every_flow_is_accessible(stage: Page) -> None:
    """axe-core finds no violation in the flows and the dialogs."""
    for view in ("read", "worker", "life", "send"):
        await stage.locator(f"[data-view={view}] .p-title").click()
        await expect(stage.locator(".p-main")).to_have_attribute("data-large", view)
        await assert_accessible(stage)
    for key in "mk":
        await stage.keyboard.press(key)
        await assert_accessible(stage)
        await stage.keyboard.press(key)


# --- who may do what ------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_viewer_sees_the_same_and_changes_nothing(
    browser: Browser, stage: Page, shared: SharedService
) -> None:
    """The page of a viewer has no buttons for requests, and follows those of the presenter.

    It does not have the texts, and shows the word “Message” in their place.
    """
    session = await BrowserSession.start(browser, shared.service.url, **PROJECTOR)
    viewer = await open_lab(session, viewer_key_of(LAB_KEY))
    await expect(viewer.get_by_role("button", name="WebSocket")).to_have_count(0)
    await viewer.keyboard.press("s")
    await stage.keyboard.press("h")
    await expect(viewer.locator("[data-number=sent]")).to_have_text("1")
    await expect(viewer.locator(".p-sentence")).to_contain_text("Ada learns")
    await expect(stage.locator("[data-number=sent]")).to_have_text("1")
    assert await viewer.evaluate(TOO_LONG) == []
    await session.assert_clean()
    await session.context.close()


async def test_the_key_leaves_the_address_and_a_wrong_one_is_refused(
    browser: Browser, shared: SharedService
) -> None:
    """Behind a proxy too. No URL that is requested contains a key or a token."""
    async with reverse_proxy(shared.service, "/user/kim/proxy/8000/") as url:
        session = await BrowserSession.start(browser, url, **PROJECTOR)
        page = await open_lab(session)
        assert page.url == f"{url}lab"
        await page.reload()
        await expect(page.locator(".p-sentence")).to_have_text(BEGIN)
        assert not [address for address in session.requests if LAB_KEY in address]
        await page.evaluate("document.location.hash = 'key=wrong-key'")
        await expect(page.get_by_role("alert")).to_contain_text("This key does not open the page")
        await page.get_by_label("Key").fill(f"{url}lab#key={LAB_KEY}")
        await page.get_by_role("button", name="Open").click()
        await expect(page.locator(".p-sentence")).to_have_text(BEGIN)
        await session.assert_clean(ignore=("401", "closed before the connection is established"))
        await session.context.close()


async def test_nothing_is_sent_before_the_page_can_see_it(
    browser: Browser, shared: SharedService
) -> None:
    """A key pressed before the stage events arrive waits for them, so the picture shows the send."""
    session = await BrowserSession.start(browser, shared.service.url, **PROJECTOR)
    is_open = asyncio.Event()
    await session.context.route_web_socket(
        "**/socket.io/**", functools.partial(delay_flow, is_open)
    )
    page, sent = await open_lab(session), "/api/messages/send"
    await page.evaluate(WATCH)
    await page.keyboard.press("h")
    await page.evaluate("Promise.resolve()")  # the page has handled the key
    assert not [url for url in session.requests if url.endswith(sent)]
    is_open.set()
    await seen_until(page, "box respond")
    await session.assert_clean()
    await session.context.close()


def delay_flow(is_open: asyncio.Event, page_side: WebSocketRoute) -> None:
    """Forward a websocket, but connect it to the namespace `/flow` only when this is set."""
    service_side = page_side.connect_to_server()
    waiting: list[asyncio.Task[None]] = []

    async def send_later(text: str | bytes) -> None:
        await is_open.wait()
        service_side.send(text)

    def forward(text: str | bytes) -> None:
        if str(text).startswith("40/flow,"):
            waiting.append(asyncio.create_task(send_later(text)))
        else:
            service_side.send(text)

    page_side.on_message(forward)


async def test_the_settings_are_those_of_the_service(stage: Page, shared: SharedService) -> None:
    """The dialog changes the mode and the TTL, and what is unusual stays on the page."""
    reader, friend = shared.create_user(), shared.create_user()
    await friend.send(reader, "one")
    assert (await reader.read(friend)).headers["x-cache"] == "hit"
    await stage.keyboard.press("m")
    await stage.get_by_label("As in the document").check()
    await expect(stage.locator(".p-label")).to_contain_text("as in the document")
    assert await stage.evaluate(COVERED) is False
    assert (await reader.read(friend)).headers["x-cache"] == "bypass"
    await stage.get_by_role("button", name="make it 20 s").click()
    await expect(stage.locator(".p-label")).to_contain_text("The TTL is 20 s, not 5 s")
    sent = await friend.send(reader, "slow")
    assert 5_000 < shared.keys.pttl(f"{shared.prefix}message:{sent['_id']}") <= 20_000
    await stage.get_by_role("button", name="make it 5 s").click()
    await stage.get_by_label("Cache on").check()
    await expect(stage.locator(".p-label")).to_be_empty()
    for user in (reader, friend):
        await user.close()


async def test_a_key_opens_to_what_it_had_at_the_moment_of_the_picture(
    stage: Page, shared: SharedService
) -> None:
    """A stopped picture shows the value and the TTL of that moment, when Redis has neither."""
    async with open_client(shared.service.url, headers=PRESENTER) as http:
        await http.put("/api/lab/settings", json={"cacheTtl": LONG_TTL_S})
    async with stage.expect_response("**/api/lab/values?*"):
        await stage.keyboard.press("h")
    await expect(stage.locator("[data-number=live]")).to_have_text("2")
    await stage.keyboard.press("p")
    for key in [*shared.keys_of("message:*"), *shared.keys_of("messages:*")]:
        shared.keys.delete(f"{shared.prefix}{key}")
    await stage.keyboard.press("k")
    state = stage.locator(".p-key-state")
    for kind, name in (("string", "message:"), ("list", "messages:")):
        await stage.locator(".cl-key", has_text=f"{shared.prefix}{name}").click()
        await expect(state).to_have_text(re.compile(rf"A {kind}: \d+\.\d s left"))
        await expect(stage.locator(".p-value")).to_contain_text('"text": "Hello!"')


@pytest.mark.slow  # 400 reads, and a story for each
async def test_reads_are_compared(stage: Page, shared: SharedService) -> None:
    """Compare draws a dot for each read. What it sends and reads is not counted."""
    async with open_client(shared.service.url, headers=PRESENTER) as http:
        await http.put("/api/lab/settings", json={"cacheTtl": LONG_TTL_S})
    await stage.keyboard.press("c")
    await expect(stage.locator(".p-result")).to_contain_text("200 of 200 were hits")
    dots = "() => [...document.querySelectorAll('.s-row')].map((row) => [...row.querySelectorAll('circle')].filter((dot) => dot.cx.baseVal.value >= 0).length)"
    assert await stage.evaluate(dots) == [200, 200]
    for name in ("sent", "hit", "partial", "miss", "bypass"):
        assert await number(stage, name) == "0", name


# --- faults ---------------------------------------------------------------------------------------


async def test_without_the_service_nothing_claims_to_be_live(
    browser: Browser, shared: SharedService
) -> None:
    """The page knows neither the keys nor the present until the service answers again."""
    async with reverse_proxy(shared.service, "/away/") as url:
        session = await BrowserSession.start(browser, url, **PROJECTOR)
        page = await open_lab(session)
        await expect(page.locator(".p-behind")).to_have_text("Live")
        await expect(page.locator("[data-number=live]")).not_to_have_text("?")
    await expect(page.locator(".p-label")).to_contain_text("No connection to the service")
    await expect(page.locator(".p-behind")).to_have_text("Not live")
    await expect(page.locator("[data-number=live]")).to_have_text("?")
    await session.context.close()


@pytest.mark.slow
async def test_an_outage_of_redis_or_mongodb_is_shown(
    browser: Browser, engines: Engines, shared: SharedService, tmp_path: Path
) -> None:
    """Without Redis, no bar runs and no number counts keys, even if the picture is of the past.

    A send names the steps that it omits. Without MongoDB, a send and a change fail, and the picture says so.
    """
    proxy = Proxy(urlsplit(engines.redis.url).path)
    mongo = Proxy(unquote(urlsplit(engines.mongo.url).netloc))
    settings = {"REDIS_URL": proxy.url, "MONGO_URL": mongo.mongo_url}
    with shared.another_process(tmp_path / "away.log", StrictService, **settings) as other:
        session = await BrowserSession.start(browser, other.service.url, **PROJECTOR)
        page = await open_lab(session)
        await expect(page.locator("[data-number=live]")).to_have_text("0")
        await page.keyboard.press("h")
        bars = page.locator("[data-view=send] .s-key[visibility=visible]")
        await expect(bars).to_have_count(2)
        await lose_redis(page, proxy, bars)
        await lose_mongodb(page, mongo)
        await session.assert_clean(ignore=("503",))
        await session.context.close()
    proxy.close()
    mongo.close()


async def lose_redis(page: Page, redis: Proxy, bars: Locator) -> None:
    """Cut Redis off while the picture stands still in the past, and send a message."""
    await page.keyboard.press("p")
    redis.garble = None
    await expect(page.locator(".p-label")).to_contain_text("Redis does not answer")
    await expect(bars).to_have_count(0)
    await expect(page.locator("[data-number=live]")).to_have_text("?")
    await expect(page.locator("[data-view=life]")).to_contain_text("No answer from Redis")
    await page.keyboard.press("p")
    await page.keyboard.press("l")
    await page.keyboard.press("s")
    await expect(page.locator(".p-sentence")).to_have_text(
        "Redis does not answer, so this step is left out. The message is safe in MongoDB."
    )
    await expect(page.locator("[data-number=sent]")).to_have_text("2")


async def lose_mongodb(page: Page, mongo: Proxy) -> None:
    """Cut MongoDB off too, send a message, and change the one before."""
    mongo.garble = None
    for key, outcome in (("s", "nothing is saved or sent"), ("e", "nothing is changed")):
        await page.keyboard.press("l")
        await page.keyboard.press(key)
        await expect(page.locator(".p-sentence")).to_contain_text(outcome)
        await expect(page.locator(".p-label")).to_contain_text("cannot save or read right now")
    await expect(page.locator("[data-view=send] .s-mongo")).to_contain_text("no answer")
